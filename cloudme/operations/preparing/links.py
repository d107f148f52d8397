"""Taps that are there before QEMU is, which has no right to make any: each belongs to the machine's user, is a port of
its network's bridge, and stays until teardown.

A machine sends from its own MAC; where its definition has an address for the card, also from that address only, and is
no router and no DHCP server. A network with an `up` program is left to that: its taps are not guarded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_interface

from cloudme.errors import AlreadyExists, ConfigError
from cloudme.model.definitions import identity
from cloudme.model.definitions.nouns import Attachment, Connection
from cloudme.model.launch import Guard, TapCard
from cloudme.model.network import LINK_LOCAL, Link, eui64
from cloudme.model.ports import Host
from cloudme.model.steps import Step
from cloudme.notes import Entry, Notes
from cloudme.operations.preparing.tenant import Tenant

TAP = "tun"
"""What the kernel calls the kind of both."""


@dataclass(frozen=True, slots=True)
class MakeTap:
    notes: Notes
    entry: Entry
    mtu: int

    def describe(self) -> str:
        return f"make the tap {self.entry['name']} for the user {self.entry['uid']}"

    def do(self, host: Host) -> None:
        self.notes.add("taps", self.entry)
        host.net.add_tap(self.entry["name"], self.entry["uid"], self.mtu)

    def undo(self, host: Host) -> None:
        remove(host, self.entry)
        self.notes.drop("taps", self.entry)


@dataclass(frozen=True, slots=True)
class Join:
    """Undone with the tap itself."""

    notes: Notes
    entry: Entry
    card: TapCard

    def describe(self) -> str:
        return f"make {self.entry['name']} a port of the bridge {self.card.bridge}, guarded"

    def do(self, host: Host) -> None:
        self.notes.add("taps", self.entry)
        host.net.join(self.entry["name"], self.card)

    def undo(self, host: Host) -> None:
        """What it was before was wrong."""


@dataclass(frozen=True, slots=True)
class Up:
    """The network's own program puts the tap where it belongs."""

    attachment: Attachment
    link: str

    def describe(self) -> str:
        return f"run {self.attachment.up} {self.link}"

    def do(self, host: Host) -> None:
        host.run([self.attachment.up, self.link])

    def undo(self, host: Host) -> None:
        if self.attachment.down:
            host.run([self.attachment.down, self.link])


def plan(host: Host, tenant: Tenant, links: Mapping[str, Link]) -> Iterator[Step]:
    """Raises ConfigError where there is no such bridge, AlreadyExists where a link of that name is somebody else's."""
    for connection in tenant.machine.connections:
        attachment = tenant.host.networks[connection.network]
        name = identity.link(tenant.name, connection.name)
        link = links.get(name)
        if link and not (link.kind == TAP and link.owner == tenant.uid):
            raise AlreadyExists(f"{tenant.name}: there is a link '{name}' that is not the machine's tap",
                                hint=f"ip link delete {name}, if nobody needs it")
        entry = {"name": name, "uid": tenant.uid, "bridge": "" if attachment.up else attachment.device,
                 "mac": connection.mac, "ip": connection.ip, "down": attachment.down}
        if attachment.up:
            yield from _own(tenant, attachment, entry, link)
        else:
            yield from _in_bridge(host, tenant, connection, entry, links)


def _own(tenant: Tenant, attachment: Attachment, entry: Entry, link: Link | None) -> Iterator[Step]:
    if link is None:
        yield MakeTap(tenant.notes, entry, 1500)
    if link is None or not link.up:
        yield Up(attachment, entry["name"])


def _in_bridge(
    host: Host, tenant: Tenant, connection: Connection, entry: Entry, links: Mapping[str, Link],
) -> Iterator[Step]:
    bridge = links.get(entry["bridge"])
    if bridge is None or bridge.kind != "bridge":
        what = f"there is no bridge '{entry['bridge']}' here" if bridge is None else \
            f"'{entry['bridge']}' is no bridge"
        raise ConfigError(f"{tenant.host.file}: network.{connection.network}.device: {what}" if entry["bridge"] else
                          f"{tenant.host.file}: network.{connection.network} has neither device nor up",
                          hint="ip link add NAME type bridge; a program may do it instead: "
                               f"network.{connection.network}.up")
    link = links.get(entry["name"])
    if link is None:
        yield MakeTap(tenant.notes, entry, bridge.mtu)
    card = TapCard("", bridge.name, connection.mac, guard(connection))
    if not (link and link.up and link.master == bridge.name and entry in tenant.notes.entries["taps"]
            and host.net.is_guarded(link.name, card)):
        yield Join(tenant.notes, entry, card)


def guard(connection: Connection) -> Guard:
    if not connection.ip:
        return Guard(locked=False, own_mac=True)
    address = ip_interface(connection.ip).ip
    if isinstance(address, IPv4Address):
        return Guard(addresses=(str(address),))
    return Guard(addresses6=(eui64(LINK_LOCAL, connection.mac), str(address)))


def remove(host: Host, entry: Entry) -> None:
    """Take the tap away, if it is there and the machine's."""
    if is_there(host, entry):
        host.net.remove_link(entry["name"])
        host.net.sweep()


def is_there(host: Host, entry: Entry) -> bool:
    link = host.net.links().get(entry["name"])
    return link is not None and link.kind == TAP and link.owner == entry["uid"]
