"""A client of DHCP, as a guest has one. Standard library only: tests bring it into guests."""

from __future__ import annotations

import contextlib
import socket
import struct

DISCOVER, OFFER, REQUEST, ACK = 1, 2, 3, 5
RETRY_S = 0.5
"""A cable that was plugged in a moment ago loses packets: clients ask again."""


def lease(device: str, mac: str, patience_s: float) -> str | None:
    """Discover, offer, request, ack. The address, None where nobody answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        client.bind(("", 68))
        client.settimeout(RETRY_S)
        for _ in range(round(patience_s / RETRY_S)):
            with contextlib.suppress(TimeoutError):
                return _ask_once(client, mac)
    return None


def _ask_once(client: socket.socket, mac: str) -> str | None:
    client.sendto(dhcp(DISCOVER, mac), ("255.255.255.255", 67))
    kind, address, server = answer(client.recv(2048))
    assert kind == OFFER
    client.sendto(dhcp(REQUEST, mac, b"\x32\x04" + address + b"\x36\x04" + server), ("255.255.255.255", 67))
    kind, given, _ = answer(client.recv(2048))
    return socket.inet_ntoa(given) if kind == ACK else None


def dhcp(kind: int, mac: str, options: bytes = b"") -> bytes:
    """A client's message (RFC 2131, 2) that asks for a broadcast answer."""
    chaddr = bytes.fromhex(mac.replace(":", ""))
    head = struct.pack("!4B4s2H16x16s192x", 1, 1, 6, 0, b"cmcm", 0, 0x8000, chaddr)
    return head + b"\x63\x82\x53\x63" + bytes((53, 1, kind)) + options + b"\xff"


def answer(packet: bytes) -> tuple[int, bytes, bytes]:
    """kind, address, server."""
    options, found = packet[240:], {}
    while options and options[0] != 255:
        found[options[0]] = options[2:2 + options[1]]
        options = options[2 + options[1]:]
    return found[53][0], packet[16:20], found.get(54, b"")
