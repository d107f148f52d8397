"""What vmupdate --ports does."""

from __future__ import annotations

import argparse

from cloudme import cli
from cloudme.cli import selection
from cloudme.errors import UsageError
from cloudme.model import openports
from cloudme.operations import opening


def update(args: argparse.Namespace) -> None:
    if args.pubkey_path or args.ip or args.user_data or args.now or args.limit or args.share or args.no_share:
        raise UsageError("--ports goes alone: it takes effect at once", hint="vmupdate NAME --ports LIST")
    store, host = cli.store(args), cli.host(args)
    machine = store.machine(selection.named(store, cli.named(args) or ""))
    new = opening.changed(store, machine, openports.read(args.ports), cli.settings(args))
    if new == machine:
        cli.teller(args)(f"'{machine.name}' is so already")
        return
    with cli.transaction(args, host) as transaction:
        transaction.apply([opening.Reopen(store, machine, new)])
    if not args.dry_run:
        print(machine.name)
