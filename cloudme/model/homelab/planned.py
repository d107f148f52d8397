"""Every machine of a homelab by itself: replicas counted out, defaults and what follows from its name filled in."""

from __future__ import annotations

import dataclasses
import graphlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from cloudme.model import identity
from cloudme.model.homelab.nouns import Declared, Defaults, Homelab, Share
from cloudme.model.machine import Board
from cloudme.model.names import DEFAULT_TYPE, Name, numbered
from cloudme.model.network import DEFAULT_NETWORK, INTERFACE_NAME_MAX
from cloudme.model.share import tag_of

GROUP = Name("homelab")
"""The group of machines of which the file says none."""
HANGS_MIB = 2048
"""With just so much a machine of type microvm hangs (microvm.nix, issue 171)."""
TOGETHER = (("template", "image"), ("vlan", "network"))
"""Keys of which one excludes the other: a default is none for a machine that has the other, either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One machine. entry: its key in the file.

    declared: with the defaults, its own address and CID, the tags of all shares.
    mem: MiB; None: as its template, or the settings, have it.
    """

    name: Name
    entry: Name
    declared: Declared
    group: Name
    type: Name
    board: Board
    mem: int | None
    mac: str
    hostname: Name
    tap_id: str
    autostart: bool


def planned(homelab: Homelab, *, site: str = "") -> list[Planned]:
    """All machines, in the file's order. site: a text that only this host has: MACs are to differ from other hosts'."""
    return [_one(name, entry, number, declared, site)
            for entry, written in homelab.machines.items()
            for declared in [with_defaults(written, homelab.hosts)]
            for number, name in enumerate(names(entry, written))]


def names(entry: Name, declared: Declared) -> list[Name]:
    """Of the machines that an entry means: web, or web00, web01 ... Raises UsageError where they become too long."""
    return [entry] if declared.replicas is None else [numbered(entry, at) for at in range(declared.replicas)]


def with_defaults(declared: Declared, hosts: Defaults) -> Declared:
    fields = {field.name for field in dataclasses.fields(Defaults)} - {"memory_ratio"}
    if declared.kernel:
        fields -= {"template"}
    for pair in TOGETHER:
        if any(getattr(declared, key) is not None for key in pair):
            fields -= set(pair)
    return dataclasses.replace(declared, **{
        key: getattr(hosts, key) for key in fields if getattr(declared, key) is None})


def _one(name: Name, entry: Name, number: int, declared: Declared, site: str) -> Planned:
    board = declared.machine or Board.q35
    return Planned(
        name=name, entry=entry,
        declared=dataclasses.replace(
            declared, ip=_further(declared.ip, number), shares=tuple(map(tagged, declared.shares)),
            vsock_cid=declared.vsock_cid + number if declared.vsock_cid is not None else None),
        group=declared.group or GROUP, type=declared.type or Name(DEFAULT_TYPE), board=board,
        mem=HANGS_MIB - 1 if hangs(board, declared.mem) else declared.mem,
        mac=declared.mac or identity.mac(f"{site}/{name}"), hostname=declared.hostname or name,
        tap_id=declared.tap_id or tap(name), autostart=declared.autostart is not False,
    )


def hangs(board: Board, mem: int | None) -> bool:
    """Whether a machine would hang with just so much memory: it gets a MiB less."""
    return board is Board.microvm and mem == HANGS_MIB


def _further(address: IPv4Address | None, steps: int) -> IPv4Address | None:
    return address + steps if address is not None and int(address) + steps < 1 << 32 else None


def tagged(share: Share) -> Share:
    return share if share.tag else dataclasses.replace(share, tag=tag_of(share.mount_point))


def network_name(declared: Declared) -> Name:
    """That of its card."""
    return declared.vlan or declared.network or DEFAULT_NETWORK


def tap(name: str) -> str:
    """The name of a machine's tap: 'vm-vault'."""
    return identity.short(f"vm-{name}", INTERFACE_NAME_MAX)


def bridge(vlan: str) -> str:
    """The name of a VLAN's bridge, where each has one: 'cm-services'."""
    return identity.short(f"cm-{vlan}", INTERFACE_NAME_MAX)


def subnet(homelab: Homelab, vlan: str) -> IPv4Interface | None:
    """The gateway of a VLAN, with its network: as it says, or as its gateway's or its machines' addresses tell.

    None where nothing tells it, or there is no such VLAN.
    """
    if not (found := homelab.networks.vlans.get(Name(vlan))):
        return None
    prefix = found.cidr.prefixlen if found.cidr else found.prefix or homelab.networks.prefix
    if found.gateway:
        return IPv4Interface((found.gateway, prefix))
    if found.cidr:
        return IPv4Interface((found.cidr.network_address + 1, prefix))
    addresses = (machine.ip for machine in homelab.machines.values()
                 if machine.ip and (machine.vlan or (homelab.hosts.vlan if not machine.network else None)) == vlan)
    first = next(addresses, None)
    return IPv4Interface((IPv4Interface((first, prefix)).network.network_address + 1, prefix)) if first else None


def waits(homelab: Homelab) -> dict[Name, tuple[Name, ...]]:
    """Entry -> the entries that it waits for; depends_on may name one of several replicas."""
    owners = _owners(homelab.machines)
    return {entry: tuple(dict.fromkeys(owners[name] for name in declared.depends_on if name in owners))
            for entry, declared in homelab.machines.items()}


def _owners(machines: Mapping[Name, Declared]) -> dict[str, Name]:
    """Every name that depends_on may say -> its entry."""
    found: dict[str, Name] = {name: entry for entry, declared in machines.items() for name in names(entry, declared)}
    return found | {entry: entry for entry in machines}


def starts(homelab: Homelab) -> Iterator[tuple[Name, ...]]:
    """Entries in the order of their start: those of one step may start together. Circles were told before."""
    order = graphlib.TopologicalSorter(waits(homelab))
    order.prepare()
    while order.is_active():
        ready = order.get_ready()
        yield tuple(entry for entry in homelab.machines if entry in ready)
        order.done(*ready)


def circles(homelab: Homelab) -> Iterable[list[Name]]:
    """Machines that wait for themselves, by way of others: [a, b, a]."""
    after = {entry: list(before) for entry, before in waits(homelab).items()}
    while True:
        try:
            graphlib.TopologicalSorter(after).prepare()
            return
        except graphlib.CycleError as error:
            circle = list(reversed(error.args[1]))
            yield circle
            after[circle[0]].remove(circle[1])
