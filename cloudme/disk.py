"""Files that are there whole or not at all, locks, and what errors of files mean for the user."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

from cloudme import index
from cloudme.errors import Busy, NotPermitted, StoreError


@contextlib.contextmanager
def reported(path: str) -> Iterator[None]:
    """Turns OSErrors into what they mean for the user: full disk, no permission, unreadable."""
    try:
        yield
    except PermissionError as error:
        raise NotPermitted(f"{error.filename or path}: {error.strerror}",
                           hint="run it with sudo, or set CLOUDME_HOME to a folder of your own") from error
    except OSError as error:
        hint = "make room, or set CLOUDME_HOME to another disk" if error.errno == errno.ENOSPC else None
        raise StoreError(f"{error.filename or path}: {error.strerror}", hint=hint) from error


def write_atomic(path: str, text: str, *, mode: int = 0o644, errors: str = "strict") -> None:
    """Write `text` so that a crash leaves the old file or the new one: tmp, fsync, rename, fsync of the folder.

    errors: of str.encode.
    """
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.getpid()}.tmp")
    with reported(path):
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
            with os.fdopen(fd, "w", encoding="utf-8", errors=errors) as file:
                os.fchmod(fd, mode)  # whatever the umask is: dnsmasq reads some of these as its own user
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(os.path.dirname(path))


def sync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def alone(path: str, busy: str) -> Iterator[None]:
    """Nobody else is in such a block meanwhile. Raises Busy, in these words, where somebody is."""
    with reported(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            fd = take_lock(path)
        except Busy:
            raise Busy(busy, hint="try again") from None
    try:
        yield
    finally:
        os.close(fd)


def take_lock(path: str, *, shared: bool = False) -> int:
    """Take the OFD lock on `path` and return its descriptor, which holds it until the last copy is closed.

    Raises:  Busy where somebody holds it, or, if it is not to be shared, shares it; or where it is a link into the
             folder of somebody else: such a machine is systemd's to start.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise Busy(f"{os.path.dirname(path)} is of a machine that systemd runs") from error
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, index.READ_LOCK if shared else index.WRITE_LOCK)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise Busy(f"{os.path.dirname(path)} is in use") from error
        raise
    return fd
