"""Opens all that a QEMU inherits: it has no right to open anything of ours by itself.

Its disks it may write to as it likes, their heads too: what a head says about the disk below is not believed, it must
be one that the machine's record permits.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time

from cloudme import chains, layout
from cloudme.formats import evidence
from cloudme.model.launch import Launch
from cloudme.qemu import files
from cloudme.store import reported


def chained(launch: Launch) -> Launch:
    """The launch with all the disks that its disks stand on. Raises NotPermitted, StoreError."""
    return files.chained(launch, {
        node: chains.below(launch.name, path, launch.grounds) for node, path in files.disks(launch).items()})


def opened(launch: Launch, uid: int | None, mine: contextlib.ExitStack) -> dict[str, int]:
    """Role -> descriptor of all files of a launch; `mine` closes them.

    uid:  whose the folder of the display is to be; None: ours.
    """
    fds = {}
    for file in files.of(launch):
        for role, flags in zip(file.descriptors, file.flags, strict=True):
            fds[role] = os.open(file.path, flags | os.O_CLOEXEC)
            mine.callback(os.close, fds[role])
    if memory := files.ram(launch):
        fds[files.RAM] = (_copied(memory) if launch.copies
                          else os.open(memory, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
        mine.callback(os.close, fds[files.RAM])
    for role, path in files.booted(launch).items():
        fds[role] = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        mine.callback(os.close, fds[role])
    for role, path in files.devices(launch).items():
        fds[role] = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        mine.callback(os.close, fds[role])
    fds[files.OWN] = _own(launch, uid)
    mine.callback(os.close, fds[files.OWN])
    return fds


def _copied(path: str) -> int:
    """A descriptor of memory with what is in the file; where the file has holes, so has the memory."""
    ours = os.memfd_create("ram", os.MFD_CLOEXEC)
    try:
        with open(path, "rb") as file:
            size, at = os.fstat(file.fileno()).st_size, 0
            os.ftruncate(ours, size)
            while (begin := _data(file.fileno(), at)) is not None:
                at = begin
                end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
                os.lseek(ours, at, os.SEEK_SET)
                while at < end:
                    at += os.sendfile(ours, file.fileno(), at, end - at)
    except BaseException:
        os.close(ours)
        raise
    return ours


def _data(fd: int, at: int) -> int | None:
    """Where the next data of a file begins; None where there is no more."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


def begin_logs(launch: Launch) -> None:
    """QEMU's own words and the firmware's begin anew, the consoles' go on below a line that says so. All are 0600."""
    for path in (launch.output, launch.firmware_log):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for listener in launch.chardevs:
        if listener.log:
            fd = os.open(listener.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "a", encoding="utf-8") as log:
                os.fchmod(fd, 0o600)
                log.write(f"\n{evidence.START_MARK} {launch.name}, {time.strftime('%Y-%m-%d %H:%M:%S')} --\n")


def word(mine: contextlib.ExitStack) -> tuple[int, int]:
    """A file without a name, for a word that is known later: our descriptor to `tell` it, QEMU's to be read.

    A link to the latter, below /proc/PID/fd, leads nowhere once QEMU has ended: nobody has to remove it. There QEMU can
    open it anew, so it is not for QEMU's user to write.
    """
    ours = os.memfd_create("pid", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    mine.callback(os.close, ours)
    os.fchmod(ours, 0o400)
    its = os.open(f"/proc/self/fd/{ours}", os.O_RDONLY | os.O_CLOEXEC)
    mine.callback(os.close, its)
    return ours, its


def tell(ours: int, text: str) -> None:
    """Write the word, for good: who owns the file cannot change it either."""
    os.write(ours, text.encode())
    fcntl.fcntl(ours, fcntl.F_ADD_SEALS,
                fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)


def link(path: str, target: str) -> None:
    """Make `path` a link to `target`, whatever it was."""
    with reported(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.symlink(target, path)


def _own(launch: Launch, uid: int | None) -> int:
    """A descriptor of the folder in which QEMU makes its display's socket; where that socket is looked for, a link."""
    path = layout.own(launch.run_folder)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if uid is not None:
        os.fchown(fd, uid, uid)
    link(launch.vnc, os.path.join(os.path.basename(path), os.path.basename(launch.vnc)))
    return fd
