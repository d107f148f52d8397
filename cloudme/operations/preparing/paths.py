"""Files that root changes for a machine, found so that nobody but root can have led it there.

From the root on each folder is opened in the one before. None of them may be one that the machine's user can write to,
and a link is followed only where root alone could have made it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from cloudme.disk import reported
from cloudme.errors import NotFound, NotPermitted
from cloudme.model import identity

LINKS = 40
"""How many a path may have: the kernel's number (path_resolution(7))."""
PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def opened(path: str, uid: int, gid: int, *, into: bool = False) -> Iterator[int]:
    """A descriptor (O_PATH) of what is at `path`, for a machine with this user and group.

    into:    it is a folder, in which something is to be made.
    Raises:  NotFound; NotPermitted where somebody else may have a hand in what the path leads to.
    """
    fd = _walk(path.split("/") + ["."] * into, path, uid, gid)
    try:
        yield fd
    finally:
        os.close(fd)


def _walk(parts: list[str], path: str, uid: int, gid: int) -> int:
    waiting, links, walked = parts[::-1], 0, "/"
    at = os.open("/", PATH)
    try:
        while waiting:
            if not (part := waiting.pop()):
                continue
            folder = os.fstat(at)
            if _machines(folder, uid, gid):
                raise NotPermitted(f"{path}: the folder {walked} is not root's alone: a machine's user can write to it",
                                   hint=f"chown root: {walked}; chmod go-w {walked}")
            following = _open(part, at, path)
            if stat.S_ISLNK(os.fstat(following).st_mode):
                target = os.readlink("", dir_fd=following)
                os.close(following)
                links += 1
                if folder.st_uid != 0 or folder.st_mode & 0o022 or links > LINKS:
                    raise NotPermitted(f"{path}: {os.path.join(walked, part)} is a link that is not followed: "
                                       "others than root could have made it", hint="name the file that it leads to")
                waiting += target.split("/")[::-1]
                following = os.open("/", PATH) if target.startswith("/") else os.dup(at)
                part = "/" if target.startswith("/") else ""
            os.close(at)
            at, walked = following, os.path.normpath(os.path.join(walked, part))
        return at
    except BaseException:
        os.close(at)
        raise


def _open(part: str, folder: int, path: str) -> int:
    try:
        with reported(path):
            return os.open(part, PATH, dir_fd=folder)
    except NotPermitted:
        raise
    except Exception as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise NotFound(f"there is no {path}") from None
        raise


def _machines(state: os.stat_result, uid: int, gid: int) -> bool:
    """Whether a machine's user can write to this folder. A sticky one is nobody's: what is in it is its owner's."""
    if state.st_uid == uid or identity.UID_MIN <= state.st_uid <= identity.UID_MAX:
        return True
    others = state.st_mode & 0o002 and not state.st_mode & stat.S_ISVTX
    return bool(others or (state.st_mode & 0o020 and state.st_gid in (gid, _kvm()) and state.st_gid))


def _kvm() -> int:
    """The group that a machine may have beside its own (see `kvm.groups`); 0 for none."""
    try:
        return os.stat("/dev/kvm").st_gid
    except OSError:
        return 0


def by_number(fd: int) -> str:
    """The path of what is open: nobody can put another file there."""
    return f"/proc/self/fd/{fd}"
