"""Devices of the host's, as far as a host without an IOMMU shows: what QEMU takes, what it may lock, who is alive."""

from __future__ import annotations

import dataclasses
import os
import resource
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudme import index
from cloudme.errors import NotPermitted, PeerError
from cloudme.host import qemu
from cloudme.host.run import Programs
from cloudme.host.vfio import Sysfs
from cloudme.model import identity
from cloudme.model.launch import Launch
from cloudme.model.machine import Access, Machine, Shape
from cloudme.model.names import Name
from cloudme.qemu import hardware, launch
from tests import fakes
from tests.contract.test_qemu import place as place

pytestmark = pytest.mark.contract

ABSENT = tuple(f"0000:ff:1f.{number}" for number in range(8))
SOFT, LOCKED = 1 << 20, 4 << 20
"""What anybody may raise to what: the kernel's own hard limit is 8 MiB."""


@pytest.fixture
def limit() -> Iterator[None]:
    """A small limit of our own."""
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (SOFT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_MEMLOCK, before)


def made(place: launch.Place, *addresses: str) -> Launch:
    it = Machine(name=Name("web00"), uuid=identity.new_uuid(), group="g", type=Name("t"),
                 template=None, shape=Shape(vcpus=1, ram_mib=64), disks=(), nics=(), devices=addresses,
                 access=Access(user="root", key_of=Name("t"), seeded=False), created="")
    return dataclasses.replace(launch.of(it, place), locked_bytes=LOCKED)


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is missing")
@pytest.mark.parametrize("count", [1, 8])
def test_qemu_takes_all_that_it_is_told_but_for_devices_that_are_not_there(
    place: launch.Place, limit: None, count: int,
) -> None:
    real = qemu.Qemu(Programs(), fakes.FakeNet())
    with pytest.raises(PeerError, match=rf"vfio /sys/bus/pci/devices/{ABSENT[0]}: no such host device"):
        real.start(made(place, *ABSENT[:count]))
    assert not index.held(f"{place.folder}/lock")


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is missing")
def test_qemu_takes_the_ports_of_all_of_them(place: launch.Place, limit: None) -> None:
    whole = made(place, *ABSENT)
    parts = [part for part in whole.parts if part.props.get("driver") != "vfio-pci"]
    assert len(whole.parts) - len(parts) == 8
    real = qemu.Qemu(Programs(), fakes.FakeNet())
    real.start(dataclasses.replace(whole, parts=parts))
    try:
        with real.monitor(f"{place.run}/qmp.0") as monitor:
            (bus,) = monitor.execute("query-pci")
        ports = [device["slot"] for device in bus["devices"] if "pci_bridge" in device]
        assert ports.count(int(hardware.DEVICE_SLOT, 16)) == 8
        (pid,) = real.pids([f"{place.folder}/lock"]).values()
        limits = Path(f"/proc/{pid}/limits").read_text(encoding="ascii")
        (line,) = [line.split() for line in limits.splitlines() if line.startswith("Max locked memory")]
        assert line[3] == str(LOCKED)
        assert resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == SOFT
    finally:
        real.kill(f"{place.folder}/lock")


def test_what_may_be_locked_is_known_before(tmp_path: Path, limit: None) -> None:
    """A program is started, or it is not."""
    for size_bytes in (LOCKED, 1 << 50):
        try:
            Programs().spawn(["true"], stdout=str(tmp_path / "out"), locked_bytes=size_bytes)
        except NotPermitted:
            assert not Sysfs().lockable(size_bytes)
        else:
            assert Sysfs().lockable(size_bytes)
    assert Sysfs().lockable(LOCKED)


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to start a program as another user")
def test_of_who_has_ended_nothing_lives_though_nobody_has_awaited_him(tmp_path: Path) -> None:
    uid = identity.uid(str(tmp_path))
    real = qemu.Qemu(Programs(), fakes.FakeNet())
    with subprocess.Popen(["sleep", "1000"], user=uid, group=uid, extra_groups=[]) as process:
        assert real.lives(uid)
        pidfd = os.pidfd_open(process.pid)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [])
        os.close(pidfd)
        assert not real.lives(uid)
