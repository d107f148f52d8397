"""What there is of a network, what is wanted of it, and the steps from one to the other."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from cloudme import between, shared
from cloudme.errors import CommandFailed, ConfigError, HostUnavailable, NotPermitted
from cloudme.formats import dhcp
from cloudme.layout import World
from cloudme.model.hostconfig import Resolve
from cloudme.model.launch import TapCard
from cloudme.model.machine import Machine
from cloudme.model.network import Link, Network
from cloudme.model.ports import Host
from cloudme.model.steps import Step
from cloudme.operations.networks import changes, serving, sharing, trunks
from cloudme.operations.networks.changes import Block, Reversed
from cloudme.qemu import taps
from cloudme.store import TEMPLATE_PREFIX, Store

STUB = "127.0.0.53"
"""systemd-resolved(8): where it listens; names in resolv.conf where the host asks it."""
RELOAD_NAMES = ("nmcli", "general", "reload", "dns-full")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFiles:
    """The host's files in which a network leaves its mark, or that say how the host resolves names."""

    bridge_acl: str = "/etc/qemu/bridge.conf"
    hosts: str = "/etc/hosts"
    networkmanager: str = "/etc/NetworkManager/dnsmasq.d"

    @property
    def users(self) -> str:
        """A list for each user, which the one above includes."""
        return os.path.join(os.path.dirname(self.bridge_acl), "cloudme.d")

    def of_user(self, user: str) -> str:
        return os.path.join(self.users, f"{user}.conf")


HOST_FILES = HostFiles()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    network: Network
    rules: str
    configuration: str
    between: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """marks: the comments of the rules in our table. between: those of the rules between networks. blocks: the marked
    lines, by file. resolved: it asks us. reserved: whose is which address: name -> (mac, address). unguarded: cards
    whose taps lack a guard, by machine.
    """

    links: Mapping[str, Link]
    forwarding: bool
    filtered: bool
    marks: tuple[str, ...]
    serving: bool
    configuration: str
    blocks: Mapping[str, tuple[str, ...]]
    resolved: bool
    record: Network | None
    reserved: sharing.Reservations
    unguarded: Mapping[str, tuple[TapCard, ...]]
    between: tuple[str, ...] = ()


def want(host: Host, store: Store, network: Network) -> Wanted:
    if network.external:
        return Wanted(network=network, rules="", configuration="", between="")
    return Wanted(
        network=network, rules=dhcp.rules(network, store.world),
        configuration=dhcp.configuration(network, store.world, user=serving.user(store.world),
                                         resolv_file=_resolv_file(store.world)),
        between=between.wanted(store, network),
    )


def find(host: Host, store: Store, network: Network, files: HostFiles) -> Found:
    return Found(
        links=host.net.links(), forwarding=host.net.forwarding(),
        filtered=host.net.bridge_filter(), marks=dhcp.marks(_table(host, network)),
        serving=changes.send(host, store, network, 0), configuration=_read(store.world.dnsmasq(network.name, "conf")),
        blocks={path: changes.read_block(path, mark(store.world, network))
                for path in _block_files(store.world, network, files)},
        resolved=network.resolve == Resolve.resolved and _resolved_asks(host, network),
        record=store.network(network.name), reserved=store.reservations(network.name),
        unguarded=_unguarded(host, store, network), between=between.found(host, store),
    )


def diff(store: Store, wanted: Wanted, found: Found, files: HostFiles) -> list[Step]:
    """The steps that make what is found as it is wanted; none when it is."""
    network = wanted.network
    steps = [] if network.external else _own(store, wanted, found)
    steps += [changes.GuardTaps(machine, cards) for machine, cards in found.unguarded.items()]
    steps += sharing.steps(store, network, found.reserved)
    steps += _blocks(store, found, files, network, _lines(store, network, files))
    if network.resolve == Resolve.resolved and not found.resolved:
        steps.append(changes.Resolved(network))
    if found.record != network:
        steps.append(changes.Record(store, found.record, network))
    return steps


def _own(store: Store, wanted: Wanted, found: Found) -> list[Step]:
    """Those for the bridge and what serves on it, where they are ours."""
    network = wanted.network
    link = found.links.get(network.link)
    steps: list[Step] = []
    if network.vlan:
        steps += trunks.steps(network, found.links)
    elif link is None:
        steps.append(changes.MakeBridge(network))
    elif not trunks.is_right(network, link):
        steps.append(changes.SetBridge(network, next(iter(link.addresses), None), next(iter(link.addresses6), None)))
    if not found.forwarding:
        steps.append(changes.Forward())
    if found.filtered and store.world.private:
        steps.append(changes.Unfilter())
    if found.marks != dhcp.marks(wanted.rules):
        steps.append(changes.Rules(network, wanted.rules))
    if found.between != dhcp.marks(wanted.between):
        steps.append(between.Between(store, wanted.between, found.between))
    # A new bridge has a new index, to which a dnsmasq that served the old one is not bound.
    if link is None or not found.serving or found.configuration != wanted.configuration:
        before = found.configuration if found.serving else None
        steps.append(changes.Serve(store, network, wanted.configuration, before))
    return steps


def undone(store: Store, network: Network, found: Found, files: HostFiles, *, forget: bool) -> list[Step]:
    """The steps that take away what is found of the network; none when nothing is. forget: its record, too."""
    steps: list[Step] = _blocks(store, found, files, network, {})
    if found.serving:
        serve = changes.Serve(store, network, found.configuration, None)
        steps.append(Reversed(serve, f"stop dnsmasq on {network.link}"))
    if found.marks:
        rules = changes.Rules(network, dhcp.rules(network, store.world))
        steps.append(Reversed(rules, f"remove the nft table {dhcp.table(network)}"))
    if found.between and not _others(store, network, found):
        steps.append(between.Between(store, "", found.between))
    link = found.links.get(network.bridge)
    if network.vlan:
        steps += trunks.undone(network, found.links)
    elif link and link.alias == changes.alias(network):
        steps.append(Reversed(changes.MakeBridge(network), f"remove the bridge {network.bridge}"))
    if found.record and forget:
        steps.append(changes.Record(store, found.record, None))
    return steps


def _others(store: Store, network: Network, found: Found) -> bool:
    """Whether another network of ours is started."""
    return any(one.link in found.links for one in store.networks() if one.name != network.name and not one.external)


def running(store: Store, network: Network) -> list[Machine]:
    """The running machines, and the templates that run as machines of this realm, on the network."""
    templates = [template.machine() for template in store.templates()
                 if f"{TEMPLATE_PREFIX}{template.name}" in store.reservations(network.name)]
    return [machine for machine in [*store.machines(), *templates]
            if any(nic.network == network.name for nic in machine.nics) and store.is_running(machine)]


def mark(world: World, network: Network) -> str:
    """What our blocks are marked with: unlike those of other realms and bridges."""
    return f"cloudme {network.link}{f' of realm {world.realm}' if world.realm else ''}"


def host_lines(store: Store, network: Network) -> tuple[str, ...]:
    """The lines of the hosts file: every name that is reserved, with its domain."""
    reserved = sorted((name, address) for name, (_, address) in store.reservations(network.name).items())
    return tuple(f"{address} {name}.{network.domain}" for name, address in reserved)


def leases(store: Store, network: Network) -> list[tuple[str, str]]:
    """(mac, address) of what dnsmasq has handed out."""
    return dhcp.leases(_read(store.world.leases(network.name)))


def mode(host: Host, world: World, wanted: str) -> Resolve:
    """How names are to resolve on the host: `auto` takes the first way that is there, in a named realm none.

    Raises:  ConfigError, HostUnavailable where the wanted way cannot be gone.
    """
    chosen = Resolve(wanted)
    daemons = {Resolve.resolved: _has_resolved, Resolve.networkmanager: _has_networkmanager}
    if world.rootless and chosen not in (Resolve.auto, Resolve.none):
        raise NotPermitted(f"'{chosen}' changes how this host resolves names: that is root's",
                           hint="--resolve none; 'vm' and ssh by its proxy need no names")
    if world.private:
        if chosen in daemons:
            raise ConfigError(f"'{chosen}' is the host's and does not reach into a realm",
                              hint="--resolve hosts, or none")
        return Resolve.none if chosen == Resolve.auto else chosen
    if chosen == Resolve.auto:
        return next((way for way, there in daemons.items() if there(host)), Resolve.hosts)
    if chosen in daemons and not daemons[chosen](host):
        raise HostUnavailable(f"names cannot be resolved by '{chosen}': the host does not use it",
                              hint="--resolve auto takes what there is")
    return chosen


def notes(host: Host, network: Network, files: HostFiles = HOST_FILES) -> list[str]:
    """That machines are not guarded. What of the host's own rules drops forwarded packets by default: an accept in our
    table does not outweigh it. What keeps users out of a network that is shared with them."""
    unguarded = [] if network.guarded else ["machines may send what they like (no guard)"]
    listing = json.loads(host.run(["nft", "-j", "list", "chains"]) or '{"nftables": []}')
    chains = [entry["chain"] for entry in listing["nftables"] if "chain" in entry]
    return unguarded + [
        f"the host's nft chain '{chain['table']} {chain['name']}' drops by default: guests may not get out"
        for chain in chains
        if chain.get("hook") == "forward" and chain.get("policy") == "drop" and chain["table"] != dhcp.table(network)
    ] + unreadable(network, files)


def unreadable(network: Network, files: HostFiles) -> list[str]:
    """Files that a network's users would have to be able to read."""
    return sharing.unreadable(network, {user: (files.bridge_acl, files.of_user(user)) for user in network.users})


def _unguarded(host: Host, store: Store, network: Network) -> dict[str, tuple[TapCard, ...]]:
    """The rules of a guard depend on all networks that a machine has cards in.

    Not of what is defined: vmprepare made its taps.
    """
    roots = shared.networks() if store.world.rootless else []
    known = {one.name: one for one in (*roots, *store.networks(), network)}
    found, place = {}, (network.bridge, network.vlan)
    for machine in [machine for machine in running(store, network) if not machine.definition]:
        nics = tuple(nic for nic in machine.nics if nic.network in known)
        cards = taps.of(dataclasses.replace(machine, nics=nics), known)
        found[machine.name] = tuple(host.net.unguarded([card for card in cards
                                                            if (card.bridge, card.vlan) == place]))
    return {name: cards for name, cards in found.items() if cards}


def _networkmanager(network: Network, files: HostFiles) -> str:
    return os.path.join(files.networkmanager, f"cloudme-{network.link}.conf")


def _block_files(world: World, network: Network, files: HostFiles) -> list[str]:
    """Those in which there may be a block of the network's, now or when it is as it should be."""
    found = [] if world.rootless else [files.hosts, _networkmanager(network, files)]
    if world.private:  # QEMU's helper acts in the host's own namespace only
        return found
    known = os.listdir(files.users) if os.path.isdir(files.users) else []
    users = {os.path.join(files.users, name) for name in known} | {files.of_user(user) for user in network.users}
    return [*sorted(users), files.bridge_acl, *found]


def _lines(store: Store, network: Network, files: HostFiles) -> dict[str, tuple[str, ...]]:
    """The lines that are wanted in the host's files."""
    lines: dict[str, tuple[str, ...]] = {}
    if network.users and not store.world.private:
        lines[files.bridge_acl] = tuple(f"include {files.of_user(user)}" for user in network.users)
        lines |= {files.of_user(user): (f"allow {network.bridge}",) for user in network.users}
    if network.resolve == Resolve.hosts:
        lines[files.hosts] = host_lines(store, network)
    if network.resolve == Resolve.networkmanager:
        lines[_networkmanager(network, files)] = (f"server=/{network.domain}/{network.address.ip}",)
    return lines


def _blocks(
    store: Store, found: Found, files: HostFiles, network: Network, lines: Mapping[str, tuple[str, ...]],
) -> list[Step]:
    networkmanager = _networkmanager(network, files)
    groups = {files.of_user(user): sharing.group(user) for user in network.users}
    return [
        Block(path, mark(store.world, network), before, lines.get(path, ()),
              RELOAD_NAMES if path == networkmanager else (), groups.get(path, ""))
        for path, before in found.blocks.items() if before != lines.get(path, ())
    ]


def _table(host: Host, network: Network) -> str:
    try:
        return host.run(["nft", "list", "table", "ip", dhcp.table(network)])
    except CommandFailed:  # there is none
        return ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _resolved_asks(host: Host, network: Network) -> bool:
    try:
        told = (host.run(["resolvectl", "dns", network.link]), host.run(["resolvectl", "domain", network.link]))
    except CommandFailed:  # there is no such link yet
        return False
    return str(network.address.ip) in told[0].split() and f"~{network.domain}" in told[1].split()


def _has_resolved(host: Host) -> bool:
    return host.run.find("resolvectl") is not None and STUB in _read("/etc/resolv.conf").split()


def _has_networkmanager(host: Host) -> bool:
    """Only with its dnsmasq plug-in can it send the questions of one domain elsewhere (NetworkManager.conf(5), dns)."""
    if host.run.find("nmcli") is None or host.run.find("NetworkManager") is None:
        return False
    with contextlib.suppress(CommandFailed):
        running = host.run(["nmcli", "-t", "-f", "RUNNING", "general"]).strip() == "running"
        return running and "dns=dnsmasq" in host.run(["NetworkManager", "--print-config"]).split()
    return False


def _resolv_file(world: World) -> str | None:
    """Whom to ask about other domains: in a user's realm whom its uplink names; in another one, as ip-netns(8) has it,
    nobody unless it has a file of its own."""
    if world.rootless:
        return world.uplink("resolv")
    if not world.realm:
        return "/etc/resolv.conf"
    own = f"/etc/netns/{os.path.basename(world.namespace)}/resolv.conf"
    return own if os.path.exists(own) else None
