"""Checksum files -> digests, and what OpenPGP puts around them and around keys."""

from __future__ import annotations

import base64
import binascii
import re

ALGORITHMS = {64: "sha256", 128: "sha512"}
"""By the number of hexadecimal digits. Weaker ones are passed over."""

_HEX = r"([0-9a-fA-F]+)"
_LINES = (re.compile(rf"\\?{_HEX}[ \t]+\*?(\S.*)"), re.compile(rf"SHA\d+ \((.*)\) = {_HEX}"))
_CLEAR_SIGNED = re.compile(
    r"^-----BEGIN PGP SIGNED MESSAGE-----\n(?:[^\n]+\n)*\n(.*?)^-----BEGIN PGP SIGNATURE-----",
    re.DOTALL | re.MULTILINE)
_ARMOR = re.compile(rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(.*?)-----END", re.DOTALL)
"""Header lines have a colon, a checksum begins with '='."""


def digest(text: str, file: str, *, alone: bool = False) -> str | None:
    """Return the strongest digest of `file` that a checksum file has; None where it has none, or several.

    The lines are those of sha256sum(1), 'HEX  file' or 'HEX *file', those of BSD, 'SHA256 (file) = HEX', or a digest
    and nothing else. A path before the name is passed over. alone: whatever name stands there, the file is meant.
    """
    found: set[str] = set()
    for line in (line.strip() for line in clear(text).splitlines()):
        if line.startswith("#"):
            continue
        if re.fullmatch(_HEX, line):
            named, value = file, line
        elif match := _LINES[0].fullmatch(line):
            value, named = match.groups()
        elif match := _LINES[1].fullmatch(line):
            named, value = match.groups()
        else:
            continue
        if len(value) in ALGORITHMS and (alone or named.rpartition("/")[2] == file):
            found.add(value.lower())
    strongest = [value for value in found if len(value) == max(map(len, found))]
    return strongest[0] if len(strongest) == 1 else None


def clear(text: str) -> str:
    """What a clear-signed text signs, as it was written (RFC 9580, 7); any other text as it is."""
    if not (match := _CLEAR_SIGNED.search(text.replace("\r\n", "\n"))):
        return text
    return "".join(line.removeprefix("- ") for line in match[1].splitlines(keepends=True))


def dearmored(keys: bytes) -> bytes:
    """Keys as gpgv reads them: without the armor that they may be wrapped in (RFC 9580, 6.2). Raises ValueError."""
    if not keys.lstrip().startswith(b"-----BEGIN PGP"):
        return keys
    found = b""
    for block in _ARMOR.findall(keys):
        body = [line for line in block.splitlines() if b":" not in line and not line.startswith(b"=")]
        try:
            found += base64.b64decode(b"".join(body))
        except binascii.Error as error:
            raise ValueError(f"no OpenPGP armor: {error}") from error
    return found
