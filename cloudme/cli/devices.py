"""Devices of the host's: what vmupdate does to them."""

from __future__ import annotations

import argparse

from cloudme import cli
from cloudme.cli import selection
from cloudme.errors import UsageError
from cloudme.model.devices import pci_address
from cloudme.operations import devices


def update(args: argparse.Namespace) -> None:
    """vmupdate --device, --no-device."""
    if args.pubkey_path or args.ip or args.user_data or args.limit or args.ports or args.now or args.share \
            or args.no_share:
        raise UsageError("devices go alone: they change while the machine is off",
                         hint="vmupdate NAME --device ADDRESS")
    store, host = cli.store(args), cli.host(args)
    machine = store.machine(selection.named(store, cli.named(args) or ""))
    more, without = (list(map(pci_address, addresses or ())) for addresses in (args.device, args.no_device))
    new = devices.changed(store, machine, more, without)
    if new == machine:
        cli.teller(args)(f"'{machine.name}' is so already")
        return
    with cli.transaction(args, host) as transaction:
        transaction.apply([devices.Change(store, machine, new)])
    if not transaction.dry_run:
        print(machine.name)
