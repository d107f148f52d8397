"""The file of a whole homelab <-> what it says: `cloudme.yaml`, or the same as .toml or .json. All mistakes at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cloudme.errors import NotFound, SpecError, StoreError
from cloudme.formats import documents, located, yamlnodes
from cloudme.formats.documents import SyntaxErrors
from cloudme.formats.homelab import keys
from cloudme.formats.homelab.complaints import Complaint, Reader
from cloudme.formats.values import ABSENT
from cloudme.model.homelab import checks
from cloudme.model.homelab.checks import NOTHING_KNOWN, Surroundings
from cloudme.model.homelab.nouns import Homelab, Severity

SCHEMA = "$schema"
"""A key by which editors find the JSON Schema; it says nothing to us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A file that was read. homelab: what it says, without what is wrong by itself. complaints: in its order."""

    homelab: Homelab
    complaints: tuple[Complaint, ...]

    def demand(self) -> Homelab:
        """Return what it says. Raises SpecError with all errors; warnings and notes are none."""
        wrong = [str(complaint) for complaint in self.complaints if complaint.severity is Severity.error]
        if wrong:
            raise SpecError(wrong)
        return self.homelab


def read(path: str, around: Surroundings = NOTHING_KNOWN, *, site: str = "",
         made: Callable[[Homelab], Homelab] = lambda homelab: homelab) -> Reading:
    """Read a file; see `parse`. Raises NotFound, StoreError."""
    try:
        with open(path, "rb") as file:
            content = file.read(documents.SIZE + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"no file {path}") from None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None
    return parse(content, path, around, site=site, made=made)


def parse(content: bytes, file: str, around: Surroundings = NOTHING_KNOWN, *, site: str = "",
          made: Callable[[Homelab], Homelab] = lambda homelab: homelab) -> Reading:
    """Read what is in a file, and check it against what is around. file: its suffix says what it is.

    site:  a text that only this host has, as in `planned`.
    made:  makes another one of it, before it is looked at as a whole.
    """
    suffix = os.path.splitext(file)[1]
    if suffix not in located.SUFFIXES:
        suffix = ".yaml"
    try:
        document, places = located.load(content, suffix)
    except SyntaxErrors as error:
        return Reading(homelab=Homelab(), complaints=tuple(
            Complaint(file=file, line=wrong.line, column=wrong.column, path="", what=wrong.what)
            for wrong in error.mistakes))
    reader = Reader(file, places)
    homelab = made(_homelab(reader, document))
    for remark in checks.every(homelab, around, folder=os.path.dirname(file), site=site, told=reader.told):
        reader.remark(remark)
    return Reading(homelab=homelab, complaints=tuple(sorted(
        dict.fromkeys(reader.complaints), key=lambda complaint: (complaint.line, complaint.column))))


def _homelab(reader: Reader, document: Any) -> Homelab:
    if isinstance(document, dict):
        document = {key: value for key, value in document.items() if key != SCHEMA}
    found = keys.HOMELAB_KIND.convert(reader, {} if document is None else document, "")
    return Homelab() if found is ABSENT else found


def plain(homelab: Homelab) -> dict[str, Any]:
    """As the file has it: keys in the order of their tables, defaults left out."""
    return dict(keys.HOMELAB_KIND.plain(homelab))


def dump(homelab: Homelab) -> str:
    """YAML that says the same: `parse` gives the same value. Comments are not kept."""
    import yaml

    dumper = type("Dumper", (yaml.SafeDumper,), {"ignore_aliases": lambda self, data: True})
    for tag, pattern, letters in yamlnodes.implicit():
        dumper.add_implicit_resolver(tag, pattern, letters)  # type: ignore[attr-defined]
    return str(yaml.dump(plain(homelab), Dumper=dumper, sort_keys=False, allow_unicode=True, width=100))


@dataclass(frozen=True, slots=True)
class Change:
    """A value that is another one. path: of keys, without `machines.`. None: it is not set."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        old, new = ("not set" if value is None else value for value in (self.old, self.new))
        return f"{self.path}: {old} -> {new}"


def diff(old: Homelab, new: Homelab) -> list[Change]:
    """What differs, value by value; nothing where both say the same."""
    before, after = _flat(plain(old)), _flat(plain(new))
    return [Change(path.removeprefix("machines."), before.get(path), after.get(path))
            for path in {**before, **after} if before.get(path) != after.get(path)]


def _flat(value: Any, path: str = "") -> Mapping[str, Any]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if steps is None or (path and not value):
        return {path: value}
    return {deeper: leaf for step, item in steps for deeper, leaf in _flat(item, located.under(path, step)).items()}
