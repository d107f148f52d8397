"""ssh to guests: commands, sessions on our terminal, probes, copies."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from cloudme.errors import PeerError, TimedOut
from cloudme.host import knock, terminal
from cloudme.model.ports import Ended, Outside, Progress, Target

if TYPE_CHECKING:
    import paramiko

CONNECT_S = 15
"""For connection and log-in; a guest under TCG needs seconds for the arithmetic."""

CHUNK = 1 << 16
STDIN, STDOUT, STDERR = 0, 1, 2

FAILED = 255
"""ssh(1), EXIT STATUS: the command did not end by itself."""


class Ssh:
    """Implements `Shell`. outside: None where nobody has left anything."""

    def __init__(self, outside: Outside | None = None) -> None:
        self._outside = outside
        self._turn = threading.BoundedSemaphore(os.cpu_count() or 1)

    def probe(self, target: Target, *, timeout_s: float = 5) -> str:
        """A handshake costs a guest under TCG a second of the host's CPU: no more at once than finish in time."""
        from cloudme.host import connection

        try:
            connection.close(connection.connect(target, timeout_s, self._outside, self._turn))
        except connection.NotReady as short:
            return short.stage
        return "ready"

    def knock(self, target: Target, *, greeting: bytes = b"", timeout_s: float = 5) -> str:
        return knock.at(target, greeting, timeout_s, self._outside)

    def run(self, target: Target, command: str, *, stdin: bytes = b"", timeout_s: float = 60) -> Ended:
        deadline = time.monotonic() + timeout_s
        out, err = bytearray(), bytearray()
        try:
            with _channel(target, min(timeout_s, CONNECT_S), self._outside) as channel, _closed_at(deadline, channel):
                channel.exec_command(command)
                feeder = threading.Thread(target=_send, args=(channel, stdin))
                feeder.start()
                try:
                    status = _drain(channel, out.extend, err.extend)
                finally:
                    channel.close()
                    feeder.join()
                return Ended(status=_status(target, channel, status), stdout=bytes(out), stderr=bytes(err))
        except PeerError:
            if time.monotonic() < deadline:
                raise
            raise TimedOut(f"'{command}' on '{target.name}' took more than {timeout_s:g} s") from None

    def stream(self, target: Target, command: str, heard: Callable[[bytes], None]) -> int:
        with _channel(target, CONNECT_S, self._outside) as channel:
            channel.exec_command(command)
            channel.shutdown_write()
            return _status(target, channel, _drain(channel, heard, heard))

    def interactive(self, target: Target, command: str | None = None, *, tty: bool = False) -> int:
        on_terminal = os.isatty(STDIN) if command is None else tty
        with _channel(target, CONNECT_S, self._outside) as channel:
            if on_terminal:
                channel.get_pty(os.environ.get("TERM", "vt100"), *terminal.size(STDIN))
            if command is None:
                channel.invoke_shell()
            else:
                channel.exec_command(command)
            signals = [signal.SIGWINCH] if on_terminal else []
            with (terminal.raw(STDIN) if on_terminal else contextlib.nullcontext(),
                  terminal.wakeups(*signals) as (woken, wake)):
                typing = Typing(channel, woken, escape=on_terminal and os.isatty(STDIN))
                typing.start()
                try:
                    status = _drain(channel, lambda data: _write(STDOUT, data), lambda data: _write(STDERR, data))
                finally:
                    channel.close()
                    os.write(wake, b"q")
                    typing.join()
        return FAILED if typing.left else _status(target, channel, status)

    def put(
        self, target: Target, sources: Sequence[str], destination: str, *, recursive: bool, progress: Progress,
    ) -> list[str]:
        from cloudme.host import connection, sftp

        with (connection.connected(target, CONNECT_S, self._outside) as transport,
              sftp.Remote(transport, target.name) as remote):
            return sftp.copy(sftp.Local(), sources, remote, destination, recursive=recursive, progress=progress)

    def get(
        self, target: Target, sources: Sequence[str], destination: str, *, recursive: bool, progress: Progress,
    ) -> list[str]:
        from cloudme.host import connection, sftp

        with (connection.connected(target, CONNECT_S, self._outside) as transport,
              sftp.Remote(transport, target.name) as remote):
            return sftp.copy(remote, sources, sftp.Local(), destination, recursive=recursive, progress=progress)


class Typing(threading.Thread):
    """Sends our stdin, and tells the guest of a new size of the terminal. `woken`: see terminal.wakeups; 'q' ends it.

    A thread of its own, since paramiko has nothing to poll for the moment when a full channel takes more.
    """

    def __init__(self, channel: paramiko.Channel, woken: int, *, escape: bool) -> None:
        super().__init__()
        self.left = False
        self._channel = channel
        self._woken = woken
        self._escape = terminal.Tilde() if escape else None

    def run(self) -> None:
        from cloudme.host import connection

        poller = select.poll()
        poller.register(self._woken, select.POLLIN)
        poller.register(STDIN, select.POLLIN)
        with contextlib.suppress(OSError, *connection.LOST):  # the channel was closed
            while True:
                ready = [fd for fd, _ in poller.poll()]
                if self._woken in ready:
                    if b"q" in os.read(self._woken, CHUNK):
                        return
                    self._channel.resize_pty(*terminal.size(STDIN))
                elif not self._pass_on():
                    poller.unregister(STDIN)

    def _pass_on(self) -> bool:
        """False at the end of our stdin."""
        try:
            typed = os.read(STDIN, CHUNK)
        except OSError:
            typed = b""
        if not typed:
            self._channel.shutdown_write()
            return False
        try:
            self._channel.sendall(self._escape(typed) if self._escape else typed)
        except terminal.Left:
            self.left = True
            self._channel.close()
        return True


@contextlib.contextmanager
def _channel(target: Target, timeout_s: float, outside: Outside | None) -> Iterator[paramiko.Channel]:
    from cloudme.host import connection

    with (connection.connected(target, timeout_s, outside) as transport,
          transport.open_session(timeout=timeout_s) as channel):
        yield channel


@contextlib.contextmanager
def _closed_at(deadline: float, channel: paramiko.Channel) -> Iterator[None]:
    """Everything that waits for the guest ends at the deadline: the connection is gone then."""
    alarm = threading.Timer(deadline - time.monotonic(), channel.get_transport().close)
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()
        alarm.join()


def _drain(channel: paramiko.Channel, out: Callable[[bytes], object], err: Callable[[bytes], object]) -> int:
    """Pass on both outputs as they come; returns the exit status, -1 where there is none."""
    def complain() -> None:
        with contextlib.suppress(OSError):  # nobody reads our stderr
            while data := channel.recv_stderr(CHUNK):
                err(data)

    complaints = threading.Thread(target=complain)
    complaints.start()
    try:
        while data := channel.recv(CHUNK):
            out(data)
    except BaseException:
        channel.close()
        raise
    finally:
        complaints.join()
    return channel.recv_exit_status()


def _send(channel: paramiko.Channel, data: bytes) -> None:
    with contextlib.suppress(OSError):  # the command ended without reading it all
        channel.sendall(data)
        channel.shutdown_write()


def _write(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data):]
        except BlockingIOError:  # somebody who shares it made it so
            poller = select.poll()
            poller.register(fd, select.POLLOUT)
            poller.poll()


def _status(target: Target, channel: paramiko.Channel, status: int) -> int:
    """A command that a signal ended has no status; one that is cut off has none either."""
    if status >= 0:
        return status
    if channel.eof_received:
        return FAILED
    raise PeerError(f"the connection to '{target.name}' was lost", hint=f"vmlogs {target.name}")
