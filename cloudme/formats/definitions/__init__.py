"""Files -> machines: `machine.conf.d/NAME.conf.json` and `machina.conf.json`, or the same as .toml or .yaml.

Whatever is wrong is collected, in all files, and told to who asks for a machine that it concerns.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloudme import layout
from cloudme.errors import NotFound, SpecError
from cloudme.formats import documents
from cloudme.formats.definitions import schema
from cloudme.model.definitions import checks
from cloudme.model.definitions.merge import merge
from cloudme.model.definitions.nouns import Complaint, Definition, HostConfiguration, Merged, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """All definitions of a host, merged. machines: by the names of their files, in that order."""

    folder: str
    host: HostConfiguration
    machines: Mapping[str, Merged]
    complaints: Sequence[Complaint] = ()
    there: Sequence[str] = field(default=())
    """The names of all files, also of those that cannot be read."""

    def pick(self, names: Iterable[str] = ()) -> list[Merged]:
        """Return the machines of these names, of their files or their own; all of them where there are no names.

        Raises:  NotFound; SpecError with all that is wrong with them, and with the host's configuration.
        """
        stems = [self._stem(name) for name in dict.fromkeys(names)] or list(self.there)
        wrong = dict.fromkeys(str(complaint) for complaint in self.complaints
                              if not complaint.machines or set(stems) & set(complaint.machines))
        if wrong:
            raise SpecError(list(wrong))
        return [self.machines[stem] for stem in stems]

    def _stem(self, name: str) -> str:
        if name in self.there:
            return name
        for stem, machine in self.machines.items():
            if machine.name == name:
                return stem
        raise NotFound(f"no definition '{name}'", hint=f"definitions are files in {self.folder}, as {name}.conf.json")


def read(host_file: str | None, folder: str, *, run: str, instead: Mapping[str, str] | None = None) -> Site:
    """Read the host's configuration and every definition in a folder.

    host_file:  None where there is none: then machines are what their own files say, and names are not looked up.
    run:        the folder in which machines have their sockets.
    instead:    path -> what a file is about to hold, there by now or not: for checking it first.
    """
    instead = instead or {}
    complaints: list[Complaint] = []
    host = HostConfiguration(file=host_file or "")
    if host_file is not None:
        suffix = os.path.splitext(host_file)[1]
        document = _document(host_file, suffix, complaints, (), instead)
        if document is not None:
            host, reader = schema.host(document, host_file)
            complaints += [*reader.complaints, *_host_wide(host)]
    definitions, there = _definitions(folder, complaints, instead)
    machines = {}
    for definition in definitions:
        mine = (definition.stem,)
        complaints += checks.dangling(definition.body, host, mine) if host_file else ()
        complaints += checks.misplaced(definition.body, host, mine)
        machines[definition.stem], more = merge(definition, host, run)
        complaints += more
    complaints += checks.clashes(machines.values())
    return Site(folder=folder, host=host, machines=machines, complaints=complaints, there=there)


def host_file(folder: str) -> str | None:
    """The host's configuration in a folder, if there is one. Raises SpecError where there are several."""
    paths = [path for suffix in documents.SUFFIXES
             if os.path.exists(path := os.path.join(folder, layout.HOST_CONFIGURATION + suffix))]
    if len(paths) > 1:
        raise SpecError([f"{path}: {paths[0]} is there, too" for path in paths[1:]], hint="remove all but one")
    return paths[0] if paths else None


def _host_wide(host: HostConfiguration) -> Iterator[Complaint]:
    for body in host.tags.values():
        yield from checks.dangling(body, host)
        yield from checks.misplaced(body, host)
    yield from checks.circles(host)


def _definitions(
    folder: str, complaints: list[Complaint], instead: Mapping[str, str],
) -> tuple[list[Definition], list[str]]:
    """The definitions that can be read, and the names of all files, sorted."""
    found: list[Definition] = []
    stems: dict[str, str] = {}
    for file, stem, suffix in _files(folder, instead):
        if stem in stems:
            complaints.append(Complaint(Source(file), f"the machine has another file: {stems[stem]}", (stem,)))
            continue
        stems[stem] = file
        document = _document(file, suffix, complaints, (stem,), instead)
        if document is not None:
            definition, reader = schema.definition(document, file, stem)
            complaints += reader.complaints
            found += [definition] if definition else []
    return found, list(stems)


def _files(folder: str, more: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """(path, stem, suffix) of the files of machines; what an editor leaves behind is none."""
    names = {os.path.basename(path) for path in more if os.path.dirname(path) == folder}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        names.update(os.listdir(folder))
    for name in sorted(names):
        whole, suffix = os.path.splitext(name)
        stem, middle = os.path.splitext(whole)
        if suffix in documents.SUFFIXES and middle == layout.MACHINE_SUFFIX and not name.startswith("."):
            yield os.path.join(folder, name), stem, suffix


def _document(
    path: str, suffix: str, complaints: list[Complaint], machines: tuple[str, ...], instead: Mapping[str, str],
) -> Any:
    """What is in a file; None, and why not, where it cannot be read."""
    if suffix not in documents.SUFFIXES:
        complaints.append(Complaint(Source(path), f"a file of {', '.join(documents.SUFFIXES)} is wanted", machines))
        return None
    try:
        document = documents.load(instead[path].encode() if path in instead else _content(path), suffix)
    except OSError as error:
        complaints.append(Complaint(Source(path), error.strerror or str(error), machines))
        return None
    except documents.SyntaxErrors as error:
        complaints += [Complaint(Source(path), line, machines) for line in error.lines]
        return None
    return {} if document is None else document


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(documents.SIZE + 1)
