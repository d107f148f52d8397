"""Units, and the groups (cgroups) that hold machines to their limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cloudme.errors import CloudMeError, HostUnavailable
from cloudme.model.groups import Group
from cloudme.model.machine import Limits
from cloudme.model.systemd import UnitState


@dataclass
class FakeUnits:
    """systemd: the units whose files are known (`files`: name -> whether enabled), and those that run."""

    there: bool = True
    files: dict[str, bool] = field(default_factory=dict)
    active: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    said: list[str] = field(default_factory=list)

    def running(self) -> bool:
        return self.there

    def states(self, names: Sequence[str]) -> list[UnitState]:
        return [UnitState(
            name=name, load="loaded" if name in self.files else "not-found",
            active="active" if name in self.active else "failed" if name in self.failed else "inactive",
            sub="running" if name in self.active else "dead",
            enabled={True: "enabled", False: "disabled"}.get(self.files.get(name), "")) for name in names]  # type: ignore[arg-type]

    def reload(self) -> None:
        self._did("daemon-reload")

    def enable(self, names: Sequence[str], *, root: str | None = None) -> None:
        self._did("enable", *names)
        self.files |= dict.fromkeys(names, True)

    def disable(self, names: Sequence[str], *, root: str | None = None) -> None:
        self._did("disable", *names)
        self.files |= dict.fromkeys(names, False)

    def start(self, names: Sequence[str], *, timeout_s: float = 120) -> None:
        self._did("start", *names)
        self.failed -= set(names)
        self.active |= set(names)

    def stop(self, names: Sequence[str], *, timeout_s: float = 120) -> None:
        self._did("stop", *names)
        self.active -= set(names)

    def reset(self, names: Sequence[str]) -> None:
        self._did("reset-failed", *names)
        self.failed -= set(names)

    def last_words(self, name: str) -> str:
        return f"journalctl --unit {name}"

    def users(self, paths: Sequence[str], *, root: str | None = None) -> None:
        self._did("users", *paths)

    def _did(self, *words: str) -> None:
        if not self.there:
            raise HostUnavailable("this host does not run systemd")
        self.said.append(" ".join(words))


@dataclass
class FakeGroups:
    """Groups in memory, by name. lacks: why limits that are asked for cannot be had. alone: machines are in groups."""

    lacks: CloudMeError | None = None
    alone: bool = True
    held: dict[str, Limits] = field(default_factory=dict)
    swept: int = 0

    def check(self, own: Limits, folder: str) -> None:
        if self.lacks and own != Limits():
            raise self.lacks

    def hold(self, group: Group, pid: int) -> None:
        self.check(group.own, group.folder)
        self.held[group.name] = group.limits

    def change(self, group: Group) -> bool:
        if self.alone:
            self.held[group.name] = group.limits
        return self.alone

    def sweep(self) -> None:
        self.swept += 1
