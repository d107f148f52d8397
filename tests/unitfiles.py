"""Reads units as systemd does (systemd.syntax(7), systemd.service(5), COMMAND LINES), whoever wrote them."""

from __future__ import annotations

from collections.abc import Iterator

ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "s": " ", "\\": "\\", '"': '"',
           "'": "'"}
"""Those of systemd.syntax(7) that are one character."""

Assignments = list[tuple[str, str, str]]


def assignments(text: str) -> Assignments:
    """(section, key, value) of each line. Raises ValueError for a line that is none."""
    section, found = "", []
    for line in _lines(text):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        else:
            key, equals, value = line.partition("=")
            if not equals or not section or not key.isalnum():
                raise ValueError(f"no assignment: {line!r}")
            found.append((section, key, value.strip()))
    return found


def _lines(text: str) -> Iterator[str]:
    """Without comments, and with continued ones as one: only line feeds end a line."""
    whole = ""
    for line in text.split("\n"):
        if line.lstrip()[:1] in ("#", ";"):
            continue
        backslashes = len(line) - len(line.rstrip("\\"))
        whole += line[:-1] + " " if backslashes % 2 else line
        if not backslashes % 2:
            if whole.strip():
                yield whole.strip()
            whole = ""
    if whole:
        raise ValueError("the last line is continued")


def words(value: str, *, command: bool = False) -> list[str]:
    """The words of a value, unquoted, with specifiers. command: escapes are C's, and variables are known."""
    found: list[str] = []
    word, quote, characters = "", "", iter(value)
    inside = False
    for character in characters:
        if character == "\\":
            following = next(characters)
            word, inside = word + (ESCAPES[following] if command else following), True
        elif quote:
            word, quote = (word, "") if character == quote else (word + character, quote)
        elif character in "\"'" and not inside:
            quote, inside = character, True
        elif character in "\"'":
            raise ValueError(f"a quote within a word: {value!r}")
        elif character in " \t":
            found, word, inside = found + [word] * inside, "", False
        else:
            word, inside = word + character, True
    if quote:
        raise ValueError(f"a quote is open: {value!r}")
    return [_expanded(word, command=command) for word in found + [word] * inside]


def _expanded(word: str, *, command: bool) -> str:
    """'%%' and, in commands, '$$' are one of them; nothing else is to be expanded. Raises ValueError where it is."""
    for mark in "%$" if command else "%":
        parts = word.split(mark * 2)
        if any(mark in part for part in parts):
            raise ValueError(f"{mark} is expanded in {word!r}")
        word = mark.join(parts)
    return word
