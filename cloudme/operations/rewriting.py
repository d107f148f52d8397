"""The record of a machine that does not run, as it is to be from its next start on: its shape, its card, its shares."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field

from cloudme import claim, defined, folders, seed
from cloudme.errors import Busy
from cloudme.model import limits
from cloudme.model.machine import Machine
from cloudme.model.names import Name
from cloudme.model.network import Network
from cloudme.model.ports import Host
from cloudme.model.steps import Step
from cloudme.store import Store, reported, write_atomic

OPEN = 0o444


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A machine, as it is to be.

    networks:   those of all its cards, old and new.
    user_data:  the user's own for cloud-init from now on; None: it stays.
    boots:      what it boots from now on: the file in its folder -> where that is copied from.
    what:       what changes, in words.
    """

    machine: Machine
    networks: Mapping[Name, Network]
    user_data: str | None = None
    boots: Mapping[str, str] = field(default_factory=dict)
    what: str = ""


def steps(host: Host, store: Store, old: Machine, wanted: Wanted) -> list[Step]:
    """What makes it so.

    Raises:  AlreadyExists, UsageError (address, CID, limits), NotFound (a folder), HostUnavailable (limits).
    """
    new = wanted.machine
    defined.refuse(old, "it is what its definition says", "edit that, then: sudo vmunit generate NAME")
    networks = [wanted.networks[nic.network] for nic in new.nics]
    if new.nics:
        first, before = new.nics[0], old.nics[0] if old.nics else None
        if first.address and (before is None or (before.network, before.address) != (first.network, first.address)):
            claim.check_free(host, store, networks[0], [first.address], own=old.name)
    if new.vsock_cid != old.vsock_cid:
        claim.check_cid(store, new.vsock_cid)
    claim.check_apart(new.isolate, new.net_rate, networks)
    claim.check_ports(new.ports, networks)
    limits.check(new.limits, new.shape.ram_mib)
    if new.limits != old.limits:
        host.groups.check(new.limits, store.folder(old))
    more = [share for share in new.shares if share not in old.shares]
    boot: list[Step] = [Boot(store, new, wanted.boots)] if wanted.boots else []
    return [*folders.making(store.world, more, of=new), Rewrite(store, old, wanted), *boot]


@dataclass(slots=True)
class Rewrite:
    """Writes record, reservation and seed anew; its undo writes the old ones."""

    store: Store
    old: Machine
    wanted: Wanted
    before: str | None = field(default=None)

    def describe(self) -> str:
        return f"write the record of {self.old.name} anew{f': {self.wanted.what}' if self.wanted.what else ''}"

    def do(self, host: Host) -> None:
        text = seed.own(self.store, self.old, seed.USER_DATA)
        if self.old.nics != self.wanted.machine.nics and self.store.is_running(self.old):
            raise Busy(f"'{self.old.name}' runs", hint=f"vmstop {self.old.name}")
        with self.store.locked():
            self._check()
            self.before = text
            self._write(host, self.old, self.wanted.machine, self.wanted.user_data)

    def undo(self, host: Host) -> None:
        if self.before is not None:
            with self.store.locked():
                self._write(host, self.wanted.machine, self.old,
                            self.before if self.wanted.user_data is not None else None)

    def _check(self) -> None:
        """Somebody may have been quicker to take the address."""
        for nic in self.wanted.machine.nics:
            if nic.address and nic not in self.old.nics:
                claim.check_records(self.store, self.wanted.networks[nic.network], [nic.address], own=self.old.name)

    def _write(self, host: Host, before: Machine, after: Machine, user_data: str | None) -> None:
        for nic in before.nics:
            if nic.network not in {other.network for other in after.nics if other.address}:
                self.store.release(nic.network, after.name)
        for nic in after.nics:
            if nic.address:
                self.store.reserve(self.wanted.networks[nic.network], after.name, nic.mac, nic.address)
        if user_data is not None:
            write_atomic(os.path.join(self.store.folder(after), seed.USER_DATA), user_data, mode=0o600)
        if after.access.seeded and before.seed_id != after.seed_id:
            seed.write(host, self.store, after, self.wanted.networks)
        now = self.store.machine(after.name)  # a fork may have given it other disks meanwhile
        self.store.publish(dataclasses.replace(after, disks=now.disks, bases=now.bases, forwards=now.forwards))


@dataclass(frozen=True, slots=True)
class Boot:
    """Copies what a machine boots. The last of the steps: the old files are gone then."""

    store: Store
    machine: Machine
    files: Mapping[str, str]

    def describe(self) -> str:
        return f"copy what {self.machine.name} boots: {', '.join(self.files.values())}"

    def do(self, host: Host) -> None:
        folder = self.store.folder(self.machine)
        with reported(folder):
            for name, source in self.files.items():
                shutil.copyfile(source, os.path.join(folder, f"{name}.new"))
                os.chmod(os.path.join(folder, f"{name}.new"), OPEN)
            for name in self.files:
                os.replace(os.path.join(folder, f"{name}.new"), os.path.join(folder, name))

    def undo(self, host: Host) -> None:
        for name in self.files:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.store.folder(self.machine), f"{name}.new"))
