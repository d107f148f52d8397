"""A machine of the file as its record is to be, and how the record that is there differs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cloudme.model import limits, openports
from cloudme.model.definitions.borrowed import Brought
from cloudme.model.homelab import nouns, planned
from cloudme.model.homelab.planned import Planned
from cloudme.model.machine import Kernel, Machine, Nic, Port, Shape
from cloudme.model.names import Name
from cloudme.model.network import Network, slaac
from cloudme.model.share import Share


class Way(StrEnum):
    """How a change comes true: at once; when the machine starts again; only in another machine."""

    live = "live"
    restart = "restart"
    anew = "anew"


@dataclass(frozen=True, slots=True)
class Difference:
    """key: of the file. old, new: as the file would have them."""

    key: str
    old: str
    new: str
    way: Way

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


def shape(one: Planned, default: Shape) -> Shape:
    """default: its template's, or the host's."""
    return Shape(vcpus=one.declared.vcpu or default.vcpus, ram_mib=one.mem or default.ram_mib)


def ports(one: Planned) -> tuple[Port, ...] | None:
    """None: nothing is said of them, and all are open."""
    found = tuple(Port(name=name, first=ports.first, last=ports.last, protocol="udp" if ports.protocol == "udp" else
                       "tcp") for name, ports in one.declared.ports.items())
    return found or None


def shares(one: Planned) -> tuple[Share, ...]:
    """Raises UsageError for one that no machine of ours can have."""
    return tuple(shared(given) for given in one.declared.shares)


def shared(given: nouns.Share) -> Share:
    return Share(source=given.source, mount_point=given.mount_point, tag=planned.tagged(given).tag or "",
                 readonly=given.readonly, owner=given.owner, mode=given.mode)


def shaped(
    machine: Machine, one: Planned, *, default: Shape, network: Network, brought: Brought, vsock: bool, new: bool,
) -> Machine:
    """The machine as the file wants it; what the file does not say stays, and so do cards after the first.

    network: that of its first card. brought: what its tags bring. vsock: this host has it. new: what follows from the
    name is its, too.
    """
    declared = one.declared
    kernel = machine.kernel and dataclasses.replace(
        machine.kernel, cmdline=declared.cmdline or machine.kernel.cmdline,
        initrd=machine.kernel.initrd or declared.initrd is not None)
    return dataclasses.replace(
        machine, name=one.name, group=one.group, type=one.type, shape=shape(one, default),
        nics=(_nic(machine.nics, one, network, new=new), *machine.nics[1:]),
        template=declared.template, image=declared.image,
        access=dataclasses.replace(machine.access, user=declared.user if declared.image and declared.user else
                                   machine.access.user),
        limits=declared.limits, isolate=declared.isolate, net_rate=declared.net_rate, ports=ports(one),
        shares=shares(one), board=str(one.board), kernel=kernel,
        vsock_cid=declared.vsock_cid if vsock else None, hostname=None if one.hostname == one.name else one.hostname,
        devices=tuple(dict.fromkeys((*declared.gpu, *declared.devices, *brought.devices))))


def _nic(nics: tuple[Nic, ...], one: Planned, network: Network, *, new: bool) -> Nic:
    """address None where the network is another one now, and none is said: somebody has to choose it."""
    declared, old = one.declared, nics[0] if nics else None
    moved = old is None or old.network != network.name
    mac = declared.mac or (one.mac if old is None or (new and not network.shared) else old.mac)
    tap = declared.tap_id or (one.tap_id if new else old.tap if old else None)
    address = str(declared.ip) if declared.ip else None if old is None or moved else old.address
    static = old.static if old and not moved else network.external and address is not None
    return Nic(network=network.name, mac=mac, address=address, address6=slaac(network, mac), static=static,
               tap=None if network.shared else tap)


def _kernel(machine: Machine) -> Kernel:
    return machine.kernel or Kernel(cmdline="")


def _card(machine: Machine) -> Nic:
    return machine.nics[0] if machine.nics else Nic(network=Name("none"), mac="", address=None)


_KEYS: dict[str, tuple[Way, Callable[[Machine], object]]] = {
    "template": (Way.anew, lambda machine: machine.template),
    "image": (Way.anew, lambda machine: machine.image),
    "machine": (Way.anew, lambda machine: machine.board),
    "user": (Way.anew, lambda machine: machine.access.user),
    "group": (Way.live, lambda machine: machine.group),
    "type": (Way.live, lambda machine: machine.type),
    "ports": (Way.live, lambda machine: machine.ports),
    "limits": (Way.live, lambda machine: machine.limits),
    "mem": (Way.restart, lambda machine: machine.shape.ram_mib),
    "vcpu": (Way.restart, lambda machine: machine.shape.vcpus),
    "cmdline": (Way.restart, lambda machine: _kernel(machine).cmdline),
    "network": (Way.restart, lambda machine: _card(machine).network),
    "ip": (Way.restart, lambda machine: _card(machine).address),
    "mac": (Way.restart, lambda machine: _card(machine).mac),
    "tap_id": (Way.restart, lambda machine: _card(machine).tap),
    "hostname": (Way.restart, lambda machine: machine.hostname or machine.name),
    "vsock_cid": (Way.restart, lambda machine: machine.vsock_cid),
    "shares": (Way.restart, lambda machine: machine.shares),
    "devices": (Way.restart, lambda machine: machine.devices),
    "isolate": (Way.restart, lambda machine: machine.isolate),
    "net_rate": (Way.restart, lambda machine: machine.net_rate),
}
SEEDED = {"network", "ip", "mac", "hostname", "shares", "user_data"}
"""Keys of which cloud-init tells the guest, when it boots as a new instance."""


def differences(old: Machine, new: Machine) -> list[Difference]:
    """Those that the file can say, in the order of _KEYS; nothing where both say the same."""
    return [Difference(key, _said(key, before), _said(key, after), way) for key, (way, value) in _KEYS.items()
            if (before := value(old)) != (after := value(new))]


def _said(key: str, value: Any) -> str:
    if key == "ports":
        return openports.words(value)
    if key == "limits":
        words = limits.words(value).items()
        value = ", ".join(f"{name}={word}" for name, word in words if word != "default")
    elif isinstance(value, tuple):
        value = ", ".join(str(one) for one in value)
    return "not set" if value in (None, "") else str(value).lower() if isinstance(value, bool) else str(value)
