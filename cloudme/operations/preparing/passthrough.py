"""Whole PCI devices: taken from their driver, and given to the machine's user by VFIO.

An IOMMU keeps groups of devices apart, not single ones: all that can do DMA in a group has to be VFIO's, or nobody's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cloudme.errors import Busy, HostUnavailable
from cloudme.model import identity
from cloudme.model.devices import VFIO, PciDevice
from cloudme.model.network import Link
from cloudme.model.ports import Host
from cloudme.model.steps import Step
from cloudme.operations.preparing.notes import Entry, Notes
from cloudme.operations.preparing.tenant import Tenant

NO_IOMMU = "enable VT-d or AMD-Vi in the firmware's setup, and boot with intel_iommu=on or amd_iommu=on"


@dataclass(frozen=True, slots=True)
class LoadVfio:
    def describe(self) -> str:
        return f"modprobe {VFIO}"

    def do(self, host: Host) -> None:
        host.run(["modprobe", VFIO])

    def undo(self, host: Host) -> None:
        """A driver that has no device does nothing."""


@dataclass(frozen=True, slots=True)
class Bind:
    notes: Notes
    entry: Entry

    def describe(self) -> str:
        return f"give the device {self.entry['address']} to {VFIO} (it was {self.entry['driver'] or 'nobody'}'s)"

    def do(self, host: Host) -> None:
        self.notes.add("bound", self.entry)
        host.devices.bind(self.entry["address"], VFIO)

    def undo(self, host: Host) -> None:
        give_back(host, self.entry)
        self.notes.drop("bound", self.entry)


@dataclass(slots=True)
class Lend:
    """Let the machine's user open the group."""

    tenant: Tenant
    group: str
    entries: list[Entry] = field(default_factory=list)

    def describe(self) -> str:
        return f"give /dev/vfio/{self.group} to the user {self.tenant.user} ({self.tenant.uid})"

    def do(self, host: Host) -> None:
        owner = host.devices.owner(self.group)
        if owner is None:
            raise HostUnavailable(f"{VFIO} has not made /dev/vfio/{self.group}", hint="dmesg may say why")
        entry = {"group": self.group, "uid": self.tenant.uid, "before": list(owner)}
        self.entries.append(entry)
        self.tenant.notes.add("lent", entry)
        host.devices.give(self.group, self.tenant.uid, self.tenant.gid)

    def undo(self, host: Host) -> None:
        for entry in self.entries:
            take_back(host, entry)
            self.tenant.notes.drop("lent", entry)


def lending(host: Host, tenant: Tenant, group: str) -> Iterator[Lend]:
    """The step, where the group is not this machine's already."""
    owner = host.devices.owner(group)
    if owner is None or owner[0] != tenant.uid:
        yield Lend(tenant, group)


def plan(host: Host, tenant: Tenant, links: Mapping[str, Link]) -> Iterator[Step]:
    """Raises HostUnavailable, Busy: then nothing has been taken from anybody."""
    whole = {supply.address: device for device in tenant.machine.devices for supply in tenant.host.supplies
             if supply.kinds.get(device.kind) == ""}
    found = {}
    for address in whole:
        if (device := host.devices.pci(address)) is None:
            raise HostUnavailable(f"{tenant.name}: there is no PCI device {address}", hint="lspci -D")
        _check(host, tenant, device, links, set(whole))
        found[address] = device
    if found and not host.devices.has_driver(VFIO):
        yield LoadVfio()
    for address, device in found.items():
        if device.driver != VFIO:
            yield Bind(tenant.notes, {"address": address, "driver": device.driver})
    for group in dict.fromkeys(device.group for device in found.values()):
        yield from lending(host, tenant, group)


def _check(host: Host, tenant: Tenant, device: PciDevice, links: Mapping[str, Link], own: set[str]) -> None:
    if not device.group:
        raise HostUnavailable(f"{tenant.name}: {device.address} is in no IOMMU group: a machine with it could read and "
                              "write all of the host's memory", hint=NO_IOMMU)
    others = [f"{other.address} ({other.driver})" for other in host.devices.group(device.group)
              if other.address not in own and not other.bridge and other.driver not in ("", VFIO)]
    if others:
        raise HostUnavailable(f"{tenant.name}: {device.address} shares the IOMMU group {device.group} with "
                              f"{', '.join(others)}: they can be given away together only",
                              hint="take the others from their drivers, or put the card into another slot")
    check_free(host, tenant, device.address, device.group)
    if uses := [*_cards(device, links), *(f"the disk {disk} is in use" for disk in device.disks)]:
        raise Busy(f"{tenant.name}: {device.address} is in use by the host: {'; '.join(uses)}",
                   hint="take it out of use first, as ip link set NAME down, umount")


def check_free(host: Host, tenant: Tenant, device: str, group: str) -> None:
    if (user := _user(host, group)) not in (None, tenant.uid):
        raise Busy(f"{tenant.name}: {device} is in use by another machine, which runs (user {user})")


def _cards(device: PciDevice, links: Mapping[str, Link]) -> Iterator[str]:
    """A card that is up counts where it leads somewhere: by an address, a route, or a bridge that it is a port of."""
    for name in device.cards:
        link = links.get(name)
        if link and link.up and (link.addresses or link.addresses6 or link.routes or link.master):
            where = f" and in {link.master}" if link.master else ""
            addresses = ", ".join(map(str, (*link.addresses, *link.addresses6)))
            yield f"{name} is up{where}{f', with {addresses}' if addresses else ''}"


def give_back(host: Host, entry: Entry) -> None:
    """To the driver that it had; nothing where somebody else has taken it from VFIO since.

    Raises:  Busy where a machine that runs has its group: it was lent on since this was noted.
    """
    device = host.devices.pci(entry["address"])
    if device and device.driver in (VFIO, ""):
        if user := _user(host, device.group):
            raise Busy(f"{device.address} is in use by a machine, which runs (user {user})")
        host.devices.bind(entry["address"], entry["driver"])


def _user(host: Host, group: str) -> int | None:
    """The user of the machine that has the group, where any of its processes lives."""
    owner = host.devices.owner(group) if group else None
    taken = owner and identity.UID_MIN <= owner[0] <= identity.UID_MAX and host.qemu.lives(owner[0])
    return owner[0] if owner and taken else None


def take_back(host: Host, entry: Entry) -> None:
    owner = host.devices.owner(entry["group"])
    if owner and owner[0] == entry["uid"]:
        host.devices.give(entry["group"], *entry["before"])
