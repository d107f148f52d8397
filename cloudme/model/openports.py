"""The ports of a machine that are open to others than its neighbours, as options and words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

from cloudme.errors import UsageError
from cloudme.model.machine import Port
from cloudme.model.names import Name

FORM = "ssh=22,api=8200,nodes=30000-32767,dns=53/udp"
ALL, NONE = "all", "none"


def read(text: str) -> tuple[Port, ...] | None:
    """`FORM`; the names may be left out. 'none' is no port, 'all' is None: nothing is closed. Raises UsageError."""
    if text in (ALL, NONE):
        return None if text == ALL else ()
    found = tuple(_one(part.strip()) for part in text.split(","))
    names = [port.name for port in found]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two ports are called '{double}'", hint=f"for instance {FORM}")
    return found


def words(ports: Iterable[Port] | None) -> str:
    """What `read` takes for these."""
    if ports is None:
        return ALL
    return ",".join(f"{port.name}={span(port)}{'/udp' if port.protocol == 'udp' else ''}" for port in ports) or NONE


def span(port: Port) -> str:
    """22, or 30000-32767."""
    return str(port.first) if port.first == port.last else f"{port.first}-{port.last}"


def merged(ports: Iterable[Port]) -> list[Port]:
    """The same ports, each once: nft takes no ranges that overlap."""
    found: list[Port] = []
    for port in sorted(ports, key=lambda port: (port.protocol, port.first)):
        if found and found[-1].protocol == port.protocol and port.first <= found[-1].last + 1:
            found[-1] = dataclasses.replace(found[-1], last=max(found[-1].last, port.last))
        else:
            found.append(port)
    return found


def _one(text: str) -> Port:
    name, equals, where = text.partition("=")
    numbers, _, protocol = (where if equals else name).partition("/")
    first, dash, last = numbers.partition("-")
    if not (_number(first) and (_number(last) if dash else True)) or protocol not in ("", "tcp", "udp"):
        raise UsageError(f"'{text}' is no port", hint=f"for instance {FORM}; {NONE}; {ALL}")
    kind: Literal["tcp", "udp"] = "udp" if protocol == "udp" else "tcp"
    return Port(name=Name(name if equals else f"{kind}-{numbers}", "name of a port"), first=int(first),
                last=int(last if dash else first), protocol=kind)


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5
