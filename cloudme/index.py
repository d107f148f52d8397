"""Names and liveness, fast: reads folders, asks locks, parses no more than it must.

A machine is alive while the OFD lock on its `lock` file is held: its launcher took the lock and QEMU inherited the
open file. Asking never takes the lock (fcntl(2), F_OFD_GETLK), so that asking never makes a launch fail.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
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
        fd = opened(path)
    except OSError:
        return False
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, READ_LOCK)
    except OSError:
        return False
    finally:
        os.close(fd)
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


def opened(path: str) -> int:
    """A descriptor of a lock's file, or of that behind it. A QEMU that owns the folder may put anything in its place:
    it is not followed, does not make us wait, and is only looked at. Raises OSError."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return os.open(behind(path), flags)


def behind(path: str) -> str:
    """Where a link of ours leads, into the folder of a machine that is defined; else the path itself.

    A link there is not ours, and is not to be followed.
    """
    try:
        target = os.readlink(path)
    except OSError:
        return path
    machine = os.path.dirname(target)
    own = os.path.dirname(machine) == layout.machina_run() and os.path.basename(machine) not in ("", ".", "..")
    return target if own and os.path.dirname(os.path.dirname(path)) != layout.machina_run() else path


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


def served(lock: str) -> bool | None:
    """Whether a share is, by its lock; None for one that came to its machine after its last start."""
    return held(lock) if os.path.exists(lock) else None


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
    waiting = dict.fromkeys(definitions(world.definitions) if every and not world.realm else ())
    for folder, file in ((world.machines, layout.MACHINE_RECORD), (world.templates, layout.TEMPLATE_RECORD)):
        for name in names(folder):
            path = f"{folder}/{name}"
            now = state(path, file)
            if every or now == "running":
                raw = record(f"{path}/{file}") if now in ("running", "stopped") else {}
                waiting.pop(str(raw.get("definition") or ""), None)
                known = _of_template(raw) if file == layout.TEMPLATE_RECORD else _of_machine(raw)
                shares = raw.get("shares")
                shares = _shares(shares, world.machine_run(name), now) if isinstance(shares, list) else []
                found.append({"name": name, **known, "state": now, "since": _since(path, now), "shares": shares})
        if file == layout.MACHINE_RECORD:
            found += [{"name": name, **_of_machine({}), "state": "defined", "since": None, "shares": []}
                      for name in waiting]
    return found


def definitions(folder: str) -> list[str]:
    """The sorted names of the files of definitions in `folder`; none where it is missing."""
    try:
        files = os.listdir(folder)
    except OSError:
        return []
    return sorted({stem for stem, middle, suffix in (file.rpartition(f"{layout.MACHINE_SUFFIX}.") for file in files)
                   if middle and suffix in ("json", "toml", "yaml") and not stem.startswith(".")})


def _of_machine(raw: dict[str, Any]) -> dict[str, Any]:
    """What a record says of group, type and address."""
    nics = raw.get("nics") or [{}]
    return {"group": raw.get("group"), "type": raw.get("type"),
            "address": nics[0].get("address") or raw.get("elsewhere"), "address6": nics[0].get("address6")}


def _of_template(raw: dict[str, Any]) -> dict[str, Any]:
    return {"group": TEMPLATES, "type": "default", "address": raw.get("nic", {}).get("address"), "address6": None}


def _shares(shares: list[Any], run: str, now: str) -> list[dict[str, Any]]:
    """tag, source, mount_point, readonly; served: whether it is, now; None: from its machine's next start on."""
    return [{**{key: share.get(key) for key in ("tag", "source", "mount_point", "readonly")},
             "served": served(layout.share(run, str(share.get("tag")))) if now == "running" else False}
            for share in shares if isinstance(share, dict)]


def _since(path: str, now: str) -> float | None:
    """The launcher touches the lock when it starts the machine; QEMU itself makes that of one that is defined."""
    return started(layout.lock(path)) if now == "running" else None


def started(lock: str) -> float | None:
    """When the lock's file was touched last, in seconds since 1970."""
    try:
        found = os.lstat(lock)
        if stat.S_ISLNK(found.st_mode):
            found = os.lstat(behind(lock))
    except OSError:
        return None
    return plausible(found.st_mtime)


def plausible(since: float | None) -> float | None:
    """None for a time that no start can have had: who owns the file can give it any."""
    return since if since is not None and 0 <= since < SINCE_END else None
