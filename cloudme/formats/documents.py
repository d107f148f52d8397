"""Text -> plain values, by the suffix of its file: JSON, TOML, YAML."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

SIZE = 1 << 20
"""Bytes of a file, at most: what a person writes is far below."""
NESTED = "it is nested too deeply"


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong, and where: counted from 1, and 0 where nobody knows."""

    what: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        column = f", column {self.column}" if self.column else ""
        return f"line {self.line}{column}: {self.what}" if self.line else self.what


_PLACE = re.compile(r"(?P<what>.*) \(at (line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL)
"""What tomllib says."""


class SyntaxErrors(Exception):
    """A file is not what its suffix says."""

    def __init__(self, *mistakes: Mistake) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = mistakes

    @property
    def lines(self) -> tuple[str, ...]:
        """Each begins with its place, where that is known: 'line 3, column 7: ...'."""
        return tuple(map(str, self.mistakes))


def load(content: bytes, suffix: str) -> Any:
    """Return the document; suffix: of `SUFFIXES`. Raises SyntaxErrors."""
    return parsed(decoded(content), SUFFIXES[suffix])


def decoded(content: bytes) -> str:
    """UTF-8, with a mark or not, and not too much of it. Raises SyntaxErrors."""
    if len(content) > SIZE:
        raise SyntaxErrors(Mistake(f"it has {len(content)} bytes: {SIZE} at most"))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SyntaxErrors(Mistake("it is not UTF-8", line)) from None


def parsed(text: str, parse: Callable[[str], T]) -> T:
    """What `parse` makes of it. Raises SyntaxErrors for what is nested too deeply, too."""
    try:
        return parse(text)
    except RecursionError:
        raise SyntaxErrors(Mistake(NESTED)) from None


def json_loaded(text: str, **how: Any) -> Any:
    """What `json.loads` makes of it. Raises SyntaxErrors."""
    try:
        return json.loads(text, **how)
    except json.JSONDecodeError as error:
        raise SyntaxErrors(Mistake(error.msg, error.lineno, error.colno)) from None
    except ValueError as error:  # a number of thousands of digits
        raise SyntaxErrors(Mistake(str(error))) from None


def json_document(text: str) -> Any:
    twice: list[str] = []

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice.extend(name for name in found if names.count(name) > 1)
        return found

    document = json_loaded(text, object_pairs_hook=members)
    if twice:
        raise SyntaxErrors(*(Mistake(f"the key '{key}' stands twice in one object") for key in twice))
    return document


def toml_document(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, and numbers that are too long
        found = _PLACE.fullmatch(str(error))
        if not found:
            raise SyntaxErrors(Mistake(str(error))) from None
        line, column = found["line"] or text.count("\n") + 1, found["column"] or 0
        raise SyntaxErrors(Mistake(found["what"], int(line), int(column))) from None


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SyntaxErrors(Mistake(what, mark.line + 1, mark.column + 1) if mark else Mistake(what)) from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # dates and numbers that are none
        raise SyntaxErrors(Mistake(f"a value is none of YAML: {error}")) from None


SUFFIXES: dict[str, Callable[[str], Any]] = {".json": json_document, ".toml": toml_document, ".yaml": _yaml}
"""In the order in which they are looked for."""
