"""Networks: a bridge with its address, forwarding, masquerading, DHCP and DNS, and names on the host.

What is wanted and what is found are values; the difference between them is steps: none when all is right. Starting
applies it, status prints it, and stopping is the same with nothing wanted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from ipaddress import IPv4Address

from cloudme import between, shared
from cloudme.disk import alone
from cloudme.errors import (
    AlreadyExists,
    Busy,
    CloudMeError,
    ConfigError,
    HostUnavailable,
    MissingProgram,
    NotFound,
    NotPermitted,
    UsageError,
)
from cloudme.formats import dhcp
from cloudme.model.hostconfig import Resolve
from cloudme.model.machine import Machine
from cloudme.model.network import DEFAULT_NETWORK, Link, Network
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction
from cloudme.operations.networks import changes, serving, sharing, trunks, truth
from cloudme.operations.networks.truth import HOST_FILES, Found, HostFiles
from cloudme.store import Store

BOOTPS = 67
"""RFC 2131: the port of DHCP servers."""


def start(transaction: Transaction, store: Store, network: Network, files: HostFiles = HOST_FILES) -> None:
    """Make everything as `network` wants it. Checks all first; nothing to do where all is right.

    Raises:  NotPermitted, MissingProgram, ConfigError (clash of addresses), AlreadyExists (bridge), Busy (ports).
    """
    host = transaction.host
    _may(host, network)
    network = _settled(host, store, network)
    _check_users(store, network)
    with _changing(store, network, transaction):
        before = store.network(network.name)
        found = truth.find(host, store, network, files)
        _check(host, store, network, found)
        if before and (before.link, before.uplink) != (network.link, network.uplink):
            _stop(transaction, store, before, files, forget=True)
            found = dataclasses.replace(truth.find(host, store, network, files), record=None)
        transaction.apply(truth.diff(store, truth.want(host, store, network), found, files))
    if not transaction.dry_run:
        refresh_names(host, store, files=files)


def reload(transaction: Transaction, store: Store, network: Network, files: HostFiles = HOST_FILES) -> None:
    """Like `start` for a network that was started, whose way of resolving stays unless the settings name another."""
    _may(transaction.host, network)
    before = store.network(network.name)
    if before is None:
        raise NotFound(f"the network '{network.name}' is not started", hint="cmnet start")
    if network.resolve == Resolve.auto:
        network = dataclasses.replace(network, resolve=before.resolve)
    start(transaction, store, network, files)


def create(transaction: Transaction, store: Store, network: Network, files: HostFiles = HOST_FILES) -> None:
    """Note a network of this name, and start it; the same call again finds nothing to do.

    Raises:  AlreadyExists (name, bridge), ConfigError (addresses), HostUnavailable (no such bridge of the LAN's),
             NotPermitted (it is the LAN's, and we are not root).
    """
    host = transaction.host
    if network.name in (DEFAULT_NETWORK, shared.HOST):
        whose = "that of cloudme.toml" if network.name == DEFAULT_NETWORK else "root's default one, to users"
        raise AlreadyExists(f"the network '{network.name}' is {whose}", hint="cmnet start; or another name")
    _may(host)
    if store.world.rootless and network.external:
        raise NotPermitted("a bridge of the LAN is in the host's own network, which is root's",
                           hint=f"sudo cmnet create {network.name} --external ...")
    if store.world.rootless and network.name in [one.name for one in shared.networks()]:
        raise AlreadyExists(f"'{network.name}' is a network of root's that you may use", hint="cmnet list")
    known = store.network(network.name)
    if known and dataclasses.replace(known, users=network.users) != _settled(host, store, network):
        raise AlreadyExists(f"there is a network '{network.name}', and it is another one",
                            hint=f"cmnet list; cmnet delete {network.name}")
    for other in store.networks():
        if other.name == network.name:
            continue
        if other.link == network.link or (other.bridge == network.bridge and not (other.vlan and network.vlan)):
            raise AlreadyExists(f"the bridge '{network.link}' is that of network '{other.name}'")
        if other.address.network.overlaps(network.address.network):
            raise ConfigError(f"{network.address.network} overlaps with network '{other.name}'")
    if network.external and not host.net.bridge_exists(network.bridge):
        raise HostUnavailable(f"there is no bridge '{network.bridge}' here",
                              hint=f"cmcheck --persist --bridge {network.bridge} --nic NIC makes one of a card")
    start(transaction, store, network, files)


def delete(transaction: Transaction, store: Store, name: str, files: HostFiles = HOST_FILES) -> None:
    """Stop a network that was created, and forget it.

    Raises:  NotFound, UsageError (the default one), Busy where machines have cards in it.
    """
    network = store.network(name)
    if name == DEFAULT_NETWORK:
        raise UsageError("the default network is that of cloudme.toml", hint="cmnet stop")
    if network is None and store.world.rootless and (network := shared.network(name)):
        _may(transaction.host, network)
    if network is None:
        raise NotFound(f"no network '{name}'", hint="cmnet list")
    if users := [machine for machine in store.machines() if any(nic.network == name for nic in machine.nics)]:
        mine = " ".join(machine.name for machine in users if not machine.definition)
        other = " ".join(machine.definition for machine in users if machine.definition)
        raise Busy(f"network '{name}' is used by {', '.join(machine.name for machine in users)}", hint="; ".join(
            [f"vmstop -d {mine}"] * bool(mine) + [f"vmunit remove {other}"] * bool(other)))
    _may(transaction.host)
    with _changing(store, network, transaction):
        _stop(transaction, store, network, files, forget=True)
    if not transaction.dry_run:
        transaction.host.net.sweep()
        for folder in (store.world.reservations(name), store.world.host_names(name)):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (store.world.leases(name), store.world.reached_domains(name), store.world.network_lock(name)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file)
        refresh_names(transaction.host, store, files=files)


def stop(transaction: Transaction, store: Store, network: Network, files: HostFiles = HOST_FILES) -> None:
    """Take away what `start` made, of the network as it was started, or else as the settings have it.

    Raises:  Busy, naming them, where machines use it.
    """
    _may(transaction.host, network)
    with _changing(store, network, transaction):
        _stop(transaction, store, store.network(network.name) or network, files,
              forget=network.name == DEFAULT_NETWORK)
    if not transaction.dry_run:
        transaction.host.net.sweep()
        between.refresh(transaction.host, store)
        for other in store.networks():  # they may have reached it
            serving.tell_reached(store, other)
            changes.send(transaction.host, store, other, signal.SIGHUP)


def _stop(transaction: Transaction, store: Store, network: Network, files: HostFiles, *, forget: bool) -> None:
    found = truth.find(transaction.host, store, network, files)
    if machines := running(store, network):
        raise Busy(f"{', '.join(machines)} on {network.link} {'run' if len(machines) > 1 else 'runs'}",
                   hint=f"vmstop {' '.join(machines)}{f' --realm {store.world.realm}' if store.world.realm else ''}")
    if not network.external and (taps := _taps(found.links, network)):
        raise Busy(f"{network.link} is in use by {', '.join(taps)}: machines of a user, or of another home",
                   hint="let them be stopped by who started them, with the CLOUDME_HOME that he had")
    transaction.apply(truth.undone(store, network, found, files, forget=forget))


def refresh_names(
    host: Host, store: Store, *, coming: Sequence[Machine] = (), files: HostFiles = HOST_FILES,
) -> None:
    """Call it after `store.reserve` and `store.release`, and where ports or addresses change: the rules between
    networks are those of the machines, dnsmasq forgets what is no longer reserved and knows what is reached, and the
    block in the hosts file says what is reserved. coming: machines that are not published yet.

    dnsmasq forgets a reservation only on SIGHUP, and never a lease: it would refuse the address to its next owner.
    """
    between.refresh(host, store, coming)
    for network in store.networks():
        if network.resolve == Resolve.hosts:
            with store.locked():
                changes.write_block(files.hosts, truth.mark(store.world, network), truth.host_lines(store, network))
        serving.tell_reached(store, network)
        if not network.external and changes.send(host, store, network, signal.SIGHUP):
            reserved = set(store.reservations(network.name).values())
            for mac, address in truth.leases(store, network):
                if (mac, address) not in reserved:
                    host.net.datagram(str(network.address.ip), BOOTPS, dhcp.release(network.address.ip, mac, address))


@contextlib.contextmanager
def announcing(host: Host, store: Store) -> Iterator[Callable[[Sequence[Machine]], None]]:
    """Around the transaction that makes machines: what it gets says who is coming, as `refresh_names` wants to know.

    Where they do not come after all, rules and names are those of what is there again.
    """
    told = False

    def tell(machines: Sequence[Machine]) -> None:
        nonlocal told
        told = True
        refresh_names(host, store, coming=machines)

    try:
        yield tell
    except BaseException:
        if told:
            with contextlib.suppress(CloudMeError):
                refresh_names(host, store)
        raise


def running(store: Store, network: Network) -> list[str]:
    """Names of the running machines, and of the templates that run as machines of this realm, on the network."""
    return [machine.name for machine in truth.running(store, network)]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What `cmnet status` tells. amiss: what `cmnet start` would do; notes: what may be in the way of guests."""

    network: str
    realm: str
    started: bool
    external: bool
    shared: bool
    bridge: str
    vlan: int | None
    uplink: str | None
    reaches: tuple[str, ...] | None
    address: str
    address6: str | None
    domain: str
    dhcp: str
    resolve: str
    reservations: int
    leases: int
    machines: tuple[str, ...]
    amiss: tuple[str, ...]
    notes: tuple[str, ...]


def status(host: Host, store: Store, settings: Network, files: HostFiles = HOST_FILES) -> Status:
    """Compare the network as it was started (else as the settings have it) with what there is."""
    _may(host)
    network = store.network(settings.name) or _settled(host, store, settings)
    found = truth.find(host, store, network, files)
    reserved = store.reservations(network.name).values()
    started = _started(network, found)
    return Status(
        network=network.name, realm=store.world.realm, started=started, bridge=network.bridge,
        vlan=network.vlan, uplink=network.uplink, reaches=network.reaches,
        address=str(network.address), address6=str(network.address6) if network.address6 else None,
        external=network.external, shared=False, domain=network.domain,
        dhcp="the LAN's own" if network.external else f"{network.dhcp_first}-{network.dhcp_last}",
        resolve=network.resolve, reservations=len(reserved),
        leases=sum(lease in reserved for lease in truth.leases(store, network)),
        machines=tuple(running(store, network)),
        amiss=tuple(step.describe() for step in truth.diff(store, truth.want(host, store, network), found, files))
        if started else (), notes=tuple(truth.notes(host, network, files)),
    )


def shared_status(host: Host, store: Store, network: Network) -> Status:
    """Likewise of a network of root's, as far as a user sees it; reserved is what root has set aside for him."""
    return Status(
        network=network.name, realm=store.world.realm, started=host.outside.bridge_exists(network.bridge), shared=True,
        external=network.external, bridge=network.bridge, vlan=None, uplink=None, reaches=None,
        address=str(network.address),
        address6=str(network.address6) if network.address6 else None, domain=network.domain, dhcp="root's",
        resolve=network.resolve, reservations=len(shared.allotment(network)), leases=0,
        machines=tuple(running(store, network)), amiss=(), notes=(),
    )


def unreadable(store: Store, name: str, files: HostFiles = HOST_FILES) -> list[str]:
    """What keeps the users of a network that was started from joining it."""
    network = store.network(name)
    return truth.unreadable(network, files) if network else []


def _started(network: Network, found: Found) -> bool:
    """The record of the default network goes when it stops; of others something is there while they are started."""
    if network.external:
        return network.bridge in found.links
    if network.name == DEFAULT_NETWORK:
        return found.record is not None
    link = found.links.get(network.link)
    return found.serving or (link is not None and link.alias == changes.alias(network))


def _settled(host: Host, store: Store, network: Network) -> Network:
    """With what the host decides: how names resolve, whether there is IPv6."""
    external = network.external and network.resolve == Resolve.auto
    resolve = Resolve.none if external else truth.mode(host, store.world, network.resolve)
    return dataclasses.replace(network, resolve=resolve, address6=network.address6 if host.net.ipv6() else None)


def _check_users(store: Store, network: Network) -> None:
    """Of those who are new."""
    new = set(network.users) - set(store.users(network.name))
    if new and store.world.rootless:
        raise NotPermitted("an ordinary user's networks are his own alone", hint="root's are shared: sudo cmnet start")
    if new and store.world.private:
        raise UsageError("users reach the host's own bridges, not those of a realm", hint="leave --realm out")
    sharing.check(sorted(new))


def _may(host: Host, network: Network | None = None) -> None:
    if network and network.shared:
        raise NotPermitted(f"'{network.name}' is root's network: you may use it, no more", hint="cmnet list")
    if not host.net.permitted():
        raise NotPermitted("networks are changed and looked into by root only", hint="run it with sudo")
    for program, package in (("dnsmasq", "dnsmasq-base"), ("nft", "nftables")):
        if host.run.find(program) is None:
            raise MissingProgram(program, package=package)


def _changing(store: Store, network: Network, transaction: Transaction) -> AbstractContextManager[None]:
    """One change at a time, of all networks that share a bridge. Raises Busy."""
    if transaction.dry_run:
        return contextlib.nullcontext()
    return alone(store.world.network_lock(network.bridge if network.vlan else network.name),
                 "somebody else is starting or stopping the network")


def _taps(links: Mapping[str, Link], network: Network) -> list[str]:
    """Ports of a bridge that keeps no VLANs apart are in one, too: the kernel's own, 1."""
    return [link.name for link in links.values() if (link.master, link.kind) == (network.bridge, "tun")
            and network.vlan in (None, link.pvid)]


def _check(host: Host, store: Store, network: Network, found: Found) -> None:
    if network.external:
        return
    if network.vlan:
        trunks.check(network, found.links)
        bridge = found.links.get(network.bridge)
        if not (bridge and bridge.filtering):
            host.net.check_trunks()
    else:
        _check_bridge(network, found)
    _check_addresses(store, network, found)
    if not found.serving and (holder := host.net.port_taken(str(network.address.ip))):
        raise Busy(f"DNS and DHCP cannot be served on {network.address.ip}: {holder} is there",
                   hint="end it, or let it serve its own addresses only (dnsmasq: bind-dynamic)")


def _check_bridge(network: Network, found: Found) -> None:
    link = found.links.get(network.bridge)
    other = "[network] bridge in cloudme.toml names another"
    if link and link.kind != "bridge":
        raise AlreadyExists(f"'{network.bridge}' exists and is no bridge", hint=other)
    if link and link.alias != changes.alias(network):
        ports = [port.name for port in found.links.values() if port.master == link.name]
        if link.addresses or ports:
            raise AlreadyExists(f"the bridge '{network.bridge}' exists and is not cloudMe's", hint=other)


def _check_addresses(store: Store, network: Network, found: Found) -> None:
    """No other link has an address of ours, and no machine an address that is not."""
    wanted = network.address.network
    for link in found.links.values():
        if link.name == network.link or link.alias == changes.alias(network):
            continue
        for theirs in (*(address.network for address in link.addresses), *link.routes):
            if wanted.overlaps(theirs):
                hint = "[network] address in cloudme.toml chooses another" if network.name == DEFAULT_NETWORK else \
                    f"another --cidr for '{network.name}', or cidr in the file of a homelab"
                raise ConfigError(f"{wanted} overlaps with {theirs}, which {link.name} has", hint=hint)

    for name, (_, text) in store.reservations(network.name).items():
        if shared.user_of(name):  # he is given another one
            continue
        if (address := IPv4Address(text)) not in wanted or address == network.address.ip:
            raise ConfigError(f"'{name}' has the address {address}, which does not go with {network.address}",
                              hint=f"destroy it (vmstop -d {name}), or put [network] address back in cloudme.toml"
                              if network.name == DEFAULT_NETWORK else
                              "give the network its old addresses back, and move the machine to another one first")

