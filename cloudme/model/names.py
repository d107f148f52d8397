"""Names of things: DNS labels, checked once, at the edge."""

from __future__ import annotations

from cloudme.errors import UsageError
from cloudme.index import TEMPLATES as TEMPLATES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_LENGTH = 63
"""RFC 1123 2.1: letters, digits, inner hyphens, 63 at most; lower case only, since names become folders."""

DEFAULT_GROUP = "group"
DEFAULT_TYPE = "default"


class Name(str):
    """A DNS label: the only way in which a user's string becomes part of a path.

    Raises:  UsageError where the text is none; `what` says what it was to name.
    """

    __slots__ = ()

    def __new__(cls, text: str, what: str = "name") -> Self:
        if not (0 < len(text) <= _LENGTH and set(text) <= _LETTERS and text[0] != "-" != text[-1]):
            raise UsageError(f"'{text}' is no {what}",
                             hint="small letters, digits and inner hyphens, 63 at most (a DNS label)")
        return super().__new__(cls, text)


class ImageName(Name):
    """A name of an image, which no host bears: dots between digits are right too, as in ubuntu-24.04."""

    __slots__ = ()

    def __new__(cls, text: str, what: str = "name of an image") -> Self:
        inner = zip(text, text[1:], text[2:], strict=False)
        dots = sum(before.isdigit() and dot == "." and after.isdigit() for before, dot, after in inner)
        if dots == 0 or dots != text.count("."):
            return super().__new__(cls, text, what)
        Name(text.replace(".", "-"), what)
        return str.__new__(cls, text)


class DefinitionName(Name):
    """The name of a definition: of a file, of a unit, of a folder. Wider than a DNS label, as the seed's are."""

    __slots__ = ()

    def __new__(cls, text: str, what: str = "name of a machine") -> Self:
        plain = text.lower().replace("_", "-").replace(".", "-")
        try:
            Name(plain if text.isascii() else "", what)  # the sign of kelvin (U+212A) is a small 'k', too
        except UsageError:
            raise UsageError(f"'{text}' is no {what}",
                             hint="letters, digits, inner hyphens, dots and underscores, 63 at most") from None
        return str.__new__(cls, text)

    @property
    def plain(self) -> Name:
        """The name of a machine that is defined so: itself, where it is a DNS label."""
        return Name(self.lower().replace("_", "-").replace(".", "-"))


def numbered(prefix: str, number: int) -> Name:
    """web, 0 -> web00."""
    return Name(f"{prefix}{number:02}")
