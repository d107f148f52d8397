"""What follows from a machine's uuid: pure derivations, the same on every host."""

from __future__ import annotations

import hashlib
import os


def new_uuid() -> str:
    """A random uuid (RFC 9562, version 4) as text."""
    octets = bytearray(os.urandom(16))
    octets[6] = octets[6] & 0x0F | 0x40
    octets[8] = octets[8] & 0x3F | 0x80
    text = octets.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def mac(uuid: str, index: int = 0) -> str:
    """The hardware address of a machine's card number `index`.

    52:54:00 is the prefix that QEMU uses for its guests (locally administered, unicast); 24 bits of a digest follow.
    """
    digest = hashlib.sha256(f"{uuid}/nic/{index}".encode()).digest()
    return ":".join(f"{octet:02x}" for octet in b"\x52\x54\x00" + digest[:3])


def machine_id(uuid: str) -> str:
    """The machine-id(5) of a guest: 32 hexadecimal digits."""
    return hashlib.sha256(f"{uuid}/machine-id".encode()).hexdigest()[:32]


UID_MIN, UID_MAX = 0x70000000, 0x7FFDFFFF
"""Numbers of users that nobody hands out (systemd, docs/UIDS-GIDS.md: 'unused')."""


def uid(uuid: str) -> int:
    """The number of the user, and of the group, as which root runs the QEMU of a machine. It has no name."""
    digest = hashlib.sha256(f"{uuid}/uid".encode()).digest()
    return UID_MIN + int.from_bytes(digest[:8], "big") % (UID_MAX + 1 - UID_MIN)


def short(text: str, length: int) -> str:
    """The text, or its beginning and five digits of all of it."""
    return text if len(text) <= length else text[:length - 5] + hashlib.sha256(text.encode()).hexdigest()[:5]
