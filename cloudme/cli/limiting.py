"""What vmupdate --limit does."""

from __future__ import annotations

import argparse

from cloudme import cli
from cloudme.cli import selection
from cloudme.errors import UsageError
from cloudme.operations import limiting


def update(args: argparse.Namespace) -> None:
    if args.pubkey_path or args.ip or args.user_data or args.now:
        raise UsageError("--limit goes alone: it takes effect at once", hint="vmupdate NAME --limit LIST")
    store, settings, host = cli.store(args), cli.settings(args), cli.host(args)
    machine = store.machine(selection.named(store, cli.named(args) or ""))
    new = limiting.changed(host, store, machine, args.limit)
    if new == machine:
        cli.teller(args)(f"'{machine.name}' is so already")
        return
    step = limiting.Limit(store, machine, new, settings)
    with cli.transaction(args, host) as transaction:
        if not transaction.dry_run:
            transaction.say = cli.teller(args)
        transaction.apply([step])
    if transaction.dry_run:
        return
    if store.is_running(machine) and not step.held:
        cli.teller(args)(f"'{machine.name}' runs in no cgroup of ours, and is held to it when it starts again: "
                         f"vmrestart {machine.name}")
    print(machine.name)
