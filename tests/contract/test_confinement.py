"""What a QEMU may do: its status as the kernel tells it, and a program with the very same rights that tries the rest.

All of it twice: started by root, as a user of the machine's own, and by an ordinary user.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudme import kvm
from cloudme.errors import CommandFailed, HostUnavailable, NotPermitted
from cloudme.host import confine, handover, holders, qemu
from cloudme.host.run import Programs
from cloudme.model import identity
from cloudme.model.confinement import Confinement, Reach
from cloudme.qemu import files, launch
from tests import confined, fakes
from tests.conftest import ROOT

pytestmark = pytest.mark.contract

NOBODY = 65534
MAY = ("its own folder: a socket", "random numbers", "its firmware")
HIDDEN_BY_UID = ("another's disk", "another's disk to write", "another's record", "a private key", "its own record",
                 "its own disk by path", "its own log", "passwords", "root's folder", "another's monitor", "a signal",
                 "what another has open", "ptrace", "memory", "root")
HIDDEN_FROM_USERS_OWN = ("passwords", "root's folder", "root")
"""What an ordinary user may not, whatever he starts."""


@pytest.fixture(scope="module", params=["root", "nobody"])
def report(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is missing")
    if not confine.landlock_abi():
        pytest.skip("this kernel has no Landlock")
    if os.geteuid() != 0 or not confine.foreign(identity.UID_MIN):
        pytest.skip("needs root, to become somebody")
    home = Path(tempfile.mkdtemp(prefix="cm-"))
    home.chmod(0o755)
    try:
        if request.param == "root":
            yield {"who": "root", **confined.report(home)}
            return
        os.chown(home, NOBODY, NOBODY)
        ended = subprocess.run([sys.executable, "-m", "tests.confined", str(home)], capture_output=True, check=False,
                               text=True, cwd=ROOT, user=NOBODY, group=NOBODY, extra_groups=[], umask=0o022)
        assert ended.returncode == 0, ended.stderr
        yield {"who": "nobody", **json.loads(ended.stdout)}
    finally:
        shutil.rmtree(home)


def test_qemu_is_nobody_and_can_become_nobody(report: dict[str, Any]) -> None:
    status = report["status"]
    wanted = identity.uid(confined.machine(0).uuid) if report["who"] == "root" else NOBODY
    assert status["Uid"].split() == status["Gid"].split() == [str(wanted)] * 4
    assert status["Groups"] == ""
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    assert [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0, 0, 0, 0]
    if report["who"] == "root":  # an ordinary user may not drop what he does not have; no_new_privs holds it shut
        assert int(status["CapBnd"], 16) == 0


def test_each_attempt_of_a_program_with_its_rights_fails(report: dict[str, Any]) -> None:
    assert {name: how for name, how in report["confined"].items() if how == "done" and name not in MAY} == {}


def test_what_it_needs_it_may(report: dict[str, Any]) -> None:
    assert {name: report["confined"][name] for name in MAY} == dict.fromkeys(MAY, "done")


def test_what_its_user_alone_keeps_from_it(report: dict[str, Any]) -> None:
    """On a kernel without Landlock: all that is anybody's own, where root started it."""
    refused = {name for name, how in report["bare"].items() if how != "done"}
    hidden = HIDDEN_BY_UID if report["who"] == "root" else HIDDEN_FROM_USERS_OWN
    assert set(hidden) <= refused
    assert not refused & {"what all may read", "tcp", "udp"}, "nothing here shows what Landlock and the filter are for"
    assert report["who"] == "root" or report["bare"]["another's disk"] == "done"


# the thread that confines itself

def python(confinement: Confinement, code: str) -> str:
    return Programs()([confined.PYTHON, "-I", "-c", code], confinement=confinement)


def reach(**parts: Any) -> Confinement:
    return Confinement(reach=Reach(**{"readable": files.SYSTEM, "writable": files.DEVICES, **parts}))


def test_the_other_threads_stay_what_they_are() -> None:
    def mine() -> list[str]:
        lines = Path("/proc/thread-self/status").read_text(encoding="ascii").splitlines()
        return [line for line in lines if line.startswith(("Uid", "Cap", "NoNewPrivs", "Seccomp:"))]

    before = mine()
    uid = identity.UID_MIN if confine.foreign(identity.UID_MIN) else None
    said = python(Confinement(uid=uid, reach=reach().reach), "import os; print(os.getuid())")
    assert int(said) == (os.getuid() if uid is None else uid)
    assert mine() == before


def test_what_cannot_be_given_up_starts_nothing(tmp_path: Path) -> None:
    made = tmp_path / "made"
    code = f"from cloudme.host import confine; from cloudme.model.confinement import Confinement\n" \
           f"confine.within(Confinement(uid=5), lambda: open({str(made)!r}, 'w'))"
    tmp_path.chmod(0o777)
    who = {"user": NOBODY, "group": NOBODY} if os.geteuid() == 0 else {}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT,
                           **who)  # type: ignore[call-overload]
    assert "NotPermitted: cannot give up rights" in ended.stderr
    assert not made.exists()


def test_readable_is_not_writable_and_a_file_is_not_its_folder(tmp_path: Path) -> None:
    if not confine.landlock_abi():
        pytest.skip("this kernel has no Landlock")
    for name in ("seen", "kept", "beside"):
        (tmp_path / name).write_text(name)
    how = reach(readable=(*files.SYSTEM, str(tmp_path / "seen")), writable=(*files.DEVICES, str(tmp_path / "kept")))
    assert python(how, f"print(open('{tmp_path}/seen').read(), end='')") == "seen"
    python(how, f"open('{tmp_path}/kept', 'w').write('new')")
    assert (tmp_path / "kept").read_text() == "new"
    for wrong in (f"open('{tmp_path}/seen', 'w')", f"open('{tmp_path}/beside')", f"open('{tmp_path}/new', 'w')",
                  f"import os; os.unlink('{tmp_path}/kept')", f"import os; os.listdir('{tmp_path}')"):
        with pytest.raises(CommandFailed, match="PermissionError"):
            python(how, wrong)


def test_one_port_may_be_listened_on_where_there_is_one() -> None:
    if confine.landlock_abi() < 4:
        pytest.skip("this kernel's Landlock knows no ports")
    with socket.socket() as free, socket.socket() as other:
        free.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, wrong = free.getsockname()[1], other.getsockname()[1]
    code = "import socket; it = socket.socket(); it.bind(('127.0.0.1', {})); it.listen()"
    python(reach(ports=(port,)), code.format(port))
    for how in (reach(ports=(port,)), reach()):
        with pytest.raises(CommandFailed, match="PermissionError"):
            python(how, code.format(wrong))


def test_with_a_port_there_is_plain_tcp_and_nothing_else() -> None:
    plain = ("2 1 0", "2 526337 6", "10 1 0", "10 526337 6")
    bare = json.loads(python(Confinement(), confined.SOCKETS))
    assert not bare["2 2 17"] and not bare["2 4294967298 4294967296"], "nothing here shows what the filter is for"
    assert json.loads(python(reach(ports=(1,)), confined.SOCKETS)) == {
        kind: number if kind in plain else errno.EPERM for kind, number in bare.items()}
    assert set(json.loads(python(reach(), confined.SOCKETS)).values()) == {errno.EPERM}


def test_nothing_connects_as_it_sends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = confined.FAST.replace("PORT", str(port))
        assert set(json.loads(python(Confinement(), code)).values()) == {0}, "nothing here shows what the filter is for"
        for _ in range(4):
            server.accept()[0].close()
        fast = dict.fromkeys(("sendto", "sendto among others", "sendmsg", "sendmmsg", "option"), errno.EPERM)
        assert json.loads(python(reach(ports=(port,)), code)) == {**fast, "other options": 0, "unix": 0}
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


# the word that it is told

@pytest.mark.parametrize("own", [True, False])
def test_the_pid_cannot_be_changed_by_who_it_is_about(own: bool) -> None:
    """own: QEMU's user owns the file, as where an ordinary user starts it; so he may permit himself to open it."""
    if not own and not confine.foreign(identity.UID_MIN):
        pytest.skip("needs root, to become somebody")
    how = dataclasses.replace(reach(), uid=None if own else identity.UID_MIN)
    with contextlib.ExitStack() as mine:
        ours, its = handover.word(mine)
        handover.tell(ours, "4711\n")
        code = confined.WORD.replace("WORD", str(its))
        found = json.loads(Programs()([confined.PYTHON, "-I", "-c", code], fds=[its], confinement=how))
        assert os.pread(ours, 9, 0) == b"4711\n"
    wrong, late = ("Permission denied", "Operation not permitted")
    assert found == {
        "read": "4711\n", "write": wrong, "write to what is open": "Bad file descriptor",
        "permit": None if own else late, "write when permitted": late if own else wrong,
        "empty": late if own else wrong}


def test_the_group_of_kvm_is_never_roots(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a file to a group")
    device = tmp_path / "kvm"
    device.touch()
    for mode, group, groups in ((0o666, 0, ()), (0o660, 104, (104,))):
        device.chmod(mode)
        os.chown(device, 0, group)
        assert kvm.groups(str(device)) == groups
    for mode, group in ((0o660, 0), (0o600, 104)):
        device.chmod(mode)
        os.chown(device, 0, group)
        with pytest.raises(HostUnavailable, match="nobody but root"):
            kvm.groups(str(device))


# what QEMU inherits

@pytest.fixture
def place() -> Iterator[launch.Place]:
    """Below a folder that nobody but its owner may pass, which QEMU's user is not."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is missing")
    folder = tempfile.mkdtemp(prefix="cm-")
    try:
        yield launch.Place(folder=folder, run=f"{folder}/run", accel="tcg", networks={})
    finally:
        qemu.Qemu(Programs(), fakes.FakeNet()).kill(f"{folder}/lock")
        shutil.rmtree(folder)


def disk(path: Path, backing: str | None = None) -> None:
    path.parent.mkdir(exist_ok=True)
    below = ["-u", "-b", backing, "-F", "qcow2"] if backing else []
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *below, path, "1M"], check=True)


def test_the_disks_below_a_disk_are_open_to_read(place: launch.Place) -> None:
    home = Path(place.folder)
    disk(home / "images/i.qcow2")
    disk(home / "t/disk.qcow2", "../images/i.qcow2")
    (home / "t/disk.qcow2").chmod(0o444)
    disk(home / "disk.qcow2", f"{home}/t/disk.qcow2")
    permitted = launch.Place(folder=place.folder, run=place.run, accel="tcg", networks={},
                             grounds=(f"{home}/t", f"{home}/images/i.qcow2"))
    real = qemu.Qemu(Programs(), fakes.FakeNet())
    real.start(launch.of(confined.machine(0), permitted))
    with real.monitor(f"{place.run}/qmp.0") as monitor:
        nodes = {node["node-name"]: node for node in monitor.execute("query-named-block-nodes")}
    assert {name: node["ro"] for name, node in nodes.items() if node["drv"] == "qcow2"} == {
        "disk0": False, "disk0-base1": True, "disk0-base2": True}
    assert nodes["disk0-base1"]["backing_file_depth"] == 1
    real.kill(f"{place.folder}/lock")
    lonely = launch.Place(folder=place.folder, run=place.run, accel="tcg", networks={}, grounds=(f"{home}/t",))
    with pytest.raises(NotPermitted, match=r"images/i\.qcow2, which it may not read"):
        real.start(launch.of(confined.machine(0), lonely))


@pytest.mark.parametrize("name", ["/etc/shadow", "../other/disk.qcow2", "host_key", "t/../../secret.qcow2"])
def test_a_disk_that_says_it_stands_on_anothers_is_not_believed(place: launch.Place, name: str) -> None:
    disk(Path(place.folder, "disk.qcow2"), name)
    with pytest.raises(NotPermitted, match="it may not read"):
        qemu.Qemu(Programs(), fakes.FakeNet()).start(launch.of(confined.machine(0), place))


def test_the_pid_is_told_while_it_lives_and_the_display_answers(place: launch.Place) -> None:
    disk(Path(place.folder, "disk.qcow2"))
    real = qemu.Qemu(Programs(), fakes.FakeNet())
    for _ in range(2):  # the second time over what the first one left
        real.start(launch.of(confined.machine(0), place))
        told = Path(place.folder, "vm.pid")
        assert b"qemu-system" in Path(f"/proc/{told.read_text().strip()}/cmdline").read_bytes()
        with real.monitor(f"{place.run}/qmp.0") as monitor:
            monitor.execute("query-vnc")  # it answers when all is there
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as viewer:
            viewer.connect(f"{place.run}/vnc")
            assert viewer.recv(3) == b"RFB"
        real.kill(f"{place.folder}/lock")
        assert not told.exists()


def test_a_display_at_a_port_answers(place: launch.Place) -> None:
    disk(Path(place.folder, "disk.qcow2"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    real = qemu.Qemu(Programs(), fakes.FakeNet())
    real.start(launch.of(dataclasses.replace(confined.machine(0), vnc_port=port), place))
    with real.monitor(f"{place.run}/qmp.0") as monitor:
        monitor.execute("query-vnc")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as viewer:
        assert viewer.recv(3) == b"RFB"


def test_a_disk_changes_under_a_machine_that_runs(place: launch.Place) -> None:
    """As vmfork does it, twice: the one below is opened anew, to be read only."""
    home = Path(place.folder)
    disk(home / "disk.qcow2")
    real = qemu.Qemu(Programs(), fakes.FakeNet())
    real.start(launch.of(confined.machine(0), place))
    with real.monitor(f"{place.run}/qmp.0") as monitor:
        for node, overlay in (("disk0", "disk.1"), ("disk.1", "disk.2")):
            disk(home / f"{overlay}.qcow2", f"{node}.qcow2".replace("disk0", "disk"))
            (home / f"{overlay}.qcow2").chmod(0o600)
            name = monitor.admit(str(home / f"{overlay}.qcow2"))
            monitor.execute("blockdev-snapshot-sync", **{
                "node-name": node, "snapshot-node-name": overlay, "snapshot-file": name, "format": "qcow2",
                "mode": "existing"})
        nodes = {node["node-name"]: node["ro"] for node in monitor.execute("query-named-block-nodes")}
        assert (nodes["disk0"], nodes["disk.1"], nodes["disk.2"]) == (True, True, False)
        assert monitor.execute("query-status")["status"] == "running"


def test_memory_is_a_file_that_no_user_of_ours_owns(place: launch.Place) -> None:
    home = Path(place.folder)
    disk(home / "disk.qcow2")
    (home / "warm").mkdir(mode=0o700)
    with open(home / "warm/ram", "wb") as ram:
        ram.truncate(64 << 20)
        os.fchmod(ram.fileno(), 0o666)
    real = qemu.Qemu(Programs(), fakes.FakeNet())
    version = real.version()
    real.start(launch.of(confined.machine(0), place, launch.Ram(path=f"{home}/warm/ram", qemu=version, use="clone")))
    pid = holders.open_by(f"{place.folder}/lock")
    mapped = [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if line.endswith("warm/ram")]
    assert mapped and all(line.split()[1].endswith("p") for line in mapped)


def test_no_log_is_for_everybody(place: launch.Place) -> None:
    disk(Path(place.folder, "disk.qcow2"))
    Path(place.folder, "console.log").write_text("old\n")
    real = qemu.Qemu(Programs(), fakes.FakeNet())
    real.start(launch.of(confined.machine(0), place))
    logs = [Path(place.folder, "console.log"), Path(place.run, "qemu.log"), Path(place.folder, "firmware.log")]
    assert [oct(log.stat().st_mode & 0o777) for log in logs] == ["0o600"] * 3
    assert logs[0].read_text().startswith("old\n")
