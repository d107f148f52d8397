"""Sizes and times as people write them."""

from __future__ import annotations

import re

from cloudme.errors import UsageError

MIB = 1 << 20
GIB = 1 << 30
_FACTORS = {"K": 1 << 10, "M": MIB, "G": GIB, "T": 1 << 40}
_SIZE = re.compile(r"(\d+)\s*(?:([KMGT])(?:i?B)?)?", re.IGNORECASE)


def size(text: str, *, bare: int) -> int:
    """Return the bytes that `text` means: '2G', '512M', '512MiB'; units are powers of 1024.

    bare:    the factor of a number without a unit.
    Raises:  UsageError for anything else, and for 0.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match or int(match[1]) == 0:
        raise UsageError(f"'{text}' is no size", hint="for instance 2G, 512M")
    return int(match[1]) * (_FACTORS[match[2].upper()] if match[2] else bare)


def ram_mib(text: str) -> int:
    """A bare number is MiB; at least 1 MiB."""
    mib = size(text, bare=MIB) // MIB
    if mib < 1:
        raise UsageError(f"'{text}' is too little memory")
    return mib


def disk_bytes(text: str) -> int:
    """A bare number is GiB. Rounded up to 512-byte sectors, in which QEMU counts."""
    return -(-size(text, bare=GIB) // 512) * 512


RATE_MIN, RATE_MAX = 8_000, 100_000_000_000
"""A kilobyte a second; what the kernel's limiter can count (net/netfilter/nft_limit.c: nanoseconds times bytes)."""


def bit_rate(text: str) -> int:
    """'100M', '1.5G', '64K', '100Mbit' -> bits a second; here units are powers of 1000. Raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:bit|bit/s|bps)?", text.strip(), re.IGNORECASE)
    bits = round(float(match[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[match[2].upper()]) if match else 0
    if not RATE_MIN <= bits <= RATE_MAX:
        raise UsageError(f"'{text}' is no rate", hint="bits a second, 8K to 100G, for instance 100M")
    return bits


def human(count: int) -> str:
    """1536 MiB -> '1.5G': at most one decimal, binary units."""
    value = float(count)
    for unit in ("B", "K", "M", "G", "T"):
        if value < 1024 or unit == "T":
            return f"{value:.1f}".removesuffix(".0") + ("" if unit == "B" else unit)
        value /= 1024
    raise AssertionError("unreachable")


def seconds(text: str) -> float:
    """'90', '90s', '2m' -> seconds. Raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not match:
        raise UsageError(f"'{text}' is no time", hint="for instance 90, 90s, 2m")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
