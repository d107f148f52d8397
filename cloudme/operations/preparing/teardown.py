"""The way back from what was prepared: a step for each note, the last one first."""

from __future__ import annotations

from collections.abc import Iterator

from cloudme import notes, passthrough
from cloudme.model.ports import Host
from cloudme.notes import Entry, Notes, Undo
from cloudme.operations.preparing import links, mediated


def steps(noted: Notes) -> Iterator[Undo]:
    """Devices before the groups that they are in, and those before taps."""
    return notes.undoing(noted, (("mediated", "remove the mediated device {uuid}", mediated.remove), *passthrough.BACK,
                                 ("taps", "remove the tap {name}", _tap)))


def _tap(host: Host, entry: Entry) -> None:
    """By the network's own program where it has one; the tap goes even if that fails."""
    try:
        if entry["down"] and links.is_there(host, entry):
            host.run([entry["down"], entry["name"]])
    finally:
        links.remove(host, entry)
