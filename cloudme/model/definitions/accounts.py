"""As whom the QEMU of a machine that is defined runs: a user of its own, with a name, since systemd wants one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cloudme.model import identity
from cloudme.model.definitions.nouns import Merged

_PLAIN = re.compile("[a-z0-9_-]{1,23}")
"""What may follow the prefix: 31 characters in all (systemd, docs/USER_NAMES.md, strict mode)."""
PREFIX = "machina-"


@dataclass(frozen=True, slots=True)
class Account:
    """A user and his group, by name and number. The number is that of machines of ours: it follows from the uuid."""

    user: str
    uid: int
    group: str
    gid: int | None
    """None: the group is the host's own, and has the number that it has there."""


def of(machine: Merged) -> Account:
    """The account of a machine. privileges.filesystem.group gives it another group than its own."""
    user = PREFIX + (machine.name if _PLAIN.fullmatch(machine.name) else machine.uuid.replace("-", "")[:16])
    uid = identity.uid(machine.uuid)
    attributes = machine.attributes
    if attributes.group and not attributes.group_id:
        return Account(user, uid, attributes.group, None)
    return Account(user, uid, attributes.group or user, attributes.group_id or uid)
