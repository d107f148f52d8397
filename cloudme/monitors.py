"""The monitors of machines that run: those of our store, and those that are defined."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from cloudme import layout
from cloudme.errors import Busy, CloudMeError, NotFound
from cloudme.model.definitions.nouns import qmp_socket
from cloudme.model.machine import Machine
from cloudme.model.ports import Host, Monitor
from cloudme.store import Store

S = TypeVar("S")
T = TypeVar("T")

GREETING_S = 1
"""How long a monitor may take to greet: it does in a millisecond, if nobody else has it."""
AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Speaker:
    """A machine that can be talked with.

    commands:  the sockets for a question or two, to be tried in turn: QEMU greets one client at a time.
    events:    the one to listen on for long. Neither it nor the one by which a machine is stopped is kept from its use.
    """

    name: str
    commands: tuple[str, ...]
    events: str


def of(store: Store, machine: Machine) -> Speaker:
    run = store.run_folder(machine)
    return Speaker(machine.name, tuple(layout.socket(run, role) for role in ("qmp.0", "qmp.1")),
                   layout.socket(run, "qmp.2"))


def of_definition(name: str, run: str) -> Speaker:
    """run: the folder that holds a folder for each machine. A unit stops its machine by `systemd.0`."""
    first, second = (qmp_socket(run, name, socket) for socket in ("command.0", "command.1"))
    return Speaker(name, (first, second), second)


@contextlib.contextmanager
def monitor(host: Host, speaker: Speaker) -> Iterator[Monitor]:
    """By the first socket that greets.

    Raises:  Busy where the machine does not run, or others are connected to all of them; NotPermitted.
    """
    refused: list[CloudMeError] = []
    with contextlib.ExitStack() as living:
        for path in speaker.commands:
            try:
                found = living.enter_context(host.qemu.monitor(path, timeout_s=GREETING_S))
                break
            except (NotFound, Busy) as error:
                refused.append(error)
        else:
            silent = [error for error in refused if isinstance(error, Busy)]
            raise silent[0] if silent else Busy(f"'{speaker.name}' does not run", hint="vmrunning -a")
        yield found


def each(
    speakers: Sequence[Speaker], work: Callable[[Speaker], T], *, at_once: int = AT_ONCE,
) -> list[T | CloudMeError]:
    """What `work` returns for each of them, or the error that it raised: all at once, none waits for another."""
    def one(speaker: Speaker) -> T | CloudMeError:
        try:
            return work(speaker)
        except CloudMeError as error:
            return error

    return all_at_once(speakers, one, at_once)


def all_at_once(things: Sequence[S], work: Callable[[S], T], at_once: int) -> list[T]:
    """Like map(), in so many threads."""
    if not things:
        return []
    with ThreadPoolExecutor(max_workers=min(len(things), at_once)) as pool:
        return list(pool.map(work, things))
