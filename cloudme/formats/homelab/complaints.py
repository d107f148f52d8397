"""What is wrong in a file, each with its place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from cloudme.formats.located import Place, Places
from cloudme.formats.values import ABSENT
from cloudme.model.homelab.nouns import Remark, Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """line, column: from 1; 0 where the file cannot be read so far. path: of keys, as the file spells them."""

    file: str
    line: int
    column: int
    path: str
    what: str
    severity: Severity = Severity.error

    def __str__(self) -> str:
        place = ":".join([self.file, *(str(number) for number in (self.line, self.column) if number)])
        word = "" if self.severity is Severity.error else self.severity
        return ": ".join(filter(None, (place, self.path, word, self.what)))


class Reader:
    """Collects what is wrong with the values of one file.

    spelled:  path of keys as they are documented -> as the file spells it, where it is there.
    """

    def __init__(self, file: str, places: Places) -> None:
        self.file = file
        self.places = places
        self.complaints: list[Complaint] = []
        self.told: set[str] = set()
        self.spelled: dict[str, str] = {}

    def complain(self, path: str, what: str, severity: Severity = Severity.error, *, key: bool = False) -> Any:
        """key: what is wrong is the key, not its value. Returns ABSENT."""
        line, column = self._place(path, self.places.keys if key else self.places.values)
        self.complaints.append(Complaint(file=self.file, line=line, column=column, path=path, what=what,
                                         severity=severity))
        self.told.add(path)
        return ABSENT

    def remark(self, remark: Remark) -> None:
        """The path is as documented. What is not in the file itself is told at the key that is to have it."""
        given = ""
        for step in re.findall(r"\.?([^.\[]+)|(\[\d+\])", remark.path):
            wanted = given + step[1] if step[1] else f"{given}.{step[0]}" if given else step[0]
            given = self.spelled.get(wanted, wanted)
        self.complain(given, remark.what, remark.severity, key=remark.of_key)

    def _place(self, path: str, places: dict[str, Place]) -> Place:
        if path in places:
            return places[path]
        while path and path not in self.places.keys:
            path = path[:max(path.rfind("."), path.rfind("["), 0)]
        return self.places.keys.get(path, (1, 1))


@dataclass(frozen=True, slots=True)
class KeyReader:
    """Notes what is wrong with keys."""

    reader: Reader

    def complain(self, path: str, what: str) -> Any:
        return self.reader.complain(path, what, key=True)
