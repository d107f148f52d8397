"""On what a disk stands. A machine can write the head of its own disk: what that says is not believed."""

from __future__ import annotations

import os
from collections.abc import Sequence

from cloudme.errors import NotPermitted
from cloudme.formats import qcow2

DEPTH_MAX = 200
"""Disks that one may stand on: each fork adds one, and QEMU keeps all of them open."""


def below(name: str, path: str, grounds: Sequence[str]) -> list[str]:
    """The disks that the one of machine `name` at `path` stands on, the nearest first.

    grounds:  folders, and files, that they may be in, or be.
    Raises:   NotPermitted where the disk names another file, StoreError for a damaged head.
    """
    found: list[str] = []
    while backing := _backing(path):
        path = os.path.normpath(os.path.join(os.path.dirname(path), backing.name))
        if not _permitted(path, grounds) or backing.format not in (None, "qcow2") or len(found) == DEPTH_MAX:
            raise NotPermitted(f"the disk of '{name}' says that it stands on {path}, which it may not read",
                               hint="its own head says so, which the machine can write: do not trust this disk")
        found.append(path)
    return found


def _permitted(path: str, grounds: Sequence[str]) -> bool:
    ours = {os.path.realpath(ground) for ground in grounds}
    return path.endswith(".qcow2") and bool(ours & {os.path.realpath(path), os.path.realpath(os.path.dirname(path))})


def _backing(path: str) -> qcow2.Backing | None:
    with open(path, "rb", buffering=0) as file:
        return qcow2.backing(file.read(qcow2.HEAD_BYTES), path)
