"""Volumes of a definition -> block nodes, and the devices that show them to the guest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cloudme.model.definitions.nouns import HostConfiguration, Kind, Merged, Volume
from cloudme.model.launch import Part
from cloudme.qemu.definitions import devices

_NODE = re.compile("[A-Za-z][A-Za-z0-9._-]{0,30}")
"""QEMU's rule for node names: id_wellformed(), and 31 characters (include/block/block_int-common.h, node_name)."""

MEDIA = (Kind.iso_ahci, Kind.iso_scsi, Kind.iso_usb)
SCSI_DISKS = (Kind.raw, Kind.raw_scsi, Kind.qcow2)
BLOCK_DISKS = (Kind.raw_block, Kind.qcow2_block, Kind.vvfat_block)


@dataclass(frozen=True, slots=True)
class Disk:
    """A volume, how it is shown, and the name of its block node."""

    volume: Volume
    kind: Kind
    readonly: bool
    node: str

    def nodes(self) -> list[Part]:
        if self.kind == Kind.tpm_data:
            return []
        if self.kind in (Kind.firmware, *MEDIA):
            return [devices.file_node(self.node, self.volume.path, readonly=self.readonly)]
        if self.kind == Kind.vvfat_block:
            return [devices.folder_node(self.node, self.volume.path)]
        driver = "qcow2" if self.kind in (Kind.qcow2, Kind.qcow2_block) else "raw"
        return devices.disk_nodes(self.node, self.volume.path, driver, readonly=self.readonly)

    def props(self) -> devices.Props:
        """The device's properties that say which disk it is. A medium has no identifiers."""
        identity: devices.Props = {} if self.kind in MEDIA else {"serial": self.volume.serial}
        if self.kind in SCSI_DISKS:
            identity = {"wwn": self.volume.wwn, **identity}
        return {"drive": self.node, **identity, **({"bootindex": self.volume.index} if self.volume.index else {})}


@dataclass(frozen=True, slots=True)
class Disks:
    """All volumes of a machine; the firmware's are apart."""

    code: Disk | None
    variables: Disk | None
    volumes: tuple[Disk, ...]

    def of(self, *kinds: Kind) -> list[Disk]:
        return [disk for disk in self.volumes if disk.kind in kinds]

    def nodes(self) -> list[Part]:
        every = (*(disk for disk in (self.code, self.variables) if disk), *self.volumes)
        return [part for disk in every for part in disk.nodes()]


def disks(machine: Merged, host: HostConfiguration) -> Disks:
    """The volumes with their nodes: names are the seed's where QEMU takes them and no other node has them."""
    attributes = machine.attributes
    firmware = [it for it in (attributes.firmware_code, attributes.firmware_variables) if it]
    names = _names(machine, host, [*firmware, *machine.volumes])
    found = [Disk(volume, pool.kind, pool.readonly or pool.kind.fixed, name)
             for volume, name in zip([*firmware, *machine.volumes], names, strict=True)
             for pool in [host.storage[volume.storage]]]
    code = found[0] if attributes.firmware_code else None
    variables = found[1] if code and attributes.firmware_variables else None
    return Disks(code, variables, tuple(found[len(firmware):]))


def _names(machine: Merged, host: HostConfiguration, volumes: list[Volume]) -> Iterator[str]:
    taken: set[str] = set()
    for number, volume in enumerate(volumes):
        pool = host.storage[volume.storage]
        shared = pool.kind in MEDIA or (pool.kind == Kind.firmware and pool.readonly)
        name = volume.name if shared else f"{machine.name}-{volume.name}"
        file = {f"{name}-file"} if pool.kind in (Kind.raw_block, Kind.qcow2_block, *SCSI_DISKS) else set()
        if not all(_NODE.fullmatch(one) for one in {name, *file}) or {name, *file} & taken:
            name = f"volume.{number}"
        taken |= {name, *file}
        yield name
