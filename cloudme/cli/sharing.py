"""Shares: what vmupdate does to them, and how all are told of those that are down."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from cloudme import cli, folders, layout
from cloudme.cli import selection
from cloudme.model import share
from cloudme.model.machine import Machine
from cloudme.model.ports import Host
from cloudme.model.share import Share
from cloudme.operations import sharing
from cloudme.store import Store


def wanted(texts: list[str] | None) -> tuple[Share, ...]:
    """The shares of --share; a relative source begins in our own folder."""
    return share.apart([_absolute(text) for text in texts or ()])


def _absolute(text: str, there: Sequence[Share] = ()) -> Share:
    source, colon, rest = text.partition(":")
    return share.parsed(f"{os.path.abspath(source)}{colon}{rest}" if source else text, there)


def tell_kind(args: argparse.Namespace, host: Host, shares: Sequence[Share]) -> None:
    """Say where shares are of the kind that not all guests know."""
    if shares and not host.qemu.virtiofs():
        cli.teller(args)("there is no virtiofsd that may be used: shares are 9p, which the guest's kernel has to know "
                         "(Debian's for clouds does not); cmcheck shares")


def update(args: argparse.Namespace) -> None:
    """vmupdate --share, --no-share."""
    store, settings, host = cli.store(args), cli.settings(args), cli.host(args)
    machine = store.machine(selection.named(store, cli.named(args) or ""))
    more = [_absolute(text, machine.shares) for text in args.share or ()]
    new = sharing.changed(machine, more, args.no_share or ())
    if new == machine:
        cli.teller(args)(f"'{machine.name}' is so already")
        return
    tell_kind(args, host, new.shares)
    with cli.transaction(args, host) as transaction:
        why = sharing.update(transaction, store, machine, new, settings)
    if why:
        cli.teller(args)(f"'{machine.name}' runs, and has them so when it is started again, since {why}: "
                         f"vmrestart {machine.name}")
    if transaction.dry_run:
        return
    print(machine.name)


def tell(args: argparse.Namespace, store: Store, machine: Machine) -> None:
    """Say which shares of a machine that runs are down, or not there yet, on stderr."""
    for one in folders.down(store, machine):
        cli.teller(args)(f"the share '{one.tag}' of '{machine.name}' is down, see "
                         f"{layout.share(store.folder(machine), one.tag)}.log: vmrestart {machine.name}")
    for one in folders.awaited(store, machine):
        cli.teller(args)(f"'{machine.name}' has the share '{one.tag}' from its next start on: vmrestart {machine.name}")

