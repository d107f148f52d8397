"""The record of a machine that does not run, as it is to be from its next start on: its shape, its card, its shares."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field

from cloudme import claim, defined, folders, seed
from cloudme.errors import Busy
from cloudme.model import limits
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import Machine
from cloudme.model.ports import Host
from cloudme.model.steps import Step
from cloudme.store import Store, write_atomic


def steps(
    host: Host, store: Store, old: Machine, new: Machine, settings: Settings, user_data: str | None = None,
) -> list[Step]:
    """What makes it so. user_data: the user's own for cloud-init from now on; None: it stays.

    Raises:  AlreadyExists, UsageError (address, CID), Busy (no address is free), NotFound (a folder, a network).
    """
    defined.refuse(old, "it is what its definition says", "edit that, then: sudo vmunit generate NAME")
    networks = store.networks_of(settings, [new])
    if new.nics:
        first, before = new.nics[0], old.nics[0] if old.nics else None
        network = networks[first.network]
        if first.address and (before is None or (before.network, before.address) != (first.network, first.address)):
            claim.check_free(host, store, network, [first.address], own=old.name)
    if new.vsock_cid != old.vsock_cid:
        claim.check_cid(store, new.vsock_cid)
    claim.check_apart(new.isolate, new.net_rate, list(networks.values()))
    claim.check_ports(new.ports, list(networks.values()))
    limits.check(new.limits, new.shape.ram_mib)
    more = [share for share in new.shares if share not in old.shares]
    return [*folders.making(store.world, more, of=new), Rewrite(store, old, new, settings, user_data)]


@dataclass(slots=True)
class Rewrite:
    """Writes record, reservation and seed anew; its undo writes the old ones."""

    store: Store
    old: Machine
    new: Machine
    settings: Settings
    user_data: str | None = None
    before: str | None = field(default=None)

    def describe(self) -> str:
        return f"write the record of {self.new.name} anew"

    def do(self, host: Host) -> None:
        self.before = seed.own(self.store, self.old, seed.USER_DATA)
        self._write(host, self.old, self.new, self.user_data)

    def undo(self, host: Host) -> None:
        self._write(host, self.new, self.old, self.before if self.user_data is not None else None)

    def _write(self, host: Host, before: Machine, after: Machine, user_data: str | None) -> None:
        if before.nics != after.nics and self.store.is_running(after):
            raise Busy(f"'{after.name}' runs", hint=f"vmstop {after.name}")
        networks = self.store.networks_of(self.settings, [before, after])
        with self.store.locked():
            for nic in before.nics:
                if nic.network not in {other.network for other in after.nics if other.address}:
                    self.store.release(nic.network, after.name)
            for nic in after.nics:
                if nic.address:
                    self.store.reserve(networks[nic.network], after.name, nic.mac, nic.address)
            if user_data is not None:
                write_atomic(os.path.join(self.store.folder(after), seed.USER_DATA), user_data, mode=0o600)
            if after.access.seeded and before.seed_id != after.seed_id:
                seed.write(host, self.store, after, networks)
            now = self.store.machine(after.name)  # a fork may have given it other disks meanwhile
            self.store.publish(dataclasses.replace(after, disks=now.disks, bases=now.bases, forwards=now.forwards))
