"""Ports of the host that lead to machines: given, taken away, listed. They are part of the machine."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass

from cloudme import forwards
from cloudme.errors import AlreadyExists, HostUnavailable, UsageError
from cloudme.model.machine import Forward, Machine
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction
from cloudme.store import Store, everywhere


def expose(transaction: Transaction, store: Store, name: str, forward: Forward) -> bool:
    """Lead a port of the host to the machine, at once if it runs, and whenever it does. False: it is so already.

    Raises:  NotFound, HostUnavailable (its address is not known, or on root's network), AlreadyExists (a machine of
             ours has the port), Busy (somebody else), NotPermitted, UsageError (no such address here).
    """
    with store.locked() if not transaction.dry_run else contextlib.nullcontext():
        machine = store.machine(name)
        address = forwards.target(machine)
        if store.is_outside(machine):
            raise HostUnavailable(f"'{name}' is on a network of root's, where this host reaches it at {address}",
                                  hint="a first card on a network of your own (--network default) could be exposed")
        known = forward in machine.forwards
        if known and forwards.state(store, machine, forward) != "broken":
            return False
        new = machine
        if not known:
            _check_records(store, forward)
            new = dataclasses.replace(machine, forwards=(*machine.forwards, forward))
        forwards.check_free(transaction.host, forward)
        if not known:
            transaction.apply([Record(store, machine, new)])
    if store.is_running(new):
        transaction.apply([forwards.Open(store, new, forward)])
    return True


def remove(transaction: Transaction, store: Store, name: str, wanted: Wanted) -> Forward | None:
    """Take a port of the host away from a machine; None where it has none such. Raises UsageError where it has two."""
    with store.locked() if not transaction.dry_run else contextlib.nullcontext():
        machine = store.machine(name)
        found = [forward for forward in machine.forwards if wanted.means(forward)]
        if not found:
            return None
        if len(found) > 1:
            raise UsageError(f"port {wanted.port} may be {', '.join(forward.where for forward in found)}",
                             hint=f"--address {found[0].address}")
        kept = tuple(forward for forward in machine.forwards if forward not in found)
        new = dataclasses.replace(machine, forwards=kept)
        transaction.apply([forwards.Close(store, machine, found[0]), Record(store, machine, new)])
    return found[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What `--remove` was given. address None: whichever it is."""

    protocol: str
    port: int
    address: str | None = None

    def means(self, forward: Forward) -> bool:
        return ((self.protocol, self.port) == (forward.protocol, forward.port)
                and self.address in (None, forward.address))


def _check_records(store: Store, forward: Forward) -> None:
    """The host has one set of ports, whatever the realm. Raises AlreadyExists."""
    for label, machine in everywhere(store.world, lambda machine: bool(machine.forwards)).items():
        for other in machine.forwards:
            if forward.overlaps(other):
                raise AlreadyExists(f"{other} leads to port {other.guest_port} of '{label}'",
                                    hint=forwards.removal(machine, other, label.rpartition("/")[0]))


@dataclass(slots=True)
class Record:
    """Writes the machine's record anew; its undo writes the old one."""

    store: Store
    old: Machine
    new: Machine

    def describe(self) -> str:
        given = [str(forward) for forward in self.new.forwards if forward not in self.old.forwards]
        taken = [str(forward) for forward in self.old.forwards if forward not in self.new.forwards]
        verb = "has" if given else "no longer has"
        return f"note that {self.new.name} {verb} {', '.join(given or taken)} of the host"

    def do(self, host: Host) -> None:
        self.store.publish(self.new)

    def undo(self, host: Host) -> None:
        self.store.publish(self.old)
