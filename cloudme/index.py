"""Names and liveness, fast: reads folders, asks locks, parses no more than it must.

A machine is alive while the OFD lock on its `lock` file is held: its launcher took the lock and QEMU inherited the
open file. Asking never takes the lock (fcntl(2), F_OFD_GETLK), so that asking never makes a launch fail.
"""

from __future__ import annotations

import fcntl
import os
import struct
from _json import make_scanner

from cloudme import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cloudme.layout import World

TEMPLATES = "templates"
"""The group that templates are in; no machine may join it."""

_FLOCK = "hhqqi4x"
"""struct flock of 64-bit Linux (fcntl(2)): l_type, l_whence, l_start, l_len, l_pid, padding."""

WRITE_LOCK = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
READ_LOCK = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
"""A machine that lives, or is being made, holds the first. Those who clone a template share the second: none of them
takes it for running, and it cannot be started, changed or removed meanwhile."""


def held(path: str) -> bool:
    """True while somebody holds the lock on the file `path`; a missing file is held by nobody."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, READ_LOCK)
    finally:
        os.close(fd)
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


def state(folder: str, record: str) -> str:
    """running, stopped, being-made or debris: whether the record is there, and whether the locks are held.

    In debris a QEMU may still live: whoever had it started was killed.
    """
    if os.path.exists(os.path.join(folder, record)):
        return "running" if held(layout.lock(folder)) else "stopped"
    return "being-made" if held(layout.maker(folder)) else "debris"


def names(folder: str) -> list[str]:
    """The sorted names of the folders in `folder`; none where it is missing."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


SINCE_END = 1 << 33
"""In the year 2242: what localtime(3) takes on every host."""


class Plain:
    """What `json.JSONDecoder` tells the C scanner (CPython, Lib/json/decoder.py); `import json` costs more than a
    listing of 200 machines, because of the regular expressions in it."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


_scan = make_scanner(Plain())  # type: ignore[arg-type]


def record(path: str) -> dict[str, Any]:
    """The record at `path`, unchecked; empty where there is none that can be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return parsed(file.read())
    except OSError:
        return {}


def parsed(text: bytes) -> dict[str, Any]:
    """Likewise the record that is this text."""
    try:
        found = _scan(text.decode(), 0)[0]
    except (ValueError, StopIteration, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def listing(world: World, *, every: bool = False) -> list[dict[str, Any]]:
    """What runs in `world`, machines first, or everything there is: name, group, type, address, address6, state, since.

    since: when it was started, in seconds since 1970; None where it does not run, as all else that is not known.
    """
    found = []
    for folder, file in ((world.machines, layout.MACHINE_RECORD), (world.templates, layout.TEMPLATE_RECORD)):
        for name in names(folder):
            path = f"{folder}/{name}"
            now = state(path, file)
            if every or now == "running":
                found.append({"name": name, **_known(f"{path}/{file}", now), "state": now, "since": _since(path, now)})
    return found


def _known(path: str, now: str) -> dict[str, Any]:
    """What the record at `path` says of group, type and address."""
    raw = record(path) if now in ("running", "stopped") else {}
    if path.endswith(layout.TEMPLATE_RECORD):
        return {"group": TEMPLATES, "type": "default", "address": raw.get("nic", {}).get("address"), "address6": None}
    nics = raw.get("nics") or [{}]
    return {"group": raw.get("group"), "type": raw.get("type"), "address": nics[0].get("address"),
            "address6": nics[0].get("address6")}


def _since(path: str, now: str) -> float | None:
    """The launcher touches the lock when it starts the machine."""
    try:
        since = os.stat(layout.lock(path)).st_mtime if now == "running" else None
    except OSError:
        return None
    return plausible(since)


def plausible(since: float | None) -> float | None:
    """None for a time that no start can have had: who owns the file can give it any."""
    return since if since is not None and 0 <= since < SINCE_END else None
