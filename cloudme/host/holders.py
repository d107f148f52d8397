"""Processes of ours that outlive us: each is found by the lock on a file that it inherited open."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from collections.abc import Iterator

from cloudme import index
from cloudme.errors import NotFound, NotPermitted
from cloudme.formats import evidence


@contextlib.contextmanager
def pidfd_of(pid: int) -> Iterator[int]:
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def holder(lock: str) -> Iterator[int]:
    """A pidfd of the process that holds `lock`, found by the open file it inherited; -1 where nobody does.

    Raises:  NotPermitted where the process is another user's.
    """
    pidfd = -1
    while index.held(lock) and pidfd < 0:
        with contextlib.suppress(ProcessLookupError, NotFound):
            pidfd = os.pidfd_open(open_by(lock))
        if pidfd >= 0 and not index.held(lock):  # it went, and the number may be another's by now
            os.close(pidfd)
            pidfd = -1
    try:
        yield pidfd
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def kill(lock: str, timeout_s: float) -> None:
    """SIGKILL the holder of `lock` and return when it has ended. Nobody there: nothing."""
    with holder(lock) as pidfd:
        if pidfd >= 0:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            poller.poll(timeout_s * 1000)


def open_by(path: str) -> int:
    """The pid of the other process that has `path` open. Raises NotPermitted, NotFound."""
    wanted = os.stat(path)
    hidden = False
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with os.scandir(f"/proc/{entry}/fd") as descriptors:
                for descriptor in descriptors:
                    with contextlib.suppress(FileNotFoundError):
                        found = os.stat(descriptor.path)
                        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                            return int(entry)
        except PermissionError:
            hidden = hidden or os.geteuid() != 0  # nothing is hidden from root but what is just ending
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESRCH):
                raise
    if hidden:
        raise NotPermitted(f"{path} is held by another user's process", hint="run it with sudo")
    raise NotFound(f"nobody has {path} open")


def last_words(path: str) -> str:
    """The end of what a program printed into `path`."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            words = evidence.last_words(file.read())
    except OSError:
        words = ""
    return words or "it said nothing"
