"""VLANs that share a bridge which keeps them apart: the steps that make the bridge, the links on it, and the uplink."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloudme.errors import AlreadyExists, HostUnavailable
from cloudme.model import identity
from cloudme.model.network import Link, Network
from cloudme.model.ports import Host
from cloudme.model.steps import Step
from cloudme.operations.networks.changes import Reversed, SetBridge, addresses, alias

ALIAS = "cloudme vlans"
"""The owner's mark on a bridge that several networks share."""

Links = Mapping[str, Link]


def check(network: Network, links: Links) -> None:
    """Raises AlreadyExists, HostUnavailable where bridge, link or uplink are none that we may use."""
    bridge, link, card = links.get(network.bridge), links.get(network.link), links.get(network.uplink or "")
    if bridge and (bridge.kind != "bridge" or bridge.alias != ALIAS) and (
            bridge.kind != "bridge" or bridge.addresses or _ports(links, network)):
        raise AlreadyExists(f"'{network.bridge}' exists, and is no bridge of cloudMe's for VLANs",
                            hint="--bridge NAME names a new one")
    if link and ((link.vlan, link.parent) != (network.vlan, network.bridge) or link.alias not in ("", alias(network))):
        raise AlreadyExists(f"'{network.link}' exists, and is not that of network '{network.name}'", hint="ip -d link")
    if network.uplink and card is None:
        raise HostUnavailable(f"there is no card '{network.uplink}' here", hint="ip -brief link")
    if card and card.master not in ("", network.bridge):
        raise AlreadyExists(f"the card '{network.uplink}' is a port of {card.master}", hint="--uplink names another")
    if card and not card.master and (own := [*card.addresses, *card.addresses6]):
        raise AlreadyExists(f"the card '{network.uplink}' has {own[0]}, which it would lose",
                            hint="a card without an address of the host's own")


def steps(network: Network, links: Links) -> list[Step]:
    """What makes bridge, link and uplink as they are wanted; none where all is right."""
    bridge, link, card = links.get(network.bridge), links.get(network.link), links.get(network.uplink or "")
    found: list[Step] = []
    if bridge is None or not (bridge.up and bridge.filtering and bridge.alias == ALIAS):
        found.append(MakeTrunk(network, new=bridge is None))
    if bridge is None or link is None or network.vlan not in bridge.vids:
        found.append(MakeVlan(network, new=bridge is None or link is None))
    elif not is_right(network, link):
        found.append(SetBridge(network, next(iter(link.addresses), None), next(iter(link.addresses6), None)))
    if network.uplink and not (card and bridge and card.master == bridge.name and card.up
                               and network.vlan in card.vids and network.vlan != card.pvid):
        found.append(Tag(network))
    return found


def undone(network: Network, links: Links) -> list[Step]:
    """What takes them away; the bridge with the last VLAN of it."""
    bridge, link, card = links.get(network.bridge), links.get(network.link), links.get(network.uplink or "")
    found: list[Step] = []
    if card and network.vlan in card.vids:
        found.append(Reversed(Tag(network), f"take VLAN {network.vlan} off {card.name}"))
    if link and link.alias in ("", alias(network)):
        found.append(Reversed(MakeVlan(network, new=True), f"remove {network.link}"))
    others = [one.name for one in links.values()
              if one.vlan and one.parent == network.bridge and one.name != network.link]
    if bridge and bridge.alias == ALIAS and not others and set(_ports(links, network)) <= {network.uplink}:
        found.append(Reversed(MakeTrunk(network, new=True), f"remove the bridge {network.bridge}"))
    return found


def is_right(network: Network, link: Link) -> bool:
    """Whether a link has the addresses of a network, and its mark."""
    return (link.up and link.addresses == (network.address,) and link.alias == alias(network)
            and link.addresses6 == ((network.address6,) if network.address6 else ()))


def _ports(links: Links, network: Network) -> list[str]:
    return [link.name for link in links.values() if link.master == network.bridge]


@dataclass(frozen=True, slots=True)
class MakeTrunk:
    """new: it was not there; its undo takes it away then."""

    network: Network
    new: bool

    def describe(self) -> str:
        return f"make the bridge {self.network.bridge}, which keeps VLANs apart"

    def do(self, host: Host) -> None:
        host.net.set_trunk(self.network.bridge, identity.mac(f"bridge/{self.network.bridge}"), ALIAS)

    def undo(self, host: Host) -> None:
        if self.new:
            host.net.remove_link(self.network.bridge)


@dataclass(frozen=True, slots=True)
class MakeVlan:
    """Likewise."""

    network: Network
    new: bool

    def describe(self) -> str:
        return f"make {self.network.link}: VLAN {self.network.vlan} of {self.network.bridge}, with " \
               f"{addresses(self.network)}"

    def do(self, host: Host) -> None:
        network = self.network
        assert network.vlan
        try:
            host.net.add_vlan(network.bridge, network.vlan, network.link)
            host.net.set_bridge(network.link, alias(network), network.address, network.address6)
        except BaseException:
            self.undo(host)
            raise

    def undo(self, host: Host) -> None:
        if self.new:
            assert self.network.vlan
            host.net.remove_vlan(self.network.bridge, self.network.vlan, self.network.link)


@dataclass(frozen=True, slots=True)
class Tag:
    """Undone with the last VLAN on it, the card leaves the bridge."""

    network: Network

    def describe(self) -> str:
        return f"tag VLAN {self.network.vlan} on {self.network.uplink}, a port of {self.network.bridge}"

    def do(self, host: Host) -> None:
        assert self.network.vlan and self.network.uplink
        host.net.tag(self.network.uplink, self.network.bridge, self.network.vlan)

    def undo(self, host: Host) -> None:
        assert self.network.vlan and self.network.uplink
        host.net.untag(self.network.uplink, self.network.vlan)
        card = host.net.links().get(self.network.uplink)
        if card and card.master == self.network.bridge and not card.vids:
            host.net.unplug(card.name)
