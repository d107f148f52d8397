"""What vmwarm does with its options."""

from __future__ import annotations

import argparse
import dataclasses

from cloudme import cli
from cloudme.errors import UsageError
from cloudme.model.machine import Machine
from cloudme.model.names import Name
from cloudme.model.units import human
from cloudme.operations import power, readiness, warming
from cloudme.store import Store


def run(args: argparse.Namespace) -> None:
    store = cli.store(args)
    name = cli.named(args)
    if args.list:
        _list(args, store, name)
    elif not name:
        raise UsageError("a template is wanted", hint="vmwarm TEMPLATE, or vmwarm --list")
    elif args.drop:
        with cli.transaction(args, cli.host(args)) as transaction:
            warming.drop(transaction, store, store.template(Name(name, "name of a template")))
    else:
        _make(args, store, Name(name, "name of a template"))


def _make(args: argparse.Namespace, store: Store, name: Name) -> None:
    settings, say, host = cli.settings(args), cli.teller(args), cli.host(args)
    template = store.template(name)
    power.check(host, store, [], [])

    def wait(machine: Machine) -> None:
        readiness.wait(host, store, [machine], "agent", timeout_s=settings.boot_timeout_s, say=say)

    with cli.transaction(args, host) as transaction:
        made = warming.make(transaction, store, template, store.network_of(settings),
                            accel=power.accelerator(host, settings), wait=wait, say=say)
    if not made:
        say(f"template {name} has a valid RAM image")
    elif not transaction.dry_run:
        print(name)


def _list(args: argparse.Namespace, store: Store, name: str | None) -> None:
    host = cli.host(args)
    images = [image for image in warming.listed(host, store, power.accelerator(host, cli.settings(args)))
              if name in (None, image.template)]
    if args.json:
        cli.print_json([dataclasses.asdict(image) for image in images])
        return
    cli.print_table(
        ([image.template, human(image.size_bytes), image.created, ", ".join(image.clones) or "-",
          image.why_not or "valid"] for image in images),
        heads=("template", "size", "created", "clones", "valid"))
