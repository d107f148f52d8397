"""Identifiers that follow from a machine's uuid and name, equal to those of the seed (0020-definitions.md)."""

from __future__ import annotations

import base64
import hashlib
import os

QEMU_PREFIX = b"\x52\x54\x00"
"""Of the hardware addresses that QEMU gives to its guests: locally administered, unicast."""
LINK_BYTES = 15
"""A link's name has 15 bytes and a NUL (netdevice(7), IFNAMSIZ)."""
FIRST_GROUP, GROUP_ROUNDS = 1 << 16, 4096


def mac(uuid: str, machine: str, connection: str) -> str:
    """The hardware address of a connection."""
    return _mac(_derived(uuid, machine, 6, "connection", "hardware-addr", connection))


def random_mac() -> str:
    """A hardware address that nothing follows from."""
    return _mac(os.urandom(6))


def wwn(uuid: str, machine: str, volume: str) -> str:
    """A World Wide Name of 8 bytes: NAA 5 (registered by IEEE), with the vendor number that the seed chose."""
    octets = bytearray(_derived(uuid, machine, 8, "volume", "wwn", volume))
    octets[:4] = (0x55, 0x25, 0x40, octets[3] & 0x0F)
    return f"0x{octets.hex().upper()}"


def serial(uuid: str, machine: str, volume: str) -> str:
    """The serial number of a volume: 26 digits and capital letters."""
    return base64.b32hexencode(_derived(uuid, machine, 16, "volume", "serial-number", volume)).decode().rstrip("=")


def device(uuid: str, machine: str, kind: str, name: str) -> str:
    """The uuid of a mediated device `name` of class `kind`."""
    octets = bytearray(_derived(uuid, machine, 16, "device", "id", kind, name))
    octets[6] = octets[6] & 0x0F | 0x40
    octets[8] = octets[8] & 0x3F | 0x80
    text = octets.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def group(uuid: str, machine: str) -> int:
    """The number of the group that owns the machine's files: the first of a row of numbers that is no system's one."""
    row = _derived(uuid, machine, 4 * GROUP_ROUNDS, "privilege", "file-system", "group-id", "\0" * 8)
    numbers = (int.from_bytes(row[at:at + 4], "big") for at in range(0, len(row), 4))
    return next(number for number in numbers if number >= FIRST_GROUP)


def link(machine: str, connection: str) -> str:
    """The name of a connection's tap on the host: `machine.connection` where that fits, else a digest of it."""
    whole = "".join(character for character in f"{machine}.{connection}"
                    if character.isprintable() and not character.isspace() and character != "/")
    if len(whole.encode()) <= LINK_BYTES:
        return whole
    return base64.urlsafe_b64encode(hashlib.sha3_224(whole.encode()).digest()[:11]).decode().rstrip("=")


def _derived(uuid: str, machine: str, size: int, *components: str) -> bytes:
    """SHAKE-128 of the uuid, and of the name and the components, each after its length in 8 bytes."""
    parts = [part.encode() for part in (machine, *components)]
    absorbed = bytes.fromhex(uuid.replace("-", "")) + b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hashlib.shake_128(absorbed).digest(size)


def _mac(octets: bytes) -> str:
    return (QEMU_PREFIX + octets[3:]).hex(":")
