"""The cgroups of machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cloudme.model.machine import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The cgroup of a machine.

    limits:  what it may take; None: nothing is said of that.
    own:     those of them that were asked for: a start fails where they cannot be held. The others may be left out.
    folder:  where its disks are.
    """

    name: str
    limits: Limits
    own: Limits
    folder: str


class Groups(Protocol):
    """Their groups on this host (cgroups(7), version 2), in which they are kept from taking more than they may."""

    def check(self, own: Limits, folder: str) -> None:
        """Nothing, where a machine whose disks are in `folder` (or will be) can be held to these limits.

        Raises:  HostUnavailable, NotPermitted, with what would permit it.
        """

    def hold(self, group: Group, pid: int) -> None:
        """Move a process, with its threads, into this group. Raises as `check`, for limits that were asked for only."""

    def change(self, group: Group) -> bool:
        """Give a group these limits from now on; those that are None stay. False where nobody is in such a group."""

    def sweep(self) -> None:
        """Take away the groups that nobody is in."""
