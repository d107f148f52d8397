"""Units of machines that are defined: written where they differ, enabled, looked at, removed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cloudme import index, layout
from cloudme.errors import AlreadyExists, Busy, NotFound
from cloudme.formats.definitions import units
from cloudme.model.ports import Host
from cloudme.model.steps import Parallel, Transaction
from cloudme.model.systemd import UnitState

RUNS = ("active", "activating", "deactivating", "reloading")
"""States of a unit that has processes, or is about to (org.freedesktop.systemd1(5))."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Where files are. root: of a host that is off, as an option has it."""

    units: str
    users: str
    root: str | None = None

    def path(self, file: str) -> str:
        return os.path.join(self.users if file.endswith(".conf") else self.units, file)

    def of(self, machine: str) -> list[str]:
        """The paths of all files that a machine may have."""
        return [self.path(file) for file in (units.unit(machine), units.swtpm_unit(machine), units.users(machine))]

    def drop_ins(self, machine: str) -> list[str]:
        return [f"{self.path(file)}.d" for file in (units.unit(machine), units.swtpm_unit(machine))]


@dataclass(frozen=True, slots=True)
class Write:
    """A file of ours as it is to be. was: None where there is none; text: None where there is to be none."""

    path: str
    was: str | None
    text: str | None

    def describe(self) -> str:
        return f"remove {self.path}" if self.text is None else f"write {self.path}"

    def do(self, host: Host) -> None:
        self._become(host, self.text)

    def undo(self, host: Host) -> None:
        self._become(host, self.was)

    def _become(self, host: Host, text: str | None) -> None:
        if text is not None:
            host.files.write(self.path, text)
        elif host.files.mode(self.path) is not None:
            host.files.remove(self.path)


@dataclass(frozen=True, slots=True)
class Users:
    """systemd-sysusers makes who is missing; they stay where another step fails: others may be at it."""

    paths: tuple[str, ...]

    def describe(self) -> str:
        return f"make the users of {' '.join(self.paths)}"

    def do(self, host: Host) -> None:
        host.units.users(self.paths)

    def undo(self, host: Host) -> None: ...


@dataclass(frozen=True, slots=True)
class Reload:
    """Have systemd read what was written; and, where that is undone, what was there before."""

    def describe(self) -> str:
        return "have systemd read its units anew"

    def do(self, host: Host) -> None:
        host.units.reload()

    def undo(self, host: Host) -> None:
        host.units.reload()


@dataclass(frozen=True, slots=True)
class Enable:
    """Or disable: whether units are started at boot."""

    names: tuple[str, ...]
    root: str | None
    on: bool = True

    def describe(self) -> str:
        return f"{'enable' if self.on else 'disable'} {' '.join(self.names)}"

    def do(self, host: Host) -> None:
        self._set(host, self.on)

    def undo(self, host: Host) -> None:
        self._set(host, not self.on)

    def _set(self, host: Host, on: bool) -> None:
        (host.units.enable if on else host.units.disable)(self.names, root=self.root)


@dataclass(frozen=True, slots=True)
class RemoveFolder:
    """If it is empty: what somebody put into it is his."""

    path: str

    def describe(self) -> str:
        return f"remove the folder {self.path} if it is empty"

    def do(self, host: Host) -> None:
        with contextlib.suppress(OSError):
            os.rmdir(self.path)

    def undo(self, host: Host) -> None:
        with contextlib.suppress(OSError):
            os.mkdir(self.path)


@dataclass(frozen=True, slots=True)
class Forget:
    """Have systemd forget that units failed: else it goes on listing them. There is no way back, and it needs none."""

    names: tuple[str, ...]

    def describe(self) -> str:
        return f"forget that {' '.join(self.names)} failed, if so"

    def do(self, host: Host) -> None:
        failed = [state.name for state in host.units.states(self.names) if state.active == "failed"]
        if failed:
            host.units.reset(failed)

    def undo(self, host: Host) -> None: ...


@dataclass(frozen=True, slots=True)
class RemoveAccount:
    """A user, or the group of his name where that is left. There is no way back; systemd-sysusers makes both anew."""

    program: str
    name: str
    number: str

    def describe(self) -> str:
        return f"{self.program} {self.name}"

    def do(self, host: Host) -> None:
        path = "/etc/passwd" if self.program == "userdel" else "/etc/group"
        rows = [line.split(":") for line in (host.files.read(path) or "").splitlines()]
        if any(row[0] == self.name and row[2:3] == [self.number] for row in rows):
            host.run([self.program, self.name])

    def undo(self, host: Host) -> None: ...


def changes(host: Host, folders: Folders, wanted: Mapping[str, Mapping[str, str]]) -> list[Write]:
    """What differs from what is there. wanted: machine -> file -> text; what else it has of ours is to go.

    Raises:  AlreadyExists where a file is there that is not ours.
    """
    found = []
    for machine, texts in wanted.items():
        for path in folders.of(machine):
            was, text = host.files.read(path), texts.get(os.path.basename(path))
            ours = was is None or was.startswith(units.MARK)
            if not ours and text is not None and was != text:
                raise AlreadyExists(f"{path} is not ours", hint="move it away, and what is to stay of it into "
                                    f"{folders.path(units.unit(machine))}.d/")
            if ours and was != text:
                found.append(Write(path, was, text))
    return found


def write(transaction: Transaction, folders: Folders, writes: Sequence[Write]) -> None:
    """Write the files; on this host, make the users and have systemd read the units."""
    transaction.apply([Parallel(writes)])  # most of it is waiting for the disk
    if folders.root is not None or not writes or not transaction.host.units.running():
        return
    if users := tuple(one.path for one in writes if one.text is not None and one.path.endswith(".conf")):
        transaction.apply([Users(users)])
    if any(not one.path.endswith(".conf") for one in writes):
        transaction.apply([Reload()])


def running(host: Host, folders: Folders, machines: Iterable[str]) -> list[str]:
    """Those of the machines whose unit runs; none on a host that is off."""
    names = {units.unit(machine): machine for machine in machines}
    if folders.root is not None or not host.units.running():
        return []
    return [names[state.name] for state in host.units.states(list(names)) if state.active in RUNS]


def known(host: Host, folders: Folders) -> list[str]:
    """The machines that have a unit of ours."""
    names = [file.removeprefix("machina-").removesuffix(".service") for file in host.files.names(folders.units)
             if file.startswith("machina-") and file.endswith(".service")]
    return [name for name in names if not name.startswith(units.SWTPM)
            and (host.files.read(folders.path(units.unit(name))) or "").startswith(units.MARK)]


def enable(transaction: Transaction, folders: Folders, machines: Sequence[str], *, on: bool) -> None:
    """Have units started at boot, or no longer. Raises NotFound where a machine has none."""
    for machine in machines:
        if transaction.host.files.mode(folders.path(units.unit(machine))) is None:
            raise NotFound(f"no unit of '{machine}'", hint=f"vmunit generate {machine}")
    names = [units.unit(machine) for machine in machines]
    already = _enabled(transaction.host, folders, names)
    if others := tuple(name for name in names if (name in already) != on):
        transaction.apply([Enable(others, folders.root, on)])


def states(host: Host, machines: Sequence[str]) -> list[UnitState]:
    return host.units.states([units.unit(machine) for machine in machines])


def remove(transaction: Transaction, folders: Folders, machines: Sequence[str]) -> None:
    """Take away all that `write` made. Of a host that is off, users stay.

    Raises:  NotFound, AlreadyExists where a file is not ours, Busy where a machine runs.
    """
    host = transaction.host
    there = {machine: [path for path in folders.of(machine) if host.files.mode(path) is not None]
             for machine in machines}
    for machine, paths in there.items():
        if not paths:
            raise NotFound(f"no unit of '{machine}'", hint="vmunit status lists them")
    writes = changes(host, folders, {machine: {} for machine in machines})
    if strange := {path for paths in there.values() for path in paths} - {one.path for one in writes}:
        raise AlreadyExists(f"{min(strange)} is not ours", hint="whoever made it knows how to remove it")
    unseen = [machine for machine in machines if folders.root is None and index.held(layout.machina_lock(machine))]
    if busy := list(dict.fromkeys([*running(host, folders, machines), *unseen])):  # vmrun needs no unit
        raise Busy(f"{', '.join(busy)} {'run' if busy[1:] else 'runs'}", hint=f"vmstop {' '.join(busy)}")
    here = folders.root is None and host.units.running()
    names = tuple(os.path.basename(one.path) for one in writes if one.path.endswith(".service"))
    transaction.apply([*(Enable((name,), folders.root, on=False) for name in _enabled(host, folders, names)), *writes,
                       *(RemoveFolder(path) for machine in machines for path in folders.drop_ins(machine)
                         if os.path.isdir(path)), *([Reload()] if here else [])])
    accounts = [account for one in writes if one.path.endswith(".conf") for account in _accounts(one.was or "")]
    if here:
        transaction.apply([Forget(names), *accounts])


def _enabled(host: Host, folders: Folders, names: Sequence[str]) -> list[str]:
    if folders.root is not None or not host.units.running():
        wanted = host.files.names(os.path.join(folders.units, "multi-user.target.wants"))
        return [name for name in names if name in wanted]
    return [state.name for state in host.units.states(names) if state.enabled.startswith("enabled")]


def _accounts(users: str) -> list[RemoveAccount]:
    """What a file of sysusers.d(5) of ours makes. Where the host has it with another number, it is not ours."""
    return [RemoveAccount(program, words[1], words[2].partition(":")[0]) for line in users.splitlines()
            if (words := line.split())[:1] == ["u"] for program in ("userdel", "groupdel")]
