"""Mending what the checks found: now, and for the next boot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from cloudme.model.check import Device, Mend, Mode, Module, Result, Sysctl
from cloudme.model.ports import Host
from cloudme.model.steps import Step
from cloudme.operations.checks.look import Look

LASTING = "/etc/sysctl.d/90-cloudme.conf"
MODULES = {"alpine": "/etc/modules"}
"""What is loaded at boot; elsewhere a file of our own in modules-load.d(5)."""
OWN_MODULES = "/etc/modules-load.d/cloudme.conf"
BRIDGE_MODULE = "br_netfilter"
OPENRC = {"sysctl": "/etc/runlevels/boot/sysctl", "modules": "/etc/runlevels/boot/modules"}
"""Without these services Alpine does not read the files above."""


def steps(results: Sequence[Result], look: Look, *, persist: bool) -> list[Step]:
    """What --fix does; with `persist`, what makes it last, too, and what was mended before. None where all is so."""
    mends = list(dict.fromkeys(mend for result in results for mend in result.mends))
    found: list[Step] = [Do(mend) for mend in mends]
    return found + _lasting(results, mends, look) if persist else found


def to_enable(look: Look) -> str:
    """The command without which the next boot does not read what was written; '' where it will."""
    missing = [name for name, path in OPENRC.items() if look.distribution == "alpine" and not look.existing(path)]
    return "; ".join(f"rc-update add {name} boot" for name in missing)


def _lasting(results: Sequence[Result], mends: Sequence[Mend], look: Look) -> list[Step]:
    kept = [value for result in results for value in result.keeps]
    values = list(dict.fromkeys([*(mend for mend in mends if isinstance(mend, Sysctl)), *kept]))
    modules = [mend.name for mend in mends if isinstance(mend, Module)]
    if any(value.name.startswith("net.bridge.") for value in values) and not _built_in(look, BRIDGE_MODULE):
        modules.append(BRIDGE_MODULE)  # the values are there once it is loaded
    wanted = ((LASTING, tuple(f"{one.name} = {one.value}" for one in values)),
              (MODULES.get(look.distribution, OWN_MODULES), tuple(modules)))
    return [Lines(path, lines) for path, lines in wanted
            if not set(lines) <= set((look.host.files.read(path) or "").splitlines())]


def _built_in(look: Look, module: str) -> bool:
    """Whether it is part of the kernel (modules.builtin, kbuild), or the kernel loads no modules at all."""
    if not look.existing("/proc/modules"):
        return look.existing("/proc/sys/kernel/osrelease")
    known = look.host.files.read(f"/lib/modules/{look.sysctl('kernel.osrelease')}/modules.builtin") or ""
    return any(line.endswith(f"/{module}.ko") for line in known.splitlines())


@dataclass(slots=True)
class Do:
    """One mend; its undo puts back what was there."""

    mend: Mend
    before: str | None = field(default=None)
    mode: int | None = field(default=None)
    begun: bool = field(default=False)

    def describe(self) -> str:
        match self.mend:
            case Sysctl(name=name, value=value):
                return f"sysctl -w {name}={value}"
            case Mode(path=path, bits=bits):
                return f"chmod {path}: {bits:o} too"
            case Module(name=name):
                return f"modprobe {name}"
            case Device(path=path, major=major, minor=minor):
                return f"mknod -m 666 {path} c {major} {minor}"

    def do(self, host: Host) -> None:
        files = host.files
        match self.mend:
            case Sysctl(value=value) as sysctl:
                self.before = files.read(sysctl.path)
                files.write(sysctl.path, value)
            case Mode(path=path, bits=bits):
                self.mode = (files.mode(path) or 0) & 0o7777
                files.chmod(path, self.mode | bits)
            case Module(name=name):
                host.run(["modprobe", name])
            case Device(path=path, major=major, minor=minor) if files.mode(path) is None:
                self.begun = True
                files.device(path, major, minor)

    def undo(self, host: Host) -> None:
        """A module stays: others may use it by now, and alone it harms nobody."""
        match self.mend:
            case Sysctl() as sysctl if self.before is not None:
                host.files.write(sysctl.path, self.before.strip())
            case Mode(path=path) if self.mode is not None:
                host.files.chmod(path, self.mode)
            case Device(path=path) if self.begun and host.files.mode(path) is not None:
                host.files.remove(path)


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
    """A file of the host's own settings, with what it was beside it (`.before-cloudme`), or in the folder `aside`."""

    path: str
    text: str
    aside: str = ""
    before: str | None = field(default=None)
    begun: bool = field(default=False)

    def describe(self) -> str:
        return f"write {self.path}"

    def do(self, host: Host) -> None:
        self.before = host.files.read(self.path)
        self.begun = True
        if self.before is not None:
            beside = os.path.join(self.aside or os.path.dirname(self.path), os.path.basename(self.path))
            host.files.write(f"{beside}.before-cloudme", self.before, mode=_mode(host, self.path))
        host.files.write(self.path, self.text, mode=_mode(host, self.path))

    def undo(self, host: Host) -> None:
        if not self.begun:
            return
        if self.before is not None:
            host.files.write(self.path, self.before, mode=_mode(host, self.path))
        elif host.files.read(self.path) is not None:
            host.files.remove(self.path)


def _mode(host: Host, path: str) -> int:
    """A file keeps its mode; a new one is for all to read, and netplan's for root alone (netplan(5))."""
    found = host.files.mode(path)
    return (found & 0o7777) if found else 0o600 if os.path.dirname(path) == "/etc/netplan" else 0o644
