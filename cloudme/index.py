"""Names and liveness, fast: reads folders, asks locks, parses no more than it must.

A machine is alive while the OFD lock on its `lock` file is held: its launcher took the lock and QEMU inherited the
open file. Asking never takes the lock (fcntl(2), F_OFD_GETLK), so that asking never makes a launch fail.
"""

from __future__ import annotations

import fcntl
import os
import struct

from cloudme import layout

_FLOCK = "hhqqi4x"
"""struct flock of 64-bit Linux (fcntl(2)): l_type, l_whence, l_start, l_len, l_pid, padding."""

WRITE_LOCK = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


def held(path: str) -> bool:
    """True while somebody holds the lock on the file `path`; a missing file is held by nobody."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, WRITE_LOCK)
    finally:
        os.close(fd)
    return struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK


def state(folder: str, record: str) -> str:
    """running, stopped, being-made or debris: whether the record is there, and whether the lock is held."""
    alive = held(layout.lock(folder))
    if os.path.exists(os.path.join(folder, record)):
        return "running" if alive else "stopped"
    return "being-made" if alive else "debris"


def names(folder: str) -> list[str]:
    """The sorted names of the folders in `folder`; none where it is missing."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
