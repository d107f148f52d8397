"""The head of a qcow2 file, as far as it says on what other file it stands (QEMU, docs/interop/qcow2.txt)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cloudme.errors import StoreError

MAGIC = b"QFI\xfb"
HEAD_BYTES = 1 << 16
"""The name stands in the first cluster; qemu-img puts it behind some hundred bytes of extensions."""

V2_HEADER_BYTES = 72
EXTERNAL_DATA = 1 << 2
"""A bit of the incompatible features, which follow the header of version 2: no disk of ours has it."""
FORMAT_EXTENSION = 0xE2792ACA


@dataclass(frozen=True, slots=True)
class Backing:
    """The file that a disk stands on: its name as it is written, its format where that is written."""

    name: str
    format: str | None


def backing(head: bytes, path: str) -> Backing | None:
    """Read the first HEAD_BYTES of `path`; None where it stands on nothing, or is no qcow2. Raises StoreError."""
    if not head.startswith(MAGIC):
        return None
    try:
        version, offset, size = struct.unpack_from(">IQI", head, 4)
        if version > 2 and struct.unpack_from(">Q", head, V2_HEADER_BYTES)[0] & EXTERNAL_DATA:
            raise ValueError("it says that its data is in another file")
        if not offset:
            return None
        name = head[offset:offset + size]
        if not size or len(name) != size:
            raise ValueError("the name of its backing file is not where it should be")
        header_bytes = struct.unpack_from(">I", head, 100)[0] if version > 2 else V2_HEADER_BYTES
        return Backing(name.decode(), _format(head[header_bytes:offset]))
    except (struct.error, ValueError) as error:
        raise StoreError(f"{path}: the head of this disk is damaged: {error}", hint=f"qemu-img check {path}") from error


def _format(extensions: bytes) -> str | None:
    """Each extension: type, length, data, filled up to eight bytes; type 0 is the end."""
    at = 0
    while at + 8 <= len(extensions):
        kind, size = struct.unpack_from(">II", extensions, at)
        if kind == 0:
            break
        if kind == FORMAT_EXTENSION:
            return extensions[at + 8:at + 8 + size].decode()
        at += 8 + (size + 7) // 8 * 8
    return None
