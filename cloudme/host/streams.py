"""Our stdin and stdout joined to a socket, and a log that is followed: poll, no thread, nothing is ever blocked."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cloudme.errors import NotFound, NotPermitted, TimedOut
from cloudme.host import sockets, terminal
from cloudme.model.ports import Outside

CHUNK = select.PIPE_BUF
"""What a pipe that polls writable takes without blocking (pipe(7)); our stdout may not be made non-blocking, since it
is shared with whoever started us."""

STDIN, STDOUT = 0, 1
CONNECT_S = 10

IN_MODIFY, IN_CLOSE_WRITE = 0x2, 0x8
"""inotify(7), <sys/inotify.h>."""

HEARTBEAT_MS = 500
"""No event tells that a lock was let go: while a log is silent, its machine is looked at so often."""


@dataclass(eq=False)
class Flow:
    """One direction: what is read from `source` goes through `change` to `sink`; `end` is called once at its end."""

    source: int
    sink: int
    end: Callable[[], None] = lambda: None
    change: Callable[[bytes], bytes] | None = None
    data: bytes = b""
    ended: bool = False

    def read(self) -> None:
        try:
            got = os.read(self.source, CHUNK)
        except BlockingIOError:
            return
        except OSError:  # a terminal that hung up, a connection that was reset
            got = b""
        if got:
            self.data = self.change(got) if self.change else got
        else:
            self.finish()

    def write(self) -> None:
        try:
            self.data = self.data[os.write(self.sink, self.data):]
        except BlockingIOError:
            return
        except OSError:  # nobody reads any more
            self.finish()

    def finish(self) -> None:
        self.ended = True
        self.end()


def pump(flows: Sequence[Flow], done: Callable[[], bool], quiet_s: Callable[[], float | None] = lambda: None) -> None:
    """Move bytes until `done`, or until nothing moved for `quiet_s`. At most one chunk of a flow waits in memory."""
    while not done():
        events: dict[int, int] = {}
        for flow in flows:
            if not flow.ended:
                fd, event = (flow.sink, select.POLLOUT) if flow.data else (flow.source, select.POLLIN)
                events[fd] = events.get(fd, 0) | event
        poller = select.poll()
        for fd, event in events.items():
            poller.register(fd, event)
        limit = quiet_s()
        if not (ready := dict(poller.poll(None if limit is None else limit * 1000))):
            return
        for flow in flows:
            if flow.ended:
                continue
            bad = select.POLLERR | select.POLLHUP | select.POLLNVAL
            if flow.data and ready.get(flow.sink, 0) & (select.POLLOUT | bad):
                flow.write()
            elif not flow.data and ready.get(flow.source, 0) & (select.POLLIN | bad):
                flow.read()


class Standard:
    """Implements `Streams`. outside: None where nobody has left anything."""

    def __init__(self, outside: Outside | None = None) -> None:
        self._outside = outside

    def console(self, path: str, *, timeout_s: float | None = None) -> None:
        """QEMU takes the end of our input for our leaving: it is not told of it."""
        with _connected_unix(path) as peer, terminal.raw(STDIN), contextlib.suppress(terminal.Left):
            typed = Flow(STDIN, peer.fileno(), change=terminal.bracket if os.isatty(STDIN) else None)
            shown = Flow(peer.fileno(), STDOUT)
            pump([typed, shown], lambda: shown.ended, lambda: timeout_s if typed.ended else None)

    def relay(self, address: str, port: int, *, outside: bool = False) -> None:
        """The end of our stdin becomes the end of what the other side reads; its end becomes that of our stdout."""
        try:
            peer = sockets.connected(address, port, CONNECT_S, self._outside if outside else None)
        except OSError as error:
            raise TimedOut(f"{address} port {port} does not answer: {error}", hint="vmwait tells why") from error
        with peer:
            peer.setblocking(False)
            flows = [Flow(STDIN, peer.fileno(), end=lambda: _shut(peer)),
                     Flow(peer.fileno(), STDOUT, end=_end_stdout)]
            pump(flows, lambda: all(flow.ended for flow in flows))


def follow(path: str, alive: Callable[[], bool], start: int = 0) -> Iterator[bytes]:
    """What is in the file from `start` on, then what is added to it, until `alive` says no and all is read."""
    with open(path, "rb", buffering=0) as file, _watched(path) as watch:
        file.seek(start)
        living = True
        while True:
            while data := file.read(1 << 16):
                yield data
            if not living:
                return
            changed = watch.poll(HEARTBEAT_MS)
            if changed:
                os.read(changed[0][0], 1 << 12)
            living = alive()


def _shut(peer: socket.socket) -> None:
    with contextlib.suppress(OSError):
        peer.shutdown(socket.SHUT_WR)


def _end_stdout() -> None:
    """Close stdout for its reader, and keep the number taken: Python flushes it when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, STDOUT)
    os.close(null)


@contextlib.contextmanager
def _connected_unix(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as peer:
        try:
            with sockets.reached(path) as reached:
                peer.connect(reached)
        except PermissionError as error:
            raise NotPermitted(f"{path}: {error.strerror}", hint="run it with sudo") from error
        except OSError as error:
            raise NotFound(f"nobody listens on {path}", hint="vmrunning tells what runs") from error
        peer.setblocking(False)
        yield peer


@contextlib.contextmanager
def _watched(path: str) -> Iterator[select.poll]:
    """A poll object that wakes when the file grows or its writer closes it."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC)
    try:
        if fd < 0 or libc.inotify_add_watch(fd, os.fsencode(path), IN_MODIFY | IN_CLOSE_WRITE) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
        watch = select.poll()
        watch.register(fd, select.POLLIN)
        yield watch
    finally:
        if fd >= 0:
            os.close(fd)
