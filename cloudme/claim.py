"""Taking a machine's name and addresses."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cloudme import index, layout, shared
from cloudme.errors import AlreadyExists, NotPermitted, UsageError
from cloudme.model import identity
from cloudme.model.machine import Machine, Nic, Port
from cloudme.model.names import Name
from cloudme.model.network import Network, check_address, slaac
from cloudme.model.ports import Host
from cloudme.model.steps import deferred
from cloudme.store import TEMPLATE_PREFIX, Networks, Store, everywhere


@dataclass(slots=True)
class Claim:
    """Takes the machine's name and addresses; holds its maker's lock until it is let go. Call it under store.locked."""

    store: Store
    machine: Machine
    networks: Mapping[Name, Network]
    lock: int = field(default=-1)

    def describe(self) -> str:
        addresses = [nic.address for nic in self.machine.nics if nic.address]
        what = f" and the address{'es' if len(addresses) > 1 else ''} {', '.join(addresses)}" if addresses else ""
        return f"take the name {self.machine.name}{what}"

    def do(self, host: Host) -> None:
        check_name(self.machine.name)
        with deferred():
            self.lock = self.store.claim(host, self.store.world.machine(self.machine.name), layout.MACHINE_RECORD)
        for nic in self.machine.nics:
            if nic.address:
                self.store.reserve(self.networks[nic.network], self.machine.name, nic.mac, nic.address)

    def undo(self, host: Host) -> None:
        if self.lock == -1:  # the name is somebody else's
            return
        for nic in self.machine.nics:
            self.store.release(nic.network, self.machine.name)
        self.store.remove(self.store.world.machine(self.machine.name), layout.MACHINE_RECORD)
        shutil.rmtree(self.store.world.machine_run(self.machine.name), ignore_errors=True)
        self.let_go()  # and not before: somebody else may take the name then

    def let_go(self) -> None:
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -2


def check_name(name: Name) -> None:
    """Raises UsageError for what no machine may be called."""
    if shared.user_of(name) or name.startswith(TEMPLATE_PREFIX):
        raise UsageError(f"'{name}' is how an address is reserved for somebody else",
                         hint=f"a name that does not begin with {shared.PREFIX} or {TEMPLATE_PREFIX}")


def nic(network: Network, uuid: str, index: int, address: str | None) -> Nic:
    """Card number `index` of a machine. Where DHCP is not ours, an address is told by the seed.

    On root's network the card is the one that root has reserved the address for.
    """
    mac = identity.mac(uuid, index)
    if network.shared and not network.external and address:
        mac = shared.allotment(network)[address]
    return Nic(network=network.name, mac=mac, address=address, address6=slaac(network, mac),
               static=network.external and address is not None)


def addresses(store: Store, network: Network, count: int, but: Sequence[str] = ()) -> list[str]:
    """Free ones of a network whose DHCP is ours, or root's: that has one allotment for all realms of a user's.

    but:     those that somebody is about to take.
    Raises:  Busy.
    """
    worlds = [store.world]
    if network.shared:
        worlds += [store.world.beside(realm) for realm in ("", *index.names(os.path.join(store.world.data, "realms")))]
    taken = {address for world in worlds for address in Networks(world).owners(network.name)}
    return shared.free(network, taken | set(but), count)


def check_cid(store: Store, cid: int | None) -> None:
    """Raises AlreadyExists where a machine of this home has that number for vsock: it is the whole host's."""
    taken = everywhere(store.world, lambda machine: cid is not None and machine.vsock_cid == cid)
    if taken:
        raise AlreadyExists(f"{cid} is the number of '{next(iter(taken))}' for vsock", hint="choose another one")


def check_apart(isolate: bool, net_rate: int | None, networks: Sequence[Network]) -> None:
    """Raises UsageError where a machine cannot be kept from its neighbours, or slowed down."""
    for network in networks:
        if network.shared and (isolate or net_rate):
            raise UsageError(f"network '{network.name}' is root's, and no rules of yours hold there",
                             hint="--isolate and --net-rate are for networks of your own (cmnet list)")
        if isolate and network.external:
            raise UsageError(f"network '{network.name}' is external: who is on it is not for us to say",
                             hint="--isolate is for networks of ours (cmnet list)")


def check_ports(ports: tuple[Port, ...] | None, networks: Sequence[Network]) -> None:
    """Raises UsageError where who comes to a machine does not pass rules of ours."""
    for network in networks:
        if ports is not None and (network.shared or network.external):
            raise UsageError(f"network '{network.name}' is {'root' if network.shared else 'somebody else'}'s, and no "
                             "rules of ours are between it and a machine", hint="--ports is for networks of your own")


def check_records(store: Store, network: Network, addresses: Sequence[str], *, own: str = "") -> None:
    """Whether machines may have these addresses, by what is written here. Raises UsageError, AlreadyExists.

    own:  the name of the machine that may keep what it has.
    """
    if addresses:
        owners = {address: name for address, name in store.owners(network.name).items() if name != own}
        ours = shared.allotment(network) if network.shared and not network.external else addresses
        for address in addresses:
            check_address(network, address, owners)
            if address not in ours:
                raise UsageError(f"root has not set {address} aside for you on '{network.name}'",
                                 hint=f"you have {', '.join(ours) or 'none'}")


def check_free(host: Host, store: Store, network: Network, addresses: Sequence[str], *, own: str = "") -> None:
    """Likewise, and nobody answers at them. That takes a second: not under the store's lock."""
    check_records(store, network, addresses, own=own)
    if not addresses or network.shared or not host.net.link_exists(network.link):
        return
    for link in host.net.links().values():
        if taken := {str(own_address.ip) for own_address in link.addresses} & set(addresses):
            raise AlreadyExists(f"{taken.pop()} is this host's own address, on {link.name}")
    try:
        answers = host.net.arp(network.link, addresses)
    except NotPermitted:  # who may not ask has not asked before, either
        return
    for address, mac in answers.items():
        raise AlreadyExists(f"{address} is in use: {mac} answers there on {network.bridge}", hint="choose another one")
