"""Mediated devices: parts of a device of the host's, made for one machine and known by a uuid that follows from it.

Each has an IOMMU group of its own, whose file in /dev/vfio has to be the machine's: QEMU opens the device by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cloudme import passthrough
from cloudme.errors import AlreadyExists, Busy, CloudMeError, HostUnavailable
from cloudme.model.definitions.nouns import Device, Supply
from cloudme.model.devices import MediatedType
from cloudme.model.ports import Host
from cloudme.model.steps import Step
from cloudme.notes import Entry
from cloudme.operations.preparing.tenant import Tenant
from cloudme.passthrough import Lend


@dataclass(slots=True)
class MakeMediated:
    """The supplier is chosen anew, while nobody else chooses one: since the check others may have been served."""

    tenant: Tenant
    device: Device
    supplies: Sequence[Supply]
    entries: list[Entry] = field(default_factory=list)
    lent: list[Lend] = field(default_factory=list)

    def describe(self) -> str:
        return f"make the mediated device {self.device.id} ({self.device.kind})"

    def do(self, host: Host) -> None:
        with host.devices.alone():
            supply, type = choose(host, self.tenant, self.device, self.supplies)
            entry = {"uuid": self.device.id, "address": supply.address, "type": type.id}
            self.entries.append(entry)
            self.tenant.notes.add("mediated", entry)
            _mixed(host, supply)
            host.devices.create(supply.address, type.id, self.device.id)
            _placed(host, self.tenant, self.device, supply)
        for found in host.devices.mediated():
            if found.uuid == self.device.id and found.group:
                self.lent.append(Lend(self.tenant.borrower, found.group))
                self.lent[-1].do(host)

    def undo(self, host: Host) -> None:
        for lent in self.lent:
            lent.undo(host)
        for entry in self.entries:
            remove(host, entry)
            self.tenant.notes.drop("mediated", entry)


def plan(host: Host, tenant: Tenant) -> Iterator[Step]:
    """Raises AlreadyExists where the uuid is that of another type's device, and what `choose` raises."""
    there = {found.uuid: found for found in host.devices.mediated()}
    for device in tenant.machine.devices:
        supplies = sorted((supply for supply in tenant.host.supplies if supply.kinds.get(device.kind)),
                          key=lambda supply: supply.address)
        if not supplies:
            continue  # the class is of whole devices
        found = there.get(device.id)
        if found is None:
            choose(host, tenant, device, supplies)
            yield MakeMediated(tenant, device, supplies)
        elif not any(found.parent == supply.address and _type(host, supply, device.kind, found.type)
                     for supply in supplies):
            raise AlreadyExists(f"{tenant.name}: there is a mediated device {device.id}, of the type {found.type} on "
                                f"{found.parent}, which is not '{device.kind}'",
                                hint=f"if nobody uses it: echo 1 > /sys/bus/mdev/devices/{device.id}/remove")
        elif found.group:
            passthrough.check_free(host, tenant.borrower, device.id, found.group)
            yield from passthrough.lending(host, tenant.borrower, found.group)


def choose(
    host: Host, tenant: Tenant, device: Device, supplies: Sequence[Supply],
) -> tuple[Supply, MediatedType]:
    """The first supplier that has one left, by PCI address, and its type.

    Raises:  Busy where all are in use, HostUnavailable where no supplier is there or knows the type: each with why.
    """
    why, error = [], HostUnavailable
    for supply in supplies:
        type = _type(host, supply, device.kind)
        if type and type.available > 0:
            return supply, type
        if type:
            error = Busy  # type: ignore[assignment]
            why.append(f"{supply.address}: no instance of {type.name or type.id} is left")
        elif host.devices.pci(supply.address) is None:
            why.append(f"{supply.address}: there is no such device")
        else:
            names = [type.name or type.id for type in host.devices.types(supply.address)]
            why.append(f"{supply.address}: no type '{supply.kinds[device.kind]}'" +
                       (f", only {', '.join(names)}" if names else ": its driver offers no mediated devices"))
    raise error(f"{tenant.name}: nobody supplies '{device.kind}': {'; '.join(why)}",
                hint="ls /sys/bus/pci/devices/*/mdev_supported_types; stop a machine that has one")


def _type(host: Host, supply: Supply, kind: str, id: str | None = None) -> MediatedType | None:
    """The type that the host configuration calls by its name, or its id."""
    return next((type for type in host.devices.types(supply.address)
                 if supply.kinds[kind] in (type.name, type.id) and id in (None, type.id)), None)


def _mixed(host: Host, supply: Supply) -> None:
    """NVIDIA's driver takes types of different sizes on one device where it is told so before the first of them."""
    if supply.heterogeneous and not any(found.parent == supply.address for found in host.devices.mediated()):
        host.run(["nvidia-smi", "vgpu", "--id", supply.address, "-shm", "1"])


def _placed(host: Host, tenant: Tenant, device: Device, supply: Supply) -> None:
    """Put the new one at the first of its places that the driver takes. Raises Busy."""
    wanted = supply.placements.get(device.kind, ())
    taken = {found.placement for found in host.devices.mediated()
             if found.parent == supply.address and found.uuid != device.id}
    for placement in wanted:
        if placement not in taken:
            try:
                host.devices.place(device.id, placement)
            except HostUnavailable:
                continue  # another one that is larger reaches into it
            return
    if wanted:
        raise Busy(f"{tenant.name}: {supply.address} has no place left for '{device.kind}': "
                   f"{', '.join(map(str, wanted))} are taken", hint="stop a machine that has one")


def remove(host: Host, entry: Entry) -> None:
    """Take it away, if it is there and where it was made."""
    if any((found.uuid, found.parent) == (entry["uuid"], entry["address"]) for found in host.devices.mediated()):
        try:
            host.devices.remove(entry["uuid"])
        except CloudMeError as error:
            raise Busy(f"the mediated device {entry['uuid']} cannot be removed: {error.message}",
                       hint="somebody may have it open") from error
