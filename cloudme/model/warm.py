"""RAM images: the memory of a machine that was stopped in the middle, for clones to go on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DISK = "disk.qcow2"
"""The disk as it was at that very moment; clones stand on it."""


CAPABILITIES = [{"capability": name, "state": True} for name in ("x-ignore-shared", "events")]
"""Memory that is a shared file stays where it is (QEMU, qapi/migration.json); progress comes as events. They have to be
the same where a state is saved and where it is loaded, else the stream is misread (QEMU 7.2, migration/ram.c)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What has to be equal where a state is saved and where it is restored.

    qemu: as '7.2.22'.  machine: versioned, as 'pc-q35-7.2'.  hardware: a digest of what the guest sees.
    """

    qemu: str
    machine: str
    accel: str
    cpu: str
    vcpus: int
    ram_mib: int
    hardware: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """How a file looked when it was published: bytes, and the time of its last change in ns since 1970."""

    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What makes a RAM image valid. `files`: the stamp of each file it is made of, by name."""

    kind: Kind
    files: Mapping[str, Stamp]
    created: str


WORDS = {
    "qemu": "QEMU is {1}, it was made with {0}", "machine": "the machine type is {1}, was {0}",
    "accel": "it was made under {0}, this is {1}", "cpu": "the CPU is '{1}', was '{0}'",
    "vcpus": "{1} CPUs are wanted, it has {0}", "ram_mib": "{1} MiB of memory are wanted, it has {0}",
    "hardware": "the machine's hardware is another one",
}


def mismatch(manifest: Manifest, kind: Kind, files: Mapping[str, Stamp]) -> str | None:
    """Why the image cannot be used for machines of this kind, in words; None where it can.

    files:  the stamps of the files as they are now; one that is missing is gone.
    """
    for field, words in WORDS.items():
        made, wanted = getattr(manifest.kind, field), getattr(kind, field)
        if made != wanted:
            return words.format(made, wanted)
    for name, stamp in manifest.files.items():
        if name not in files:
            return f"its file '{name}' is gone"
        if files[name] != stamp:
            return f"its file '{name}' was changed after it was made"
    return None
