"""What vmstop --system does: stop what systemd runs, for its unit."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cloudme import cli
from cloudme.errors import CloudMeError, TimedOut, UsageError
from cloudme.homelab import stopping
from cloudme.host import shutdown
from cloudme.model.machine import Machine
from cloudme.model.names import DefinitionName
from cloudme.model.units import seconds
from cloudme.operations import power
from cloudme.store import Store

SYSTEM_S = 60
SOCKET = "systemd.0"
"""The QMP socket that is kept free for this."""


def everything(args: argparse.Namespace, store: Store) -> list[Machine]:
    """All machines that run here, once somebody has said yes. Raises UsageError."""
    _check_alone(args, "--all")
    found = [machine for machine in store.machines() if store.is_running(machine)]
    _ask(args, found)
    return found


def homelab(args: argparse.Namespace) -> None:
    """Those of cmapply's file, wave by wave; what cannot be stopped keeps no other from it. Raises the first error."""
    _check_alone(args, "--homelab")
    store = cli.store(args)
    waves = stopping.waves(store)
    host = cli.host(args)
    _ask(args, [machine for wave in waves for machine in wave])
    timeout_s = seconds(args.timeout) if args.timeout else cli.settings(args).stop_timeout_s
    errors: list[CloudMeError] = []
    for wave in waves:
        with cli.transaction(args, host) as transaction:
            for machine in wave:
                transaction.say(f"stop {machine.name}")
        try:
            if not args.dry_run:
                power.stop(host, store, wave, timeout_s=timeout_s, say=cli.teller(args))
        except CloudMeError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _check_alone(args: argparse.Namespace, option: str) -> None:
    if args.names or args.group or args.type or args.destroy or (args.all and args.homelab):
        raise UsageError(f"{option} goes with neither names nor a group, and destroys nothing",
                         hint="vmstop -g GROUP -d")


def _ask(args: argparse.Namespace, machines: Sequence[Machine]) -> None:
    if machines and not args.dry_run:
        cli.confirmed(f"Stop {', '.join(machine.name for machine in machines)}?", yes=args.yes)


def system(args: argparse.Namespace) -> None:
    """Nothing but the names is read: neither definitions nor records, nor settings. Raises TimedOut."""
    if not args.names or args.group or args.type or args.destroy or args.realm or args.all or args.homelab:
        raise UsageError("--system goes with names and --timeout alone", hint="vmstop --system --timeout 85s NAME")
    names = [DefinitionName(name) for name in dict.fromkeys(args.names)]
    timeout_s = seconds(args.timeout) if args.timeout else SYSTEM_S
    if args.dry_run:
        for name in names:
            print(f"stop {name}")
        return
    machines = [power.defined_power(name, SOCKET) for name in names]
    left = shutdown.all_down(machines, timeout_s=timeout_s, say=cli.teller(args))
    if left:
        raise TimedOut(f"{', '.join(left)} could not be powered down", hint="systemctl kills what does not end")
