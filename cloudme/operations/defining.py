"""Writing definitions, and what a host has to offer for them."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from cloudme import layout
from cloudme.errors import AlreadyExists, ConfigError, NotFound
from cloudme.formats import definitions, documents
from cloudme.formats.definitions import schema, written
from cloudme.formats.definitions.written import Document, Sections
from cloudme.model.definitions.nouns import DefinitionName
from cloudme.model.machine import Machine
from cloudme.model.ports import Host
from cloudme.qemu.definitions import command
from cloudme.store import Store, reported, write_atomic

WRITTEN = ".json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where definitions are, and the host's configuration, which may be missing.

    run:          see `definitions.read`.
    accelerator:  what a host's configuration that is new says of it; '' for nothing.
    """

    folder: str
    host_file: str
    run: str
    accelerator: str = ""

    def definition(self, name: str, suffix: str = WRITTEN) -> str:
        return os.path.join(self.folder, layout.MACHINE_FOLDER, f"{name}{layout.MACHINE_SUFFIX}{suffix}")


@dataclass(frozen=True, slots=True)
class Write:
    """A file as it will be. before: what is there, None where there is none."""

    path: str
    text: str
    before: str | None = None

    def describe(self) -> str:
        return f"write {self.path}" if self.before is None else f"change {self.path}"

    def diff(self) -> str:
        """As diff(1) shows it, unified."""
        lines = difflib.unified_diff((self.before or "").splitlines(), self.text.splitlines(), self.path, self.path,
                                     lineterm="")
        return "\n".join(lines)

    def do(self, host: Host) -> None:
        path = os.path.realpath(self.path)  # a link stays one
        with reported(path):
            if self.before is None and os.path.exists(path):
                raise AlreadyExists(f"there is {path} by now")
            mode = 0o644 if self.before is None else stat.S_IMODE(os.stat(path).st_mode)
            os.makedirs(os.path.dirname(path), exist_ok=True)
        write_atomic(path, self.text, mode=mode)

    def undo(self, host: Host) -> None:
        path = os.path.realpath(self.path)
        if self.before is not None:
            write_atomic(path, self.before, mode=stat.S_IMODE(os.stat(path).st_mode))
            return
        with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
            if file.read() == self.text:
                os.unlink(path)


def of_machine(store: Store, machine: Machine, name: str) -> Document:
    """The definition `name` of a machine of ours."""
    access = machine.access
    key = os.path.join(store.world.template(access.key_of), "ssh_key") if access.key_of else access.key_file
    return written.of_machine(machine, name, key or "")


def left_out(machine: Machine) -> list[str]:
    """What a machine of ours has, and no definition can say."""
    return [what for what, there in (
        ("the ports that lead to it", machine.forwards), ("that it is isolated", machine.isolate),
        ("its cards' rate", machine.net_rate), ("its display's port", machine.vnc_port),
        ("its medium", machine.cdrom), ("its shares", machine.shares)) if there]


def changes(place: Place, name: DefinitionName, document: Document, wanted: Sections) -> list[Write]:
    """What has to be written so that `name` is that definition, and the host offers what is wanted; nothing: it is so.

    All is read as it will be before anything is written.
    Raises:  AlreadyExists for a definition, or an entry, that is another; ConfigError where the host's file is not
             JSON, with what to add; SpecError with all that would be wrong.
    """
    plan = [*_host(place, wanted), *_definition(place, name, document)]
    host_file = place.host_file if wanted or os.path.exists(place.host_file) else None
    if host_file is None:
        raise NotFound(f"there is no {place.host_file}", hint="--host-config FILE names another")
    folder = os.path.join(place.folder, layout.MACHINE_FOLDER)
    site = definitions.read(host_file, folder, run=place.run, instead={write.path: write.text for write in plan})
    for machine in site.pick([name]):
        command.options(machine, site.host, command.Ground(run=place.run))
    return plan


def _definition(place: Place, name: DefinitionName, document: Document) -> Iterator[Write]:
    for suffix in documents.SUFFIXES:
        path = place.definition(name, suffix)
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            with contextlib.suppress(documents.SyntaxErrors):
                if documents.load(file.read(documents.SIZE + 1), suffix) == document:
                    return
            raise AlreadyExists(f"there is {path}, and it says something else", hint=f"vmcat {name} shows it")
    yield Write(place.definition(name), written.text(document))


def _host(place: Place, wanted: Sections) -> Iterator[Write]:
    """The host's configuration with what is wanted and not there."""
    if not wanted:
        return
    path = place.host_file
    suffix = os.path.splitext(path)[1]
    try:
        with open(path, encoding="utf-8", newline="") as file:
            before = file.read()
    except FileNotFoundError:
        said = {"accelerator": place.accelerator} if place.accelerator else {}
        yield Write(path, written.text(said | dict(wanted)))
        return
    missing = _missing(place, wanted)
    if missing and suffix != WRITTEN:
        lines = [f"{section}: {name}: {json.dumps(entry)}" for section, entries in missing.items()
                 for name, entry in entries.items()]
        raise ConfigError("\n".join([f"{path} lacks, and only JSON is changed here:", *lines]), hint="add it there")
    if missing:
        yield Write(path, written.with_entries(before, missing), before)


def _missing(place: Place, wanted: Sections) -> dict[str, dict[str, Document]]:
    """What of it the host does not offer yet. Raises AlreadyExists where it offers something else by that name."""
    there = definitions.read(place.host_file, "", run=place.run)
    there.pick()
    asked, _ = schema.host(dict(wanted), place.host_file)
    missing: dict[str, dict[str, Document]] = {}
    for section, known, ours in (("storage", there.host.storage, asked.storage),
                                 ("network", there.host.networks, asked.networks)):
        for name, noun in ours.items():
            entry = wanted[section][name]
            if name not in known and (section, name) not in there.host.broken:
                missing.setdefault(section, {})[name] = entry
            elif known.get(name) != noun:
                raise AlreadyExists(f"{place.host_file}: {section}.{name} is something else than {json.dumps(entry)}",
                                    hint="give it another name there, and in the definitions that use it")
    return missing
