"""Powering machines down over QMP alone: nothing is known of them but where their monitors are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable, Sequence

from qemu.qmp import EventListener, QMPClient, QMPError, Runstate

from cloudme.errors import CloudMeError, NotFound
from cloudme.host import qmp
from cloudme.model.ports import Power

GREETING_S = 2
AGAIN_S = 5.0
"""A guest that is still booting, or asks its user, does not heed the first press of the button."""
QUIT_S = 30
"""What QEMU gets to obey `quit`: it flushes its disks first."""

Say = Callable[[str], None]


def all_down(machines: Sequence[Power], *, timeout_s: float, say: Say) -> list[str]:
    """See `Hypervisor.shut_down`."""
    async def together() -> list[bool]:
        return await asyncio.gather(*(_down(machine, timeout_s, say) for machine in machines))

    with asyncio.Runner() as runner:
        ended = runner.run(together())
    return [machine.name for machine, went in zip(machines, ended, strict=True) if not went]


async def _down(machine: Power, timeout_s: float, say: Say) -> bool:
    """Whether it has gone."""
    client = QMPClient(os.path.basename(machine.monitor))
    client.logger.disabled = True
    try:
        await qmp.joined(client, machine.monitor, GREETING_S)
    except NotFound:  # it has gone already
        return True
    except CloudMeError as error:
        say(f"{machine.name}: {error.message}")
        return False
    try:
        with client.listener() as events:
            telling = asyncio.ensure_future(_tell(machine.name, events, say))
            try:
                return await _ended(machine.name, client, timeout_s, say)
            finally:
                telling.cancel()
    finally:
        with contextlib.suppress(QMPError, EOFError, OSError):
            await client.disconnect()


async def _ended(name: str, client: QMPClient, timeout_s: float, say: Say) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not await _closed(client, AGAIN_S, "system_powerdown"):
                pass
            return True
    say(f"{name} does not heed the power button: ending it")
    return await _closed(client, QUIT_S, "quit")


async def _closed(client: QMPClient, timeout_s: float, command: str) -> bool:
    """Give a command, and wait for the socket to be closed. QEMU may be stuck, and not even answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            with contextlib.suppress(QMPError):
                await client.execute(command)
            while client.runstate == Runstate.RUNNING:
                await client.runstate_changed()
    return client.runstate != Runstate.RUNNING


async def _tell(name: str, events: EventListener, say: Say) -> None:
    async for event in events:
        data = event.get("data")
        say(f"{name}: {event['event']}" + (f" {json.dumps(data)}" if data else ""))
