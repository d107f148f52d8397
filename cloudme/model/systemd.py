"""What is asked of systemd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitState:
    """A unit as systemd has it (org.freedesktop.systemd1(5)), each a word of its own: load as 'loaded' or 'not-found',
    active as 'active' or 'failed', sub as 'running', enabled as 'enabled', '' where there is no unit.

    result: 'success', or why it failed.   since: when it became what it is, in seconds since 1970; None: never.
    """

    name: str
    load: str
    active: str
    sub: str
    enabled: str = ""
    result: str = "success"
    main_pid: int = 0
    since: float | None = None


class Units(Protocol):
    """systemd's units, by their full names, as 'machina-web.service'. Raises HostUnavailable where it does not run."""

    def running(self) -> bool:
        """Whether systemd is this host's init."""

    def states(self, names: Sequence[str]) -> list[UnitState]:
        """Of each, in this order."""

    def reload(self) -> None:
        """Have all files of units read anew."""

    def enable(self, names: Sequence[str], *, root: str | None = None) -> None:
        """root: of a host that is off; its systemd is not asked."""

    def disable(self, names: Sequence[str], *, root: str | None = None) -> None: ...

    def start(self, names: Sequence[str], *, timeout_s: float = 120) -> None:
        """Return when all are started. Neither failures nor starts before this one count for a unit's limits.

        Raises:  PeerError with the last words of the unit.
        """

    def stop(self, names: Sequence[str], *, timeout_s: float = 120) -> None:
        """Return when all have ended."""

    def reset(self, names: Sequence[str]) -> None:
        """Forget that they failed, and how often."""

    def last_words(self, name: str) -> str:
        """What a unit's own processes said last since its last start; where that is nothing, where to look."""

    def users(self, paths: Sequence[str], *, root: str | None = None) -> None:
        """Make the users and groups that files of sysusers.d(5) have, where they are not there."""
