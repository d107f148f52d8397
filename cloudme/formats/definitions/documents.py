"""Text -> plain values, by the suffix of its file: JSON, TOML, YAML."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Any

SIZE = 1 << 20
"""Bytes of a file, at most: what a person writes is far below."""
NESTED = "it is nested too deeply"


class SyntaxErrors(Exception):
    """A file is not what its suffix says. Each line begins with its place, where that is known: 'line 3, column 7'."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def load(content: bytes, suffix: str) -> Any:
    """Return the document; suffix: of `SUFFIXES`. Raises SyntaxErrors."""
    if len(content) > SIZE:
        raise SyntaxErrors(f"it has {len(content)} bytes: {SIZE} at most")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SyntaxErrors(f"line {line}: it is not UTF-8") from None
    try:
        return SUFFIXES[suffix](text)
    except RecursionError:
        raise SyntaxErrors(NESTED) from None


def _json(text: str) -> Any:
    twice: list[str] = []

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice.extend(name for name in found if names.count(name) > 1)
        return found

    try:
        document = json.loads(text, object_pairs_hook=members)
    except json.JSONDecodeError as error:
        raise SyntaxErrors(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except ValueError as error:  # a number of thousands of digits
        raise SyntaxErrors(str(error)) from None
    if twice:
        raise SyntaxErrors(*(f"the key '{key}' stands twice in one object" for key in twice))
    return document


def _toml(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, and numbers that are too long
        what, _, place = str(error).rstrip(")").partition(" (at ")
        raise SyntaxErrors(f"{place}: {what}" if place else what) from None


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SyntaxErrors(f"line {mark.line + 1}, column {mark.column + 1}: {what}" if mark else what) from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # dates and numbers that are none
        raise SyntaxErrors(f"a value is none of YAML: {error}") from None


SUFFIXES: dict[str, Callable[[str], Any]] = {".json": _json, ".toml": _toml, ".yaml": _yaml}
"""In the order in which they are looked for."""
