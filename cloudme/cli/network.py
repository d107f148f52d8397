"""What `cmnet` does, beyond its options."""

from __future__ import annotations

import argparse
import dataclasses
import os

from cloudme import cli
from cloudme.cli import wiring
from cloudme.errors import ConfigError, NotFound
from cloudme.model.hostconfig import Resolve
from cloudme.model.network import Network
from cloudme.operations import networks


def _wanted(args: argparse.Namespace) -> Network:
    network = cli.settings(args).network()
    return dataclasses.replace(network, resolve=Resolve(args.resolve)) if args.resolve else network


def start(args: argparse.Namespace) -> None:
    store, network = cli.store(args), _wanted(args)
    say = print if args.dry_run else cli.teller(args, verbose=True)
    with (wiring.founded(store.world, dry_run=args.dry_run, say=say) as host,
          cli.transaction(args, host) as transaction):
        networks.start(transaction, store, network)


def reload(args: argparse.Namespace) -> None:
    store, network = cli.store(args), _wanted(args)
    host = cli.host(args)
    with cli.transaction(args, host) as transaction:
        networks.reload(transaction, store, network)


def stop(args: argparse.Namespace) -> None:
    store, network = cli.store(args), _wanted(args)
    host = wiring.visiting(store.world)
    with cli.transaction(args, host) as transaction:
        networks.stop(transaction, store, network)
        transaction.apply(wiring.abandon(store.world))


def status(args: argparse.Namespace) -> int:
    store = cli.store(args)
    found = networks.status(wiring.visiting(store.world), store, _wanted(args))
    if args.json:
        cli.print_json(dataclasses.asdict(found) | {"ok": found.started and not found.amiss})
    else:
        rows = [
            ("bridge", f"{found.bridge} {found.address}"),
            ("state", "not started" if not found.started else "amiss" if found.amiss else "started"),
            ("dhcp", f"{found.dhcp}: {found.reservations} reserved, {found.leases} leased"),
            ("dns", f"*.{found.domain}, on the host: {found.resolve}"),
            ("machines", " ".join(found.machines) or "none runs"),
            *(("amiss", f"cmnet start would {line}") for line in found.amiss),
            *(("note", line) for line in found.notes),
        ]
        cli.print_table(rows, ("WHAT", "IS"))
    if not found.started:
        return NotFound.exit_status
    return ConfigError.exit_status if found.amiss else os.EX_OK


ACTIONS = {"start": start, "stop": stop, "status": status, "reload": reload}
