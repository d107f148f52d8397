"""The way back from what was prepared: a step for each note, the last one first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cloudme.model.ports import Host
from cloudme.operations.preparing import links, mediated, passthrough
from cloudme.operations.preparing.notes import Entry, Notes


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


def steps(notes: Notes) -> Iterator[Undo]:
    """Devices before the groups that they are in, and those before taps."""
    for kind, words, how in (
        ("mediated", "remove the mediated device {uuid}", mediated.remove),
        ("lent", "take /dev/vfio/{group} back", passthrough.take_back),
        ("bound", "give the device {address} back to {driver}", passthrough.give_back),
        ("taps", "remove the tap {name}", _tap),
    ):
        for entry in reversed(list(notes.entries[kind])):
            yield Undo(notes, kind, entry, words.format(**{"driver": "", **entry}).strip(), how)


def _tap(host: Host, entry: Entry) -> None:
    """By the network's own program where it has one; the tap goes even if that fails."""
    try:
        if entry["down"] and links.is_there(host, entry):
            host.run([entry["down"], entry["name"]])
    finally:
        links.remove(host, entry)
