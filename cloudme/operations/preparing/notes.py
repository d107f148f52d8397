"""What was prepared for a machine, in a file of root's own: it is undone by these notes, whatever its definition says
by then. An entry is written before the change that it is about, so that none is forgotten."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cloudme import index
from cloudme.disk import reported, write_atomic
from cloudme.errors import StoreError
from cloudme.layout import World

VERSION = 1
KINDS = {"taps": "name", "mediated": "uuid", "bound": "address", "lent": "group"}
"""Of entries, with what each is about: taps; mediated devices; PCI devices that were taken from their driver; IOMMU
groups that were handed over. Of one thing there is one entry."""

Entry = dict[str, Any]


@dataclass(slots=True)
class Notes:
    """The notes of one machine. entries: by kind."""

    path: str
    entries: dict[str, list[Entry]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def add(self, kind: str, entry: Entry) -> None:
        key = KINDS[kind]
        self.entries[kind] = [*(old for old in self.entries[kind] if old[key] != entry[key]), entry]
        self._write()

    def drop(self, kind: str, entry: Entry) -> None:
        if entry in self.entries[kind]:
            self.entries[kind].remove(entry)
            self._write()

    def _write(self) -> None:
        with reported(self.path):
            if not any(self.entries.values()):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.path)
                return
            os.makedirs(os.path.dirname(self.path), 0o700, exist_ok=True)
            write_atomic(self.path, json.dumps({"version": VERSION, **self.entries}, indent=2) + "\n", mode=0o600)


def read(world: World, name: str) -> Notes:
    """The notes of the machine `name`; empty ones where there are none. Raises StoreError."""
    path = world.prepared(name)
    notes = Notes(path)
    try:
        with reported(path), contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
            found = json.load(file)
            if found["version"] != VERSION:
                raise ValueError(f"version {found['version']}, not {VERSION}")
            notes.entries |= {kind: list(found[kind]) for kind in KINDS}
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: what was prepared cannot be read: {error}", hint="remove it, and what it names") \
            from error
    return notes


@contextlib.contextmanager
def alone(world: World, machines: Iterable[str]) -> Iterator[None]:
    """While one of ours prepares machines, or tears them down, others wait: each writes all notes of a machine, and
    what fails takes back what it finds."""
    with contextlib.ExitStack() as held:
        for name in sorted(set(machines)):
            path = _lock(world, name)
            with reported(path):
                os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                held.callback(os.close, fd)
                fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, index.WRITE_LOCK)
        yield


def met(world: World, name: str) -> bool:
    """Whether anybody has prepared the machine since this host has started, or is about to."""
    return os.path.exists(_lock(world, name)) or os.path.exists(world.prepared(name))


def _lock(world: World, name: str) -> str:
    return f"{world.prepared(name).removesuffix('.json')}.lock"


def names(world: World) -> list[str]:
    """The machines of which there are notes."""
    try:
        found = os.listdir(os.path.dirname(world.prepared("any")))
    except FileNotFoundError:
        return []
    return sorted(name.removesuffix(".json") for name in found if name.endswith(".json") and not name.startswith("."))
