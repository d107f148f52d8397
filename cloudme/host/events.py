"""What QEMUs tell by themselves, from several at once: asyncio and `qemu.qmp` end here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from qemu.qmp import QMPClient, QMPError

from cloudme.errors import Busy, CloudMeError, PeerError
from cloudme.host import qmp
from cloudme.model.ports import Event

GREETING_S = 1
"""How long a monitor may take to greet: it does in a millisecond, if nobody else has it."""


class Monitors:
    """Implements `Events`."""

    def follow(
        self, sockets: Mapping[str, str], told: Callable[[Event], None], failed: Callable[[str, CloudMeError], None],
    ) -> None:
        async def one(machine: str, path: str) -> None:
            try:
                await _listen(machine, path, told)
            except CloudMeError as error:
                failed(machine, error)

        async def everyone() -> None:
            async with asyncio.TaskGroup() as group:
                for machine, path in sockets.items():
                    group.create_task(one(machine, path))

        try:
            asyncio.run(everyone())
        except BaseExceptionGroup as group:  # a pipe that nobody reads any more, an interrupt
            raise group.exceptions[0] from None


async def _listen(machine: str, path: str, told: Callable[[Event], None]) -> None:
    client = QMPClient(machine)
    client.logger.disabled = True
    with client.listener() as events:
        try:
            await qmp.joined(client, path, GREETING_S)
        except Busy:
            raise Busy("somebody else observes it already, and one can at a time") from None
        closed = asyncio.ensure_future(qmp.closed(client))
        try:
            while not closed.done():
                wanted = asyncio.ensure_future(events.get())
                await asyncio.wait((wanted, closed), return_when=asyncio.FIRST_COMPLETED)
                if wanted.done():
                    told(_event(machine, wanted.result()))
                else:
                    wanted.cancel()
            for late in events.clear():
                told(_event(machine, late))
        finally:
            closed.cancel()
            with contextlib.suppress(QMPError, EOFError, OSError):
                await client.disconnect()


def _event(machine: str, message: Any) -> Event:
    """A message of QEMU's (its QMP specification, 'Asynchronous events')."""
    try:
        stamp = message["timestamp"]
        time_s = stamp["seconds"] + stamp["microseconds"] / 1e6
        return Event(machine, time_s, str(message["event"]), dict(message.get("data", {})))
    except (KeyError, TypeError, ValueError) as error:
        raise PeerError("QEMU tells an event that is none") from error
