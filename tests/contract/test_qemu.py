"""The hypervisor port: the fake and the real QEMU keep the same promises."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from cloudme import index
from cloudme.errors import Busy, NotFound, PeerError
from cloudme.host import confine, holders, netlink, qemu, streams
from cloudme.host.outside import Here
from cloudme.host.run import Programs
from cloudme.model import identity
from cloudme.model.launch import Launch
from cloudme.model.machine import Access, Disk, Kernel, Machine, Shape
from cloudme.model.names import Name
from cloudme.model.ports import Hypervisor, Power
from cloudme.qemu import launch
from cloudme.store import take_lock
from tests import fakes

pytestmark = pytest.mark.contract

COUNTER = bytes.fromhex("fa 31c0 8ed8 8ed0 bc007c ba f803 b02e ee f4 ebfa").ljust(510, b"\0") + b"\x55\xaa"
"""A boot sector: a dot to COM1, then halted with interrupts off: it heeds no power button."""


@pytest.fixture
def place() -> Iterator[launch.Place]:
    """A short folder: a socket's path has 108 bytes at most."""
    folder = tempfile.mkdtemp(prefix="cm-")
    try:
        yield launch.Place(folder=folder, run=f"{folder}/run", accel="tcg", networks={})
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["fake", "real"])
def hypervisor(request: pytest.FixtureRequest, place: launch.Place) -> Iterator[Hypervisor]:
    if request.param == "fake":
        yield fakes.FakeHypervisor(refuse={"broken"})
        return
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is missing")
    real = qemu.Qemu(Programs(), fakes.FakeNet())
    yield real
    real.kill(f"{place.folder}/lock")


def made(place: launch.Place, name: str = "web00") -> Launch:
    raw = Path(place.folder, "raw")
    raw.write_bytes(COUNTER.ljust(2 << 20, b"\0"))  # a whole cylinder, or SeaBIOS does not read it
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), f"{place.folder}/disk.qcow2"], check=True)
    machine = Machine(
        name=Name(name), uuid="8b18191a-234f-45ce-b43c-b46e28cd2f70", group="g", type=Name("t"), template=None,
        shape=Shape(vcpus=1, ram_mib=64), disks=(Disk(file="disk.qcow2" if name != "broken" else "raw", size_bytes=1),),
        nics=(), access=Access(user="root", key_of=Name("t"), seeded=False), created="")
    return launch.of(machine, place)


def power(place: launch.Place) -> Power:
    return Power(name="web00", lock=f"{place.folder}/lock", monitor=f"{place.run}/qmp.1")


def test_a_started_machine_holds_its_lock_until_it_is_stopped(hypervisor: Hypervisor, place: launch.Place) -> None:
    hypervisor.start(made(place))
    assert index.held(f"{place.folder}/lock")
    hypervisor.stop([power(place)], timeout_s=0, say=lambda line: None)
    assert not index.held(f"{place.folder}/lock")


def test_a_machine_that_runs_is_not_started_twice(hypervisor: Hypervisor, place: launch.Place) -> None:
    launch = made(place)
    hypervisor.start(launch)
    with pytest.raises(Busy):
        hypervisor.start(launch)


def test_a_qemu_that_ends_at_once_is_reported_and_holds_nothing(hypervisor: Hypervisor, place: launch.Place) -> None:
    with pytest.raises(PeerError, match="QEMU for 'broken' ended: "):
        hypervisor.start(made(place, "broken"))
    assert not index.held(f"{place.folder}/lock")


def test_stopping_and_killing_what_does_not_run_is_nothing(hypervisor: Hypervisor, place: launch.Place) -> None:
    hypervisor.stop([power(place)], timeout_s=1, say=lambda line: None)
    hypervisor.kill(f"{place.folder}/lock")


def test_the_monitor_answers_and_says_no(place: launch.Place) -> None:
    real = qemu.Qemu(Programs(), fakes.FakeNet())
    with pytest.raises(NotFound), real.monitor(f"{place.folder}/nobody"):
        pass
    real.start(made(place))
    with real.monitor(f"{place.run}/qmp.0") as monitor:
        assert monitor.execute("query-status")["status"] == "running"
        with pytest.raises(PeerError, match="QEMU refused 'eject'"):
            monitor.execute("eject", id="none")
        with real.monitor(f"{place.run}/qmp.1") as second:
            assert second.execute("query-name") == {"name": "web00"}
            with pytest.raises(Busy), real.monitor(f"{place.run}/qmp.1", timeout_s=0.2):
                pass
            with contextlib.suppress(PeerError):
                second.execute("quit")
        assert monitor.wait_closed(5)


def test_a_deaf_guest_is_quit_and_a_frozen_qemu_is_killed(place: launch.Place) -> None:
    real = qemu.Qemu(Programs(), fakes.FakeNet())
    said: list[str] = []
    launch = made(place)
    real.start(launch)
    real.stop([power(place)], timeout_s=0.2, say=said.append)
    assert said == ["web00 does not heed the power button: ending it"]
    real.start(launch)
    with holders.holder(f"{place.folder}/lock") as pidfd:
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
    before, qemu.QUIT_S = qemu.QUIT_S, 1
    try:
        real.stop([power(place)], timeout_s=0.2, say=said.append)
    finally:
        qemu.QUIT_S = before
    assert said[-1] == "web00 does not answer: killing it"
    assert not index.held(f"{place.folder}/lock")


def test_a_frozen_disk_is_not_opened_for_writing(place: launch.Place) -> None:
    frozen = made(place)
    os.chmod(f"{place.folder}/disk.qcow2", 0o444)
    with pytest.raises(Busy, match="frozen"):
        qemu.Qemu(Programs(), fakes.FakeNet()).start(frozen)
    assert not index.held(f"{place.folder}/lock")


def test_no_descriptor_of_ours_leaks_into_qemu(place: launch.Place) -> None:
    real = qemu.Qemu(Programs(), fakes.FakeNet())
    stray = os.open("/etc/hostname", os.O_RDONLY)
    real.start(made(place))
    pid = holders.open_by(f"{place.folder}/lock")
    targets = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    os.close(stray)
    real.kill(f"{place.folder}/lock")
    assert "/etc/hostname" not in targets


def test_seccomp_is_on_in_a_running_machine(place: launch.Place) -> None:
    real = qemu.Qemu(Programs(), fakes.FakeNet())
    real.start(made(place))
    status = Path(f"/proc/{holders.open_by(f'{place.folder}/lock')}/status").read_text(encoding="ascii")
    real.kill(f"{place.folder}/lock")
    assert "Seccomp:\t2" in status and "NoNewPrivs:\t1" in status


def test_the_holder_is_who_has_the_lock_not_who_has_the_file_open(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    lock = take_lock(path)
    opener = os.open(path, os.O_RDONLY)
    with (subprocess.Popen(["sleep", "60"], pass_fds=[opener]) as other,
          subprocess.Popen(["sleep", "60"], pass_fds=[lock]) as holder):
        os.close(lock)
        os.close(opener)
        try:
            assert holders.open_by(path) == holder.pid
        finally:
            for process in (other, holder):
                process.kill()


def test_what_lives_on_as_the_user_of_a_machine_that_is_off_is_ended() -> None:
    """As a QEMU that was taken over and let go of its lock."""
    uuid = str(uuid4())
    if not confine.foreign(identity.uid(uuid)):
        pytest.skip("needs root, to become another user")
    run = Programs()
    hypervisor = qemu.Qemu(run, netlink.Links(Here(run), run))
    with subprocess.Popen(["sleep", "60"], user=identity.uid(uuid)) as process:
        hypervisor.bury(str(uuid4()))
        assert process.poll() is None
        hypervisor.bury(uuid)
        assert process.wait(10) == -signal.SIGKILL


def multiboot() -> bytes:
    """A kernel (Multiboot 0.6.96, 3.1) that writes a dot to COM1 and halts."""
    magic, flags, at = 0x1BADB002, 0x10000, 0x100000
    head = struct.pack("<8I", magic, flags, -(magic + flags) & 0xFFFFFFFF, at, at, 0, 0, at + 32)
    return head + bytes.fromhex("66baf803 b02e ee fa f4 ebfd")


@pytest.mark.parametrize("board", ["q35", "microvm"])
def test_a_kernel_is_booted_that_qemu_could_not_find_by_its_name(place: launch.Place, board: str) -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is missing")
    made(place)
    os.chmod(place.folder, 0o711)
    kernel = Path(place.folder, "kernel")
    kernel.write_bytes(multiboot())
    kernel.chmod(0o444)
    machine = Machine(
        name=Name("web00"), uuid="8b18191a-234f-45ce-b43c-b46e28cd2f70", group="g", type=Name("t"), template=None,
        shape=Shape(vcpus=1, ram_mib=64), disks=(Disk(file="disk.qcow2", size_bytes=1),), nics=(), created="",
        access=Access(user="root", key_of=Name("t"), seeded=False), board=board, kernel=Kernel(cmdline="x"))
    real = qemu.Qemu(Programs(), fakes.FakeNet())
    real.start(launch.of(machine, place))
    try:
        with real.monitor(f"{place.run}/qmp.0") as monitor:
            assert monitor.execute("query-status")["status"] == "running"
            assert monitor.execute("query-balloon")["actual"] == 64 << 20
            monitor.execute("system_powerdown")
        log = streams.follow(f"{place.folder}/console.log", lambda: True)
        while board == "q35" and b"." not in next(log).rpartition(b"--")[2]:
            pass
    finally:
        real.kill(f"{place.folder}/lock")
