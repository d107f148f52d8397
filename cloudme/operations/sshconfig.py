"""The user's own ssh configuration, as far as it is about machines of ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from cloudme.errors import NotFound
from cloudme.formats import sshconfig
from cloudme.model.machine import Machine
from cloudme.model.ports import Host
from cloudme.model.steps import Step
from cloudme.store import Store, reported, write_atomic


@dataclass(frozen=True, slots=True)
class Place:
    """folder: the user's ~/.ssh. realm: '' for the host's own: each realm has a file of its own."""

    folder: str
    realm: str

    @property
    def file(self) -> str:
        return os.path.join(self.folder, "config.d", "cloudme" + (f"-{self.realm}" if self.realm else ""))

    @property
    def main(self) -> str:
        """What ssh reads; a link is followed: it may belong to a collection of such files."""
        return os.path.realpath(os.path.join(self.folder, "config"))


def text(store: Store, machines: Sequence[Machine], proxy: Sequence[str], head: str) -> str:
    """The file's text. Machines whose address nobody here knows are left out.

    proxy:  what connects to a machine of a private world.
    """
    targets = []
    for machine in machines:
        try:
            targets.append(store.target(machine))
        except NotFound:
            continue
    return sshconfig.text(targets, proxy if store.world.private else None, head)


def writing(place: Place, wanted: str, *, include: bool) -> list[Step]:
    """The steps; none where all is so already."""
    steps: list[Step] = [] if read(place.file) == wanted else [Write(place.file, wanted)]
    if include and not sshconfig.includes(read(place.main) or ""):
        steps.append(Write(place.main, sshconfig.including(read(place.main) or "")))
    return steps


def removing(place: Place) -> list[Step]:
    return [Write(place.file, None)] if read(place.file) is not None else []


def included(place: Place) -> bool:
    return sshconfig.includes(read(place.main) or "")


def read(path: str) -> str | None:
    """None where there is no such file. What is no text can be written as it was. Raises NotPermitted, StoreError."""
    if not os.path.lexists(path):
        return None
    with reported(path), open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return file.read()


@dataclass(slots=True)
class Write:
    """Writes a file anew, or removes it; its undo puts back what was there. A file keeps its mode."""

    path: str
    text: str | None
    before: str | None = None

    def describe(self) -> str:
        return f"remove {self.path}" if self.text is None else f"write {self.path}"

    def do(self, host: Host) -> None:
        self.before = read(self.path)
        self._put(self.text)

    def undo(self, host: Host) -> None:
        self._put(self.before)

    def _put(self, text: str | None) -> None:
        with reported(self.path):
            if text is None:
                if os.path.exists(self.path):
                    os.unlink(self.path)
                return
            folder = os.path.dirname(self.path)
            if os.path.basename(folder) == "config.d":
                os.makedirs(os.path.dirname(folder), 0o700, exist_ok=True)
            os.makedirs(folder, 0o700, exist_ok=True)
            mode = os.stat(self.path).st_mode & 0o777 if os.path.exists(self.path) else 0o600
            write_atomic(self.path, text, mode=mode, errors="surrogateescape")
