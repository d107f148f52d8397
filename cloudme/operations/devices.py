"""PCI devices of the host's that a machine is to get, or no longer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from cloudme import defined
from cloudme.errors import Busy, UsageError
from cloudme.model.machine import Machine
from cloudme.model.ports import Host
from cloudme.store import Store


def changed(store: Store, machine: Machine, more: Iterable[str], without: Iterable[str]) -> Machine:
    """The machine as it is to be. Raises UsageError, Busy where it runs: its devices are given when it starts."""
    defined.refuse(machine, "it is what its definition says", "edit that, then: sudo vmunit generate NAME")
    without = list(without)
    if unknown := [address for address in without if address not in machine.devices]:
        raise UsageError(f"'{machine.name}' has no device {unknown[0]}",
                         hint=f"it has: {', '.join(machine.devices) or 'none'}")
    kept = [address for address in machine.devices if address not in without]
    new = dataclasses.replace(machine, devices=tuple(dict.fromkeys([*kept, *more])))
    if new != machine and store.is_running(machine):
        raise Busy(f"'{machine.name}' runs, and has its devices from its start to its end",
                   hint=f"vmstop {machine.name}")
    return new


@dataclass(slots=True)
class Change:
    """Writes the record anew: at the next start the machine gets these devices. What was looked at before is looked at
    again, under the lock of who writes records."""

    store: Store
    old: Machine
    new: Machine
    written: bool = False

    def describe(self) -> str:
        return f"let {self.new.name} have {', '.join(self.new.devices) or 'no device'} of the host's"

    def do(self, host: Host) -> None:
        with self.store.locked():
            now = self.store.machine(self.new.name)
            if now.devices != self.old.devices or self.store.is_running(now):
                raise Busy(f"somebody else changes '{now.name}', or starts it", hint="try again")
            self.written = True
            self.store.publish(dataclasses.replace(now, devices=self.new.devices))

    def undo(self, host: Host) -> None:
        if self.written:
            self.store.amend(self.old.name, devices=self.old.devices)
