"""catalogue.toml -> entries. All complaints at once, each with file and key."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from cloudme.errors import CloudMeError, ConfigError
from cloudme.model.catalogue import INLINE, Entry
from cloudme.model.names import ImageName

KEYS = ("url", "checksums", "signature", "keyring", "user", "description", "alias")


def read(files: Iterable[str]) -> dict[str, Entry]:
    """Return the entries of the files that exist, by name; one of a later file replaces one of the same name.

    Raises:  ConfigError with all complaints.
    """
    found: dict[str, tuple[str, Entry]] = {}
    wrong: list[str] = []
    for path in files:
        try:
            with open(path, "rb") as file:
                text = file.read()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        entries, complaints = parse(text, path)
        found |= {entry.name: (path, entry) for entry in entries}
        wrong += complaints
    whole = {name: entry for name, (_, entry) in found.items() if not entry.alias}
    for name, (path, entry) in found.items():
        if entry.alias and entry.alias not in whole:
            wrong.append(f"{path}: {name}.alias: there is no entry '{entry.alias}' that is none itself")
    if wrong:
        raise ConfigError("\n".join(wrong), hint=f"the keys are: {', '.join(KEYS)}")
    return {name: _resolved(entry, whole) for name, (_, entry) in found.items()}


def _resolved(entry: Entry, whole: dict[str, Entry]) -> Entry:
    """An alias with what it stands for in it."""
    if not entry.alias:
        return entry
    target = whole[entry.alias]
    return dataclasses.replace(target, name=entry.name, alias=entry.alias,
                               description=entry.description or target.description)


def parse(text: bytes, where: str) -> tuple[list[Entry], list[str]]:
    """Return the right entries of a file, and what is wrong with the others, each as 'file: key: what'."""
    try:
        document = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return [], [f"{where}: {error}"]
    entries: list[Entry] = []
    wrong: list[str] = []
    for name, values in document.items():
        complaints = _complaints(name, values)
        wrong += [f"{where}: {name}{complaint}" for complaint in complaints]
        if not complaints:
            entries.append(Entry(**{"url": "", "checksums": "", **values, "name": ImageName(name)}))
    return entries, wrong


def _complaints(name: str, values: Any) -> list[str]:
    """What is wrong with an entry, each as '.key: what'."""
    if not isinstance(values, dict):
        return [f": no such key; an entry begins with [{name}]"]
    wrong = []
    try:
        ImageName(name)
    except CloudMeError as error:
        wrong.append(f": {error.message}")
    for key, value in values.items():
        if isinstance(value, dict):
            wrong.append(f'.{key}: no such key; a name with a dot wants quotes: ["{name}.{key}"]')
        elif key not in KEYS:
            wrong.append(f".{key}: no such key")
        elif not isinstance(value, str) or not value:
            wrong.append(f".{key}: a text is wanted")
        elif what := _wrong_value(key, value):
            wrong.append(f".{key}: {what}")
    return wrong + [f".{key}: {what}" for key, what in _contradictions(values)]


def _wrong_value(key: str, value: str) -> str:
    if key in ("url", "checksums", "signature") and not (key == "signature" and value == INLINE):
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.endswith("/"):
            return f"'{value}' is no URL of a file, http or https"
    if key == "keyring" and not value.startswith("/"):
        return "an absolute path is wanted"
    return ""


def _contradictions(values: dict[str, Any]) -> Iterable[tuple[str, str]]:
    if "alias" in values:
        yield from ((key, "an alias has none") for key in values if key in KEYS[:5])
        return
    yield from ((key, "is wanted") for key in ("url", "checksums") if key not in values)
    for key, other in (("signature", "keyring"), ("keyring", "signature")):
        if key in values and other not in values:
            yield other, f"is wanted with {key}"
