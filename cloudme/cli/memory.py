"""What vmmem does."""

from __future__ import annotations

import argparse

from cloudme import cli
from cloudme.cli import selection
from cloudme.model import units
from cloudme.model.ports import Host
from cloudme.model.steps import Parallel
from cloudme.operations import memory
from cloudme.store import Store


def run(args: argparse.Namespace, store: Store, host: Host) -> None:
    """The last of the words is the size."""
    *args.names, size = args.words
    timeout_s = units.seconds(args.timeout)
    steps = memory.checked(host, store, selection.machines(args, store), units.ram_mib(size), timeout_s=timeout_s)
    with cli.transaction(args, host) as transaction:
        transaction.apply([Parallel([step for step in steps if step.old_bytes != step.new_bytes])])
    if args.dry_run:
        return
    if args.json:
        cli.print_json([{"name": step.speaker.name, "old_bytes": step.old_bytes, "new_bytes": step.new_bytes}
                        for step in steps])
        return
    cli.print_table(([step.speaker.name, units.human(step.old_bytes), "->", units.human(step.new_bytes)]
                     for step in steps), heads=["name", "old", "", "new"])
