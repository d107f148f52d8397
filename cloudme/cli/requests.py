"""vminstantiate's options or file -> clone requests."""

from __future__ import annotations

import argparse
import sys

from cloudme import cli, index
from cloudme.cli import sharing
from cloudme.errors import NotFound, SpecError, UsageError
from cloudme.formats import groupfiles
from cloudme.model import limits, openports, units
from cloudme.model.machine import CloneRequest, Limits, Shape
from cloudme.model.names import DEFAULT_GROUP, DEFAULT_TYPE, TEMPLATES, Name, numbered
from cloudme.model.network import DEFAULT_NETWORK, address_range
from cloudme.store import Store


def read(args: argparse.Namespace, store: Store) -> list[CloneRequest]:
    """Raises UsageError for options that contradict, SpecError for a bad file, NotFound for a missing one."""
    name = cli.named(args)
    if bool(name) == bool(args.file):
        raise UsageError("either a template or a group file is wanted", hint="vminstantiate -n TEMPLATE, or -f FILE")
    if args.file:
        own = ("group", "type", "prefix", "memory", "cpus", "count", "network", "ip", "isolate", "net_rate",
               "limit", "ports", "share")
        if given := [option for option in own if getattr(args, option) not in (None, False)]:
            raise UsageError(f"--{given[0].replace('_', '-')} does not go with a file: its lines say that")
        return from_file(args.file, store)
    return [_one(args, Name(name or "", "name of a template"))]


def from_file(path: str, store: Store) -> list[CloneRequest]:
    try:
        if path == "-":
            content = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                content = file.read()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound(f"{path}: {error.strerror}") from error
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise SpecError([f"{path}:{line}: not UTF-8 text"]) from error
    return groupfiles.parse(text, path, set(index.names(store.world.templates)))


def _one(args: argparse.Namespace, template: Name) -> CloneRequest:
    count = 1 if args.count is None else args.count
    if count < 1:
        raise UsageError(f"{count} is no number of clones")
    group = Name(args.group or DEFAULT_GROUP, "name of a group")
    if group == TEMPLATES:
        raise UsageError(f"the group '{TEMPLATES}' is reserved")
    prefix = Name(args.prefix or args.type or template, "prefix of names")
    numbered(prefix, count - 1)
    ram_mib = units.ram_mib(args.memory) if args.memory else None
    Shape(vcpus=1 if args.cpus is None else args.cpus, ram_mib=ram_mib or 32)
    return CloneRequest(
        template=template, count=count, group=group, type=Name(args.type or DEFAULT_TYPE, "name of a type"),
        prefix=prefix, ram_mib=ram_mib, vcpus=args.cpus, addresses=_addresses(args.ip, count),
        networks=groupfiles.networks(args.network or [DEFAULT_NETWORK]), isolate=args.isolate,
        net_rate=units.bit_rate(args.net_rate) if args.net_rate else None,
        limits=limits.changed(Limits(), args.limit) if args.limit else Limits(),
        ports=openports.read(args.ports) if args.ports else None,
        shares=sharing.wanted(args.share),
    )


def _addresses(text: str | None, count: int) -> tuple[str, ...]:
    """The first `count` of the range. Raises UsageError where it has fewer."""
    if text is None:
        return ()
    found = address_range(text)
    if len(found) < count:
        raise UsageError(f"{text} are {len(found)} addresses, and {count} machines are wanted")
    return found[:count]
