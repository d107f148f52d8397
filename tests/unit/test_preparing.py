"""What is prepared for machines that are defined, and undone: links, mediated and whole devices, notes."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from cloudme.errors import (
    AlreadyExists,
    Busy,
    CloudMeError,
    CommandFailed,
    HostUnavailable,
    StoreError,
    TimedOut,
)
from cloudme.formats import firmware
from cloudme.layout import World
from cloudme.model import identity
from cloudme.model.launch import Guard
from cloudme.model.network import Link
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction
from cloudme.operations import preparing
from cloudme.operations.preparing import foreground, links, notes
from cloudme.store import take_lock
from tests import fakes
from tests.unit.test_definitions import Machina

RAM = {"memory": {"ram": 64}}
A, B, C = "0000:01:00.0", "0000:02:00.0", "0000:02:00.1"
GPU = {"name": "g", "class": "small"}
UUID = "3e2cee4d-1002-4989-af98-3e03b8ad3197"
SMALL = {"nvidia-256": ("GRID RTX8000-1Q", 2), "nvidia-259": ("GRID RTX8000-6Q", 1)}


class Site:
    """A host of fakes, and the machine 'vm' on it."""

    def __init__(self, folder: Path) -> None:
        self.machina = Machina(folder)
        self.sysfs = fakes.FakeSysfs(str(folder / "root"))
        (folder / "root/run").mkdir(parents=True)
        self.net = fakes.FakeNet(known={"br0": Link(name="br0", kind="bridge", mtu=9000)})
        self.run = fakes.FakeRun()
        self.qemu = fakes.FakeHypervisor()
        self.host: Host = fakes.host(net=self.net, devices=self.sysfs, run=self.run, qemu=self.qemu)
        self.world = World(data=str(folder), run=str(folder / "run"), config=str(folder))
        self.said: list[str] = []

    def define(self, host: dict[str, Any], **more: Any) -> None:
        self.machina.host(host)
        self.machina.machine("vm", {"attrs": RAM, **more})

    def prepare(self) -> list[str]:
        site = self.machina.read()
        steps = preparing.plan(self.host, self.world, site.pick(["vm"]), site.host)
        with Transaction(self.host, self.said.append) as transaction:
            transaction.apply(steps)
        return [step.describe() for step in steps]

    def tear_down(self) -> None:
        preparing.tear_down(self.host, self.world, ["vm"], say=self.said.append, dry_run=False)

    @property
    def notes(self) -> dict[str, Any]:
        path = Path(self.world.prepared("vm"))
        return dict(json.loads(path.read_text())) if path.exists() else {}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """That of the machine."""
    monkeypatch.setenv("CLOUDME_MACHINA_RUN", str(tmp_path / "machina"))
    (tmp_path / "machina/vm").mkdir(parents=True)
    return str(tmp_path / "machina/vm/lock")


def refused(site: Site, kind: type[CloudMeError]) -> str:
    with pytest.raises(kind) as told:
        site.prepare()
    assert site.notes == {}
    return told.value.message


# links

def test_a_tap_is_the_machines_in_its_bridge_with_its_mtu_and_guarded(site: Site) -> None:
    site.define({"network": {"lan": {"device": "br0"}}}, connections=[
        {"name": "0", "network": "lan"}, {"name": "1", "network": "lan", "ip": "10.0.0.5/24"}])
    assert len(site.prepare()) == 4
    uid = identity.uid(site.machina.one().uuid)
    assert site.net.known["vm.0"] == Link(name="vm.0", kind="tun", master="br0", mtu=9000, owner=uid)
    assert site.net.guarded == [[Guard(locked=False, own_mac=True)], [Guard(addresses=("10.0.0.5",))]]
    assert site.prepare() == []
    site.net.bare.add(site.machina.one().connections[1].mac)
    assert site.prepare() == ["make vm.1 a port of the bridge br0, guarded"]
    site.tear_down()
    assert set(site.net.known) == {"br0"} and site.notes == {}
    site.tear_down()


def test_a_tap_gets_another_guard_with_another_address(site: Site) -> None:
    for address in ("10.0.0.5", "10.0.0.6"):
        site.define({"network": {"lan": {"device": "br0"}}}, connections=[
            {"name": "0", "network": "lan", "ip": address}])
        assert "make vm.0 a port of the bridge br0, guarded" in site.prepare()
    assert [entry["ip"] for entry in site.notes["taps"]] == ["10.0.0.6"]
    card = replace(site.machina.one().connections[0], ip="2001:db8::5", mac="52:54:00:00:00:01")
    assert links.guard(card) == Guard(addresses6=("fe80::5054:ff:fe00:1", "2001:db8::5"))


def test_a_link_of_somebody_else_is_left_alone(site: Site) -> None:
    site.define({"network": {"lan": {"device": "br0"}}}, connections=[{"name": "0", "network": "lan"}])
    for found in (Link(name="vm.0", kind="veth"), Link(name="vm.0", kind="tun", owner=1000)):
        site.net.known["vm.0"] = found
        refused(site, AlreadyExists)
        site.tear_down()
        assert site.net.known["vm.0"] == found


def test_the_tap_goes_even_where_the_program_of_its_network_fails(site: Site) -> None:
    site.define({"network": {"lan": {"up": "/up", "down": "/down"}}}, connections=[{"name": "0", "network": "lan"}])
    site.prepare()
    site.run.fail["/down"] = CommandFailed("no")
    with pytest.raises(CommandFailed):
        site.tear_down()
    assert site.run.calls == [["/up", "vm.0"], ["/down", "vm.0"]] and "vm.0" not in site.net.known
    site.tear_down()
    assert site.notes == {}


# mediated devices

def mediated(site: Site, *addresses: str, **more: Any) -> None:
    site.define({"mdev": {f"m{index}": {"address": address, "types": {"small": "GRID RTX8000-6Q"}}
                          for index, address in enumerate(addresses)}, **more},
                devices=[{**GPU, "id": UUID}])


def test_a_mediated_device_is_made_at_the_first_supplier_that_has_one_left(site: Site) -> None:
    mediated(site, B, A, C)
    site.sysfs.device(A, types={"nvidia-259": ("GRID RTX8000-6Q", 0)})
    site.sysfs.device(B, types=SMALL)
    site.sysfs.device(C, types=SMALL)
    assert site.prepare() == [f"make the mediated device {UUID} (small)"]
    (found,) = site.sysfs.mediated()
    assert (found.uuid, found.parent, found.type) == (UUID, B, "nvidia-259")
    assert [type.available for type in site.sysfs.types(B)] == [2, 0]
    assert site.notes["mediated"] == [{"uuid": UUID, "address": B, "type": "nvidia-259"}]
    assert site.prepare() == []
    site.tear_down()
    assert site.sysfs.mediated() == [] and [type.available for type in site.sysfs.types(B)] == [2, 1]


def test_a_type_may_be_called_by_its_id(site: Site) -> None:
    mediated(site, A)
    site.sysfs.device(A, types={"GRID RTX8000-6Q": ("", 1)})
    site.prepare()
    assert len(site.sysfs.mediated()) == 1


def test_where_nobody_supplies_the_class_each_supplier_is_told_with_why(site: Site) -> None:
    mediated(site, A, B, C)
    site.sysfs.device(A, types={"nvidia-256": SMALL["nvidia-256"]})
    site.sysfs.device(B)
    said = refused(site, HostUnavailable)
    assert f"{A}: no type 'GRID RTX8000-6Q', only GRID RTX8000-1Q" in said
    assert f"{B}: no type 'GRID RTX8000-6Q': its driver offers no mediated devices" in said
    assert f"{C}: there is no such device" in said
    site.sysfs.device(C, types={"nvidia-259": ("GRID RTX8000-6Q", 0)})
    assert f"{C}: no instance of GRID RTX8000-6Q is left" in refused(site, Busy)


def test_a_device_with_this_uuid_and_another_type_is_refused(site: Site) -> None:
    mediated(site, A)
    site.sysfs.device(A, types=SMALL)
    site.sysfs.create(A, "nvidia-256", UUID)
    assert "nvidia-256" in refused(site, AlreadyExists)
    assert len(site.sysfs.mediated()) == 1


def test_places_are_chosen_and_sizes_mixed_where_the_host_says_so(site: Site) -> None:
    site.define({"mediated-device": {"m": {"address": A, "heterogeneous": True, "classes": {
        "small": {"name": "GRID RTX8000-1Q", "placements": [0, 4]}}}}}, devices=[{**GPU, "id": UUID}])
    site.sysfs.device(A, types=SMALL)
    other = "00000000-0000-4000-8000-000000000001"
    site.prepare()
    assert site.run.calls == [["nvidia-smi", "vgpu", "--id", A, "-shm", "1"]]
    assert site.sysfs.mediated()[0].placement == 0
    site.tear_down()
    site.sysfs.create(A, "nvidia-259", other)
    site.sysfs.place(other, 0)
    site.prepare()
    assert len(site.run.calls) == 1
    assert {found.uuid: found.placement for found in site.sysfs.mediated()} == {UUID: 4, other: 0}
    site.tear_down()
    site.sysfs.place(other, 0)
    site.sysfs.stubborn = {"4"}
    with pytest.raises(Busy, match="has no place left"):
        site.prepare()
    assert [found.uuid for found in site.sysfs.mediated()] == [other] and site.notes == {}


def test_two_do_not_choose_at_once(site: Site) -> None:
    with site.sysfs.alone(), pytest.raises(TimedOut, match="machina-mdev"), site.sysfs.alone(timeout_s=0.05):
        pass
    with site.sysfs.alone(timeout_s=0.05):
        pass


# whole devices

def whole(site: Site, *addresses: str) -> None:
    site.define({"pci": {f"p{index}": {"address": address, "class": f"c{index}"}
                         for index, address in enumerate(addresses)}},
                devices=[{"name": f"d{index}", "class": f"c{index}"} for index in range(len(addresses))])


def test_a_whole_device_is_given_to_the_machine_and_back(site: Site) -> None:
    whole(site, B, C)
    site.sysfs.device("0000:00:01.0", driver="pcieport", group="7", kind="0x060400")
    site.sysfs.device(B, driver="nouveau", group="7")
    site.sysfs.device(C, driver="snd_hda_intel", group="7", kind="0x040300")
    site.sysfs.driver("vfio-pci")
    assert len(site.prepare()) == 3
    uid = identity.uid(site.machina.one().uuid)
    assert [device.driver for device in site.sysfs.group("7")] == ["pcieport", "vfio-pci", "vfio-pci"]
    assert site.sysfs.owner("7") == (uid, uid)
    assert site.prepare() == []
    site.tear_down()
    assert [device.driver for device in site.sysfs.group("7")] == ["pcieport", "nouveau", "snd_hda_intel"]
    assert site.sysfs.owner("7") is None and site.notes == {}
    assert (site.sysfs.top / "sys/bus/pci/devices" / B / "driver_override").read_text() == "(null)\n"


def test_a_device_that_nobody_drives_goes_back_to_nobody_and_the_driver_is_loaded(site: Site) -> None:
    whole(site, A)
    site.sysfs.device(A, group="3")
    with pytest.raises(HostUnavailable, match="to no driver, not to vfio-pci"):
        site.prepare()  # the fake modprobe loads nothing
    assert site.run.calls == [["modprobe", "vfio-pci"]] and site.notes == {}
    site.sysfs.driver("vfio-pci")
    site.prepare()
    site.tear_down()
    assert site.sysfs.group("3")[0].driver == ""


@pytest.mark.parametrize(("make", "kind", "words"), [
    (lambda site: None, HostUnavailable, f"there is no PCI device {B}"),
    (lambda site: site.sysfs.device(B, driver="nouveau"), HostUnavailable, "in no IOMMU group"),
    (lambda site: (site.sysfs.device(B, driver="nouveau", group="7"),
                   site.sysfs.device(C, driver="xhci_hcd", group="7", kind="0x0c0330")),
     HostUnavailable, f"shares the IOMMU group 7 with {C} (xhci_hcd)"),
    (lambda site: (site.sysfs.device(B, driver="e1000e", group="7", cards=["eth0"]), site.net.known.update(
        eth0=Link(name="eth0", master="br0"))), Busy, "eth0 is up and in br0"),
    (lambda site: (site.sysfs.device(B, driver="e1000e", group="7", cards=["eth0"]), site.net.known.update(
        eth0=Link(name="eth0", addresses=(IPv4Interface("192.0.2.7/24"),)))), Busy, "eth0 is up, with 192.0.2.7/24"),
    (lambda site: (site.sysfs.device(B, driver="ahci", group="7", disks=["sda"]), site.sysfs.claimed.add("sda")),
     Busy, "the disk sda is in use"),
])
def test_a_device_that_cannot_be_had_is_told_before_anything_is_taken(
    site: Site, make: Callable[[Site], None], kind: type[CloudMeError], words: str,
) -> None:
    whole(site, A, B)
    site.sysfs.device(A, driver="nouveau", group="1")
    site.sysfs.driver("vfio-pci")
    make(site)
    assert words in refused(site, kind)
    assert site.sysfs.group("1")[0].driver == "nouveau"


def test_a_disk_with_several_ways_to_it_is_asked_for_by_its_own_name(site: Site) -> None:
    whole(site, B)
    site.sysfs.device(B, driver="nvme", group="7", disks=["nvme0c1n1"])
    site.sysfs.claimed.add("nvme0n1")
    assert "nvme0n1" in refused(site, Busy)


def test_a_card_that_leads_nowhere_and_a_disk_that_nobody_uses_can_be_had(site: Site) -> None:
    whole(site, B)
    site.sysfs.device(B, driver="ahci", group="7", disks=["sda"], cards=["eth0"])
    site.sysfs.driver("vfio-pci")
    site.net.known["eth0"] = Link(name="eth0")
    assert len(site.prepare()) == 2


def test_a_group_that_another_running_machine_has_is_busy(site: Site) -> None:
    whole(site, B)
    site.sysfs.device(B, driver="vfio-pci", group="7")
    site.sysfs.give("7", identity.UID_MIN + 5, identity.UID_MIN + 5)
    site.qemu.alive.add(identity.UID_MIN + 5)
    assert "another machine" in refused(site, Busy)
    site.qemu.alive.clear()
    assert len(site.prepare()) == 1


def test_a_failure_on_the_way_gives_everything_back(site: Site) -> None:
    site.define({"network": {"lan": {"device": "br0"}},
                 "mdev": {"m": {"address": A, "types": {"small": "GRID RTX8000-6Q"}}},
                 "pci": {"p": {"address": B, "class": "card"}}},
                connections=[{"name": "0", "network": "lan"}],
                devices=[{**GPU, "id": UUID}, {"name": "c", "class": "card"}])
    site.sysfs.device(A, types=SMALL)
    site.sysfs.device(B, driver="nouveau", group="7")
    site.sysfs.driver("vfio-pci")
    site.sysfs.stubborn = {B}
    with pytest.raises(HostUnavailable):
        site.prepare()
    assert "vm.0" not in site.net.known and site.sysfs.mediated() == [] and site.notes == {}
    assert site.sysfs.group("7")[0].driver == "nouveau"


# teardown and notes

def test_a_teardown_goes_on_after_a_failure_and_tells_all_of_them(site: Site) -> None:
    test = test_a_failure_on_the_way_gives_everything_back
    test(site)
    site.sysfs.stubborn = set()
    site.prepare()
    assert stat.S_IMODE(os.stat(site.world.prepared("vm")).st_mode) == 0o600
    site.sysfs.stubborn = {"1", B}
    with pytest.raises(Busy) as told:
        site.tear_down()
    assert UUID in told.value.message and "Device or resource busy" in told.value.message.splitlines()[1]
    assert "vm.0" not in site.net.known
    assert {kind: len(site.notes[kind]) for kind in notes.KINDS} == {"taps": 0, "mediated": 1, "bound": 1, "lent": 0}
    site.sysfs.stubborn = set()
    site.tear_down()
    assert site.notes == {}


def test_nothing_is_torn_down_while_qemu_lives(site: Site, lock_file: str) -> None:
    site.define({"network": {"lan": {"device": "br0"}}}, connections=[{"name": "0", "network": "lan"}])
    site.prepare()
    lock = take_lock(lock_file)
    with pytest.raises(Busy, match="vm: QEMU lives"):
        site.tear_down()
    assert "vm.0" in site.net.known
    os.close(lock)
    site.tear_down()
    assert "vm.0" not in site.net.known


def test_notes_that_cannot_be_read_are_told(site: Site) -> None:
    path = Path(site.world.prepared("vm"))
    path.parent.mkdir(parents=True)
    for text in ("", "[]", '{"version": 2}', '{"version": 1}'):
        path.write_text(text)
        with pytest.raises(StoreError, match="cannot be read"):
            site.tear_down()
    assert notes.names(site.world) == ["vm"]


# firmware

@pytest.mark.parametrize(("code", "variables"), [
    ("/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/CODE/ovmf-stable202302.code.bin", "/CODE/ovmf-stable202302.vars.bin"),
    ("/usr/share/seabios/bios.bin", None),
])
def test_code_and_variables_are_called_alike(code: str, variables: str | None) -> None:
    assert firmware.sibling(code) == variables


def test_a_descriptor_says_what_belongs_to_the_code() -> None:
    def text(code: str, variables: str) -> str:
        return json.dumps({"mapping": {"device": "flash", "executable": {"filename": code, "format": "raw"},
                                       "nvram-template": {"filename": variables, "format": "raw"}}})

    texts = ["{", "[]", '{"mapping": {"device": "memory", "filename": "/bios"}}', text("/a", "/b"), text("/c", "/d"),
             text("/c", "/e")]
    assert firmware.described("/c", texts) == "/d"
    assert firmware.described("/x", texts) is None


def test_vmrun_refuses_a_machine_that_runs(site: Site, lock_file: str) -> None:
    site.define({"accelerator": "tcg"})
    read = site.machina.read()
    one = preparing.tenant.of(read.pick(["vm"])[0], read.host, notes.read(site.world, "vm"))
    foreground.check(one)
    lock = take_lock(lock_file)
    with pytest.raises(Busy, match="'vm' runs"):
        foreground.check(one)
    os.close(lock)
