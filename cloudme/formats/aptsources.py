"""Where a host takes its Debian packages from (sources.list(5)), to take an image's packages from there too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

POCKETS = ("", "-updates", "-security")
"""Of a suite: bookworm, bookworm-updates, bookworm-security."""


@dataclass(frozen=True, slots=True)
class Source:
    """One archive and one of its suites, with the component main."""

    uri: str
    suite: str


def lines(files: Mapping[str, str], codename: str, suite: str) -> list[str]:
    """Return the lines of sources.list for `suite`, at the archives from which the host has its own Debian.

    files:     name -> text, *.list or *.sources. codename: the host's own suite.
    Returns:   nothing where the host shows no archive of Debian: the caller's program knows where they are.
    """
    found = [source for name, text in sorted(files.items())
             for source in (_deb822(text) if name.endswith(".sources") else _one_line(text))]
    chosen = []
    for pocket in POCKETS:
        for source in found:
            line = f"deb {source.uri} {suite}{pocket} main"
            if source.suite == codename + pocket and _is_debian(source.uri) and line not in chosen:
                chosen.append(line)
    return chosen


def _is_debian(uri: str) -> bool:
    """Archives of others also have a suite 'bookworm' and a component 'main', but seldom end like this."""
    return re.fullmatch(r"https?://.*/debian(-security)?/?", uri) is not None


def _one_line(text: str) -> Iterable[Source]:
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+(.*)", line)
        if match and "main" in match[3].split("#")[0].split():
            yield Source(match[1], match[2])


def _deb822(text: str) -> Iterable[Source]:
    for paragraph in re.split(r"\n\s*\n", text):
        fields = {}
        for line in paragraph.splitlines():
            if not line.startswith("#") and ":" in line and not line[0].isspace():
                key, _, value = line.partition(":")
                fields[key.lower()] = value.split()
        if ("deb" in fields.get("types", []) and "main" in fields.get("components", [])
                and fields.get("enabled", ["yes"]) != ["no"]):
            yield from (Source(uri, suite) for uri in fields.get("uris", []) for suite in fields.get("suites", []))
