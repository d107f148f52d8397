"""Machines that go on from memory: restored, not booted; each itself; what is written is not shared, what is half-made
not used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudme import index, layout
from cloudme.host import holders
from tests.guest.conftest import NONCE, Cloud

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

CLONES = int(os.environ.get("CLOUDME_CLONES", "6"))

ASKED = """\
cat /run/nonce /proc/sys/kernel/random/boot_id
hostname
hostname -f
cat /etc/machine-id
cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub
cat /sys/class/net/e*/address
ip -4 -br address show | awk '/^e/ {print $3}'
grep -h CLIENTID /run/systemd/netif/leases/*
python3 -c 'import os, ssl; print(os.getrandom(32).hex()); print(ssl.RAND_bytes(32).hex())'
date +%s.%N
"""
FIELDS = ("nonce", "boot_id", "host_name", "fqdn", "machine_id", "host_key", "mac", "address", "client_id", "random",
          "openssl", "clock")

FORK_ASKED = """\
cat /run/count
pgrep -fx 'python3 /root/count.py'
ls -l /proc/$(pgrep -fx 'python3 /root/count.py')/fd | grep -c open
hostname
cat /etc/machine-id
ip -4 -br address show | awk '/^e/ {print $3}'
"""

COUNTER = """\
import time
with open("/run/count", "w+") as file:
    count = 0
    while True:
        count += 1
        file.seek(0)
        file.write(f"{count}\\n")
        file.flush()
        time.sleep(0.01)
"""


def digests(folder: str) -> dict[str, str]:
    found = {}
    for file in ("ram", "state", "disk.qcow2", "overlay.qcow2"):
        with open(os.path.join(folder, file), "rb") as content:
            found[file] = hashlib.file_digest(content, "sha256").hexdigest()
    return found


def gone(cloud: Cloud, *words: str) -> None:
    cloud.run("vmstop", "-d", "-y", "--timeout", "1", *words)


@pytest.fixture(scope="module")
def before(cloud: Cloud, warm: str) -> dict[str, str]:
    return digests(cloud.world.warm(warm))


@pytest.fixture(scope="module")
def clones(cloud: Cloud, warm: str, before: object) -> Iterator[dict[str, dict[str, str]]]:
    """What each clone says of itself, by name."""
    cloud.run("vminstantiate", "--instant", "-n", warm, "-C", str(CLONES), "-g", "clones", "--name", "c")
    names = [name for name, machine in cloud.machines().items() if machine["group"] == "clones"]
    cloud.run("vmwait", "-g", "clones", "--timeout", "300")
    found = {}
    for name in names:
        asked = time.time()
        said = cloud.run("vm", name, "--", ASKED).split()
        found[name] = {**dict(zip(FIELDS, said, strict=True)), "asked": str(asked), "told": str(time.time())}
    yield found
    gone(cloud, "-g", "clones")


def test_clones_were_restored_and_not_booted(clones: dict[str, dict[str, str]]) -> None:
    assert len(clones) == CLONES
    assert {it["nonce"] for it in clones.values()} == {NONCE}
    assert len({it["boot_id"] for it in clones.values()}) == 1


def test_each_clone_is_itself(cloud: Cloud, clones: dict[str, dict[str, str]]) -> None:
    for field in ("host_name", "fqdn", "machine_id", "host_key", "mac", "address", "client_id", "random", "openssl"):
        assert len({it[field] for it in clones.values()}) == CLONES, field
    machines = cloud.machines()
    for name, it in clones.items():
        assert it["host_name"] == name and it["fqdn"] == f"{name}.cloudme"
        assert it["address"].split("/")[0] == machines[name]["address"]
        pinned = Path(cloud.world.machine(name), "known_hosts").read_text(encoding="ascii").split()[2]
        assert it["host_key"] == pinned
        assert float(it["asked"]) - 2 < float(it["clock"]) < float(it["told"]) + 2, it


def test_the_journal_goes_on_under_the_new_machine_id(cloud: Cloud, clones: dict[str, dict[str, str]]) -> None:
    for name, it in list(clones.items())[:2]:
        assert it["machine_id"] in cloud.run("vm", name, "--", "ls /var/log/journal")
        assert name in cloud.run("vm", name, "--", "journalctl -n 5 --no-pager")


def test_what_one_clone_writes_no_other_sees(
    cloud: Cloud, warm: str, before: dict[str, str], clones: dict[str, dict[str, str]]
) -> None:
    first, second, *_ = clones
    cloud.run("vm", first, "--", "echo mine | tee /run/mine /root/mine; sync")
    assert cloud.call("vm", second, "--", "ls /run/mine /root/mine").stdout == b""
    assert digests(cloud.world.warm(warm)) == before


def test_the_memory_of_a_clone_is_private(cloud: Cloud, warm: str, clones: dict[str, dict[str, str]]) -> None:
    ram = os.path.join(cloud.world.warm(warm), layout.RAM)
    found = subprocess.run(["pgrep", "-f", "--", f"-name c0.*{cloud.home}"], capture_output=True, check=True)
    pids = found.stdout.split()
    assert len(pids) >= min(CLONES, 6)
    for pid in pids:
        text = Path(f"/proc/{int(pid)}/smaps").read_text(encoding="ascii")
        parts = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", text, flags=re.MULTILINE)
        mine = [part for part in parts if part.splitlines() and part.splitlines()[0].endswith(ram)]
        assert mine and all(part.split()[1].endswith("p") for part in mine)
        assert all("Shared_Dirty:          0 kB" in part for part in mine)


def test_the_image_and_its_template_are_protected(cloud: Cloud, warm: str, clones: dict[str, dict[str, str]]) -> None:
    for words in (["vmwarm", "-d", warm], ["vmcreate", "--remove", "-y", "-n", warm]):
        ended = cloud.call(*words)
        assert ended.returncode == 75 and b"c00" in ended.stderr, words
    (listed,) = json.loads(cloud.run("vmwarm", "--list", "--json"))
    assert listed["template"] == warm and listed["why_not"] is None
    assert {f"{cloud.realm}/{name}" for name in clones} <= set(listed["clones"])


@pytest.mark.parametrize("file", ["warm/ram", "disk.qcow2"])
def test_an_image_that_was_changed_underneath_is_not_used(cloud: Cloud, warm: str, file: str) -> None:
    path = os.path.join(cloud.world.template(warm), file)
    was = os.stat(path)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns + 1))
    try:
        ended = cloud.call("vminstantiate", "--instant", "-n", warm)
        assert ended.returncode == 69 and b"was changed after it was made" in ended.stderr
        ended = cloud.call("vminstantiate", "-n", warm, "--dry-run")
        assert ended.returncode == 0 and b"was changed after it was made" in ended.stderr
        assert b"RAM image" not in ended.stdout
    finally:
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


def test_another_shape_boots_and_says_why(cloud: Cloud, warm: str) -> None:
    ended = cloud.call("vminstantiate", "-n", warm, "-m", "700", "--dry-run")
    assert ended.returncode == 0 and b"700 MiB of memory are wanted, it has 640" in ended.stderr


def test_a_clone_boots_from_its_own_disk_as_the_same(cloud: Cloud, clones: dict[str, dict[str, str]]) -> None:
    name, it = next(iter(clones.items()))
    cloud.run("vm", name, "--", "echo kept >/root/kept")
    cloud.run("vmstop", name)
    cloud.run("vmlaunch", "clones", "--no-configure")
    said = dict(zip(FIELDS[1:], cloud.run("vm", name, "--", ASKED.replace("/run/nonce ", "")).split(), strict=True))
    for field in ("host_name", "fqdn", "machine_id", "host_key", "mac", "address"):
        assert said[field] == it[field], field
    assert said["boot_id"] != it["boot_id"]
    assert cloud.run("vm", name, "--", "cat /root/kept").strip() == "kept"


def killed(cloud: Cloud, words: list[str], moment: str) -> None:
    """Start a program, and kill it hard when it says `moment`."""
    with cloud.popen(*words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as call:
        assert call.stderr
        for line in call.stderr:
            if moment.encode() in line:
                break
        call.send_signal(signal.SIGKILL)


def test_what_a_killed_vminstantiate_left_is_replaced(cloud: Cloud, warm: str) -> None:
    killed(cloud, ["vminstantiate", "-v", "--instant", "-n", warm, "-g", "dead", "--name", "dead", "-C", "3"],
           "restore dead01")
    time.sleep(1)  # for QEMU to have started
    states = {name: machine["state"] for name, machine in cloud.machines().items() if name.startswith("dead")}
    assert set(states) == {"dead00", "dead01", "dead02"} and "being-made" not in states.values()
    half = [name for name, state in states.items() if state == "debris"]
    assert half
    for name in half:
        assert cloud.call("vm", name, "--", "true").returncode == 66
    try:
        made = cloud.run("vminstantiate", "--instant", "-n", warm, "-g", "dead", "--name", "dead", "-C", str(len(half)))
        assert set(made.split()) == set(half)
        cloud.run("vmwait", "-g", "dead", "--timeout", "200")
        for name in half:
            asked = ["pgrep", "-fc", "--", f"-name {name} .*{cloud.home}"]
            alive = subprocess.run(asked, capture_output=True, check=True)
            assert alive.stdout.strip() == b"1"
    finally:
        gone(cloud, "-g", "dead")


def test_a_fork_goes_on_from_that_very_moment(cloud: Cloud, warm: str) -> None:
    (name,) = cloud.run("vminstantiate", "--instant", "-n", warm, "-g", "forks", "--name", "f").split()
    try:
        cloud.run("vm", name, "--", "cat >/root/count.py; (exec 3<>/root/open; echo first >&3; "
                  "exec setsid python3 /root/count.py) >/dev/null 2>&1 & sleep 1", stdin=COUNTER.encode())
        earlier = int(cloud.run("vm", name, "--", "cat /run/count"))
        ended = cloud.call("vmfork", name, "-C", "2")
        assert ended.returncode == 0, ended.stderr
        assert re.search(rb"f00 stood still for \d+ ms", ended.stderr)
        forks = ended.stdout.decode().split()
        assert forks == ["f01", "f02"]
        assert int(cloud.run("vm", name, "--", "cat /run/count")) > earlier
        seen = {}
        for fork in forks:
            count, pid, opened, host_name, machine_id, address = cloud.run("vm", fork, "--", FORK_ASKED).split()
            assert int(count) > earlier and opened == "1" and host_name == fork
            seen[fork] = (machine_id, address)
            later = int(cloud.run("vm", fork, "--", f"kill -0 {pid} && cat /run/count"))
            assert later > int(count)
            assert cloud.run("vm", fork, "--", "cat /root/open").strip() == "first"
        assert len(set(seen.values())) == 2
        cloud.run("vm", name, "--", "echo still mine >/root/open; sync")
        assert cloud.run("vm", forks[0], "--", "cat /root/open").strip() == "first"
        again = cloud.run("vmfork", forks[0], "--name", "g").split()  # a fork of a fork
        assert cloud.run("vm", again[0], "--", "hostname").strip() == again[0]
        once_more = cloud.run("vmfork", name, "--name", "h").split()  # its disk has an overlay by now
        assert cloud.run("vm", once_more[0], "--", "cat /root/open").strip() == "still mine"
        cloud.run("vmrestart", name, "--timeout", "30")
        cloud.run("vmwait", name)
        assert cloud.run("vm", name, "--", "cat /root/open").strip() == "still mine"
        assert cloud.call("vmfork", "--dry-run", name).returncode == 0
    finally:
        gone(cloud, "-g", "forks")
    assert index.names(cloud.world.forks) == []


def test_a_stopped_machine_is_not_forked(cloud: Cloud, warm: str) -> None:
    cloud.run("vminstantiate", "-n", warm, "-g", "off", "--name", "off", "--no-start")
    try:
        ended = cloud.call("vmfork", "off00")
        assert ended.returncode == 75 and b"does not run" in ended.stderr
    finally:
        gone(cloud, "off00")


@pytest.mark.parametrize("moment", ["runs its kernel", "saving it"])
def test_what_a_killed_vmwarm_left_is_never_used(cloud: Cloud, warm: str, moment: str) -> None:
    """On a template of its own, which stands on the same image."""
    name = f"dead{moment[:4].strip()}"
    cloud.run("vmcreate", "-n", name, "--image", "debian", "-m", "640")
    try:
        killed(cloud, ["vmwarm", name], moment)
        folder = cloud.world.warm(name)
        assert index.state(folder, layout.MANIFEST) == "debris" and index.held(layout.lock(folder))
        ended = cloud.call("vminstantiate", "--instant", "-n", name)
        assert ended.returncode == 69 and b"there is none" in ended.stderr
        if moment == "saving it":
            cloud.run("vmwarm", name)
            made = cloud.run("vminstantiate", "--instant", "-n", name).split()
            assert cloud.run("vm", made[0], "--", "hostname").strip() == made[0]
            gone(cloud, *made)
    finally:
        if os.path.exists(lock := layout.lock(cloud.world.warm(name))):
            with holders.holder(lock) as pidfd:
                if pidfd >= 0:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        cloud.run("vmcreate", "--remove", "-y", "-n", name)
