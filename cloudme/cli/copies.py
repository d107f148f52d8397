"""What vmcopy is asked for: paths -> copies between one machine and this host."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from cloudme.cli import chooser
from cloudme.errors import UsageError
from cloudme.model.ports import Target
from cloudme.store import Store


@dataclass(frozen=True, slots=True)
class Copy:
    """Sources on one side, a destination on the other; `machine` as the user wrote it."""

    machine: str
    sources: list[str]
    destination: str
    into_guest: bool


def plan(paths: Sequence[str]) -> list[Copy]:
    """Raises UsageError where it is not between this host and machines, or one copy would overwrite another."""
    *sources, destination = [split(path) for path in paths]
    if not sources:
        raise UsageError("a source and a destination are wanted", hint="vmcopy web00:/etc/hosts .")
    names = [os.path.basename(path.rstrip("/")) for _, path in sources]
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise UsageError(f"one copy would overwrite another: {', '.join(twice)}", hint="copy them one by one")
    machine, path = destination
    if machine is not None:
        if any(source is not None for source, _ in sources):
            raise UsageError("files go between this host and a machine", hint="copy them to this host first")
        return [Copy(machine, [source for _, source in sources], path, True)]
    if any(source is None for source, _ in sources):
        raise UsageError("no machine is named on either side", hint="vmcopy web00:/etc/hosts .")
    if len(sources) > 1 and not os.path.isdir(path):
        raise UsageError(f"{path} is no folder", hint="several files are copied into a folder that is there")
    return [Copy(str(machine), [source for _, source in some], path, False)
            for machine, some in groupby(sources, key=lambda source: source[0])]


def split(text: str) -> tuple[str | None, str]:
    """'web00:/etc' -> ('web00', '/etc'). Without a colon before the first slash: (None, text)."""
    machine, colon, path = text.partition(":")
    if not colon or "/" in machine:
        return None, text
    return machine, path.removeprefix("~/") or "."


def targets(args: argparse.Namespace, store: Store, copies: Sequence[Copy]) -> dict[str, Target]:
    """Where each machine is. Raises NotFound where one does not run."""
    return {copy.machine: store.target(chooser.addressed(args, store, chooser.running(args, store, copy.machine)))
            for copy in copies}
