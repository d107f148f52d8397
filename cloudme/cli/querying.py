"""What vmquery prints."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from cloudme import cli
from cloudme.cli import monitoring
from cloudme.errors import CloudMeError, UsageError
from cloudme.model import units
from cloudme.model.ports import Host
from cloudme.operations import queries
from cloudme.qemu import answers
from cloudme.qemu.answers import Answers
from cloudme.store import Store

COLUMNS = {
    "pci": ("address", "class", "vendor:device", "id", "bridge", "class_name"),
    "cpu": ("cpu", "tid", "socket", "core", "thread"),
    "block": ("device", "format", "size", "allocated", "read_only", "read", "written", "file", "backing"),
    "memory": ("base", "plugged", "balloon", "devices"),
    "migrate": ("status", "transferred", "remaining", "total", "total_ms", "downtime_ms", "error"),
}
"""Of the table: keys of --json, some of them as people read them."""


def run(args: argparse.Namespace, store: Store, host: Host) -> int:
    """Ask, and print what is answered. Returns the exit status."""
    if args.tree and (args.what != "pci" or args.json):
        raise UsageError("--tree draws pci, and nothing else")
    troubles = monitoring.Troubles()
    chosen = monitoring.speakers(args, store)
    found: list[tuple[str, Any]] = []
    for speaker, answer in zip(chosen, queries.ask(host, args.what, chosen), strict=True):
        try:
            if isinstance(answer, CloudMeError):
                raise answer
            found.append((speaker.name, _read(args, answer)))
        except CloudMeError as error:
            troubles.tell(speaker.name, error)
    if args.tree:
        _print_trees(found, heads=len(chosen) > 1)
    elif args.json:
        cli.print_json([{"machine": name, **row} for name, rows in found for row in rows])
    else:
        several = len(chosen) > 1
        cli.print_table(([*[name] * several, *(_cell(row, column) for column in COLUMNS[args.what])]
                         for name, rows in found for row in rows), [*["machine"] * several, *COLUMNS[args.what]])
    return troubles.status


def _read(args: argparse.Namespace, answer: Answers) -> Any:
    """Lines of a tree, or rows."""
    return answers.tree(answer) if args.tree else answers.rows(args.what, answer)


def _print_trees(trees: Sequence[tuple[str, list[str]]], *, heads: bool) -> None:
    for name, lines in trees:
        print("\n".join([f"----{name}----"] * heads + lines))


def _cell(row: answers.Row, column: str) -> str:
    """What stands in a table; '-' for what is not known."""
    if column == "vendor:device":
        return f"{row['vendor']}:{row['device']}"
    if f"{column}_bytes" in row:
        count = row[f"{column}_bytes"]
        return "-" if count is None else units.human(count)
    value = row[column]
    if column == "devices":
        return ",".join(f"{one['id'] or one['type']}={units.human(one['size_bytes'])}" for one in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)
