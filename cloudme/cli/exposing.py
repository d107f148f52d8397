"""What vmexpose does with its options."""

from __future__ import annotations

import argparse
from ipaddress import ip_address
from typing import Any, Literal

from cloudme import between, cli, forwards
from cloudme.cli import selection
from cloudme.errors import UsageError
from cloudme.model.machine import Forward, Machine
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction
from cloudme.operations import exposing
from cloudme.store import Store

LOOPBACK = "127.0.0.1"


def change(args: argparse.Namespace, store: Store, host: Host) -> None:
    """Expose a port, or no longer."""
    name = cli.named(args)
    if name is None or bool(args.ports) == bool(args.remove):
        raise UsageError("a machine and a port are wanted", hint="vmexpose web00 8080:80, vmexpose web00 --remove 8080")
    with cli.transaction(args, host) as transaction:
        if args.remove:
            _remove(args, transaction, store, name)
        else:
            _expose(args, transaction, store, name)
        if not transaction.dry_run:
            between.refresh(host, store)


def _expose(args: argparse.Namespace, transaction: Transaction, store: Store, name: str) -> None:
    forward = parse(args.ports, _protocol(args), args.address or LOOPBACK)
    name = selection.named(store, name)
    if not exposing.expose(transaction, store, name, forward):
        cli.teller(args)(f"{forward} leads to port {forward.guest_port} of '{name}' already")
    if args.dry_run:
        return
    machine = store.machine(name)
    if not store.is_running(machine):
        cli.teller(args)(f"'{name}' does not run: the port opens when it starts")
    if args.json:
        cli.print_json(told(store, machine, forward))
    else:
        print(forward.where)


def _remove(args: argparse.Namespace, transaction: Transaction, store: Store, name: str) -> None:
    wanted = exposing.Wanted(protocol=_protocol(args), port=number(args.remove),
                             address=address(args.address) if args.address else None)
    name = selection.named(store, name)
    if exposing.remove(transaction, store, name, wanted) is None:
        cli.teller(args)(f"'{name}' has no {wanted.protocol} port {wanted.port} of the host")


def _protocol(args: argparse.Namespace) -> Literal["tcp", "udp"]:
    return "udp" if args.udp else "tcp"


def parse(text: str, protocol: Literal["tcp", "udp"], at: str) -> Forward:
    """8080:80 is the host's port, and the machine's; 8080 is both. Raises UsageError."""
    host, colon, guest = text.partition(":")
    return Forward(protocol=protocol, address=address(at), port=number(host),
                   guest_port=number(guest if colon else host))


def number(text: str) -> int:
    """Raises UsageError for what is no port; ranges are none."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise UsageError(f"'{text}' is no port", hint="for instance 8080:80, the host's and the machine's")
    return int(text)


def address(text: str) -> str:
    """As the records write it; what is none is told by who uses it."""
    try:
        return str(ip_address(text))
    except ValueError:
        return text


def told(store: Store, machine: Machine, forward: Forward) -> dict[str, Any]:
    """The keys that --json documents."""
    return {"name": machine.name, "protocol": forward.protocol, "address": forward.address, "port": forward.port,
            "guest_port": forward.guest_port, "state": forwards.state(store, machine, forward)}


def show(args: argparse.Namespace, store: Store) -> None:
    """List what machines have, or those whose names begin as the one that is given."""
    if args.ports or args.remove or args.udp or args.address:
        raise UsageError("--list stands alone, or with a name", hint="see --help")
    found = [(machine, forward) for machine in store.machines() if machine.name.startswith(cli.named(args) or "")
             for forward in machine.forwards]
    if args.json:
        cli.print_json([told(store, machine, forward) for machine, forward in found])
        return
    cli.print_table(([machine.name, forward.protocol, forward.where, str(forward.guest_port),
                      forwards.state(store, machine, forward)] for machine, forward in found),
                    ["name", "protocol", "host", "port", "state"])
