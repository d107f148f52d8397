"""Programs that run beside a QEMU which no unit started, and end with it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Iterator

from cloudme.disk import reported
from cloudme.host import confine
from cloudme.host.holders import pidfd_of
from cloudme.model.confinement import Confinement
from cloudme.model.definitions.tpm import Tpm
from cloudme.model.ports import Run

END_S = 5
SETUP_S = 120
"""Two kinds of keys are made: a second, and much more where the host is loaded."""


class Beside:
    """Implements `Companions`."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @contextlib.contextmanager
    def tpm(self, tpm: Tpm, uid: int) -> Iterator[None]:
        """What is in the two folders is its user's: all that is done there, he does himself."""
        confinement = Confinement(uid=uid if confine.foreign(uid) else None)
        with contextlib.ExitStack() as mine:
            _folder(os.path.dirname(tpm.socket), confinement.uid)
            mine.callback(_cleared, tpm.socket, confinement)
            for argv in tpm.setup:
                self._run(argv, timeout_s=SETUP_S, confinement=confinement)
            with reported(tpm.socket):
                listener = confine.within(confinement, lambda: _listener(tpm.socket))
            with listener:
                pid = self._run.spawn(tpm.inheriting(listener.fileno()), stdout=os.devnull, fds=[listener.fileno()],
                                      confinement=confinement)
            pidfd = mine.enter_context(pidfd_of(pid))
            mine.callback(_ended, pid, pidfd)
            yield


def _folder(path: str, uid: int | None) -> None:
    """The folder of the socket; the one in which it is is root's alone."""
    with reported(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        if uid is not None:
            os.chown(path, uid, uid, follow_symlinks=False)


def _listener(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(1)
    except BaseException:
        listener.close()
        raise
    return listener


def _cleared(path: str, confinement: Confinement) -> None:
    """The socket and its folder are gone."""
    with contextlib.suppress(OSError):
        confine.within(confinement, lambda: os.unlink(path))
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))


def _ended(pid: int, pidfd: int) -> None:
    """It has ended by itself where QEMU did; where QEMU never came, it is told to."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not select.select([pidfd], [], [], 0)[0]:
            signal.pidfd_send_signal(pidfd, number)
            select.select([pidfd], [], [], END_S)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
