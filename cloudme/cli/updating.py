"""What vmupdate does: changes of one kind at a time."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from cloudme import cli
from cloudme.cli import machines, selection, sharing
from cloudme.errors import UsageError
from cloudme.model import openports
from cloudme.model.devices import pci_address
from cloudme.model.machine import Machine
from cloudme.model.ports import Host
from cloudme.model.steps import Step
from cloudme.operations import devices, limiting, opening
from cloudme.store import Store


def update(args: argparse.Namespace) -> None:
    """Raises UsageError where changes of two kinds are asked for."""
    for options, work, why, hint in KINDS:
        if any(getattr(args, option) for option in options):
            if any(getattr(args, option) for option in OPTIONS if option not in options):
                raise UsageError(why, hint=f"vmupdate NAME {hint}")
            work(args)
            return
    machines.update(args)


def _devices(args: argparse.Namespace) -> None:
    store, host, machine = _chosen(args)
    more, without = (list(map(pci_address, addresses or ())) for addresses in (args.device, args.no_device))
    new = devices.changed(store, machine, more, without)
    _apply(args, host, machine, new, devices.Change(store, machine, new))


def _ports(args: argparse.Namespace) -> None:
    store, host, machine = _chosen(args)
    new = opening.changed(store, machine, openports.read(args.ports), cli.settings(args))
    _apply(args, host, machine, new, opening.Reopen(store, machine, new))


def _limits(args: argparse.Namespace) -> None:
    settings, (store, host, machine) = cli.settings(args), _chosen(args)
    new = limiting.changed(host, store, machine, args.limit)
    step = limiting.Limit(store, machine, new, settings)
    if _apply(args, host, machine, new, step, tells=True) and store.is_running(machine) and not step.held:
        cli.teller(args)(f"'{machine.name}' runs in no cgroup of ours, and is held to it when it starts again: "
                         f"vmrestart {machine.name}")


def _chosen(args: argparse.Namespace) -> tuple[Store, Host, Machine]:
    store, host = cli.store(args), cli.host(args)
    return store, host, store.machine(selection.named(store, cli.named(args) or ""))


def _apply(
    args: argparse.Namespace, host: Host, machine: Machine, new: Machine, step: Step, *, tells: bool = False,
) -> bool:
    """Whether something was changed. tells: what is done is told without -v, too."""
    if new == machine:
        cli.teller(args)(f"'{machine.name}' is so already")
        return False
    with cli.transaction(args, host) as transaction:
        if tells and not transaction.dry_run:
            transaction.say = cli.teller(args)
        transaction.apply([step])
    if not transaction.dry_run:
        print(machine.name)
    return not transaction.dry_run


KINDS: tuple[tuple[tuple[str, ...], Callable[[argparse.Namespace], None], str, str], ...] = (
    (("device", "no_device"), _devices, "devices go alone: they change while the machine is off", "--device ADDRESS"),
    (("ports",), _ports, "--ports goes alone: it takes effect at once", "--ports LIST"),
    (("share", "no_share"), sharing.update, "shares go alone: they change at once, or when the machine starts",
     "--share SOURCE:MOUNT"),
    (("limit",), _limits, "--limit goes alone: it takes effect at once", "--limit LIST"),
)
"""Options, what does it, and why no others go with them."""
OPTIONS = (*(option for options, *_ in KINDS for option in options), "pubkey_path", "ip", "user_data", "now")
