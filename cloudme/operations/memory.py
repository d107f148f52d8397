"""What a machine that runs has of its memory, changed while it does: its balloon takes the rest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from cloudme import balloon, defined, monitors
from cloudme.errors import CloudMeError, HostUnavailable, TimedOut, UsageError
from cloudme.model.machine import Machine
from cloudme.model.ports import Host
from cloudme.model.units import MIB, human
from cloudme.monitors import Speaker
from cloudme.store import Store

HEED_S, ANSWER_S = 30, 3
"""What a guest gets to heed, and to say how much it uses: it does in milliseconds, under TCG too."""

LOOK_S = 1
"""QEMU tells of a balloon that changes once a second at most (monitor/monitor.c)."""


def most(host: Host, speaker: Speaker) -> int:
    """What a machine that runs was started with, in MiB. Raises Busy, NotPermitted."""
    with monitors.monitor(host, speaker) as monitor:
        return int(monitor.execute("query-memory-size-summary")["base-memory"]) // MIB


def checked(
    host: Host, store: Store, machines: Sequence[Machine], size_mib: int, *, timeout_s: float = HEED_S,
    answer_s: float = ANSWER_S,
) -> list[Resize]:
    """The steps that give these machines `size_mib` each.

    timeout_s: what their guests get to heed; answer_s: to say how much they use. One that does not is believed nothing.
    Raises:  UsageError where that is more than one has, or less than its guest uses; HostUnavailable where one has no
             balloon, Busy where it does not run; for several the first.
    """
    wanted = size_mib * MIB
    for machine in machines:
        defined.refuse(machine, "it has no balloon of ours", "vmquery memory NAME")
        if size_mib > machine.shape.ram_mib:
            raise UsageError(f"'{machine.name}' has {human(machine.shape.ram_mib * MIB)} of memory",
                             hint="that is the most it can be given")
    speakers = [monitors.of(store, machine) for machine in machines]
    found = monitors.each(speakers, lambda one: _memory(host, one, answer_s))
    steps: list[Resize] = []
    for machine, speaker, now in zip(machines, speakers, found, strict=True):
        if isinstance(now, CloudMeError):
            raise now
        if now.used_bytes is not None and wanted < now.used_bytes:
            raise UsageError(f"'{machine.name}' uses {human(-(-now.used_bytes // MIB) * MIB)}: "
                             f"{human(wanted)} would starve it", hint="vmstatus shows what machines use")
        steps.append(Resize(speaker, now.left_bytes, wanted, timeout_s))
    return steps


def _memory(host: Host, speaker: Speaker, answer_s: float) -> balloon.Memory:
    with monitors.monitor(host, speaker) as monitor:
        try:
            balloon.left(monitor)
        except HostUnavailable as error:
            hint = (error.hint or "").replace("NAME", speaker.name)
            raise HostUnavailable(f"'{speaker.name}': {error.message}", hint=hint) from None
        with balloon.polled(monitor) as since:
            return balloon.memory(monitor, since, patience_s=answer_s)


@dataclass(slots=True)
class Resize:
    """Tells the balloon, and returns when the guest has heeded. Undone by giving it back what it had."""

    speaker: Speaker
    old_bytes: int
    new_bytes: int
    timeout_s: float = HEED_S

    def describe(self) -> str:
        return f"give {self.speaker.name} {human(self.new_bytes)} of memory (was: {human(self.old_bytes)})"

    def do(self, host: Host) -> None:
        if self.new_bytes == self.old_bytes:
            return
        with monitors.monitor(host, self.speaker) as monitor:
            monitor.execute("balloon", value=self.new_bytes)
            deadline = time.monotonic() + self.timeout_s
            while (now := balloon.left(monitor)) != self.new_bytes:
                if (left_s := deadline - time.monotonic()) <= 0:
                    raise TimedOut(
                        f"'{self.speaker.name}' did not come to {human(self.new_bytes)}: it stands at {human(now)}",
                        hint=f"its guest needs the driver virtio_balloon: vm {self.speaker.name} -- lsmod")
                monitor.execute_until("BALLOON_CHANGE", "query-balloon", timeout_s=min(left_s, LOOK_S))

    def undo(self, host: Host) -> None:
        with monitors.monitor(host, self.speaker) as monitor:
            monitor.execute("balloon", value=self.old_bytes)
