"""A machine that is to be prepared, with all that its steps have to know of it."""

from __future__ import annotations

import grp
from dataclasses import dataclass

from cloudme.errors import ConfigError
from cloudme.model.definitions import accounts
from cloudme.model.definitions.nouns import HostConfiguration, Merged
from cloudme.operations.preparing.notes import Notes


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """user, uid, gid: as whom its QEMU runs. shared: its group is one that its definition names, not its own alone."""

    machine: Merged
    host: HostConfiguration
    user: str
    uid: int
    gid: int
    shared: bool
    notes: Notes

    @property
    def name(self) -> str:
        return self.machine.name


def of(machine: Merged, host: HostConfiguration, notes: Notes) -> Tenant:
    """Raises ConfigError where the machine's group is the host's, which has none of that name."""
    account = accounts.of(machine)
    gid = account.gid
    if gid is None:
        try:
            gid = grp.getgrnam(account.group).gr_gid
        except KeyError:
            raise ConfigError(f"{machine.name}: this host has no group '{account.group}'",
                              hint=f"groupadd --system {account.group}") from None
    return Tenant(machine=machine, host=host, user=account.user, uid=account.uid, gid=gid,
                  shared=bool(machine.attributes.group), notes=notes)
