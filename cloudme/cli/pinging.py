"""What vmping prints."""

from __future__ import annotations

import argparse

from cloudme import cli
from cloudme.cli import selection
from cloudme.model.ports import Host
from cloudme.model.units import seconds
from cloudme.operations import pinging
from cloudme.operations.pinging import Answer
from cloudme.store import Store

FAILED = 1


def run(args: argparse.Namespace, store: Store, host: Host) -> int:
    """Returns the exit status: 1 where one machine cannot be reached one way. Without names all that run are asked."""
    machines = selection.either(args, store)
    if not (args.names or args.group or args.type):
        machines = [machine for machine in machines if store.is_running(machine)]
    answers = pinging.ask(host, store, machines, timeout_s=seconds(args.timeout))
    if args.json:
        cli.print_json([document(one) for one in answers])
    else:
        cli.print_table((row(one) for one in answers), ("name", "address", "", "arp", "ssh", "agent", "ports"))
    return 0 if all(one.ok for one in answers) else FAILED


def document(one: Answer) -> dict[str, object]:
    return {"name": one.name, "address": one.address, "ok": one.ok, "runs": one.runs, "arp": one.arp, "ssh": one.ssh,
            "agent": one.agent, "ports": dict(one.ports)}


def row(one: Answer) -> list[str]:
    if not one.runs:
        return [one.name, one.address or "-", "fails", "stopped", "", "", ""]
    return [one.name, one.address or "-", "ok" if one.ok else "fails", f"arp:{one.arp or '-'}", f"ssh:{one.ssh or '-'}",
            f"agent:{one.agent or '-'}", " ".join(f"{port}:{word}" for port, word in one.ports.items())]
