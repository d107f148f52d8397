"""Who has an address: ARP probes (RFC 5227), which name no sender and so change nobody's tables."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Sequence

from cloudme.errors import HostUnavailable, NotPermitted

ETH_P_ARP = 0x0806
"""linux/if_ether.h."""
REQUEST = 1
ETHERNET = struct.pack("!HHBB", 1, 0x0800, 6, 4)
"""RFC 826: what follows are MACs and IPv4 addresses."""
PROBES = 3


def ask(bridge: str, addresses: Sequence[str], wait_s: float) -> dict[str, str]:
    """Address -> MAC of those that answer within `wait_s` of one of three questions. Raises NotPermitted."""
    found: dict[str, str] = {}
    with _socket(bridge) as probe:
        mac = probe.getsockname()[4]
        for _ in range(PROBES):
            for address in addresses:
                if address not in found:
                    probe.send(_question(mac, address))
            deadline = time.monotonic() + wait_s
            while (left := deadline - time.monotonic()) > 0 and len(found) < len(addresses):
                if select.select([probe], [], [], left)[0]:
                    found |= {who: whose for who, whose in _answer(probe.recv(128)) if who in addresses}
    return found


def _socket(bridge: str) -> socket.socket:
    try:
        probe = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP))
    except PermissionError:
        raise NotPermitted("this user may not ask who has an address", hint="run it with sudo") from None
    try:
        probe.bind((bridge, ETH_P_ARP))
    except OSError as error:
        probe.close()
        raise HostUnavailable(f"nobody can be asked on '{bridge}': {error.strerror}") from error
    return probe


def _question(mac: bytes, address: str) -> bytes:
    ethernet = b"\xff" * 6 + mac + struct.pack("!H", ETH_P_ARP)
    return ethernet + ETHERNET + struct.pack("!H", REQUEST) + mac + bytes(4) + bytes(6) + socket.inet_aton(address)


def _answer(frame: bytes) -> list[tuple[str, str]]:
    """The sender of an ARP packet, as (address, MAC): whoever names an address as its own has it."""
    if len(frame) < 42 or frame[14:20] != ETHERNET:
        return []
    return [(socket.inet_ntoa(frame[28:32]), frame[22:28].hex(":"))]
