"""The devices of a definition in the seed's order, each in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from cloudme.errors import UsageError
from cloudme.model.definitions.nouns import HostConfiguration, Kind, Merged
from cloudme.model.launch import Part
from cloudme.qemu.definitions import devices
from cloudme.qemu.definitions.disks import BLOCK_DISKS, SCSI_DISKS, Disks
from cloudme.qemu.definitions.places import Kind as PlaceKind
from cloudme.qemu.definitions.places import Place, allot

MOST = {Kind.iso_ahci: 6, Kind.iso_usb: 12, Kind.iso_scsi: 28}
"""Devices on the controller that they share: SATA ports of q35; USB ports that the display leaves; the seed's limit."""
DISPLAYS = range(1, 5)


@dataclass(frozen=True, slots=True)
class Top:
    """What stands on the root complex, with all that hangs on it."""

    kind: PlaceKind
    parts: Callable[[Place], list[Part]]


def arranged(machine: Merged, host: HostConfiguration, disks: Disks) -> list[Part]:
    """Return all devices. Raises UsageError where a controller or the bus is full."""
    for kind, most in MOST.items():
        sharing = disks.of(kind, *(SCSI_DISKS if kind == Kind.iso_scsi else ()))
        if len(sharing) > most:
            raise UsageError(f"{len(sharing)} volumes are too many for one controller ({kind}): {most} at most")
    tops = [*_console(machine, disks), *_volumes(machine, disks), *_cards(machine), *_supplied(machine, host)]
    return [part for top, place in zip(tops, allot(top.kind for top in tops), strict=True) for part in top.parts(place)]


def _console(machine: Merged, disks: Disks) -> Iterator[Top]:
    """The ways to talk with the guest: agent, displays, keyboard and mouse."""
    attributes = machine.attributes
    ports = [("guestagent", "org.qemu.guest_agent.0")] * attributes.agent + [("vdagent", "com.redhat.spice.0")
                                                                             ] * attributes.spice
    if ports:
        yield Top("port", lambda place: [*devices.serial_controller(place), *(
            devices.serial_port(index, *port) for index, port in enumerate(ports))])
    if attributes.spice:
        for index in range(min(max(attributes.displays, DISPLAYS[0]), DISPLAYS[-1])):
            yield Top("integrated", partial(devices.display, index=index))
        yield _usb(disks, spice=True)


def _usb(disks: Disks, *, spice: bool) -> Top:
    """The USB controller with all that is on it. spice: a tablet, and two ports for devices of the viewer's."""
    drivers: list[tuple[str, devices.Props]] = [
        ("usb-tablet", {}), ("usb-redir", {"chardev": "usbredir.0"}), ("usb-redir", {"chardev": "usbredir.1"})] * spice
    drivers += [("usb-storage", disk.props()) for disk in disks.of(Kind.iso_usb)]
    return Top("port", lambda place: [*devices.usb_controller(place, len(drivers)), *(
        devices.usb_device(driver, port, props) for port, (driver, props) in enumerate(drivers, 1))])


def _scsi(disks: Disks) -> Top:
    """The SCSI controller with all that is on it."""
    return Top("port", lambda place: [*devices.scsi_controller(place), *(
        devices.scsi_device("scsi-cd" if disk.kind == Kind.iso_scsi else "scsi-hd", lun, disk.props())
        for lun, disk in enumerate(disks.of(Kind.iso_scsi, *SCSI_DISKS)))])


def _volumes(machine: Merged, disks: Disks) -> Iterator[Top]:
    """In their order; a controller that several share comes with the first of them."""
    shared = {"usb"} if machine.attributes.spice else set()
    block, sata = disks.of(*BLOCK_DISKS), disks.of(Kind.iso_ahci)
    for disk in disks.volumes:
        if disk.kind in (Kind.iso_scsi, *SCSI_DISKS) and "scsi" not in shared:
            shared.add("scsi")
            yield _scsi(disks)
        elif disk.kind == Kind.iso_usb and "usb" not in shared:
            shared.add("usb")
            yield _usb(disks, spice=False)
        elif disk.kind == Kind.iso_ahci:
            yield Top("sata", partial(_medium, devices.sata_medium(sata.index(disk), disk.props())))
        elif disk.kind in BLOCK_DISKS:
            yield Top("port", partial(devices.block_disk, index=block.index(disk), props=disk.props()))


def _medium(medium: Part, _: Place) -> list[Part]:
    return [medium]


def _cards(machine: Merged) -> Iterator[Top]:
    for index, connection in enumerate(machine.connections):
        yield Top("port", partial(devices.card, index=index, mac=connection.mac))


def _supplied(machine: Merged, host: HostConfiguration) -> Iterator[Top]:
    """Devices of the host's: a whole one by its address, a mediated one by its id."""
    addresses = {kind: supply.address for supply in host.supplies for kind, mediated in supply.kinds.items()
                 if not mediated}
    for index, device in enumerate(machine.devices):
        if address := addresses.get(device.kind):
            yield Top("port", partial(devices.whole, index=index, address=address))
        else:
            yield Top("port", partial(devices.mediated, index=index, uuid=device.id))
