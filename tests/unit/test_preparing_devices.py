"""Mediated and whole devices: what is chosen, what is refused before anything is taken, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Interface
from typing import Any

import pytest

from cloudme.errors import (
    AlreadyExists,
    Busy,
    CloudMeError,
    HostUnavailable,
    TimedOut,
)
from cloudme.model import identity
from cloudme.model.network import Link
from tests.preparing import GPU, SMALL, UUID, A, B, C, Site, refused
from tests.preparing import site as site

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
    uid = identity.uid(site.machina.one().uuid)
    assert site.sysfs.owner(found.group) == (uid, uid)
    assert site.prepare() == []
    site.tear_down()
    assert site.notes == {}
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


def test_one_that_is_there_becomes_the_machines_unless_another_runs_with_it(site: Site) -> None:
    mediated(site, A)
    site.sysfs.device(A, types=SMALL)
    site.sysfs.create(A, "nvidia-259", UUID)
    (found,) = site.sysfs.mediated()
    other = identity.UID_MIN + 5
    site.sysfs.give(found.group, other, other)
    site.qemu.alive.add(other)
    assert "another machine" in refused(site, Busy)
    site.qemu.alive.clear()
    assert site.prepare() == [f"give /dev/vfio/{found.group} to the user machina-vm "
                              f"({identity.uid(site.machina.one().uuid)})"]


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


@pytest.mark.parametrize("use", ["number", "name", "swap", "holder"])
def test_a_disk_that_may_not_be_opened_is_looked_for_among_mounts(site: Site, use: str) -> None:
    whole(site, B)
    site.sysfs.device(B, driver="ahci", group="7", disks=["sda"])
    site.sysfs.driver("vfio-pci")
    part = site.sysfs.top / "sys/block/sda/sda1"
    (part / "holders").mkdir(parents=True)
    (part / "dev").write_text("8:1\n")
    proc = site.sysfs.top / "proc/self/mountinfo"
    proc.parent.mkdir(parents=True)
    other = "22 1 0:20 / / rw shared:1 - tmpfs none rw\n"
    proc.write_text(other)
    assert len(site.sysfs.pci(B).disks) == 0  # type: ignore[union-attr]
    if use == "holder":
        (part / "holders/dm-0").mkdir()
    elif use == "swap":
        (proc.parent.parent / "swaps").write_text("Filename Type Size\n/dev/sda1 partition 1 0 -2\n")
    else:
        mount = "8:1 / /srv rw - ext4 /dev/root rw" if use == "number" else "0:31 / /srv rw - btrfs /dev/sda1 rw"
        proc.write_text(f"{other}23 22 {mount}\n")
    assert "the disk sda is in use" in refused(site, Busy)


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


def test_a_device_that_was_lent_on_is_not_taken_from_who_has_it(site: Site) -> None:
    """A machine whose start is refused is torn down all the same (ExecStopPost), by notes of a start before."""
    whole(site, B)
    site.sysfs.device(B, driver="nouveau", group="7")
    site.sysfs.driver("vfio-pci")
    site.prepare()
    site.sysfs.give("7", identity.UID_MIN + 5, identity.UID_MIN + 5)
    site.qemu.alive.add(identity.UID_MIN + 5)
    with pytest.raises(Busy):
        site.prepare()
    with pytest.raises(Busy, match="in use by a machine"):
        site.tear_down()
    assert site.sysfs.group("7")[0].driver == "vfio-pci" and site.notes["bound"]
    site.qemu.alive.clear()
    site.tear_down()
    assert site.sysfs.group("7")[0].driver == "nouveau" and site.notes == {}


@pytest.mark.parametrize("use", ["mount", "part", "holder", "claim", ""])
def test_a_block_device_that_the_host_uses_is_known_by_its_number(site: Site, use: str) -> None:
    disk = site.sysfs.top / "sys/devices/virtual/block/sda"
    (disk / "sda1/holders").mkdir(parents=True)
    (disk / "dev").write_text("8:0\n")
    (disk / "sda1/dev").write_text("8:1\n")
    for number, folder in (("8:0", disk), ("8:1", disk / "sda1")):
        site.sysfs._linked(site.sysfs.top / "sys/dev/block" / number, folder)
    proc = site.sysfs.top / "proc/self/mountinfo"
    proc.parent.mkdir(parents=True)
    proc.write_text(f"22 1 {'8:1' if use in ('mount', 'part') else '0:20'} / / rw - ext4 /dev/root rw\n")
    if use == "holder":
        (disk / "sda1/holders/dm-0").mkdir()
    if use == "claim":
        site.sysfs.claimed |= {"sda", "sda1"}
    assert site.sysfs.is_used("8:0" if use == "part" else "8:1") == bool(use)
    assert not site.sysfs.is_used("9:9")
