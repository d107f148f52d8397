"""Shares: a real virtiofsd beside a real QEMU, confined; and QEMU's own 9p."""
from __future__ import annotations

import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudme import index, layout
from cloudme.host import holders, qemu
from cloudme.host.run import Programs
from cloudme.model.machine import Access, Disk, Machine, Shape
from cloudme.model.names import Name
from cloudme.model.share import Share
from cloudme.qemu import launch
from tests import fakes

pytestmark = pytest.mark.contract


@pytest.fixture
def place() -> Iterator[launch.Place]:
    """A short folder: a socket's path has 108 bytes at most."""
    folder = tempfile.mkdtemp(prefix="cm-")
    os.mkdir(f"{folder}/data, all")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", f"{folder}/disk.qcow2", "1M"], check=True)
    try:
        yield launch.Place(folder=folder, run=f"{folder}/run", accel="tcg", networks={})
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def real(place: launch.Place) -> Iterator[qemu.Qemu]:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is missing")
    it = qemu.Qemu(Programs(), fakes.FakeNet())
    yield it
    it.kill(layout.lock(place.folder))


@pytest.fixture
def served(real: qemu.Qemu) -> None:
    if not real.virtiofs():
        pytest.skip("virtiofsd is missing, or wants to be root")


def machine(place: launch.Place, *, readonly: bool = False) -> Machine:
    return Machine(
        name=Name("web00"), uuid="8b18191a-234f-45ce-b43c-b46e28cd2f70", group="g", type=Name("t"), template=None,
        shape=Shape(vcpus=1, ram_mib=64), disks=(Disk(file="disk.qcow2", size_bytes=1 << 20),), nics=(),
        access=Access(user="root", key_of=Name("t"), seeded=False), created="",
        shares=(Share(source=f"{place.folder}/data, all", mount_point="/srv/data", tag="data", readonly=readonly),))


def ended(lock: str) -> bool:
    """Whether what holds the lock ends by itself."""
    with holders.holder(lock) as pidfd:
        return pidfd < 0 or bool(select.select([pidfd], [], [], 10)[0])


@pytest.mark.usefixtures("served")
def test_virtiofsd_is_confined_lives_beside_its_machine_and_ends_with_it(real: qemu.Qemu, place: launch.Place) -> None:
    real.start(launch.of(machine(place), place))
    lock = layout.share(place.run, "data")
    assert index.held(lock)
    status = dict(line.split(":\t", 1) for line in
                  Path(f"/proc/{holders.open_by(lock)}/status").read_text(encoding="ascii").splitlines())
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    kept = (1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7) if os.geteuid() == 0 else 0
    assert int(status["CapEff"], 16) & ~kept == 0
    with real.monitor(f"{place.run}/qmp.0") as monitor:
        found = [device for bus in monitor.execute("query-pci") for device in bus["devices"]]
        assert "share0" in [device["qdev_id"] for device in found]
    real.kill(layout.lock(place.folder))
    assert ended(lock) and not index.held(lock)
