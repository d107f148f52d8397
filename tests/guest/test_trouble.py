"""What goes wrong, with real programs: its exit status, its hint, and nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from cloudme import index
from cloudme.store import Store
from tests.guest.conftest import Cloud

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]


def left(cloud: Cloud) -> list[str]:
    return index.names(cloud.world.machines) + sorted(Store(cloud.world).reservations("default"))


def test_a_group_file_with_options_gives_machines_so_shaped(cloud: Cloud, template: str) -> None:
    lines = b"debian:1:mix:sql:mem=800;cpu=1;name=db;dsk=1,2\ndebian:1:mix:web\n"
    assert cloud.run("vminstantiate", "-f", "-", stdin=lines).split() == ["db00", "web00"]
    try:
        asked = "nproc; lsblk -bdno NAME,SIZE | grep -v vda | sort; awk '/MemTotal/ {print $2}' /proc/meminfo"
        words = cloud.run("vm", "db00", "--", asked).split()
        assert words[0] == "1" and words[1:5] == ["vdb", str(1 << 30), "vdc", str(2 << 30)]
        assert 800 * 1024 * 0.8 < int(words[-1]) < 800 * 1024
    finally:
        cloud.run("vmstop", "-g", "mix", "-d", "-y", "--timeout", "20")


def test_two_calls_at_once_give_different_machines(cloud: Cloud, template: str) -> None:
    calls = [cloud.popen("vminstantiate", "-n", "debian", "-C", "4", "-g", "twice", stdout=subprocess.PIPE)
             for _ in range(2)]
    names = [name for call in calls for name in call.communicate(timeout=120)[0].decode().split()]
    try:
        assert [call.returncode for call in calls] == [0, 0]
        assert sorted(names) == [f"debian{number:02}" for number in range(8)]
        machines = cloud.machines()
        assert len({machines[name]["address"] for name in names}) == 8
        assert all(machines[name]["state"] == "running" for name in names)
    finally:
        cloud.run("vmstop", "-g", "twice", "-d", "-y", "--timeout", "0")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["take the name cut07", "make cut03", "start cut02", "restore cut02"])
def test_an_interrupt_in_the_middle_leaves_nothing(
    cloud: Cloud, warm: str, number: signal.Signals, moment: str
) -> None:
    how = "--cold" if moment.startswith("start") else "--instant"
    call = cloud.popen("vminstantiate", "-v", how, "-n", "debian", "-C", "12", "-g", "cut", "--name", "cut",
                       stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    assert call.stderr is not None
    for line in call.stderr:
        if moment.encode() in line:
            break
    call.send_signal(number)
    call.communicate(timeout=60)
    assert call.returncode == 128 + number
    assert left(cloud) == []
    assert subprocess.run(["pgrep", "-f", f"qemu-.*{cloud.home}"], capture_output=True, check=False).stdout == b""


def test_the_same_template_twice_is_nothing_to_do_and_another_of_its_name_is_refused(
    cloud: Cloud, template: str
) -> None:
    assert cloud.run("vmcreate", "-n", "debian", "--image", "debian", "-m", "640").split() == ["debian"]
    ended = cloud.call("vmcreate", "-n", "debian", "--image", "debian", "-m", "700")
    assert ended.returncode == 73 and b"vmcreate -a" in ended.stderr


def test_a_wrong_iso_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    ended = cloud.call("vmcreate", "-n", "new", "-i", "/nowhere/debian.iso")
    assert ended.returncode == 66 and b"/nowhere/debian.iso" in ended.stderr
    (tmp_path / "no.iso").write_bytes(b"no" * 40_000)
    ended = cloud.call("vmcreate", "-n", "new", "-i", str(tmp_path / "no.iso"))
    assert ended.returncode == 65 and b"no ISO image" in ended.stderr
    assert "new" not in index.names(cloud.world.templates)


def test_a_corrupt_disk_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    disk = tmp_path / "broken.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "64M"], check=True)
    with open(disk, "r+b") as file:
        file.seek(48)  # the offset of the refcount table (QEMU docs/interop/qcow2.txt)
        file.write(b"\xff" * 8)
    for words in (["cmimage", "add", "broken", str(disk)], ["vmcreate", "-n", "broken", "--image", str(disk)]):
        ended = cloud.call(*words)
        assert ended.returncode == 65, ended.stderr
    assert "broken" not in index.names(cloud.world.templates)
    assert "broken" not in cloud.run("cmimage", "list")


def test_a_full_disk_is_told_and_nothing_stays(cloud: Cloud, template: str, tmp_path: Path) -> None:
    """The machines' folder is a tmpfs with room for one clone or two, not for twenty."""
    machines = Path(cloud.world.machines)
    machines.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(machines)], check=True)
    try:
        ended = cloud.call("vminstantiate", "-n", "debian", "-C", "20", "-g", "full")
        assert ended.returncode == 74, ended.stderr
        assert b"make room" in ended.stderr
        assert left(cloud) == []
    finally:
        subprocess.run(["umount", str(machines)], check=True)


def test_without_a_bridge_nothing_is_made_and_the_cure_is_named(cloud: Cloud, template: str) -> None:
    other = Cloud(cloud.home, f"{cloud.realm}x")
    ended = other.call("vminstantiate", "-n", "debian")
    assert ended.returncode in (66, 69) and f"cmnet start --realm {other.realm}".encode() in ended.stderr
    assert index.names(other.world.machines) == []


def test_another_user_is_told_what_would_permit_it(cloud: Cloud, template: str) -> None:
    os.chmod(cloud.home, 0o755)
    argv = cloud.argv("vminstantiate", "-n", "debian")
    ended = subprocess.run(argv, env={**cloud.env, "PYTHONDONTWRITEBYTECODE": "1"}, user=65534, group=65534,
                           extra_groups=[], capture_output=True, check=False, timeout=60)
    assert ended.returncode == 77, ended.stderr
    assert left(cloud) == []


def test_an_unknown_thing_of_every_kind_is_66(cloud: Cloud, template: str) -> None:
    for words in (["vm", "nobody"], ["vmlaunch", "nobody"], ["vmstop", "nobody"], ["vmstop", "-g", "nobody"],
                  ["vminstantiate", "-n", "nobody"], ["vmcreate", "-n", "x", "--image", "nobody"],
                  ["vmlogs", "nobody"], ["vmconsole", "nobody"], ["vmupgrade", "nobody"], ["vmwait", "nobody"],
                  ["vmrestart", "nobody"], ["vminstantiate", "-f", "/nowhere"], ["cmimage", "remove", "nobody"]):
        ended = cloud.call(*words)
        assert ended.returncode == 66, (words, ended.stderr)
        assert ended.stdout == b"" and b"Traceback" not in ended.stderr
