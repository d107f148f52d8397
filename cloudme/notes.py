"""What was done to the host for a machine, in a file of root's own: by these notes it is undone, whatever the machine
is meant to be by then. An entry is written before the change that it is about, so that none is forgotten."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cloudme import index
from cloudme.disk import reported, write_atomic
from cloudme.errors import StoreError
from cloudme.model.ports import Host

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


def read(path: str) -> Notes:
    """The notes in a file; empty ones where there is none. Raises StoreError."""
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


@dataclass(frozen=True, slots=True)
class Undo:
    """One note; it is dropped when what it is about is gone, and stays where that fails."""

    notes: Notes
    kind: str
    entry: Entry
    words: str
    how: Callable[[Host, Entry], None]

    def describe(self) -> str:
        return self.words

    def do(self, host: Host) -> None:
        self.how(host, self.entry)
        self.notes.drop(self.kind, self.entry)

    def undo(self, host: Host) -> None:
        """A teardown goes on where something fails."""


Ways = tuple[tuple[str, str, Callable[[Host, Entry], None]], ...]
"""Of undoing: the kind of notes, what is said, with values of the entry, and what is done."""


def undoing(notes: Notes, ways: Ways) -> Iterator[Undo]:
    """A step for each note, by kinds in the order of the ways; of each the last one first."""
    for kind, words, how in ways:
        for entry in reversed(list(notes.entries[kind])):
            yield Undo(notes, kind, entry, words.format(**{"driver": "", **entry}).strip(), how)


@contextlib.contextmanager
def alone(paths: Iterable[str]) -> Iterator[None]:
    """While one of ours does what these notes are about, or undoes it, others wait: each writes all notes of a machine,
    and what fails takes back what it finds."""
    with contextlib.ExitStack() as held:
        for path in sorted(set(paths)):
            with reported(_lock(path)):
                held.callback(os.close, _locked(_lock(path)))
        yield


def _locked(path: str) -> int:
    """The file, locked. Who held it before may have removed it meanwhile: then it is the new one that counts."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, index.WRITE_LOCK)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False)):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def forget(path: str) -> None:
    """Leave no lock of a machine that nobody will prepare any more. What it still has to be undone stays noted."""
    if os.path.exists(_lock(path)):
        with alone([path]):
            os.unlink(_lock(path))


def met(path: str) -> bool:
    """Whether anybody has made such notes since this host has started, or is about to."""
    return os.path.exists(_lock(path)) or os.path.exists(path)


def _lock(path: str) -> str:
    return f"{path.removesuffix('.json')}.lock"


def names(folder: str) -> list[str]:
    """Of whom there are notes in a folder: the files' names without '.json'."""
    try:
        found = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(name.removesuffix(".json") for name in found if name.endswith(".json") and not name.startswith("."))
