"""Words in units: nothing in one ends it, or is taken for a specifier or a variable (systemd.syntax(7))."""

from __future__ import annotations

import re

_PLAIN = re.compile("[A-Za-z0-9_@%+=:,./-]+")
"""Words of command lines that need no quotes; the seed's set."""
_PLAIN_PATH = re.compile("[A-Za-z0-9_@%+=,./-]+")
"""In some lists of paths a colon stands between two of them."""


def argument(text: str) -> str:
    """A word of a command line (systemd.service(5), COMMAND LINES), where a dollar begins a variable."""
    return _word(text, _PLAIN).replace("$", "$$")


def path(text: str) -> str:
    """A word of a list of paths."""
    return _word(text, _PLAIN_PATH)


def _word(text: str, plain: re.Pattern[str]) -> str:
    """What ends a line may not be in it: who reads definitions sees to that."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return (text if plain.fullmatch(text) else f'"{escaped}"').replace("%", "%%")
