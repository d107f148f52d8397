"""A machine that is to be prepared, with all that its steps have to know of it."""

from __future__ import annotations

import contextlib
import grp
from dataclasses import dataclass

from cloudme.errors import ConfigError, NotPermitted
from cloudme.model.definitions import accounts
from cloudme.model.definitions.nouns import HostConfiguration, Merged
from cloudme.notes import Notes
from cloudme.passthrough import Borrower

FIRST_GROUP = 1000
"""Of people's groups; those below it are the system's (login.defs(5), GID_MIN)."""


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

    @property
    def borrower(self) -> Borrower:
        return Borrower(name=self.name, user=self.user, uid=self.uid, gid=self.gid, notes=self.notes)

    @property
    def whole(self) -> list[str]:
        """The addresses of the devices that it gets whole."""
        return [supply.address for device in self.machine.devices for supply in self.host.supplies
                if supply.kinds.get(device.kind) == ""]


def of(machine: Merged, host: HostConfiguration, notes: Notes) -> Tenant:
    """Raises ConfigError where the machine's group is the host's, which has none of that name."""
    check_group(machine, host)
    account = accounts.of(machine)
    gid = account.gid
    if gid is None:
        try:
            gid = grp.getgrnam(account.group).gr_gid
        except KeyError:
            raise ConfigError(f"{machine.name}: this host has no group '{account.group}'",
                              hint=f"groupadd {account.group}") from None
    return Tenant(machine=machine, host=host, user=account.user, uid=account.uid, gid=gid,
                  shared=bool(machine.attributes.group), notes=notes)


def check_group(machine: Merged, host: HostConfiguration) -> None:
    """Raises NotPermitted where a definition, which may come from elsewhere, puts its QEMU into one of the system's
    groups: who is in disk, docker or shadow is as good as root. The host's own configuration may, by a tag."""
    key, attributes = "privileges.filesystem.group.name", machine.attributes
    if not attributes.group or machine.sources[key].file == host.file:
        return
    numbers = [attributes.group_id] if attributes.group_id else []
    with contextlib.suppress(KeyError):
        numbers.append(grp.getgrnam(attributes.group).gr_gid)
    if any(number < FIRST_GROUP for number in numbers):
        raise NotPermitted(f"{machine.sources[key].file}: {key}: '{attributes.group}' is a group of the system's",
                           hint=f"a tag in {host.file} may give it to machines")
