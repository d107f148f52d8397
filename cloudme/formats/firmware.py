"""Which file of variables belongs to a file of firmware code: by their names, and by QEMU's descriptors
(docs/interop/firmware.json)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator

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
    """The template of variables that the first descriptor (a text each) with this code names."""
    return next((template for template, _ in _about(code, descriptors)), None)


def requires_smm(code: str, descriptors: Iterable[str]) -> bool | None:
    """Whether that descriptor says so; None where there is none."""
    return next(("requires-smm" in features for _, features in _about(code, descriptors)), None)


def _about(code: str, descriptors: Iterable[str]) -> Iterator[tuple[str, list[object]]]:
    """The template and the features of each descriptor with this code; broken ones say nothing."""
    for text in descriptors:
        try:
            found = json.loads(text)
            mapping, features = found["mapping"], found.get("features", [])
            executable, template = mapping["executable"]["filename"], mapping["nvram-template"]["filename"]
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if isinstance(template, str) and isinstance(executable, str) and isinstance(features, list) \
                and os.path.realpath(executable) == os.path.realpath(code):
            yield template, features
