"""QMP over `qemu.qmp`: a connection as a context, used without asyncio by its caller."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError, Runstate

from cloudme.errors import Busy, NotFound, NotPermitted, PeerError, TimedOut
from cloudme.host import sockets
from cloudme.model.ports import Monitor
from cloudme.qemu import files

T = TypeVar("T")


class QmpMonitor:
    """Implements `Monitor`; lives as long as its connection."""

    def __init__(self, runner: asyncio.Runner, client: QMPClient, path: str) -> None:
        self._runner = runner
        self._client = client
        self._path = path

    def execute(self, command: str, **arguments: Any) -> Any:
        try:
            return self._runner.run(self._client.execute(command, arguments or None))
        except ExecuteError as error:
            raise PeerError(f"QEMU refused '{command}': {error}") from error
        except QMPError as error:
            raise PeerError(f"QEMU went away during '{command}'") from error

    def execute_until(self, event: str, command: str, *, timeout_s: float, **arguments: Any) -> bool:
        async def happened() -> None:
            with self._client.listener((event,)) as events:
                await self._client.execute(command, arguments or None)
                await self._or_closed(events.get())

        return self._within(timeout_s, happened(), command)

    def await_migration(self, status: str, *, timeout_s: float) -> None:
        seen = ""

        async def arrived() -> None:
            nonlocal seen
            while seen not in (status, "failed", "cancelled"):
                event: Any = await self._or_closed(self._client.events.get())
                seen = event["data"].get("status", "") if event["event"] == "MIGRATION" else ""

        if not self._within(timeout_s, arrived(), "migrate"):
            raise TimedOut(f"the migration was not '{status}' within {timeout_s:g} s")
        if seen != status:
            why = self.execute("query-migrate").get("error-desc", "see its log")
            raise PeerError(f"QEMU's migration ended as '{seen}': {why}")

    def _within(self, timeout_s: float, work: Coroutine[Any, Any, None], command: str) -> bool:
        """False where the time runs out."""
        try:
            self._runner.run(asyncio.wait_for(work, timeout_s))
        except TimeoutError:
            return False
        except ExecuteError as error:
            raise PeerError(f"QEMU refused '{command}': {error}") from error
        except QMPError as error:
            raise PeerError(f"QEMU went away during '{command}'") from error
        return True

    async def _or_closed(self, event: Coroutine[Any, Any, T]) -> T:
        """An event, or QMPError when QEMU goes: qemu.qmp lets one wait for events of a connection that is closed."""
        wanted, closed = asyncio.ensure_future(event), asyncio.ensure_future(self._closed())
        try:
            await asyncio.wait((wanted, closed), return_when=asyncio.FIRST_COMPLETED)
            if not wanted.done():
                raise QMPError("closed")
            return wanted.result()
        finally:
            for task in (wanted, closed):
                task.cancel()

    async def _closed(self) -> None:
        await closed(self._client)

    def lend(self, name: str, path: str, *, write: bool = False) -> None:
        fd = os.open(path, (os.O_WRONLY | os.O_CREAT | os.O_TRUNC if write else os.O_RDONLY) | os.O_CLOEXEC, 0o600)
        try:
            self.give(name, fd)
        finally:
            os.close(fd)

    def give(self, name: str, fd: int) -> None:
        self._client.send_fd_scm(fd)
        self.execute("getfd", fdname=name)

    def join(self, name: str, other: Monitor) -> None:
        for monitor, end in zip((self, other), socket.socketpair(), strict=True):
            with end:
                monitor.give(name, end.fileno())

    def admit(self, path: str) -> str:
        """A set of two: QEMU opens a disk anew, the other way, when what may be done to it changes."""
        into: dict[str, int] = {}
        for flags in (os.O_RDWR, os.O_RDONLY):
            fd = os.open(path, flags | os.O_CLOEXEC)
            try:
                self._client.send_fd_scm(fd)
                into = {"fdset-id": self.execute("add-fd", opaque=files.mark(path, flags), **into)["fdset-id"]}
            finally:
                os.close(fd)
        return f"/dev/fdset/{into['fdset-id']}"

    def retract(self, path: str) -> None:
        for one in self.execute("query-fdsets"):
            for fd in one["fds"]:
                if fd.get("opaque") == files.mark(path, os.O_RDWR):
                    self.execute("remove-fd", **{"fdset-id": one["fdset-id"], "fd": fd["fd"]})

    def wait_closed(self, timeout_s: float) -> bool:
        try:
            self._runner.run(asyncio.wait_for(self._closed(), timeout_s))
        except TimeoutError:
            return False
        return True


async def closed(client: QMPClient) -> None:
    """Return once QEMU has gone."""
    while client.runstate == Runstate.RUNNING:
        await client.runstate_changed()


async def joined(client: QMPClient, path: str, timeout_s: float) -> None:
    """Connect a client and negotiate. Raises NotFound, Busy; NotPermitted."""
    try:
        with sockets.reached(path) as own:
            await asyncio.wait_for(client.connect(own), timeout_s)
    except TimeoutError:
        raise Busy(f"the monitor {path} does not answer", hint="somebody else may be connected to it") from None
    except PermissionError as error:
        raise NotPermitted(f"{path}: {error.strerror}", hint="run it with sudo") from error
    except (ConnectError, OSError) as error:
        raise NotFound(f"no QEMU listens on {path}") from error


@contextlib.contextmanager
def connected(path: str, timeout_s: float) -> Iterator[QmpMonitor]:
    """Connect and negotiate.

    Raises:  NotFound where nobody listens, Busy where somebody else has the monitor: QEMU greets one client at a time.
    """
    client = QMPClient(os.path.basename(path))
    client.logger.disabled = True
    with asyncio.Runner() as runner:
        runner.run(joined(client, path, timeout_s))
        try:
            yield QmpMonitor(runner, client, path)
        finally:
            with contextlib.suppress(QMPError, EOFError, OSError):
                runner.run(client.disconnect())
