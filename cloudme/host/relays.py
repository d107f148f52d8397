"""The processes of `relay.py`: started with all that they need open, found by their lock, ended through a pidfd."""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys

from cloudme.errors import Busy, PeerError, TimedOut
from cloudme.host import confine, holders
from cloudme.model import ports
from cloudme.model.confinement import Confinement
from cloudme.store import reported, take_lock

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "relay.py")
SYSTEM_PYTHON = "/usr/bin/python3"
READY_S, END_S = 30, 5
"""What one gets to serve, and to be gone after SIGKILL: moments."""


def python() -> str:
    """Ours, if others may run it: an environment may lie in root's home. The program is passed as a descriptor."""
    found = os.path.realpath(sys.executable)
    folder = os.path.dirname(found)
    while folder != os.path.dirname(folder) and os.stat(folder).st_mode & stat.S_IXOTH:
        folder = os.path.dirname(folder)
    return found if folder == os.path.dirname(folder) else SYSTEM_PYTHON


class Relays:
    """Implements the port of the same name."""

    def __init__(self, run: ports.Run) -> None:
        self._run = run

    def start(self, relay: ports.Relay, listener: int) -> None:
        with contextlib.ExitStack() as mine, reported(relay.lock):
            qemu = mine.enter_context(holders.holder(relay.machine))
            if qemu < 0:
                raise Busy(f"'{relay.name}' has stopped meanwhile", hint=f"vmstart {relay.name}")
            lock = take_lock(relay.lock)
            mine.callback(os.close, lock)
            program = mine.enter_context(open(PROGRAM, "rb")).fileno()
            ended, ready = os.pipe()
            told = mine.enter_context(open(ended, "rb"))
            try:
                argv = [python(), "-I", "-S", f"/proc/self/fd/{program}", relay.name, relay.protocol, relay.address,
                        str(relay.port), *map(str, (listener, qemu, ready))]
                self._run.spawn(argv, stdout=relay.log, fds=[program, lock, listener, qemu, ready],
                                confinement=Confinement(uid=relay.uid if confine.foreign(relay.uid) else None))
            finally:
                os.close(ready)
            poller = select.poll()
            poller.register(ended, select.POLLIN)
            if not poller.poll(READY_S * 1000):
                self.end(relay.lock)
                raise TimedOut(f"the relay of '{relay.name}' does not begin", hint=f"see {relay.log}")
            if not told.read():  # up to its end: it has closed the pipe, too
                raise PeerError(f"the relay of '{relay.name}' ended: {holders.last_words(relay.log)}",
                                hint=f"see {relay.log}")

    def end(self, lock: str) -> None:
        holders.kill(lock, END_S)
