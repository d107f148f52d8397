"""Processes of ours that outlive us: each is found by the lock on a file that it inherited open."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Iterator, Mapping, Sequence

from cloudme import index
from cloudme.errors import NotFound, NotPermitted
from cloudme.formats import evidence

ENDING_S = 0.5
"""What is just ending is hidden from its own user, until its lock is free: moments."""


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
    pidfd, patience = -1, time.monotonic() + ENDING_S
    while index.held(lock) and pidfd < 0:
        try:
            with contextlib.suppress(ProcessLookupError, NotFound):
                pidfd = os.pidfd_open(open_by(lock))
        except NotPermitted:
            if index.held(lock) and time.monotonic() > patience:
                raise
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
    """The pid of the process that holds the lock on `path`, the youngest of those that share it: who starts one has it,
    too, for a moment. Raises NotPermitted, NotFound."""
    found, hidden = _scan([_file(path)])
    if found[0]:
        return max(found[0], key=_began)
    if hidden:
        raise NotPermitted(f"{path} is held by another user's process", hint="run it with sudo")
    raise NotFound(f"nobody has {path} open")


def all_of(paths: Sequence[str]) -> dict[str, int]:
    """Likewise of several locks, by one look at all processes; those that cannot be seen are left out."""
    files = {}
    for path in paths:
        with contextlib.suppress(NotFound):
            files[path] = _file(path)
    found, _ = _scan(list(files.values())) if files else ([], False)
    return {path: max(pids, key=_began) for path, pids in zip(files, found, strict=True) if pids}


def _scan(files: Sequence[os.stat_result]) -> tuple[list[list[int]], bool]:
    """For each file the processes that hold its lock; and whether processes were hidden from us."""
    wanted = {(file.st_dev, file.st_ino): number for number, file in enumerate(files)}
    hidden = False
    holding: list[list[int]] = [[] for _ in files]
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            for number in _holding(entry, wanted):
                holding[number].append(int(entry))
        except PermissionError:
            hidden = hidden or os.geteuid() != 0  # nothing is hidden from root but what is just ending
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESRCH):
                raise
    return holding, hidden


def _holding(pid: str, wanted: Mapping[tuple[int, int], int]) -> set[int]:
    """Which of the wanted files' locks a process holds. wanted: device and inode -> its number."""
    found = set()
    with os.scandir(f"/proc/{pid}/fd") as descriptors:
        for descriptor in descriptors:
            with contextlib.suppress(FileNotFoundError):
                file = os.stat(descriptor.path)
                number = wanted.get((file.st_dev, file.st_ino))
                if number is not None and _locked(pid, descriptor.name):
                    found.add(number)
    return found


def _file(path: str) -> os.stat_result:
    try:
        fd = index.opened(path)
    except OSError:
        raise NotFound(f"there is no lock {path}") from None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _locked(pid: str, descriptor: str) -> bool:
    """Whether the lock is held by this descriptor, not by another that has the file open, too (proc(5), fdinfo)."""
    with open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii") as file:
        return any(line.startswith("lock:") for line in file)


def _began(pid: int) -> int:
    """When a process began, in ticks since the boot (proc(5), stat): whoever started another one came before it."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def last_words(path: str) -> str:
    """The end of what a program printed into `path`."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            words = evidence.last_words(file.read())
    except OSError:
        words = ""
    return words or "it said nothing"
