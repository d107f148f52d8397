"""What vmstop --system does: stop what systemd runs, for its unit."""

from __future__ import annotations

import argparse

from cloudme import cli
from cloudme.errors import TimedOut, UsageError
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
    if args.names or args.group or args.type or args.destroy:
        raise UsageError("--all goes with neither names nor a group, and destroys nothing", hint="vmstop -g GROUP -d")
    found = [machine for machine in store.machines() if store.is_running(machine)]
    if found and not args.dry_run:
        cli.confirmed(f"Stop {', '.join(machine.name for machine in found)}?", yes=args.yes)
    return found


def system(args: argparse.Namespace) -> None:
    """Nothing but the names is read: neither definitions nor records, nor settings. Raises TimedOut."""
    if not args.names or args.group or args.type or args.destroy or args.realm or args.all:
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
