"""What a definition and a host configuration are made of. Texts are checked by who reads them (formats/definitions)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cloudme.model.machine import Limits
from cloudme.model.names import DefinitionName as DefinitionName


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value stands: a file, the path of keys in it, the tag that it belongs to ('' for the machine's own)."""

    file: str
    path: str = ""
    tag: str = ""
    derived: str = ""
    """What it was made from, where it does not stand there itself."""

    def at(self, key: str) -> Source:
        return Source(self.file, f"{self.path}.{key}" if self.path else key, self.tag)


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong, and whom it concerns: machines by their files' names, or everybody."""

    where: Source
    what: str
    machines: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.where.file, self.where.path, self.what)))


class Kind(StrEnum):
    """How a storage pool's volumes are shown to a machine; the seed's words, and `qcow2`, `qcow2-block`."""

    raw = "raw"
    raw_scsi = "raw-scsi"
    raw_block = "raw-block"
    qcow2 = "qcow2"
    qcow2_block = "qcow2-block"
    vvfat_block = "vvfat-block"
    iso_ahci = "iso-ahci"
    iso_scsi = "iso-scsi"
    iso_usb = "iso-usb"
    firmware = "firmware"
    tpm_data = "tpm-data"

    @property
    def bootable(self) -> bool:
        """Whether `bootable` gives a boot index: to disks, never to the firmware or an installation's medium."""
        return self in (Kind.raw, Kind.raw_scsi, Kind.raw_block, Kind.qcow2, Kind.qcow2_block, Kind.vvfat_block)

    @property
    def fixed(self) -> bool:
        """Whether it is only read, whatever its pool says."""
        return self in (Kind.iso_ahci, Kind.iso_scsi, Kind.iso_usb, Kind.vvfat_block)


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A disk, medium or firmware. wwn: '0x' and 16 or 32 capital digits.

    index:  the boot index that it asks for; once merged, the one that it has. 0: none.
    path:   where it is on this host, once merged.
    secure: of the firmware's code: it was built to write its variables in system management mode, and nobody else can.
    """

    name: str
    storage: str
    wwn: str = ""
    serial: str = ""
    bootable: bool = False
    index: int = 0
    path: str = ""
    secure: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A card in a network of the host. ip: as it was written; it is told, and nothing is done with it."""

    name: str
    network: str
    ip: str = ""
    mac: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device of a class that the host supplies. id: the uuid of a mediated one."""

    name: str
    kind: str
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What both a machine's definition and a tag may hold.

    settings:  of `attrs` and `privileges`, by their path ('attrs.spice.port'); what is not set is not there.
    """

    origin: Source
    tags: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    volumes: tuple[Volume, ...] = ()
    connections: tuple[Connection, ...] = ()
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A machine as its file has it. stem: the file's name without its suffixes."""

    stem: str
    name: DefinitionName
    uuid: str
    description: str
    body: Body


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A pool: `pattern` gives a volume's file below the folder `path`."""

    path: str
    kind: Kind
    pattern: str = ""
    readonly: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A network that the host offers: the bridge `device`, and the programs that put a tap into it and take it out."""

    device: str = ""
    up: str = ""
    down: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """A PCI device that supplies classes of devices. kinds: class -> its mediated type's name, '' for the whole device.

    placements: class -> where on the device its instances may lie, where the vendor wants to know.
    """

    address: str
    kinds: Mapping[str, str]
    name: str = ""
    heterogeneous: bool = False
    placements: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    brand: str = ""
    model: str = ""
    threads: int = 0
    default: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfiguration:
    """What a host offers to definitions (machina.conf.json).

    accelerator:  kvm, or tcg: what emulates processors that the host does not have.
    broken:  (section, name) of what is in its file, and wrong: it is told once, where it stands.
    """

    file: str
    storage: Mapping[str, Storage] = field(default_factory=dict)
    networks: Mapping[str, Attachment] = field(default_factory=dict)
    supplies: tuple[Supply, ...] = ()
    processors: Mapping[str, Processor] = field(default_factory=dict)
    tags: Mapping[str, Body] = field(default_factory=dict)
    accelerator: str = "kvm"
    broken: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """The settings of a merged machine. Numbers that nothing sets are 0, and ports are 0 where there is none.

    firmware_template: what the firmware's variables are copied from where there are none yet.
    user, key_file: how ssh gets in: as whom, and the private key. member_of, type: its group, and what it is there.
    """

    firmware_code: Volume | None = None
    firmware_variables: Volume | None = None
    firmware_template: Volume | None = None
    processor: str = ""
    sockets: int = 0
    cores: int = 0
    threads: int = 0
    ram_mib: int = 0
    enlightenments: bool = False
    tpm: bool = False
    tpm_data: Volume | None = None
    tpm_socket: str = ""
    qmp: bool = False
    qmp_sockets: tuple[str, ...] = ()
    agent: bool = False
    agent_port: int = 0
    spice: bool = False
    spice_port: int = 0
    displays: int = 0
    group: str = ""
    group_id: int = 0
    limits: Limits = field(default_factory=Limits)
    user: str = ""
    key_file: str = ""
    member_of: str = ""
    type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """A definition and a host configuration together: what the machine is on this host.

    sources:  the path of each final value ('volumes.os.wwn') -> where it comes from.
    """

    definition: Definition
    variables: Mapping[str, str]
    attributes: Attributes
    volumes: tuple[Volume, ...]
    connections: tuple[Connection, ...]
    devices: tuple[Device, ...]
    sources: Mapping[str, Source]

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def uuid(self) -> str:
        return self.definition.uuid


STANDARD_SOCKETS = ("systemd.0", "command.0", "command.1")
"""Names of QMP sockets that every machine with QMP has: for the unit's own stop, and for commands."""


def qmp_socket(run: str, machine: str, name: str) -> str:
    """The path of a QMP socket by its name. run: the folder that holds a folder for each machine."""
    return os.path.join(run, machine, f"{name}.qmp.socket")


def swtpm_socket(run: str, machine: str) -> str:
    """Where a machine's swtpm listens: it has a folder of its own beside `run`, since another unit makes it."""
    return os.path.join(f"{run}-swtpm", machine, "control.socket")
