"""What `cmnet` does, beyond its options."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import TypeVar

from cloudme import cli, shared
from cloudme.cli import wiring
from cloudme.errors import ConfigError, NotFound, UsageError
from cloudme.model.hostconfig import Resolve, Settings
from cloudme.model.names import Name
from cloudme.model.network import DEFAULT_NETWORK, Network, whole_range
from cloudme.operations import networks
from cloudme.operations.networks import uplink
from cloudme.store import Store

T = TypeVar("T")

LENGTH_MIN, LENGTH_MAX = 8, 30
"""A longer prefix has no room for a gateway, a machine and a broadcast address."""

CREATE_ONLY = ("bridge", "cidr", "gateway", "dhcp_range", "dns", "domain", "ipv6", "vlan", "uplink")


def run(args: argparse.Namespace) -> int | None:
    """Raises UsageError for options that do not go with the action."""
    given = [option for option in CREATE_ONLY if getattr(args, option) is not None]
    given += [option for option in ("external", "no_nat", "no_guard") if getattr(args, option)]
    if given and args.action != "create":
        raise UsageError(f"--{given[0].replace('_', '-')} goes with create", hint="cmnet create NAME ...")
    if args.action in ("create", "delete") and not args.name:
        raise UsageError("the name of a network is wanted", hint=f"cmnet {args.action} NAME")
    if (args.allow_user or args.deny_user) and args.action not in ("start", "create"):
        raise UsageError("--allow-user and --deny-user go with start and create")
    if args.reaches and (args.action not in ("start", "create") or args.name in (None, DEFAULT_NETWORK)):
        raise UsageError("--reaches goes with start and create, and with a network's name",
                         hint="the default network is one of which nothing is said")
    actions = {"start": start, "stop": stop, "reload": reload, "create": create, "delete": delete, "list": listed,
               "status": status}
    return actions[args.action](args)


def _named(args: argparse.Namespace, store: Store) -> list[Network]:
    """The network that is named, else all: the default one and those that were created. --resolve is laid over them."""
    if args.name and args.name != DEFAULT_NETWORK:
        found = [store.network_of(cli.settings(args), args.name)]
    else:
        found = [_default(args, store)]
        if not args.name:
            found += [network for network in store.networks() if network.name != DEFAULT_NETWORK]
    resolve = Resolve(args.resolve) if args.resolve else None
    if args.reaches:
        found = [dataclasses.replace(network, reaches=_reached(args.reaches)) for network in found]
    found = [_shared(args, store, network, first=network is found[0]) for network in found]
    return [dataclasses.replace(network, resolve=resolve) if resolve else network for network in found]


def _shared(args: argparse.Namespace, store: Store, network: Network, *, first: bool) -> Network:
    """With those who may have machines on it: as before, but for what the options say of the one that is named."""
    if network.shared:
        return network
    allowed, denied = (set(args.allow_user or ()), set(args.deny_user or ())) if first else (set(), set())
    if both := sorted(allowed & denied):
        raise UsageError(f"'{both[0]}' cannot be both allowed and denied")
    return dataclasses.replace(network, users=tuple(sorted((set(store.users(network.name)) | allowed) - denied)))


def _reached(text: str) -> tuple[Name, ...] | None:
    """none, all, or names of networks."""
    if text == "all":
        return None
    return () if text == "none" else tuple(Name(name.strip(), "name of a network") for name in text.split(","))


def _default(args: argparse.Namespace, store: Store) -> Network:
    """As cloudme.toml has it, whatever it is now."""
    return store.designed(cli.settings(args))


def start(args: argparse.Namespace) -> None:
    store = cli.store(args)
    _begin(args, store, _named(args, store))


def create(args: argparse.Namespace) -> None:
    store = cli.store(args)
    _begin(args, store, [_wanted(args, store)])


def _begin(args: argparse.Namespace, store: Store, wanted: Sequence[Network]) -> None:
    say = print if args.dry_run else cli.teller(args, verbose=True)
    begin = networks.create if args.action == "create" else networks.start
    with (wiring.founded(store.world, dry_run=args.dry_run, say=say) as host,
          cli.transaction(args, host) as transaction):
        for network in wanted:
            begin(transaction, store, network)
            known = {one.name for one in store.networks()}
            for name in set(network.reaches or ()) - known if not args.dry_run else ():
                cli.teller(args)(f"there is no network '{name}' yet: nothing of it is reached until it is created")
            for line in networks.unreadable(store, network.name) if not args.dry_run else ():
                cli.teller(args)(line)
        if why_not := uplink.start(transaction, store.world):
            cli.teller(args)(why_not)


def reload(args: argparse.Namespace) -> None:
    store = cli.store(args)
    wanted = _named(args, store)
    host = cli.host(args)
    with cli.transaction(args, host) as transaction:
        for network in wanted:
            networks.reload(transaction, store, network)


def stop(args: argparse.Namespace) -> None:
    store = cli.store(args)
    wanted = _named(args, store)
    host = wiring.visiting(store.world)
    with cli.transaction(args, host) as transaction:
        for network in wanted:
            networks.stop(transaction, store, network)
        if not args.name or not _others(args, store):
            uplink.stop(transaction, store.world)
            transaction.apply(wiring.abandon(store.world))


def _others(args: argparse.Namespace, store: Store) -> bool:
    """Whether the realm has a network of ours but the one that is named."""
    return any(network.name != args.name and not network.external for network in store.networks())


def delete(args: argparse.Namespace) -> None:
    store = cli.store(args)
    host = wiring.visiting(store.world)
    with cli.transaction(args, host) as transaction:
        networks.delete(transaction, store, args.name)


def listed(args: argparse.Namespace) -> None:
    store = cli.store(args)
    host = wiring.visiting(store.world)
    found = [networks.shared_status(host, store, network) if network.shared else networks.status(host, store, network)
             for network in _listed(args, store)]
    if args.json:
        cli.print_json([dataclasses.asdict(one) for one in found])
        return
    cli.print_table(
        ([one.network, _place(one), one.address, one.address6 or "-", _kind(one), _state(one),
          " ".join(one.machines) or "-"] for one in found),
        ("network", "bridge", "address", "ipv6", "kind", "state", "running machines"))


def _listed(args: argparse.Namespace, store: Store) -> list[Network]:
    return _named(args, store) + ([] if args.name or not store.world.rootless else shared.networks())


def status(args: argparse.Namespace) -> int:
    store = cli.store(args)
    host = wiring.visiting(store.world)
    network = _named(args, store)[0]
    found = (networks.shared_status if network.shared else networks.status)(host, store, network)
    way_out = uplink.running(host, store.world)
    if args.json:
        cli.print_json(dataclasses.asdict(found) | {"uplink": way_out, "ok": found.started and not found.amiss})
    else:
        rows = [
            ("bridge", " ".join(filter(None, (_place(found), found.address, found.address6)))),
            *([("uplink", found.uplink)] if found.uplink else []),
            *([] if found.reaches is None else [("reaches", " ".join(found.reaches) or "no other network")]),
            ("state", _state(found)),
            ("dhcp", f"{found.dhcp}: {found.reservations} reserved, {found.leases} leased"),
            ("dns", f"*.{found.domain}, on the host: {found.resolve}"),
            ("machines", " ".join(found.machines) or "none runs"),
            *([("way out", way_out or "none")] if store.world.rootless else []),
            *(("amiss", f"cmnet start would {line}") for line in found.amiss),
            *(("note", line) for line in found.notes),
        ]
        cli.print_table(rows, ("WHAT", "IS"))
    if not found.started:
        return NotFound.exit_status
    return ConfigError.exit_status if found.amiss else os.EX_OK


def _place(found: networks.Status) -> str:
    return found.bridge if found.vlan is None else f"{found.bridge}.{found.vlan}"


def _kind(found: networks.Status) -> str:
    return "root's" if found.shared else "external" if found.external else "ours"


def _state(found: networks.Status) -> str:
    return "not started" if not found.started else "amiss" if found.amiss else "started"


def _wanted(args: argparse.Namespace, store: Store) -> Network:
    """The network that the options of create describe."""
    name, settings = Name(args.name, "name of a network"), cli.settings(args)
    if not args.cidr or ((args.external or args.vlan is not None) and not args.bridge):
        what = "--cidr" if not args.cidr else "--bridge"
        raise UsageError(f"{what} is wanted", hint="cmnet create lan --bridge br0 --external --cidr 192.168.86.0/24, "
                         "or cmnet create services --bridge vmbr0 --vlan 20 --cidr 10.20.20.0/24")
    try:
        return _shared(args, store, _described(args, store, name, settings), first=True)
    except ConfigError as error:  # here it is the options that are off
        raise UsageError(error.message, hint=error.hint) from None


def _described(args: argparse.Namespace, store: Store, name: Name, settings: Settings) -> Network:
    address = _gateway(args.cidr, args.gateway)
    first, last = (None, None) if args.external else whole_range(address)
    if args.dhcp_range:
        first, last = _converted(lambda: _ends(args.dhcp_range), "--dhcp-range", "FIRST-LAST")
    address6 = None if args.external else store.site6(name)
    if args.ipv6:
        address6 = None if args.ipv6 == "none" else _converted(lambda: _first6(args.ipv6), "--ipv6", "fd12::1/64")
    dns = _converted(lambda: tuple(IPv4Address(one.strip()) for one in args.dns.split(",")), "--dns", "ADDRESS,...") \
        if args.dns else ()
    return Network(
        name=name, bridge=args.bridge or f"cm-{name}"[:15], address=address, dhcp_first=first, dhcp_last=last,
        domain=args.domain or f"{name}.{settings.domain}", nat=not (args.no_nat or args.external),
        resolve=args.resolve or settings.resolve, external=args.external, address6=address6, dns=dns,
        guarded=not args.no_guard, vlan=args.vlan, uplink=args.uplink,
        reaches=_reached(args.reaches or ("all" if args.vlan is None else "none")))


def _first6(text: str) -> IPv6Interface:
    """The first address, where only the network is said."""
    found = IPv6Interface(text)
    return found if found.ip != found.network.network_address else IPv6Interface((int(found.ip) + 1,
                                                                                  found.network.prefixlen))


def _ends(text: str) -> tuple[IPv4Address, IPv4Address]:
    if text.count("-") != 1:
        raise ValueError(f"'{text}' is no range")
    first, last = text.split("-")
    return IPv4Address(first.strip()), IPv4Address(last.strip())


def _gateway(cidr: str, gateway: str | None) -> IPv4Interface:
    """The gateway's address with the prefix: as it is said, else the first of the network."""
    whole = _converted(lambda: IPv4Interface(cidr), "--cidr", "192.168.86.0/24")
    if not LENGTH_MIN <= whole.network.prefixlen <= LENGTH_MAX:
        raise UsageError(f"'{cidr}' is no network for machines",
                         hint=f"--cidr 192.168.86.0/24; a length of {LENGTH_MIN} to {LENGTH_MAX}")
    if gateway:
        ip = _converted(lambda: IPv4Address(gateway), "--gateway", "an address")
        if ip not in whole.network:
            raise UsageError(f"the gateway {ip} is not in {whole.network}")
    else:
        ip = whole.ip if whole.ip != whole.network.network_address else whole.network.network_address + 1
    return IPv4Interface((ip, whole.network.prefixlen))


def _converted(convert: Callable[[], T], option: str, form: str) -> T:
    """Raises UsageError where the option is no such thing."""
    try:
        return convert()
    except ValueError as error:
        raise UsageError(f"{option}: {error}", hint=f"{option} {form}") from None
