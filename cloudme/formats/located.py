"""Text -> plain values, and where in the text each of them stands. JSON, TOML, YAML."""

from __future__ import annotations

import bisect
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cloudme.formats import documents, yamlnodes
from cloudme.formats.documents import Mistake, SyntaxErrors
from cloudme.formats.values import shown

Place = tuple[int, int]
"""Line and column, from 1; a column is a character."""


def under(path: str, key: str | int) -> str:
    """'a', 'b' -> 'a.b'; 'a', 0 -> 'a[0]'."""
    return f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}" if path else key


@dataclass(slots=True)
class Places:
    """By the path of a value: where its key stands (in a list: itself), and where it stands itself."""

    keys: dict[str, Place] = field(default_factory=dict)
    values: dict[str, Place] = field(default_factory=dict)


def load(content: bytes, suffix: str) -> tuple[Any, Places]:
    """Return the document and its places; suffix: of `SUFFIXES`. Raises SyntaxErrors."""
    return documents.parsed(documents.decoded(content), SUFFIXES[suffix])


class _Cursor:
    """Goes through a text that is known to be right."""

    def __init__(self, text: str, blank: re.Pattern[str]) -> None:
        self.text = text
        self.blank = blank
        self.at = 0
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.places = Places()
        self.mistakes: list[Mistake] = []

    def place(self) -> Place:
        """Of what comes next, blanks and comments passed over."""
        if match := self.blank.match(self.text, self.at):
            self.at = match.end()
        line = bisect.bisect_right(self.starts, self.at)
        return line, self.at - self.starts[line - 1] + 1

    def take(self, pattern: re.Pattern[str]) -> str:
        """The next word; '' where the next is none of these."""
        self.place()
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return match[0] if match else ""

    def items(self, close: re.Pattern[str], one: Callable[[int], None]) -> None:
        """What stands between brackets with commas; `one` takes each."""
        self.at += 1
        count = 0
        while not self.take(close):
            one(count)
            count += 1
            self.take(_COMMA)


_COMMA, _BRACE, _BRACKET = (re.compile(re.escape(sign)) for sign in ",}]")

_JSON_BLANK = re.compile(r"[ \t\r\n]*")
_JSON_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
_JSON_WORD = re.compile(r"[^\s,\]}]+")
_COLON = re.compile(":")


def _json(text: str) -> tuple[Any, Places]:
    document = documents.json_loaded(text, parse_constant=_constant)
    cursor = _Cursor(text, _JSON_BLANK)
    _json_value(cursor, "")
    if cursor.mistakes:
        raise SyntaxErrors(*cursor.mistakes)
    return document, cursor.places


def _constant(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON's")


def _json_value(cursor: _Cursor, path: str) -> None:
    place = cursor.place()
    cursor.places.values.setdefault(path, place)
    cursor.places.keys.setdefault(path, place)
    sign = cursor.text[cursor.at]
    if sign == "{":
        seen: set[str] = set()
        cursor.items(_BRACE, lambda _: _json_member(cursor, path, seen))
    elif sign == "[":
        cursor.items(_BRACKET, lambda index: _json_value(cursor, under(path, index)))
    else:
        cursor.take(_JSON_TEXT) or cursor.take(_JSON_WORD)


def _json_member(cursor: _Cursor, path: str, seen: set[str]) -> None:
    place = cursor.place()
    key = json.loads(cursor.take(_JSON_TEXT))
    if key in seen:
        cursor.mistakes.append(Mistake(f"the key {shown(key)} stands twice", *place))
    seen.add(key)
    cursor.take(_COLON)
    cursor.places.keys.setdefault(under(path, key), place)
    _json_value(cursor, under(path, key))


_TOML_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_TOML_TEXT = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}(?!")|' r"'''.*?'{3,5}(?!')|" r'"(?:[^"\\\n]|\\.)*"|' r"'[^'\n]*'",
                        re.DOTALL)
_TOML_KEY = re.compile(r'[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|' r"'[^'\n]*'")
_TOML_WORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:[^\s,\]}#]+|[^\s,\]}#]+")
_DOT, _EQUALS = re.compile(r"\."), re.compile("=")
_HEADER, _CLOSE = re.compile(r"\[\[?"), re.compile(r"\]\]?")


def _toml(text: str) -> tuple[Any, Places]:
    document = documents.toml_document(text)
    cursor = _Cursor(text.replace("\r\n", "\n"), _TOML_BLANK)
    lengths: dict[str, int] = {}
    table = ""
    cursor.places.keys[""] = cursor.places.values[""] = (1, 1)
    cursor.place()
    while cursor.at < len(cursor.text):
        place = cursor.place()
        if header := cursor.take(_HEADER):
            table = _toml_key(cursor, "", lengths, several=header == "[[")
            cursor.take(_CLOSE)
            cursor.places.values.setdefault(table, place)
        else:
            _toml_pair(cursor, table)
        cursor.place()
    return document, cursor.places


def _toml_key(cursor: _Cursor, path: str, lengths: dict[str, int], *, several: bool = False) -> str:
    """A key with its dots -> the path that it means below `path`. lengths: of the lists of tables, so far."""
    while True:
        place = cursor.place()
        word = cursor.take(_TOML_KEY)
        key = next(iter(tomllib.loads(f"{word} = 0")))
        path = under(path, key)
        cursor.places.keys.setdefault(path, place)
        last = not cursor.take(_DOT)
        if last and several:
            lengths[path] = lengths.get(path, 0) + 1
        if path in lengths:
            cursor.places.values.setdefault(path, place)
            path = under(path, lengths[path] - 1)
            cursor.places.keys.setdefault(path, place)
        cursor.places.values.setdefault(path, place) if not last else None
        if last:
            return path


def _toml_pair(cursor: _Cursor, path: str) -> None:
    inner = _toml_key(cursor, path, {})
    cursor.take(_EQUALS)
    _toml_value(cursor, inner)


def _toml_value(cursor: _Cursor, path: str) -> None:
    place = cursor.place()
    cursor.places.values[path] = place
    cursor.places.keys.setdefault(path, place)
    sign = cursor.text[cursor.at]
    if sign == "{":
        cursor.items(_BRACE, lambda _: _toml_pair(cursor, path))
    elif sign == "[":
        cursor.items(_BRACKET, lambda index: _toml_value(cursor, under(path, index)))
    else:
        cursor.take(_TOML_TEXT) or cursor.take(_TOML_WORD)


def _yaml(text: str) -> tuple[Any, Places]:
    places = Places()

    def found(path: tuple[str | int, ...], key: Place, value: Place) -> None:
        written = ""
        for step in path:
            written = under(written, step)
        places.keys.setdefault(written, key)
        places.values.setdefault(written, value)

    return yamlnodes.read(text, found), places


SUFFIXES: dict[str, Callable[[str], tuple[Any, Places]]] = {
    ".yaml": _yaml, ".yml": _yaml, ".toml": _toml, ".json": _json,
}
"""Of the files that can be read."""
