"""The taps of a machine's cards, each with what its guard has to know."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from cloudme.model.launch import Guard, TapCard
from cloudme.model.machine import Machine, Nic
from cloudme.model.names import Name
from cloudme.model.network import LINK_LOCAL, Network, eui64


def of(machine: Machine, networks: Mapping[Name, Network]) -> list[TapCard]:
    """One for each card. networks: those of the cards, at least."""
    return [TapCard(f"net{index}", networks[nic.network].bridge, nic.mac, _guard(machine, nic, networks),
                    outside=networks[nic.network].shared, vlan=networks[nic.network].vlan, name=nic.tap or "")
            for index, nic in enumerate(machine.nics)]


def changing(before: Iterable[TapCard], after: Iterable[TapCard]) -> list[TapCard]:
    """The same cards as both have them, with the addresses of both: while a machine goes from one to the other."""
    return [dataclasses.replace(new, guard=new.guard and old.guard and dataclasses.replace(
                new.guard, addresses=tuple(dict.fromkeys((*old.guard.addresses, *new.guard.addresses)))))
            for old, new in zip(before, after, strict=True)]


def _guard(machine: Machine, nic: Nic, networks: Mapping[Name, Network]) -> Guard | None:
    network = networks[nic.network]
    if network.shared or not (network.guarded or machine.isolate or machine.net_rate):
        return None
    apart = [networks[card.network] for card in machine.nics] if machine.isolate else []
    return Guard(
        locked=network.guarded, addresses=(nic.address,) if nic.address else (),
        addresses6=() if network.external else tuple(filter(None, (eui64(LINK_LOCAL, nic.mac), nic.address6))),
        others=tuple(dict.fromkeys(str(address) for address in (network.address.ip, *network.dns))),
        apart=tuple(str(one) for other in apart for one in (other.address, other.address6) if one),
        rate=machine.net_rate, offload=not (network.guarded and network.external))
