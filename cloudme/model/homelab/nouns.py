"""What the file of a homelab says, no more: what is not said is None, or empty. Texts are checked by who reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network

from cloudme.model.machine import Board, Limits
from cloudme.model.names import ImageName, Name

PREFIX = 24
"""Of a VLAN's network, where the file says nothing."""
MEMORY_RATIO = 1.5
"""How many times the host's memory all machines together may have."""


class VlanMode(StrEnum):
    """filtering: one bridge that keeps its VLANs apart; bridges: a bridge for each, which every kernel can."""

    filtering = "filtering"
    bridges = "bridges"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vlan:
    """A VLAN of the host's. reaches: the VLANs to which its machines may open connections, besides their own."""

    id: int
    cidr: IPv4Network | None = None
    gateway: IPv4Address | None = None
    prefix: int | None = None
    dns: tuple[IPv4Address, ...] = ()
    reaches: tuple[Name, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """dns, prefix: of VLANs that say nothing. bridge: its name; uplink: the host's card on which VLANs are tagged."""

    vlan_mode: VlanMode = VlanMode.filtering
    vlans: Mapping[Name, Vlan] = field(default_factory=dict)
    bridge: str | None = None
    uplink: str | None = None
    dns: tuple[IPv4Address, ...] = ()
    prefix: int = PREFIX


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports of a machine that are open, `first` to `last`."""

    first: int
    last: int
    protocol: str = "tcp"

    def __str__(self) -> str:
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return ports if self.protocol == "tcp" else f"{ports}/{self.protocol}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A folder of the host's that a machine has at `mount_point`.

    owner, mode: of the folder, where it is missing and is made. owner: as chown(1) takes it.
    """

    source: str
    mount_point: str
    tag: str | None = None
    readonly: bool = False
    owner: str | None = None
    mode: int | None = None

    @property
    def made(self) -> bool:
        """Whether the folder is made where it is missing: who says whose it is to be, wants that."""
        return self.owner is not None or self.mode is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What machines have that say nothing themselves; the fields are those of `Declared`."""

    template: Name | None = None
    image: ImageName | None = None
    machine: Board | None = None
    vcpu: int | None = None
    mem: int | None = None
    vlan: Name | None = None
    network: Name | None = None
    group: Name | None = None
    type: Name | None = None
    user: str | None = None
    playbook: str | None = None
    user_data: str | None = None
    autostart: bool | None = None
    memory_ratio: float = MEMORY_RATIO


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """One entry of `machines`.

    mem:        MiB.   net_rate: bits a second.   replicas: so many machines NAME00, NAME01 ...; None: one, called NAME.
    playbook, user_data, kernel, initrd: files, as they are written: from the file's folder.
    gpu, devices: PCI addresses.
    """

    template: Name | None = None
    image: ImageName | None = None
    kernel: str | None = None
    initrd: str | None = None
    cmdline: str | None = None
    machine: Board | None = None
    vcpu: int | None = None
    mem: int | None = None
    vlan: Name | None = None
    network: Name | None = None
    ip: IPv4Address | None = None
    mac: str | None = None
    tap_id: str | None = None
    hostname: Name | None = None
    vsock_cid: int | None = None
    ports: Mapping[Name, PortRange] = field(default_factory=dict)
    shares: tuple[Share, ...] = ()
    gpu: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    group: Name | None = None
    type: Name | None = None
    user: str | None = None
    playbook: str | None = None
    user_data: str | None = None
    depends_on: tuple[Name, ...] = ()
    replicas: int | None = None
    autostart: bool | None = None
    limits: Limits = field(default_factory=Limits)
    isolate: bool = False
    net_rate: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Homelab:
    """The file. Machines are in its order."""

    networks: Networks = field(default_factory=Networks)
    hosts: Defaults = field(default_factory=Defaults)
    machines: Mapping[Name, Declared] = field(default_factory=dict)


class Severity(StrEnum):
    """error: nothing is done; warning: it is done, and may be wrong; note: what was made of it."""

    error = "error"
    warning = "warning"
    note = "note"


@dataclass(frozen=True, slots=True)
class Remark:
    """What is to be said of a value; of_key: rather of its key.

    path:  of keys as they are documented, 'machines.web.shares[0].source'.
    """

    path: str
    what: str
    severity: Severity = Severity.error
    of_key: bool = False
