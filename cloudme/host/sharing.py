"""Folders of the host's for a machine that starts: a virtiofsd each, or, where there is none, the folder for QEMU's 9p.

virtiofsd takes one connection, and ends with it: with QEMU, whoever ended that.
"""

from __future__ import annotations

import contextlib
import os
import socket
from functools import cache

from cloudme import index
from cloudme.errors import CommandFailed, NotFound, PeerError
from cloudme.host import holders
from cloudme.model.confinement import SERVES_FILES, Confinement, Reach
from cloudme.model.launch import Folder, Launch
from cloudme.model.ports import Run
from cloudme.qemu import files, virtiofs
from cloudme.store import take_lock

NAMED = "CLOUDME_VIRTIOFSD"
"""Another virtiofsd, or where it is empty none, for tests."""

END_S = 5
"""What the one of an earlier life gets to be gone after SIGKILL."""


class Shares:
    """What serves them here."""

    def __init__(self, run: Run, *, confined: bool = True) -> None:
        self._run = run
        self._confined = confined

    @cache  # noqa: B019  one adapter a process
    def program(self) -> virtiofs.Program | None:
        """The virtiofsd that may be used by who we are; None where there is none."""
        named = os.environ.get(NAMED)
        for path in virtiofs.PATHS if named is None else (named,):
            if os.access(path, os.X_OK):
                with contextlib.suppress(CommandFailed):
                    found = virtiofs.Program(path=path, old=virtiofs.is_old(self._run([path, "--version"])),
                                             uid=os.geteuid(), gid=os.getegid())
                    if found.serves:
                        return found
        return None

    def opened(self, launch: Launch, mine: contextlib.ExitStack) -> dict[str, int]:
        """Role -> descriptor for QEMU of each folder; `mine` closes them, and what serves one ends when none is left.

        Raises:  NotFound where the folder is missing, PeerError where virtiofsd was there when the machine was meant.
        """
        fds = {}
        for folder in launch.folders:
            if launch.virtiofs:
                fds[folder.role] = self.served(folder, mine)
            else:
                fds |= _own(folder, mine)
        return fds

    def check(self, launch: Launch) -> None:
        """Called when QEMU has connected, or has failed to. Raises PeerError where a virtiofsd has ended."""
        for folder in launch.folders if launch.virtiofs else ():
            if not index.held(folder.lock):
                raise PeerError(f"what serves the share '{folder.tag}' of '{launch.name}' ended: "
                                f"{holders.last_words(folder.log)}", hint=f"see {folder.log}")

    def served(self, folder: Folder, living: contextlib.ExitStack) -> int:
        """A socket that is connected to a virtiofsd. Its path is there for a moment only: nobody else gets to it.

        Raises:  likewise.
        """
        _begin(folder)
        program = self.program()
        if program is None:
            raise PeerError("there is no virtiofsd any more", hint="apt install virtiofsd")
        with contextlib.ExitStack() as mine:
            lock = take_lock(folder.lock)
            mine.callback(os.close, lock)
            run = os.open(os.path.dirname(folder.lock), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            mine.callback(os.close, run)
            path = f"/proc/self/fd/{run}/{os.path.basename(folder.lock)}.sock"  # short enough, whatever the tag
            listener = mine.enter_context(socket.socket(socket.AF_UNIX))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            listener.bind(path)
            listener.listen(1)
            client = socket.socket(socket.AF_UNIX)
            try:
                client.connect(path)
                os.unlink(path)
                self._run.spawn(program.argv(folder, listener.fileno()), stdout=folder.log,
                                fds=[listener.fileno(), lock],
                                confinement=confinement(folder, program) if self._confined else None)
            except BaseException:
                client.close()
                raise
            fd = client.detach()
            living.callback(os.close, fd)
            return fd


def _own(folder: Folder, mine: contextlib.ExitStack) -> dict[str, int]:
    """Of a folder that QEMU serves itself: what it gets, and the lock that says that it does."""
    _begin(folder)
    fds = {f"{folder.role}.lock": take_lock(folder.lock)}
    mine.callback(os.close, fds[f"{folder.role}.lock"])
    fds[folder.role] = os.open(folder.source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mine.callback(os.close, fds[folder.role])
    return fds


def _begin(folder: Folder) -> None:
    """Nobody of an earlier life serves it any more. Raises NotFound where it is gone."""
    with contextlib.suppress(FileNotFoundError):
        holders.kill(folder.lock, END_S)
        os.unlink(folder.lock)
    if not os.path.isdir(folder.source):
        raise NotFound(f"the shared folder {folder.source} is gone", hint=f"vmupdate NAME --no-share {folder.tag}")


def confinement(folder: Folder, program: virtiofs.Program) -> Confinement:
    """What a virtiofsd may do: root's becomes who the guest's users are. /proc/sys/fs: how many files it may open.

    QEMU's own one knows nothing of read-only: the guest's root could make set-uid what is there.
    """
    system = (*files.SYSTEM, program.path, "/proc/sys/fs")
    reach = (Reach(readable=(*system, folder.source), writable=files.DEVICES) if folder.readonly
             else Reach(readable=system, writable=files.DEVICES, trees=(folder.source,)))
    return Confinement(keeps=SERVES_FILES if program.root else (), reach=reach,
                       frozen=(folder.source,) if folder.readonly and program.root else ())
