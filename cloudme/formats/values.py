"""Plain values -> checked ones. A reader goes on after a mistake: all of a file's are told at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from ipaddress import ip_interface
from typing import Any, Protocol

from cloudme.errors import UsageError
from cloudme.model.devices import pci_address

TEXT = 4096
"""Characters of one text, at most."""
ITEMS = 1024
"""Of one list or object."""

_UNFIT = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff\\ufffe\\uffff]")
"""Control characters, ends of lines, halves of characters: in no file name, unit or terminal are they wanted."""
_UUID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")
_MAC = re.compile("[0-9a-f]{12}")
WWN_DIGITS = {"6": 32, "1": 16, "2": 16, "5": 16, "c": 16, "d": 16, "e": 16, "f": 16}
"""First digit (NAA) -> all digits of a World Wide Name."""

ABSENT: Any = object()
"""What a value is that is wrong or not there."""


class Reader(Protocol):
    """Collects what is wrong with the values of one file."""

    def complain(self, path: str, what: str) -> Any:
        """Note what is wrong with the value at this path of keys; returns ABSENT."""


Convert = Callable[[Reader, Any, str], Any]
"""(reader, value, path of keys) -> the checked value, or ABSENT, with a complaint where it is wrong."""


def shown(value: Any) -> str:
    """A word for what was found, short enough for a line."""
    if isinstance(value, str):
        return f"'{value[:40]}'" if value.isprintable() else "a text that cannot be printed"
    words: dict[type, str] = {bool: "a truth value", dict: "an object", list: "a list"}
    if type(value) in (int, float):
        return f"the number {value}" if -10**18 < value < 10**18 else "such a number"
    return words.get(type(value), f"a {type(value).__name__}")


def text(reader: Reader, value: Any, path: str) -> Any:
    if not isinstance(value, str):
        quote = ": quote it" if type(value) in (int, float, bool) else ""
        return reader.complain(path, f"a text is wanted, not {shown(value)}{quote}")
    if len(value) > TEXT:
        return reader.complain(path, f"a text of {len(value)} characters is too long: {TEXT} at most")
    if unfit := _UNFIT.search(value):
        return reader.complain(path, f"the character U+{ord(unfit[0]):04X} cannot be in a text here")
    return value


def name(reader: Reader, value: Any, path: str) -> Any:
    """A text that is not empty."""
    if value == "":
        return reader.complain(path, "a name is wanted, not ''")
    return text(reader, value, path)


def flag(reader: Reader, value: Any, path: str) -> Any:
    return value if isinstance(value, bool) else reader.complain(path, f"true or false is wanted, not {shown(value)}")


def number(low: int, high: int) -> Convert:
    """A whole number in that range."""
    def convert(reader: Reader, value: Any, path: str) -> Any:
        if type(value) is int and low <= value <= high:
            return value
        return reader.complain(path, f"a number from {low} to {high} is wanted, not {shown(value)}")

    return convert


def checked(convert: Callable[[str], Any]) -> Convert:
    """A text that `convert` takes; its UsageError or ValueError says what is wrong. '' is what is not set."""
    def whole(reader: Reader, value: Any, path: str) -> Any:
        found = text(reader, value, path)
        if found is ABSENT or found == "":
            return found
        try:
            return convert(found)
        except UsageError as error:
            return reader.complain(path, error.message)
        except ValueError:
            return reader.complain(path, f"{shown(value)} cannot be that")

    return whole


def _uuid(given: str) -> str:
    plain = given.lower().removeprefix("urn:uuid:")
    plain = plain[1:-1] if plain.startswith("{") and plain.endswith("}") else plain
    if not _UUID.fullmatch(plain):
        raise UsageError(f"{shown(given)} is no uuid", hint="vmid makes one")
    digits = plain.replace("-", "")
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _mac(given: str) -> str:
    digits = re.sub("[:.-]", "", given.lower())
    if not _MAC.fullmatch(digits) or len(given) > 17:
        raise UsageError(f"{shown(given)} is no hardware address", hint="vmid --mac makes one")
    if int(digits[1], 16) % 2:
        raise UsageError(f"{shown(given)} is the address of a group of cards, not of one")
    return ":".join(digits[at:at + 2] for at in range(0, 12, 2))


def _wwn(given: str) -> str:
    digits = given.lower().removeprefix("0x").replace(":", "")
    if not re.fullmatch("[0-9a-f]+", digits) or len(digits) != WWN_DIGITS.get(digits[0]):
        raise UsageError(f"{shown(given)} is no World Wide Name: 16 digits, or 32 that begin with 6")
    return f"0x{digits.upper()}"


def _address(given: str) -> str:
    try:
        ip_interface(given)
    except ValueError:
        raise UsageError(f"{shown(given)} is no IP address") from None
    return given


uuid, mac, wwn, address, pci = (checked(convert) for convert in (_uuid, _mac, _wwn, _address, pci_address))


def listing(convert: Convert) -> Convert:
    """A list, as a tuple; what is wrong in it is left out."""
    def whole(reader: Reader, value: Any, path: str) -> Any:
        if not isinstance(value, list):
            return reader.complain(path, f"a list is wanted, not {shown(value)}")
        if len(value) > ITEMS:
            return reader.complain(path, f"a list of {len(value)} is too long: {ITEMS} at most")
        found = (convert(reader, item, f"{path}[{number}]") for number, item in enumerate(value))
        return tuple(item for item in found if item is not ABSENT)

    return whole


def mapping(convert: Convert, *, keep: bool = False) -> Convert:
    """An object with any keys but ''. keep: a key whose value is wrong stays, with None."""
    def whole(reader: Reader, value: Any, path: str) -> Any:
        if (items := members(reader, value, path)) is None:
            return ABSENT
        found = {}
        for key, item in items.items():
            if not key or _UNFIT.search(key) or len(key) > TEXT:
                reader.complain(path, f"{shown(key)} is no name")
            elif item is not None and (done := convert(reader, item, f"{path}.{key}")) is not ABSENT:
                found[key] = done
            elif keep:
                found[key] = None
        return found

    return whole


def record(fields: Mapping[str, Convert], wanted: tuple[str, ...] = ()) -> Convert:
    """An object with these keys, in small letters or not (as Go reads them); null is what is not there."""
    def whole(reader: Reader, value: Any, path: str) -> Any:
        if (items := members(reader, value, path)) is None:
            return ABSENT
        found: dict[str, Any] = {}
        for given, item in items.items():
            key, inner = given.lower(), f"{path}.{given}" if path else given
            if key not in fields:
                reader.complain(inner if given and not _UNFIT.search(given) else path, unknown(given, fields))
            elif key in found:
                reader.complain(inner, "it stands twice, with small and capital letters")
            elif item is not None:
                found[key] = fields[key](reader, item, inner)
        for key in wanted:
            if key not in found:
                reader.complain(f"{path}.{key}" if path else key, "is wanted")
        return {key: done for key, done in found.items() if done is not ABSENT}

    return whole


def members(reader: Reader, value: Any, path: str) -> dict[str, Any] | None:
    """An object that is not too large, and whose keys are texts; None for what is none."""
    if not isinstance(value, dict):
        reader.complain(path, f"an object is wanted, not {shown(value)}")
        return None
    if len(value) > ITEMS:
        reader.complain(path, f"an object of {len(value)} keys is too large: {ITEMS} at most")
        return None
    for key in value:
        if not isinstance(key, str):
            reader.complain(path, f"a key is a text, not {shown(key)}: quote it")
    return {key: item for key, item in value.items() if isinstance(key, str)}


def unknown(given: str, fields: Collection[str]) -> str:
    """What to say of a key that is none of these."""
    from difflib import get_close_matches

    near = get_close_matches(given.lower(), fields, 1)
    return f"no such key; '{near[0]}' is one" if near else f"no such key: there are {', '.join(sorted(fields))}"
