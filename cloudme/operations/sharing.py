"""Folders of the host's that a machine is to have, or no longer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from cloudme import defined, folders, seed
from cloudme.model import identity, share
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import Machine
from cloudme.model.ports import Host
from cloudme.model.share import Share
from cloudme.model.steps import Transaction
from cloudme.store import Store


def changed(machine: Machine, more: Sequence[Share], without: Sequence[str]) -> Machine:
    """The machine as it is to be. Raises UsageError, AlreadyExists."""
    defined.refuse(machine, "it is what its definition says", "edit that, then: sudo vmunit generate NAME")
    shares = share.changed(machine.shares, more, without)
    if shares == machine.shares:
        return machine
    return dataclasses.replace(machine, shares=shares, seed_id=identity.new_uuid())


def update(transaction: Transaction, store: Store, old: Machine, new: Machine, settings: Settings) -> None:
    """Raises NotFound (a folder)."""
    more = [one for one in new.shares if one not in old.shares]
    transaction.apply([*folders.making(more), Change(store, old, new, settings)])


@dataclass(frozen=True, slots=True)
class Change:
    """Writes record and seed anew: at the next start it has the shares, and mounts them as it boots."""

    store: Store
    old: Machine
    new: Machine
    settings: Settings

    def describe(self) -> str:
        shares = ", ".join(str(one) for one in self.new.shares) or "nothing"
        return f"let {self.new.name} share {shares}, from its next start on"

    def do(self, host: Host) -> None:
        self._write(host, self.new)

    def undo(self, host: Host) -> None:
        self._write(host, self.old)

    def _write(self, host: Host, machine: Machine) -> None:
        if machine.access.seeded:
            seed.write(host, self.store, machine, self.store.networks_of(self.settings, [machine]))
        with self.store.locked():  # a fork may have given it other disks meanwhile
            self.store.publish(dataclasses.replace(
                self.store.machine(machine.name), shares=machine.shares, seed_id=machine.seed_id))
