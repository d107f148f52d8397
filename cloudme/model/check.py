"""Checks of the host: what was found, what it means for machines, what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    ok = "ok"
    warning = "warning"
    failed = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sysctl:
    """A value below /proc/sys; `name` as sysctl(8) has it. It can be made to last."""

    name: str
    value: str

    @property
    def path(self) -> str:
        return "/proc/sys/" + self.name.replace(".", "/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """Bits that a file's mode (chmod(2)) lacks. It lasts for files on a disk."""

    path: str
    bits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A module that the kernel has not loaded. It can be made to last."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A character device (mknod(2)) that is missing; its driver may have made it meanwhile."""

    path: str
    major: int
    minor: int


Mend = Sysctl | Mode | Module | Device


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One line of cmcheck.

    means:  for machines, where the level is not ok.
    fix:    the command that mends it.     mends: what --fix does for it; nothing where that is not for us to do.
    keeps:  values that are right, but not the kernel's own: a boot would lose them.
    """

    check: str
    level: Level
    what: str
    means: str = ""
    fix: str = ""
    mends: tuple[Mend, ...] = ()
    keeps: tuple[Sysctl, ...] = ()
