"""Folders that a machine shares with its host: one that booted, and one that went on from memory."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloudme import layout
from cloudme.host import holders
from cloudme.host.sharing import NAMED
from cloudme.model import identity
from tests.guest.conftest import CACHE, ROOT, Cloud
from tests.users import User

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]

NUMBERS = (1234, 2345)
"""User and group of the host's side; nobody has them."""


OTHER_KERNEL = """\
if ls /boot/vmlinuz-*-cloud-amd64 >/dev/null 2>&1; then
	PATH=$PATH:/usr/sbin:/sbin
	rm -f /boot/*-cloud-amd64
	printf 'ext4\\ncrc32c_generic\\n' >>/etc/initramfs-tools/modules
	update-initramfs -u -k "$(ls /boot | sed -n 's/^vmlinuz-//p')" >&2
	update-grub >&2
fi
"""
"""From the next boot on the guest has the kernel that knows 9p, whose ext4 is a module."""


class NoVirtiofsd(Cloud):
    """The same world on a host that has none."""

    @property
    def env(self) -> dict[str, str]:
        return {**super().env, NAMED: ""}


@dataclass(frozen=True)
class Sharing:
    """A machine, and the folders of the host's at its /srv/data and, read-only, at its /srv/ro."""

    cloud: Cloud
    name: str
    data: Path
    ro: Path

    def guest(self, command: str) -> str:
        return self.cloud.run("vm", self.name, "--", command)

    def shares(self) -> dict[str, dict[str, Any]]:
        (machine,) = json.loads(self.cloud.run("vmrunning", "--json", self.name))
        return {share["tag"]: share for share in machine["shares"]}

    def lock(self, tag: str) -> str:
        return layout.share(self.cloud.world.machine_run(self.name), tag)


@pytest.fixture(scope="module", params=["--cold", "--instant"])
def sharing(request: pytest.FixtureRequest, cloud: Cloud, warm: str) -> Iterator[Sharing]:
    """The first folder is made; the second is there, and in it a file."""
    home = Path(cloud.home, f"shared{request.param}")
    (home / "ro").mkdir(parents=True)
    (home / "ro/note").write_text("read me\n", encoding="utf-8")
    (home / "secret").write_text("the host's\n", encoding="utf-8")
    (name,) = cloud.run(
        "vminstantiate", "-n", warm, request.param, "-g", "shares", "-t", "files", "--share",
        f"{home}/data:/srv/data:owner={NUMBERS[0]}:{NUMBERS[1]},mode=0750", "--share", f"{home}/ro:/srv/ro:ro",
    ).split()
    yield Sharing(cloud, name, home / "data", home / "ro")
    cloud.run("vmstop", "-d", "-y", "--timeout", "5", name)


def owner_and_mode(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def test_files_of_either_side_are_seen_on_the_other(sharing: Sharing) -> None:
    (sharing.data / "host").write_text("from the host\n", encoding="utf-8")
    assert sharing.guest("cat /srv/data/host") == "from the host\n"
    sharing.guest("mkdir -p /srv/data/deep && echo from the guest >/srv/data/deep/guest && mv /srv/data/deep/guest "
                  "/srv/data/guest")
    assert (sharing.data / "guest").read_text(encoding="utf-8") == "from the guest\n"
    (sharing.data / "host").unlink()
    assert sharing.guest("ls /srv/data").split() == ["deep", "guest"]


def test_owner_and_mode_are_kept_both_ways(sharing: Sharing) -> None:
    assert owner_and_mode(sharing.data) == (*NUMBERS, 0o750)
    assert sharing.guest("stat -c '%u %g %a' /srv/data").split() == [*map(str, NUMBERS), "750"]
    file = sharing.data / "of the host"
    file.touch()
    os.chown(file, 3456, 4567)
    file.chmod(0o604)
    assert sharing.guest("stat -c '%u %g %a' '/srv/data/of the host'").split() == ["3456", "4567", "604"]
    sharing.guest("cd /srv/data && touch roots && install -o 33 -g 34 -m 0640 /dev/null others && "
                  "setpriv --reuid=1234 --regid=2345 --clear-groups sh -c 'umask 077; echo x >users'")
    assert owner_and_mode(sharing.data / "roots") == (0, 0, 0o644)
    assert owner_and_mode(sharing.data / "others") == (33, 34, 0o640)
    assert owner_and_mode(sharing.data / "users") == (*NUMBERS, 0o600)


def test_no_way_leads_out_of_a_share(sharing: Sharing) -> None:
    secret = sharing.data.parent / "secret"
    for name, target in (("up", "../secret"), ("absolute", str(secret)), ("folder", "..")):
        (sharing.data / name).symlink_to(target)
    for path in ("up", "absolute", "folder/secret", "../secret"):
        assert sharing.guest(f"cat /srv/data/{path} 2>/dev/null || echo nothing") == "nothing\n"
    sharing.guest(f"mkdir -p {secret.parent} && echo mine | tee /srv/data/up /srv/data/absolute >/dev/null")
    assert secret.read_text(encoding="utf-8") == "the host's\n"
    sharing.guest("! mknod /srv/data/disk b 254 0 2>/dev/null")
    assert not (sharing.data / "disk").exists()


def test_what_is_read_only_is_not_written_to(sharing: Sharing) -> None:
    assert sharing.guest("cat /srv/ro/note") == "read me\n"
    sharing.guest("! touch /srv/ro/x 2>/dev/null; mount -o remount,rw /srv/ro; ! touch /srv/ro/x; ! rm -f /srv/ro/note")
    assert os.listdir(sharing.ro) == ["note"]


def test_the_shares_are_back_after_a_restart(sharing: Sharing) -> None:
    (sharing.data / "kept").write_text("kept\n", encoding="utf-8")
    sharing.cloud.run("vmrestart", sharing.name)
    assert sharing.guest("cat /srv/data/kept; findmnt -no FSTYPE /srv/data; findmnt -no FSTYPE /srv/ro").split() == [
        "kept", "virtiofs", "virtiofs"]


def boot(sharing: Sharing) -> str:
    return sharing.guest("cat /proc/sys/kernel/random/boot_id")


def reboot(sharing: Sharing) -> None:
    """By the guest, while its QEMU stays."""
    before = boot(sharing)
    sharing.cloud.call("vm", sharing.name, "--", "systemctl reboot")
    deadline = time.monotonic() + 180
    while (now := sharing.cloud.call("vm", sharing.name, "--", "cat /proc/sys/kernel/random/boot_id")).returncode or \
            now.stdout.decode() == before:
        assert time.monotonic() < deadline, now.stderr.decode()
        time.sleep(1)
    sharing.guest("cloud-init status --wait >/dev/null; true")


def test_the_shares_are_back_after_the_guest_reboots_by_itself(sharing: Sharing) -> None:
    reboot(sharing)
    assert sharing.guest("cat /srv/data/kept; findmnt -no FSTYPE /srv/data; findmnt -no FSTYPE /srv/ro").split() == [
        "kept", "virtiofs", "virtiofs"]


def test_shares_come_and_go_while_the_machine_runs(sharing: Sharing) -> None:
    """And are not forgotten by a guest that reboots, whose seed is older."""
    life, home = boot(sharing), sharing.data.parent
    for name in ("one", "two", "three"):
        (home / name).mkdir()
        (home / name / "note").write_text(f"{name}\n", encoding="utf-8")
    said = sharing.cloud.call("vmupdate", sharing.name, "--share", f"{home}/one:/srv/one", "--share",
                              f"{home}/two:/srv/two:ro")
    assert (said.returncode, said.stderr) == (0, b"")
    assert sharing.guest("cat /srv/one/note /srv/two/note") == "one\ntwo\n"
    sharing.guest("echo more >/srv/one/more; ! touch /srv/two/x")
    assert (home / "one/more").read_text(encoding="utf-8") == "more\n"
    assert all(share["served"] for share in sharing.shares().values()) and len(sharing.shares()) == 4
    busy = sharing.cloud.popen("vm", sharing.name, "--", "cd /srv/one && exec sleep 600", stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while "/srv/one" not in sharing.guest("readlink /proc/[0-9]*/cwd; true"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    refused = sharing.cloud.call("vmupdate", sharing.name, "--no-share", "srv-one", "--no-share", "srv-two")
    assert refused.returncode == 75 and len(sharing.shares()) == 4, refused.stderr
    assert sharing.guest("cat /srv/one/note /srv/two/note") == "one\ntwo\n"
    sharing.guest("pkill -x sleep; true")
    busy.wait(60)
    later = sharing.cloud.call("vmupdate", sharing.name, "--no-share", "srv-one")
    assert later.returncode == 0 and b"in the same slot" in later.stderr
    sharing.cloud.run("vmupdate", sharing.name, "--share", f"{home}/one:/srv/one")
    reboot(sharing)
    assert sharing.guest("cat /srv/data/kept /srv/one/note /srv/two/note") == "kept\none\ntwo\n"
    gone = sharing.cloud.call("vmupdate", sharing.name, "--no-share", "srv-one", "--no-share", "srv-two")
    assert (gone.returncode, gone.stderr) == (0, b"")
    assert sharing.guest("cat /srv/one/note 2>/dev/null; ls /srv/two; grep -c x-cloudme.share= /etc/fstab") == "1\n"
    sharing.cloud.run("vmupdate", sharing.name, "--share", f"{home}/three:/srv/one:tag=srv-one")
    assert sharing.guest("cat /srv/one/note") == "three\n"
    sharing.cloud.run("vmrestart", sharing.name)
    assert sharing.guest("cat /srv/one/note; cat /srv/data/kept") == "three\nkept\n" and boot(sharing) != life
    assert sorted(os.listdir(home / "one")) == ["more", "note"] and os.listdir(home / "two") == ["note"]


def served(sharing: Sharing, *tags: str) -> dict[str, Any]:
    return {tag: share["served"] for tag, share in sharing.shares().items() if tag in tags}


def test_a_killed_virtiofsd_is_noticed_told_and_started_with_the_machine(sharing: Sharing) -> None:
    assert served(sharing, "srv-data", "srv-ro") == {"srv-data": True, "srv-ro": True}
    pid = holders.open_by(sharing.lock("srv-data"))
    with holders.pidfd_of(pid) as pidfd:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], 10)[0]
    assert served(sharing, "srv-data", "srv-ro") == {"srv-data": False, "srv-ro": True}
    for words in (("vm", sharing.name, "--", "true"), ("vmlogs", sharing.name), ("vmrunning",)):
        ended = sharing.cloud.call(*words)
        assert ended.returncode == 0
        assert f"vmrestart {sharing.name}" in ended.stderr.decode()
    (status,) = json.loads(sharing.cloud.run("vmstatus", "--json", sharing.name))
    assert "'srv-data' is down" in status["error"]
    told = json.loads(sharing.cloud.call("cmcheck", "shares", "--json").stdout)
    assert [one["status"] for one in told if "srv-data" in one["what"]] == ["failed"]
    sharing.cloud.run("vmrestart", "--timeout", "20", sharing.name)
    assert all(share["served"] for share in sharing.shares().values())
    assert sharing.guest("cat /srv/data/kept") == "kept\n"


def other_kernel(config: str) -> Path:
    """The template that makes it so, until somebody removes it."""
    scrub = Path(config, "templates/scrub.sh")
    scrub.parent.mkdir(parents=True, exist_ok=True)
    text = (ROOT / "templates/scrub.sh").read_text(encoding="utf-8")
    scrub.write_text(OTHER_KERNEL + text, encoding="utf-8")
    return scrub


@pytest.fixture(scope="module")
def nine(cloud: Cloud, warm: str) -> Iterator[Sharing]:
    """An instant clone without virtiofsd, of a template whose kernel knows 9p. QEMU's user may use the folders."""
    scrub = other_kernel(cloud.world.config)
    try:
        cloud.run("cmimage", "build", "generic", "--include", "linux-image-amd64", "--cache", f"{CACHE}/images")
        cloud.run("vmcreate", "-n", "generic", "--image", "generic", "-m", "640")
        cloud.run("vmwarm", "generic")
    finally:
        scrub.unlink()
    home = Path(tempfile.mkdtemp(prefix="cm-nine-"))
    home.chmod(0o755)  # QEMU's user comes to what is in it
    for folder, mode in (("data", 0o777), ("ro", 0o755)):
        (home / folder).mkdir()
        (home / folder).chmod(mode)
    (home / "ro/note").write_text("read me\n", encoding="utf-8")
    (home / "secret").write_text("the host's\n", encoding="utf-8")
    (home / "secret").chmod(0o666)
    alone = NoVirtiofsd(cloud.home, cloud.realm)
    (name,) = alone.run("vminstantiate", "-n", "generic", "--instant", "-g", "shares", "-t", "nine", "--share",
                        f"{home}/data:/srv/data", "--share", f"{home}/ro:/srv/ro:ro").split()
    yield Sharing(alone, name, home / "data", home / "ro")
    cloud.run("vmstop", "-d", "-y", "--timeout", "5", name)
    shutil.rmtree(home)


def test_an_instant_clone_has_its_shares_by_9p_where_there_is_no_virtiofsd(nine: Sharing) -> None:
    test_files_of_either_side_are_seen_on_the_other(nine)
    test_no_way_leads_out_of_a_share(nine)
    test_what_is_read_only_is_not_written_to(nine)
    nine.guest("cd /srv/data && install -m 0640 /dev/null mine")
    uid, gid, mode = owner_and_mode(nine.data / "mine")
    assert uid == gid >= identity.UID_MIN and mode == 0o640
    assert nine.guest("findmnt -no FSTYPE /srv/data") == "9p\n"
    nine.cloud.run("vmrestart", nine.name)
    assert nine.guest("cat /srv/ro/note; findmnt -no FSTYPE /srv/ro").split() == ["read", "me", "9p"]


def test_what_an_ordinary_user_shares_stays_his(users: list[User]) -> None:
    """By 9p, with the kernel that knows it: the owner is always he, the mode is kept."""
    user, home = users[0], users[0].home / "shared"
    other_kernel(user.world.config)
    user.run("cmnet", "start")
    user.run("cmimage", "build", "generic", "--include", "linux-image-amd64", "--cache", f"{CACHE}/images")
    user.run("vmcreate", "-n", "generic", "--image", "generic", "-m", "640")
    user.run("mkdir", "-p", str(home / "ro"))
    (home / "ro/note").write_text("read me\n", encoding="utf-8")
    none = {NAMED: ""}
    made = user.call("vminstantiate", "-n", "generic", "-g", "g", "-t", "nine", "--share",
                     f"{home}/data:/srv/data:mode=0750", "--share", f"{home}/ro:/srv/ro:ro", more=none)
    assert made.returncode == 0, made.stderr
    name = made.stdout.strip()

    def guest(command: str) -> str:
        return user.run("vm", name, "--", command)

    try:
        assert owner_and_mode(home / "data") == (user.uid, user.gid, 0o750)
        assert guest("stat -c '%u %g %a' /srv/data").split() == [str(user.uid), str(user.gid), "750"]
        guest("cd /srv/data && echo mine >mine && chmod 0604 mine && ! chown 33:34 mine && mkdir -m 0700 folder")
        assert owner_and_mode(home / "data/mine") == (user.uid, user.gid, 0o604)
        assert owner_and_mode(home / "data/folder") == (user.uid, user.gid, 0o700)
        assert guest("cat /srv/ro/note; ! touch /srv/ro/x 2>/dev/null; findmnt -no FSTYPE /srv/ro") == "read me\n9p\n"
        later = user.call("vmupdate", name, "--no-share", "srv-ro", more=none)
        assert later.returncode == 0 and "QEMU serves 9p" in later.stderr
    finally:
        user.run("vmstop", "-d", "-y", "--timeout", "5", name)
        user.run("cmnet", "stop")
    assert os.listdir(home / "ro") == ["note"] and sorted(os.listdir(home / "data")) == ["folder", "mine"]
