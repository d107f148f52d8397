"""PCI devices of the host's for machines of our own: what is refused before any is taken, given, and given back."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from cloudme import layout, notes, passthrough, warm
from cloudme.errors import Busy, CloudMeError, HostUnavailable, NotPermitted, PeerError, StoreError, UsageError
from cloudme.formats import records
from cloudme.layout import World
from cloudme.model import identity
from cloudme.model.hostconfig import Settings
from cloudme.model.launch import Launch
from cloudme.model.machine import Kernel, Machine
from cloudme.model.network import Link
from cloudme.model.steps import Transaction
from cloudme.model.warm import Manifest
from cloudme.operations import clones, devices, forks, power
from cloudme.qemu import files, hardware, launch
from cloudme.store import Store
from tests import fakes
from tests.conftest import Ended
from tests.unit.test_vm import made
from tests.unit.test_vmrunning import machine

GPU, SOUND, BRIDGE, OTHER = "0000:01:00.0", "0000:01:00.1", "0000:00:01.0", "0000:02:00.0"
SETTINGS = Settings()
UUID, UUID2 = "8b18191a-234f-45ce-b43c-b46e28cd2f70", "8b18191a-234f-45ce-b43c-b46e28cd2f71"
UID, UID2 = identity.uid(UUID), identity.uid(UUID2)


class Site:
    """A host with a GPU and its sound card in group 7, a network card in group 8; and machines on it."""

    def __init__(self, folder: Path) -> None:
        self.sysfs = fakes.FakeSysfs(str(folder / "root"))
        self.sysfs.device(BRIDGE, driver="pcieport", group="7", kind="0x060400")
        self.sysfs.device(GPU, driver="nouveau", group="7")
        self.sysfs.device(SOUND, driver="snd_hda_intel", group="7", kind="0x040300")
        self.sysfs.driver("vfio-pci")
        self.qemu = fakes.FakeHypervisor()
        self.net = fakes.FakeNet()
        self.run = fakes.FakeRun()
        self.host = fakes.host(devices=self.sysfs, qemu=self.qemu, net=self.net, run=self.run)
        self.world = World(data=str(folder), run=str(folder / "run"), config=str(folder / "config"))
        self.store = Store(self.world)
        self.said: list[str] = []

    def machine(self, name: str, *addresses: str, uuid: str = UUID, store: Store | None = None) -> Machine:
        store = store or self.store
        it = dataclasses.replace(machine(name), uuid=uuid, devices=addresses)
        os.makedirs(store.folder(it))
        Path(store.folder(it), it.disks[0].file).touch()
        store.publish(it)
        return it

    def start(self, *machines: Machine, dry_run: bool = False, rootless: bool = False) -> list[str]:
        self.said.clear()
        self.world.rootless = rootless
        with Transaction(self.host, self.said.append, dry_run) as transaction:
            power.start(transaction, self.store, machines, SETTINGS)
        if not dry_run:
            self.qemu.alive |= {identity.uid(one.uuid) for one in machines}
        return self.said

    def end(self, one: Machine) -> None:
        """QEMU ends by itself."""
        self.qemu.kill(layout.lock(self.store.folder(one)))
        self.qemu.alive.discard(identity.uid(one.uuid))

    def stop(self, *machines: Machine, again: bool = False) -> None:
        for one in machines:
            self.end(one)
        power.stop(self.host, self.store, machines, timeout_s=1, say=self.said.append, again=again)

    @property
    def drivers(self) -> list[str]:
        return [device.driver for device in self.sysfs.group("7")]

    def noted(self, one: Machine) -> dict[str, Any]:
        path = Path(self.world.loan(one.uuid))
        return json.loads(path.read_text()) if path.exists() else {}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


BEFORE, TAKEN = ["pcieport", "nouveau", "snd_hda_intel"], ["pcieport", "vfio-pci", "vfio-pci"]


def refused(site: Site, kind: type[CloudMeError], *machines: Machine, **how: bool) -> CloudMeError:
    before = site.drivers
    with pytest.raises(kind) as told:
        site.start(*machines, **how)
    assert site.drivers == before and site.qemu.launches == []
    return told.value


# what QEMU is told

def launched(**more: Any) -> Launch:
    place = launch.Place(folder="/data/web00", run="/run/web00", accel="kvm", iommu=("7",),
                         networks={SETTINGS.network().name: SETTINGS.network()})
    return launch.of(dataclasses.replace(machine("web00"), **{"devices": (GPU, SOUND), **more}), place)


def test_qemu_opens_the_groups_by_name_and_locks_the_memory_that_they_write_to() -> None:
    it = launched()
    assert {"/dev/vfio/7", "/dev/vfio/vfio"} <= set(files.reach(it, "/qemu", "/own").writable)
    assert it.locked_bytes == (512 << 20) + (1 << 30)
    plain = launched(devices=())
    assert plain.locked_bytes == 0


def test_each_device_is_in_a_port_of_its_own_and_no_number_is_taken_twice() -> None:
    parts = [part.props for part in launched(vsock_cid=5).parts if part.option == "device"]
    places = [(part["bus"], part["addr"]) for part in parts if "addr" in part]
    chassis = [part["chassis"] for part in parts if "chassis" in part]
    assert len(set(places)) == len(places) and len(set(chassis)) == len(chassis) == 6
    assert [(part["host"], part["bus"]) for part in parts if part["driver"] == "vfio-pci"] == [
        (GPU, "dp0"), (SOUND, "dp1")]
    assert hardware.BALLOON not in [part["id"] for part in parts]


@pytest.mark.parametrize(("addresses", "board"), [
    (("01:00.0",), "q35"), (("0000:01:00.8",), "q35"), (("../../etc",), "q35"), ((GPU, GPU), "q35"),
    (tuple(f"0000:01:00.{n}" for n in range(8)) + (OTHER,), "q35"), ((GPU,), "microvm")])
def test_what_no_machine_can_have_is_no_part_of_one(addresses: tuple[str, ...], board: str) -> None:
    with pytest.raises(UsageError):
        dataclasses.replace(machine("web00"), devices=addresses, board=board, kernel=Kernel(cmdline="x"))


def test_no_image_of_memory_and_no_fork_has_a_device(site: Site) -> None:
    one = site.machine("web00", GPU, SOUND)
    folder = site.world.warm("debian")
    os.makedirs(folder)
    assert warm.why_not(site.host, folder, one, "tcg") == "there is none"
    manifest = Manifest(kind=warm.kind(site.host, one, "tcg"), files={}, created="now")
    Path(folder, layout.MANIFEST).write_text(records.dump(manifest), encoding="utf-8")
    assert str(warm.why_not(site.host, folder, one, "tcg")).startswith(f"it gets a device of the host's, {GPU}")
    assert "it gets" not in str(warm.why_not(site.host, folder, dataclasses.replace(one, devices=()), "tcg"))
    plain = dataclasses.replace(one, devices=())
    assert warm.kind(site.host, one, "tcg") == warm.kind(site.host, plain, "tcg")
    site.start(one)
    with pytest.raises(HostUnavailable, match=f"a device of the host's, {GPU}"):
        forks.check(site.host, site.store, one)


# given, and given back

def test_devices_are_a_machines_from_its_start_to_its_end(site: Site) -> None:
    one = site.machine("web00", GPU, SOUND)
    said = site.start(one, dry_run=True)
    assert said[:3] == [f"give the device {GPU} to vfio-pci (it was nouveau's)",
                        f"give the device {SOUND} to vfio-pci (it was snd_hda_intel's)",
                        f"give /dev/vfio/7 to the user {UID}"]
    assert site.drivers == BEFORE and not os.path.exists(site.world.loans)
    site.start(one)
    assert site.drivers == TAKEN and site.sysfs.owner("7") == (UID, UID)
    assert site.qemu.launches[0].iommu == ("7",)
    assert site.start(one) == []
    site.stop(one)
    assert site.drivers == BEFORE and site.sysfs.owner("7") is None and site.noted(one) == {}


def test_a_start_that_fails_gives_them_back(site: Site) -> None:
    one = site.machine("web00", GPU, SOUND)
    site.qemu.refuse = {"web00"}
    with pytest.raises(PeerError):
        site.start(one)
    assert site.drivers == BEFORE and site.noted(one) == {}


def test_after_a_crash_the_next_start_or_stop_of_any_machine_gives_them_back(site: Site) -> None:
    one, two = site.machine("web00", GPU, SOUND), site.machine("web01", uuid=UUID2)
    site.start(one)
    site.end(one)
    assert site.drivers == TAKEN
    site.start(two)
    assert site.drivers == BEFORE
    site.start(one)
    site.end(one)
    site.stop(two)
    assert site.drivers == BEFORE and site.noted(one) == {}


def test_what_a_crash_left_is_taken_as_it_is_and_given_back_to_whom_it_belonged(site: Site) -> None:
    one = site.machine("web00", GPU, SOUND)
    site.start(one)
    site.end(one)
    assert site.start(one) == ["start web00 (tcg)"]
    site.stop(one)
    assert site.drivers == BEFORE


def test_a_restart_keeps_them(site: Site) -> None:
    one = site.machine("web00", GPU, SOUND)
    site.start(one)
    site.stop(one, again=True)
    assert site.drivers == TAKEN
    site.start(one)
    site.stop(one)
    assert site.drivers == BEFORE


def test_a_machine_that_runs_keeps_them_whoever_else_stops(site: Site) -> None:
    one, two = site.machine("web00", GPU, SOUND), site.machine("web01", uuid=UUID2)
    site.start(one, two)
    site.stop(two)
    assert site.drivers == TAKEN and site.noted(one)


def test_a_machine_that_is_destroyed_leaves_neither_note_nor_lock(site: Site) -> None:
    one = site.machine("web00", GPU, SOUND)
    site.start(one)
    site.end(one)
    with Transaction(site.host, site.said.append) as transaction:
        clones.destroy(transaction, site.store, [one])
    assert site.drivers == BEFORE and os.listdir(site.world.loans) == []


def test_what_cannot_be_given_back_stays_noted_and_the_rest_goes_on(site: Site) -> None:
    one = site.machine("web00", GPU, SOUND)
    site.start(one)
    site.sysfs.stubborn = {SOUND}
    with pytest.raises(HostUnavailable, match="unbind"):
        site.stop(one)
    assert site.drivers == ["pcieport", "nouveau", "vfio-pci"]
    assert [entry["address"] for entry in site.noted(one)["bound"]] == [SOUND]
    other = site.machine("web01", uuid=UUID2)
    assert site.start(other) == ["start web01 (tcg)"]  # others start all the same, stop, and start again
    site.stop(other, again=True)
    assert any("unbind" in words for words in site.said)
    site.stop(other)
    site.sysfs.stubborn = set()
    passthrough.sweep(site.host, site.world)
    assert site.drivers == BEFORE


def test_notes_that_cannot_be_read_keep_no_other_device(site: Site) -> None:
    one = site.machine("web00", GPU, SOUND, uuid=UUID2)
    site.start(one)
    Path(site.world.loan(UUID)).write_text("{", encoding="ascii")
    site.stop(one)
    assert site.drivers == BEFORE
    with pytest.raises(StoreError):
        passthrough.sweep(site.host, site.world)


def test_who_is_about_to_start_is_not_taken_for_dead(site: Site) -> None:
    one = site.machine("web00", GPU, SOUND)
    with passthrough.alone(site.store, [one]):
        assert notes.met(site.world.loan(UUID))
        passthrough.sweep(site.host, site.world, besides=[one])


# what is refused

@pytest.mark.parametrize(("addresses", "change", "kind", "words"), [
    ([OTHER], lambda site: None, HostUnavailable, f"there is no PCI device {OTHER}"),
    ([BRIDGE], lambda site: None, HostUnavailable, "is a bridge"),
    ([OTHER], lambda site: site.sysfs.device(OTHER, driver="e1000e"), HostUnavailable, "in no IOMMU group"),
    ([GPU], lambda site: None, HostUnavailable, f"shares the IOMMU group 7 with {SOUND} (snd_hda_intel)"),
    ([OTHER], lambda site: (site.sysfs.device(OTHER, driver="e1000e", group="8", cards=["eth0"]), site.net.known.update(
        eth0=Link(name="eth0", addresses=(IPv4Interface("192.0.2.7/24"),)))), Busy, "eth0 is up, with 192.0.2.7/24"),
    ([OTHER], lambda site: site.sysfs.device(OTHER, driver="e1000e", group="8", cards=["eth0"]), Busy,
     "eth0 is in another network namespace"),
    ([OTHER], lambda site: (site.sysfs.device(OTHER, driver="e1000e", group="8", cards=["eth0"]), site.net.known.update(
        {"eth0": Link(name="eth0"), "eth0.10": Link(name="eth0.10", kind="vlan", vlan=10, parent="eth0")})), Busy,
     "eth0 is up and below eth0.10"),
    ([OTHER], lambda site: (site.sysfs.device(OTHER, driver="virtio-pci", group="8"),
                            site.sysfs.deep_card(OTHER, "virtio0", "eth0"),
                            site.net.known.update(eth0=Link(name="eth0", master="br0"))), Busy,
     "eth0 is up and in br0"),
    ([OTHER], lambda site: (site.sysfs.device(OTHER, driver="igb", group="8"), Path(
        site.sysfs.top, "sys/devices/pci0000:00", OTHER, "sriov_numvfs").write_text("2\n")), Busy,
     "2 virtual functions of it would go"),
    ([OTHER], lambda site: (site.sysfs.device(OTHER, driver="ahci", group="8", disks=["sda"]),
                            site.sysfs.claimed.add("sda")), Busy, "the disk sda is in use"),
])
def test_a_device_that_cannot_be_had_is_told_before_any_is_taken(
    site: Site, addresses: list[str], change: Callable[[Site], None], kind: type[CloudMeError], words: str,
) -> None:
    change(site)
    good = site.machine("web01", GPU, SOUND, uuid=UUID2)
    one = site.machine("web00", *addresses)
    told = refused(site, kind, *([good] if GPU not in addresses else []), one)
    assert told.message.startswith("web00: ") and words in told.message and told.hint
    assert not os.path.exists(site.world.loan(UUID)) and not os.path.exists(site.world.loan(UUID2))


def test_what_another_machine_has_is_busy_in_whatever_realm_it_runs(site: Site) -> None:
    realm = Store(World(data=site.world.data, run=site.world.run, config=site.world.config, realm="lab"))
    other = site.machine("web09", GPU, SOUND, uuid=UUID2, store=realm)
    one = site.machine("web00", SOUND, GPU)
    site.qemu.start(launch.of(other, launch.Place(folder=realm.folder(other), run="/run", accel="tcg", networks={
        SETTINGS.network().name: SETTINGS.network()})))
    site.qemu.launches.clear()
    told = refused(site, Busy, one)
    assert "is the machine 'lab/web09's" in told.message


def test_two_machines_that_start_cannot_have_one_group(site: Site) -> None:
    site.sysfs.bind(GPU, "vfio-pci")
    site.sysfs.bind(SOUND, "vfio-pci")
    told = refused(site, Busy, site.machine("web00", GPU), site.machine("web01", SOUND, uuid=UUID2))
    assert "web01: what it gets of the IOMMU group 7 is the machine 'web00's" in told.message


def test_what_a_definition_that_runs_has_is_busy(site: Site) -> None:
    site.sysfs.bind(GPU, "vfio-pci")
    site.sysfs.bind(SOUND, "vfio-pci")
    site.sysfs.give("7", UID2, UID2)
    site.qemu.alive.add(UID2)
    assert f"(user {UID2})" in refused(site, Busy, site.machine("web00", GPU, SOUND)).message


# ordinary users

def test_an_ordinary_user_is_told_what_root_would_type(site: Site) -> None:
    one = site.machine("web00", GPU, SOUND)
    told = refused(site, NotPermitted, one, rootless=True)
    assert told.exit_status == 77 and "its driver is nouveau" in told.message
    assert f"echo {GPU} > devices/{GPU}/driver/unbind" in str(told.hint)
    for address in (GPU, SOUND):
        site.sysfs.bind(address, "vfio-pci")
    site.sysfs.foreign = {"7"}
    told = refused(site, NotPermitted, one, rootless=True)
    assert "/dev/vfio/7 is closed to him" in told.message and str(told.hint).endswith("/dev/vfio/7'")
    site.sysfs.foreign, site.sysfs.most = set(), 8 << 20
    told = refused(site, NotPermitted, one, rootless=True)
    assert "may not lock 1536 MiB" in told.message and "memlock 1572864" in str(told.hint)


def test_root_in_a_container_is_told_what_it_lacks(site: Site) -> None:
    site.sysfs.most = 8 << 20
    told = refused(site, NotPermitted, site.machine("web00", GPU, SOUND))
    assert "CAP_SYS_RESOURCE" in str(told.hint)


def test_what_root_gave_an_ordinary_user_is_his_and_nothing_is_changed(site: Site) -> None:
    one = site.machine("web00", GPU, SOUND)
    for address in (GPU, SOUND):
        site.sysfs.bind(address, "vfio-pci")
    site.sysfs.give("7", 1000, 1000)
    assert site.start(one, rootless=True) == ["start web00 (tcg)"]
    assert site.qemu.launches[0].iommu == ("7",)
    site.stop(one)
    assert site.drivers == TAKEN and site.sysfs.owner("7") == (1000, 1000)
    assert not os.path.exists(site.world.loans)


# vmupdate

def test_devices_change_while_a_machine_is_off(site: Site) -> None:
    one = site.machine("web00", GPU)
    new = devices.changed(site.store, one, [SOUND, GPU], [])
    assert new.devices == (GPU, SOUND)
    assert devices.changed(site.store, one, [], [GPU]).devices == ()
    with pytest.raises(UsageError, match=f"no device {SOUND}"):
        devices.changed(site.store, one, [], [SOUND])
    with pytest.raises(RuntimeError), Transaction(site.host, print) as transaction:
        transaction.apply([devices.Change(site.store, one, new)])
        assert site.store.machine("web00") == new
        raise RuntimeError
    with pytest.raises(Busy, match="somebody else changes"), Transaction(site.host, print) as transaction:
        transaction.apply([devices.Change(site.store, new, dataclasses.replace(new, devices=()))])
    assert site.store.machine("web00") == one
    site.sysfs.bind(SOUND, "vfio-pci")
    site.start(one)
    with pytest.raises(Busy, match="runs"):
        devices.changed(site.store, one, [SOUND], [])
    with pytest.raises(Busy, match="or starts it"):
        devices.Change(site.store, one, new).do(site.host)


def test_vmupdate_takes_addresses_as_lspci_prints_them(command: Callable[..., Ended], home: Path) -> None:
    made("web00")
    store = Store(layout.world())
    assert command("vmupdate", "web00", "--device", "01:00.0", "--device", SOUND).stdout == "web00\n"
    assert store.machine("web00").devices == (GPU, SOUND)
    assert "so already" in command("vmupdate", "web00", "--device", GPU).stderr
    assert command("vmupdate", "web00", "--no-device", "01:00.0").status == 0
    assert store.machine("web00").devices == (SOUND,)
    assert command("vmupdate", "web00", "--device", "gpu").status == 64
    assert command("vmupdate", "web00", "--device", GPU, "--limit", "cpus=1").status == 64
    assert "let web00 have" in command("vmupdate", "web00", "--device", GPU, "--dry-run").stdout
    assert store.machine("web00").devices == (SOUND,)
