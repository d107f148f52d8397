"""Machines, templates, images: intent, as it is kept on disk. No path, no pid, no state."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import Literal

from cloudme.errors import UsageError
from cloudme.model.devices import pci_address
from cloudme.model.names import TEMPLATES, DefinitionName, Name
from cloudme.model.network import DEFAULT_NETWORK
from cloudme.model.share import Share

_USER = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,31}")
"""What useradd(8) takes; it becomes part of a shell's line in seeds."""

def login(text: str) -> str:
    """The text. Raises UsageError where it is no name of a user."""
    if not _USER.fullmatch(text):
        raise UsageError(f"'{text[:40]}' is no name of a user", hint="letters, digits, '_' and '-', 32 at most")
    return text


MIN_RAM_MIB, MAX_VCPUS = 32, 255
"""pc-q35 machines without an extended interrupt controller (QEMU: `-machine help`, max cpus)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How big a machine is."""

    vcpus: int
    ram_mib: int

    def __post_init__(self) -> None:
        if not 1 <= self.vcpus <= MAX_VCPUS:
            raise UsageError(f"{self.vcpus} is no number of CPUs", hint=f"1 to {MAX_VCPUS}")
        if self.ram_mib < MIN_RAM_MIB:
            raise UsageError(f"{self.ram_mib} MiB is too little memory", hint=f"{MIN_RAM_MIB} MiB at least")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A disk of a machine: `file` is the name of a qcow2 in the machine's folder."""

    file: str
    size_bytes: int


def disk_file(index: int = 0) -> str:
    """The file of disk number `index` of a machine that is new: disk.qcow2, disk1.qcow2 ..."""
    return f"disk{index or ''}.qcow2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A network card.

    address:   its IPv4 address; None where somebody else's DHCP gives it one.
    address6:  the IPv6 address that it makes itself on a network of ours.
    static:    the guest is told its address by its seed, not by DHCP.
    tap:       the host's name of its other end; None: one made from its mac.
    """

    network: Name
    mac: str
    address: str | None
    address6: str | None = None
    static: bool = False
    tap: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to get in: the user, the template whose ssh_key opens, whether host key and name come from a seed of ours.

    key_of is None for a machine that stands on no template: its user's own key opens, the private one at `key_file`.
    """

    user: str
    key_of: Name | None
    seeded: bool
    key_file: str | None = None

    def __post_init__(self) -> None:
        login(self.user)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A port of the host that leads to one of a machine: `address` and `port` are the host's."""

    protocol: Literal["tcp", "udp"]
    address: str
    port: int
    guest_port: int

    def __post_init__(self) -> None:
        try:
            plain = str(ip_address(self.address))
        except ValueError:
            raise UsageError(f"'{self.address}' is no address of a host", hint="for instance 127.0.0.1, ::1, 0.0.0.0"
                             ) from None
        if plain != self.address or "%" in plain:
            raise UsageError(f"'{self.address}' is not how an address is written here", hint=plain.partition("%")[0])
        for port in (self.port, self.guest_port):
            if not 1 <= port <= 65535:
                raise UsageError(f"{port} is no port", hint="1 to 65535")

    def __str__(self) -> str:
        return f"{self.where} ({self.protocol})"

    @property
    def where(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def overlaps(self, other: Forward) -> bool:
        """Whether one excludes the other on one host; 0.0.0.0 is every IPv4 address, :: every IPv6 address."""
        own, its = ip_address(self.address), ip_address(other.address)
        return ((self.protocol, self.port, own.version) == (other.protocol, other.port, its.version)
                and (own == its or own.is_unspecified or its.is_unspecified))


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """Ports of a machine, `first` to `last`, that others than its neighbours reach, and what they are called."""

    name: Name
    first: int
    last: int
    protocol: Literal["tcp", "udp"] = "tcp"

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last <= 65535:
            raise UsageError(f"{self.first}-{self.last} are no ports", hint="1 to 65535, the lower one first")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a machine may take of its host, all in all (cgroups(7), v2); None: as the host's settings have it, 0: all.

    cpus: the time of so many CPUs, as 1.5. cpu_weight: 1 to 10000, against the 100 of others. memory_mib: the guest's
    and QEMU's own together. io_bps: bytes a second, of reading and of writing each.
    """

    cpus: float | None = None
    cpu_weight: int | None = None
    memory_mib: int | None = None
    tasks: int | None = None
    io_bps: int | None = None


KERNEL, INITRD = "kernel", "initrd"
"""Files in the folder of a machine that boots a kernel of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What QEMU boots instead of the disk: the file KERNEL, and INITRD where `initrd` says so."""

    cmdline: str
    initrd: bool = False

    def __post_init__(self) -> None:
        if not self.cmdline.isprintable() or len(self.cmdline) > CMDLINE_MAX:
            raise UsageError("this is no command line of a kernel", hint=f"a line, of {CMDLINE_MAX} characters at most")


CMDLINE = "root=/dev/vda1 ro console=ttyS0"
"""Where the images of distributions have their root."""
CMDLINE_MAX = 2047
"""What Linux takes on x86 (COMMAND_LINE_SIZE, with its NUL)."""


class Board(StrEnum):
    """What QEMU calls a machine's type: the usual one; one without most of what a PC has
    (QEMU, docs/system/i386/microvm.rst)."""

    q35 = "q35"
    microvm = "microvm"


CID_MIN, CID_MAX = 3, (1 << 32) - 2
"""vsock(7): the last one is any; 0, 1 and 2 are the hypervisor, a host itself and the host of a guest."""

WARMING = f"{TEMPLATES}/warm"
"""The group of a template while its memory is saved; no name of a group can look so."""


DEVICES_MAX = 8
"""The functions of the slot where their root ports are."""


def _check_devices(devices: tuple[str, ...], board: str) -> None:
    if list(dict.fromkeys(map(pci_address, devices))) != list(devices) or len(devices) > DEVICES_MAX:
        raise UsageError(f"a machine gets each device once, and {DEVICES_MAX} at most")
    if devices and board == "microvm":
        raise UsageError("a microvm takes no PCI devices", hint="--machine-type q35")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine as it is meant. For a template that boots, `group` is 'templates'.

    bases:     the RAM images that its disk stands on, the nearest last, as folders below the home's data.
    image:     the image that its disk stands on where it stands on no template.
    seed_id:   the instance-id of its seed, where that is no longer its uuid (cloud-init: a new one is a first boot).
    vnc_port:  the port of the loopback where its display is, behind a password; None: a socket.
    forwards:  ports of the host that lead to it while it runs.
    isolate:   it reaches no other machine on its networks' bridges.
    net_rate:  bits a second, of sending and of receiving each; None: no limit.
    definition: the name of its definition, by which systemd runs it. With disks, it was one of ours before, and is
               again when it is withdrawn.
    elsewhere: the address of a card in a network that is none of ours, for who is defined.
    ports:     those that other networks and the host reach, and no others; None: all.
    vsock_cid: its number for vsock(7), by which the host reaches it without any network.
    board:     a Board's value; a microvm boots a kernel.   kernel: what it boots; None: its disk's boot loader.
    shares:    folders of the host's that it has, too.
    hostname:  what it calls itself; None: its name.
    devices:   PCI addresses of devices of the host's that it gets whole.
    """

    name: Name
    uuid: str
    group: str
    type: Name
    template: Name | None
    shape: Shape
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    access: Access
    created: str
    cdrom: str | None = None
    bases: tuple[str, ...] = ()
    image: Name | None = None
    seed_id: str | None = None
    vnc_port: int | None = None
    forwards: tuple[Forward, ...] = ()
    isolate: bool = False
    net_rate: int | None = None
    limits: Limits = Limits()
    definition: DefinitionName | None = None
    elsewhere: str | None = None
    ports: tuple[Port, ...] | None = None
    board: str = Board.q35
    kernel: Kernel | None = None
    vsock_cid: int | None = None
    shares: tuple[Share, ...] = ()
    hostname: Name | None = None
    devices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.vsock_cid is not None and not CID_MIN <= self.vsock_cid <= CID_MAX:
            raise UsageError(f"{self.vsock_cid} is no number of a machine for vsock", hint=f"{CID_MIN} to {CID_MAX}")
        if self.board not in tuple(Board):
            raise UsageError(f"'{self.board}' is no type of machine", hint=f"there is: {', '.join(Board)}")
        _check_devices(self.devices, self.board)
        if self.board == "microvm" and (self.kernel is None or self.cdrom):
            raise UsageError("a microvm boots a kernel, it has no firmware that finds a disk",
                             hint="--kernel FILE --initrd FILE --cmdline 'root=/dev/vda1 console=ttyS0'")

    @property
    def address(self) -> str | None:
        return (self.nics[0].address if self.nics else None) or self.elsewhere

    @property
    def is_template(self) -> bool:
        return self.group == TEMPLATES


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A machine to clone. `image` is the image that its disk stands on, if any; `os` what it turned out to be."""

    name: Name
    uuid: str
    shape: Shape
    disk: Disk
    nic: Nic
    access: Access
    created: str
    image: Name | None = None
    iso: str | None = None
    prepared: bool = False

    def machine(self) -> Machine:
        """The template as a machine that can be started."""
        return Machine(
            name=self.name, uuid=self.uuid, group=TEMPLATES, type=Name("default"), template=None, shape=self.shape,
            disks=(self.disk,), nics=(self.nic,), access=self.access, created=self.created, cdrom=self.iso,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A disk that somebody else made."""

    name: Name
    size_bytes: int
    digest: str
    source: str
    created: str
    user: str = "root"


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneRequest:
    """One line of a group file, or one call of vminstantiate. None means: as the template, as the settings.

    extra_disks are sizes in bytes; `where` is 'file:line', for complaints.
    name:       of the one clone that is wanted; None: `prefix` and the next free number.
    user_data:  text of the user's own for cloud-init.
    networks:   one card in each. addresses: those of the first cards, one a machine; none: the network's choice.
    """

    template: Name
    count: int
    group: Name
    type: Name
    prefix: Name
    ram_mib: int | None = None
    vcpus: int | None = None
    extra_disks: tuple[int, ...] = ()
    where: str = "command line"
    networks: tuple[Name, ...] = (DEFAULT_NETWORK,)
    addresses: tuple[str, ...] = ()
    limits: Limits = Limits()
    isolate: bool = False
    net_rate: int | None = None
    ports: tuple[Port, ...] | None = None
    shares: tuple[Share, ...] = ()
    name: Name | None = None
    user_data: str = ""
