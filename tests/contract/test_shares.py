"""Shares: a real virtiofsd beside a real QEMU, confined; and QEMU's own 9p."""
from __future__ import annotations

import dataclasses
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudme import index, layout
from cloudme.errors import PeerError
from cloudme.host import confine, holders, qemu, sharing
from cloudme.host.run import Programs
from cloudme.layout import World
from cloudme.model.machine import Access, Disk, Machine, Shape
from cloudme.model.names import Name
from cloudme.model.share import TAG_MAX, Share
from cloudme.operations import sharing as sharing_operation
from cloudme.qemu import hardware, launch, virtiofs
from cloudme.store import Store
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
    """Its uuid is its place's: who starts a machine ends what else runs as its user, maybe another test's."""
    return Machine(
        name=Name("web00"), uuid=str(uuid.uuid5(uuid.NAMESPACE_URL, place.folder)), group="g", type=Name("t"),
        template=None, shape=Shape(vcpus=1, ram_mib=64), disks=(Disk(file="disk.qcow2", size_bytes=1 << 20),), nics=(),
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
    assert index.served(lock)
    status = dict(line.split(":\t", 1) for line in
                  Path(f"/proc/{holders.open_by(lock)}/status").read_text(encoding="ascii").splitlines())
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    kept = (1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7) if os.geteuid() == 0 else 0
    assert int(status["CapEff"], 16) & ~kept == 0
    with real.monitor(f"{place.run}/qmp.0") as monitor:
        assert "share0" in [device["qdev_id"] for bus in monitor.execute("query-pci") for device in bus["devices"]]
    assert os.listdir(place.run).count("share.data.sock") == 0
    real.kill(layout.lock(place.folder))
    assert ended(lock) and index.served(lock) is False


@pytest.mark.usefixtures("served")
def test_a_tag_may_be_longer_than_what_is_left_of_a_sockets_path(real: qemu.Qemu, place: launch.Place) -> None:
    run = os.path.join(place.run, "r" * (layout.SOCKET_PATH_BYTES - len(place.run) - len("/identity") - 2))
    os.mkdir(place.run)
    tag = "t" * TAG_MAX
    made = machine(place)
    made = dataclasses.replace(made, shares=(dataclasses.replace(made.shares[0], tag=tag),))
    real.start(launch.of(made, dataclasses.replace(place, run=run)))
    assert index.served(layout.share(run, tag))


@pytest.mark.usefixtures("served")
def test_one_that_was_killed_is_noticed_and_the_next_start_has_another(real: qemu.Qemu, place: launch.Place) -> None:
    real.start(launch.of(machine(place), place))
    lock = layout.share(place.run, "data")
    before = holders.open_by(lock)
    holders.kill(lock, 10)
    assert index.served(lock) is False and index.held(layout.lock(place.folder))
    real.kill(layout.lock(place.folder))
    real.start(launch.of(machine(place), place))
    assert index.served(lock) and holders.open_by(lock) != before


@pytest.mark.usefixtures("served")
def test_one_that_cannot_begin_is_told_with_its_words(
    place: launch.Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:
    broken = tmp_path / "virtiofsd"
    broken.write_text("#!/bin/sh\ntest $1 = --version || { echo no room >&2; exit 1; }\n", encoding="ascii")
    broken.chmod(0o755)
    monkeypatch.setenv(sharing.NAMED, str(broken))
    with pytest.raises(PeerError, match="the share 'data' of 'web00' ended: no room"):
        qemu.Qemu(Programs(), fakes.FakeNet(), confined=False).start(launch.of(machine(place), place))
    assert not index.held(layout.lock(place.folder))


TRIES = """
import json, os, sys
inside, outside = sys.argv[1:]
ways = {
    "make": lambda: open(f"{inside}/made", "w").close(),
    "folder": lambda: os.mkdir(f"{inside}/folder"),
    "rename": lambda: os.rename(f"{inside}/made", f"{inside}/folder/made"),
    "give": lambda: os.chown(f"{inside}/folder/made", 1234, 2345),
    "remove": lambda: (os.unlink(f"{inside}/folder/made"), os.rmdir(f"{inside}/folder")),
    "device": lambda: os.mknod(f"{inside}/disk", 0o60600, os.makedev(254, 0)),
    "out": lambda: open(f"{outside}/secret").close(),
    "out to write": lambda: open(f"{outside}/secret", "w").close(),
    "out by a link": lambda: open(f"{inside}/up").close(),
    "out by a move": lambda: os.rename(f"{inside}/note", f"{outside}/note"),
    "mode": lambda: os.chmod(f"{inside}/note", 0o4755),
    "owner": lambda: os.chown(f"{inside}/note", os.geteuid(), os.getegid()),
    "times": lambda: os.utime(f"{inside}/note"),
    "passwords": lambda: open("/etc/shadow").close(),
}
found = {}
for name, way in ways.items():
    try:
        way()
        found[name] = True
    except OSError:
        found[name] = False
print(json.dumps(found))
"""
"""What a program that has the rights of a virtiofsd achieves, though it were in no chroot."""


@pytest.mark.parametrize("readonly", [False, True])
def test_what_took_a_virtiofsd_over_gets_at_the_share_and_no_more(place: launch.Place, readonly: bool) -> None:
    if not confine.landlock_abi():
        pytest.skip("Landlock is missing in this kernel")
    root = os.geteuid() == 0
    (folder,) = launch.of(machine(place, readonly=readonly), place).folders
    for name in ("secret", "data, all/note"):
        Path(place.folder, name).touch()
    Path(folder.source, "up").symlink_to("../secret")
    program = virtiofs.Program(path="/usr/bin/python3", old=True, uid=os.geteuid(), gid=os.getegid())
    found = json.loads(Programs()(["/usr/bin/python3", "-I", "-c", TRIES, folder.source, place.folder],
                                  confinement=sharing.confinement(folder, program)))
    assert [name for name, done in found.items() if done] == [
        *([] if readonly else ["make", "folder", "rename", *(["give"] if root else []), "remove"]),
        *([] if readonly and root else ["mode", "owner", "times"])]
    Path(folder.source, "after").touch()


@pytest.mark.parametrize("readonly", [False, True])
def test_qemu_serves_9p_itself_where_there_is_no_virtiofsd(
    real: qemu.Qemu, place: launch.Place, readonly: bool,
) -> None:
    place = dataclasses.replace(place, virtiofs=False)
    made = machine(place, readonly=readonly)
    real.start(launch.of(made, place))
    with real.monitor(f"{place.run}/qmp.0") as monitor:
        assert "share0" in [device["qdev_id"] for bus in monitor.execute("query-pci") for device in bus["devices"]]
    assert index.served(layout.share(place.run, "data"))
    real.kill(layout.lock(place.folder))
    assert index.served(layout.share(place.run, "data")) is False


def ports(real: qemu.Qemu, run: str) -> dict[str, list[str]]:
    """What is in each root port, once the firmware has given them numbers."""
    with real.monitor(f"{run}/qmp.0") as monitor:
        while True:
            found = {device["qdev_id"]: device["pci_bridge"] for bus in monitor.execute("query-pci")
                     for device in bus["devices"] if device["qdev_id"] in hardware.ROOT_PORTS}
            if all(bridge["bus"]["secondary"] for bridge in found.values()):
                return {name: [one["qdev_id"] for one in bridge.get("devices", [])] for name, bridge in found.items()}
            time.sleep(0.1)


@pytest.mark.usefixtures("served")
def test_shares_come_to_a_machine_that_runs(real: qemu.Qemu, place: launch.Place) -> None:
    """Its guest is played: there is nothing but the firmware."""
    store = Store(World(data=f"{place.folder}/d", run=f"{place.folder}/r", config=f"{place.folder}/c"))
    made = machine(place)
    place = dataclasses.replace(place, folder=store.folder(made), run=store.run_folder(made))
    os.makedirs(place.folder)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", f"{place.folder}/disk.qcow2", "1M"], check=True)
    new = dataclasses.replace(made, shares=(*made.shares, *(
        Share(source=made.shares[0].source, mount_point=f"/{tag}", tag=tag, readonly=tag == "two")
        for tag in ("one", "two"))))
    real.start(launch.of(made, place))
    try:
        assert ports(real, place.run) == {"rp0": [], "rp1": [], "rp2": [], "rp3": ["balloon"]}
        sharing_operation.Swap(store, made, new).do(fakes.host(qemu=real))
        assert sorted(ports(real, place.run)["rp0"]) == ["share-one", "share-two"]
        assert all(index.served(layout.share(place.run, one.tag)) for one in new.shares)
    finally:
        real.kill(layout.lock(place.folder))
    assert all(ended(layout.share(place.run, one.tag)) for one in new.shares)


@pytest.mark.parametrize("virtiofsd", [True, False])
def test_a_clone_of_memory_gets_its_shares_while_it_runs(
    real: qemu.Qemu, place: launch.Place, virtiofsd: bool,
) -> None:
    """Its memory is a copy, holes and all, where virtiofsd is to see it."""
    if virtiofsd and not real.virtiofs():
        pytest.skip("virtiofsd is missing, or wants to be root")
    with open(f"{place.folder}/ram", "wb") as ram:
        ram.truncate(64 << 20)
        ram.seek(5 << 20)
        ram.write(b"here" * 1000)
        os.fchmod(ram.fileno(), 0o666)
    os.mkdir(f"{place.folder}/other")
    other = Share(source=f"{place.folder}/other", mount_point="/srv/other", tag="other", readonly=True)
    made = dataclasses.replace(machine(place), shares=(*machine(place).shares, other))
    clone = launch.of(made, dataclasses.replace(place, virtiofs=virtiofsd),
                      launch.Ram(path=f"{place.folder}/ram", qemu=real.version(), use="clone"))
    real.start(clone)
    with real.monitor(f"{place.run}/qmp.0") as monitor:
        for part in clone.plugged:
            monitor.execute("device_add", **part.props)
        (block,) = [block for block in monitor.execute("query-memdev") if block["id"] == "ram0"]
        assert block["share"] is virtiofsd
        words = monitor.execute("human-monitor-command", **{"command-line": f"xp /4bx {5 << 20}"})
        assert words.split()[1:] == [f"{ord(letter):#04x}" for letter in "here"]
