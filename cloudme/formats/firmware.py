"""Which file of variables belongs to a file of firmware code: by their names, and by QEMU's descriptors
(docs/interop/firmware.json)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

PAIRS = (("CODE", "VARS"), ("code", "vars"))
"""Words in names of files: Debian's OVMF_CODE_4M.ms.fd and OVMF_VARS_4M.ms.fd, the seed's NAME.code.bin."""


def sibling(code: str) -> str | None:
    """The path with the other word in the file's name; None where it has none of these words."""
    folder, name = os.path.split(code)
    for word, other in PAIRS:
        if word in name:
            return os.path.join(folder, other.join(name.rsplit(word, 1)))
    return None


def described(code: str, descriptors: Iterable[str]) -> str | None:
    """The template of variables that the first descriptor (a text each) with this code names; broken ones say nothing.
    """
    for text in descriptors:
        try:
            mapping = json.loads(text)["mapping"]
            executable, template = mapping["executable"]["filename"], mapping["nvram-template"]["filename"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(template, str) and isinstance(executable, str) \
                and os.path.realpath(executable) == os.path.realpath(code):
            return template
    return None
