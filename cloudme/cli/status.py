"""What vmstatus prints."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from cloudme import cli
from cloudme.cli import selection
from cloudme.model.ports import Host
from cloudme.model.units import human
from cloudme.operations import status
from cloudme.operations.status import Status
from cloudme.store import Store

if TYPE_CHECKING:
    from rich.table import Table

T = TypeVar("T")

INTERVAL_S, WATCH_S = 0.5, 2.0
"""Over how long the CPU's part is taken: short for who waits for the answer, calm for who looks on."""

HEADS = ("name", "state", "address", "up", "cpu", "guest", "host", "disk", "error")
RIGHT = ("up", "cpu", "guest", "host", "disk")


def run(args: argparse.Namespace, store: Store, host: Host) -> None:
    interval_s = WATCH_S if args.watch else INTERVAL_S

    def read() -> list[Status]:
        return status.of(host, store, selection.either(args, store), interval_s=interval_s, agent=args.agent)

    if args.watch:
        watch(read, as_json=args.json)
        return
    found = read()
    if args.json:
        cli.print_json([document(one) for one in found])
    else:
        cli.print_table((row(one) for one in found), HEADS)


def document(one: Status) -> dict[str, object]:
    return dataclasses.asdict(one)


def row(one: Status) -> list[str]:
    """A line of the table; '-' for what is not known."""
    of = one.left_bytes or one.ram_bytes
    return [
        one.name, one.state, one.address or "-", "-" if one.since is None else uptime(time.time() - one.since),
        "-" if one.cpu_percent is None else f"{one.cpu_percent:.0f}%",
        f"{_size(one.used_bytes)}/{human(of)}", _size(one.host_bytes),
        f"{_size(one.allocated_bytes)}/{human(one.disk_bytes)}", one.error]


def _size(count: int | None) -> str:
    return "-" if count is None else human(count)


def uptime(seconds: float) -> str:
    """As '3d4h', '2h05m', '7m', '12s': two units at most."""
    whole = max(int(seconds), 0)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m" if minutes else f"{whole}s"


def rounds(read: Callable[[], T]) -> Iterator[T]:
    """What it returns, one each WATCH_S. Where a machine runs, reading takes that long; else it takes no time."""
    while True:
        until = time.monotonic() + WATCH_S
        yield read()
        time.sleep(max(until - time.monotonic(), 0))


def watch(read: Callable[[], list[Status]], *, as_json: bool) -> None:
    """Again and again, until interrupted: a live table on a terminal, else what is new below what was."""
    if as_json or not sys.stdout.isatty():
        for found in rounds(read):
            if as_json:
                print(json.dumps([document(one) for one in found]))
            else:
                cli.print_table((row(one) for one in found), HEADS)
            sys.stdout.flush()
    from rich.live import Live

    with Live(screen=True, auto_refresh=False) as live:
        for found in rounds(read):
            live.update(table(found), refresh=True)


def table(found: list[Status]) -> Table:
    """What a machine says is text: none of it is taken for a style."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for head in HEADS:
        made.add_column(head, justify="right" if head in RIGHT else "left", no_wrap=head != "error",
                        ratio=1 if head == "error" else None)
    for one in found:
        style = "red" if one.error else "" if one.state == "running" else "dim"
        made.add_row(*(Text(cell, style=style) for cell in row(one)))
    return made
