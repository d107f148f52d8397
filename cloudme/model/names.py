"""Names of things: DNS labels, checked once, at the edge."""

from __future__ import annotations

import re

from cloudme.errors import UsageError

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""RFC 1123 2.1: letters, digits, inner hyphens, 63 at most; lower case only, since names become folders."""

TEMPLATES = "templates"
"""The group that templates are in; no machine may join it."""

DEFAULT_GROUP = "group"
DEFAULT_TYPE = "default"


class Name(str):
    """A DNS label: the only way in which a user's string becomes part of a path.

    Raises:  UsageError where the text is none; `what` says what it was to name.
    """

    __slots__ = ()

    def __new__(cls, text: str, what: str = "name") -> Name:
        if not _LABEL.fullmatch(text):
            raise UsageError(f"'{text}' is no {what}",
                             hint="small letters, digits and inner hyphens, 63 at most (a DNS label)")
        return super().__new__(cls, text)


def numbered(prefix: str, number: int) -> Name:
    """web, 0 -> web00."""
    return Name(f"{prefix}{number:02}")
