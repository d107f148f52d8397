"""Mending what the checks found: now, and for the next boot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from cloudme.model.check import Line, Mend, Mode, Result, Sysctl
from cloudme.model.ports import Host
from cloudme.model.steps import Step

LASTING = "/etc/sysctl.d/90-cloudme.conf"
MODULES = {"alpine": "/etc/modules"}
"""What is loaded at boot; elsewhere a file of our own in modules-load.d(5)."""
OWN_MODULES = "/etc/modules-load.d/cloudme.conf"


def steps(results: Sequence[Result], distribution: str, *, persist: bool) -> list[Step]:
    """What --fix does; with `persist`, what makes it last, too."""
    mends = list(dict.fromkeys(mend for result in results for mend in result.mends))
    found: list[Step] = [Do(mend) for mend in mends]
    values = [mend for mend in mends if isinstance(mend, Sysctl)]
    if persist and values:
        lines = [f"{one.name} = {one.value}" for one in values]
        found += [Lines(LASTING, tuple(lines))]
        if any(one.name.startswith("net.bridge.") for one in values):  # they are there once the module is
            found += [Lines(MODULES.get(distribution, OWN_MODULES), ("br_netfilter",))]
    return found


@dataclass(slots=True)
class Do:
    """One mend; its undo puts back what was there."""

    mend: Mend
    before: str | None = field(default=None)
    mode: int | None = field(default=None)

    def describe(self) -> str:
        match self.mend:
            case Sysctl(name=name, value=value):
                return f"sysctl -w {name}={value}"
            case Mode(path=path, bits=bits):
                return f"chmod {path}: {bits:o} too"
            case Line(path=path, line=line):
                return f"{path}: {line}"

    def do(self, host: Host) -> None:
        match self.mend:
            case Sysctl(value=value) as sysctl:
                self.before = host.files.read(sysctl.path)
                host.files.write(sysctl.path, value)
            case Mode(path=path, bits=bits):
                self.mode = (host.files.mode(path) or 0) & 0o7777
                host.files.chmod(path, self.mode | bits)
            case Line(path=path, line=line):
                Lines(path, (line,)).do(host)

    def undo(self, host: Host) -> None:
        match self.mend:
            case Sysctl() as sysctl if self.before is not None:
                host.files.write(sysctl.path, self.before.strip())
            case Mode(path=path) if self.mode is not None:
                host.files.chmod(path, self.mode)
            case Line(path=path, line=line):
                text = host.files.read(path) or ""
                host.files.write(path, text.replace(f"{line}\n", ""), mode=_mode(host, path))


@dataclass(slots=True)
class Lines:
    """Lines that a file shall have; one that sets the same key is replaced."""

    path: str
    lines: tuple[str, ...]
    before: str | None = field(default=None)
    begun: bool = field(default=False)

    def describe(self) -> str:
        return f"{self.path}: {'; '.join(self.lines)}"

    def do(self, host: Host) -> None:
        self.before = host.files.read(self.path)
        self.begun = True
        keys = {line.split("=")[0].strip() for line in self.lines}
        kept = [line for line in (self.before or "").splitlines() if line.split("=")[0].strip() not in keys]
        host.files.write(self.path, "\n".join([*kept, *self.lines]) + "\n", mode=_mode(host, self.path))

    def undo(self, host: Host) -> None:
        if self.begun and self.before is None:
            host.files.remove(self.path)
        elif self.begun:
            host.files.write(self.path, self.before or "", mode=_mode(host, self.path))


@dataclass(slots=True)
class Replace:
    """A file of the host's own settings, with what it was beside it (`.before-cloudme`); None: it goes."""

    path: str
    text: str | None
    before: str | None = field(default=None)
    begun: bool = field(default=False)

    def describe(self) -> str:
        return f"{'write' if self.text is not None else 'put away'} {self.path}"

    def do(self, host: Host) -> None:
        self.before = host.files.read(self.path)
        self.begun = True
        if self.before is not None:
            host.files.write(f"{self.path}.before-cloudme", self.before, mode=_mode(host, self.path))
        if self.text is not None:
            host.files.write(self.path, self.text, mode=_mode(host, self.path))
        elif self.before is not None:
            host.files.remove(self.path)

    def undo(self, host: Host) -> None:
        if not self.begun:
            return
        if self.before is not None:
            host.files.write(self.path, self.before, mode=_mode(host, self.path))
        elif self.text is not None and host.files.read(self.path) is not None:
            host.files.remove(self.path)


def _mode(host: Host, path: str) -> int:
    """A file keeps its mode; a new one is for all to read, and netplan's for root alone (netplan(5))."""
    found = host.files.mode(path)
    return (found & 0o7777) if found else 0o600 if os.path.dirname(path) == "/etc/netplan" else 0o644
