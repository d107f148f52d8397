"""The realm's links, the host's own namespaces, and the relays between them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface

from cloudme import index
from cloudme.errors import Busy, HostUnavailable, PeerError
from cloudme.model.launch import Guard, TapCard
from cloudme.model.network import Link
from cloudme.model.ports import Relay
from cloudme.store import take_lock


@dataclass
class FakeNet:
    """Links in memory. `holder` is who has the port of DNS; `sent` are the datagrams: (address, port, payload); `bare`
    are the MACs of cards whose taps have lost their guards."""

    bridges: set[str] = field(default_factory=lambda: {"bridge0"})
    neighbours: dict[str, str] = field(default_factory=dict)
    known: dict[str, Link] = field(default_factory=dict)
    root: bool = True
    forwards: bool = False
    holder: str | None = None
    sent: list[tuple[str, int, bytes]] = field(default_factory=list)
    others: dict[str, str] = field(default_factory=dict)
    guarded: list[list[Guard | None]] = field(default_factory=list)
    bare: set[str] = field(default_factory=set)
    swept: int = 0
    vlans: bool = True

    def bridge_exists(self, bridge: str) -> bool:
        return bridge in self.bridges or (bridge in self.known and self.known[bridge].kind == "bridge")

    def link_exists(self, link: str) -> bool:
        return link in self.bridges or link in self.known

    def links(self) -> Mapping[str, Link]:
        return dict(self.known)

    def permitted(self) -> bool:
        return self.root

    def add_bridge(self, bridge: str, mac: str) -> None:
        self.known[bridge] = Link(name=bridge, kind="bridge", up=False)

    def set_bridge(
        self, bridge: str, alias: str, address: IPv4Interface, address6: IPv6Interface | None,
    ) -> None:
        before = self.known.get(bridge, Link(name=bridge, kind="bridge"))
        self.known[bridge] = dataclasses.replace(before, alias=alias, addresses=(address,), up=True,
                                                 addresses6=(address6,) if address6 else ())

    def check_trunks(self) -> None:
        if not self.vlans:
            raise HostUnavailable("this kernel's bridges do not keep VLANs apart")

    def set_trunk(self, bridge: str, mac: str, alias: str) -> None:
        self.check_trunks()
        before = self.known.get(bridge, Link(name=bridge, kind="bridge"))
        self.known[bridge] = dataclasses.replace(before, alias=alias, up=True, filtering=True)

    def add_vlan(self, bridge: str, vlan: int, link: str) -> None:
        trunk = self.known[bridge]
        self.known[bridge] = dataclasses.replace(trunk, vids=tuple(sorted({*trunk.vids, vlan})))
        self.known.setdefault(link, Link(name=link, kind="vlan", vlan=vlan, parent=bridge, up=False))

    def remove_vlan(self, bridge: str, vlan: int, link: str) -> None:
        self.known.pop(link, None)
        if trunk := self.known.get(bridge):
            self.known[bridge] = dataclasses.replace(trunk, vids=tuple(vid for vid in trunk.vids if vid != vlan))

    def tag(self, card: str, bridge: str, vlan: int) -> None:
        self._change(card, bridge, up=True)
        self.known[card] = dataclasses.replace(self.known[card], vids=tuple(sorted({*self.known[card].vids, vlan})))

    def untag(self, card: str, vlan: int) -> None:
        if link := self.known.get(card):
            self.known[card] = dataclasses.replace(link, vids=tuple(vid for vid in link.vids if vid != vlan))

    def ipv6(self) -> bool:
        return True

    def arp(self, bridge: str, addresses: Sequence[str], *, wait_s: float = 0.3) -> Mapping[str, str]:
        return {address: mac for address, mac in self.others.items() if address in addresses}

    def remove_link(self, name: str) -> None:
        self.known.pop(name, None)
        for other in [link.name for link in self.known.values() if link.parent == name]:
            del self.known[other]

    def plug(self, link: str, bridge: str) -> None:
        if bridge not in self.bridges:
            raise HostUnavailable(f"'{bridge}' is no bridge here")
        self._change(link, bridge, up=True)

    def unplug(self, link: str) -> None:
        self._change(link, "", up=False)

    def _change(self, link: str, bridge: str, *, up: bool) -> None:
        if link not in self.known:
            raise HostUnavailable(f"there is no link '{link}' here")
        self.known[link] = dataclasses.replace(self.known[link], master=bridge, up=up)

    def forwarding(self) -> bool:
        return self.forwards

    def forward(self) -> None:
        self.forwards = True

    def bridge_filter(self) -> bool:
        return False

    def unfilter(self) -> None:
        """Nothing is."""

    def port_taken(self, address: str) -> str | None:
        return self.holder

    def datagram(self, address: str, port: int, payload: bytes) -> None:
        self.sent.append((address, port, payload))

    def taps(self, cards: Sequence[TapCard]) -> list[int]:
        return [os.open(os.devnull, os.O_RDWR) for _ in cards]

    def guard(self, cards: Sequence[TapCard]) -> None:
        self.guarded.append([card.guard for card in cards])
        self.bare -= {card.mac for card in cards}

    def unguarded(self, cards: Sequence[TapCard]) -> list[TapCard]:
        return [card for card in cards if card.guard and card.mac in self.bare]

    def sweep(self) -> None:
        self.swept += 1

    def add_tap(self, name: str, uid: int, mtu: int) -> None:
        assert name not in self.known
        self.known[name] = Link(name=name, kind="tun", up=False, mtu=mtu, owner=uid)

    def join(self, name: str, card: TapCard) -> None:
        assert card.bridge in self.known
        self.known[name] = dataclasses.replace(self.known[name], master=card.bridge or "", up=True)
        self.guard([card])

    def is_guarded(self, name: str, card: TapCard) -> bool:
        return card.mac not in self.bare

    def neighbour(self, address: str) -> str:
        return self.neighbours.get(address, "")


@dataclass
class FakeOutside:
    """taken: ports that nobody can have. ran: every argv."""

    taken: set[int] = field(default_factory=set)
    ran: list[list[str]] = field(default_factory=list)
    bridges: set[str] = field(default_factory=lambda: {"bridge0"})

    def listen(self, protocol: str, address: str, port: int) -> int:
        if port in self.taken:
            raise Busy(f"{protocol} {address}:{port} is taken")
        return os.open(os.devnull, os.O_RDWR)

    def tap(self, bridge: str) -> int:
        return os.open(os.devnull, os.O_RDWR)

    def bridge_exists(self, bridge: str) -> bool:
        return bridge in self.bridges

    def tcp(self) -> int:
        return os.open(os.devnull, os.O_RDWR)

    def door(self, path: str) -> None:
        """Nobody comes."""

    def run(self, argv: Sequence[str], *, timeout_s: float = 60) -> str:
        self.ran.append(list(argv))
        return ""

    def spawn(self, argv: Sequence[str], *, stdout: str, ready: str, among: int) -> int:
        self.ran.append(list(argv))
        return 1


@dataclass
class FakeRelays:
    """Those that serve hold their real lock in this process. `refuse`: ports in the machine where one ends at once."""

    refuse: set[int] = field(default_factory=set)
    serving: dict[str, tuple[int, Relay]] = field(default_factory=dict)

    def start(self, relay: Relay, listener: int) -> None:
        os.fstat(listener)
        if not index.held(relay.machine):
            raise Busy(f"'{relay.name}' has stopped")
        os.makedirs(os.path.dirname(relay.lock), exist_ok=True)
        lock = take_lock(relay.lock)
        if relay.port in self.refuse:
            os.close(lock)
            raise PeerError(f"the relay of '{relay.name}' ended: no")
        self.serving[relay.lock] = lock, relay

    def end(self, lock: str) -> None:
        if lock in self.serving:
            os.close(self.serving.pop(lock)[0])

    def ways(self) -> dict[str, str]:
        """The name of the lock's file -> where it leads."""
        return {os.path.basename(lock): f"{relay.address}:{relay.port}" for lock, (_, relay) in self.serving.items()}
