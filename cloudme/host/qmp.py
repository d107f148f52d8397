"""QMP over `qemu.qmp`: a connection as a context, used without asyncio by its caller."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from typing import Any

from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError, Runstate

from cloudme.errors import Busy, NotFound, PeerError


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

    def wait_closed(self, timeout_s: float) -> bool:
        async def closed() -> bool:
            while self._client.runstate == Runstate.RUNNING:
                await self._client.runstate_changed()
            return True

        try:
            return self._runner.run(asyncio.wait_for(closed(), timeout_s))
        except TimeoutError:
            return False


@contextlib.contextmanager
def connected(path: str, timeout_s: float) -> Iterator[QmpMonitor]:
    """Connect and negotiate.

    Raises:  NotFound where nobody listens, Busy where somebody else has the monitor: QEMU greets one client at a time.
    """
    client = QMPClient(os.path.basename(path))
    client.logger.disabled = True
    with asyncio.Runner() as runner:
        try:
            runner.run(asyncio.wait_for(client.connect(path), timeout_s))
        except TimeoutError:
            raise Busy(f"the monitor {path} does not answer", hint="somebody else may be connected to it") from None
        except ConnectError as error:
            raise NotFound(f"no QEMU listens on {path}") from error
        try:
            yield QmpMonitor(runner, client, path)
        finally:
            with contextlib.suppress(QMPError, EOFError, OSError):
                runner.run(client.disconnect())
