"""The guards of taps: their nft chains, and what the bridge's port and the queue behind it are told by netlink.

Netlink is packed by hand, three short messages: pyroute2 takes longer to import than a machine to start.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator, Sequence

from cloudme.errors import CommandFailed, HostUnavailable, MissingProgram
from cloudme.formats import guards
from cloudme.model.launch import TapCard
from cloudme.model.ports import Run

NFT = ["nft", "-f", "-"]
TRIES = 3
"""Another start may remove the same leftovers at the same time: then nothing was done, and is tried again."""

NEEDED = "the kernel needs CONFIG_NF_TABLES_NETDEV, for --isolate CONFIG_NETFILTER_EGRESS (Linux 5.16); " \
    "without: [network] guard = false in cloudme.toml, cmnet create --no-guard, or, for definitions, network.NAME.up"

REQUEST, ACK, DUMP, CREATE_OR_REPLACE = 0x1, 0x4, 0x300, 0x500
ERROR, DONE = 2, 3
"""linux/netlink.h."""
DELETE_TABLE, GET_CHAIN, BATCH = 10 << 8 | 2, 10 << 8 | 4, 16
"""linux/netfilter/nfnetlink.h, nf_tables.h: NFNL_SUBSYS_NFTABLES and its messages, NFNL_MSG_BATCH_BEGIN."""
IF_EMPTY = 0x100
"""NLM_F_NONREC."""
NETFILTER, NETDEV = 12, 5
"""NETLINK_NETFILTER, NFPROTO_NETDEV."""
TABLE_NAME, CHAIN_TABLE, CHAIN_HANDLE, CHAIN_NAME = 1, 1, 2, 3
AF_BRIDGE, SET_LINK, NEW_QDISC = 7, 19, 36
IFLA_PROTINFO, ISOLATED = 12 | 0x8000, 33
"""linux/rtnetlink.h, if_link.h: what a bridge notes of a port, and NLA_F_NESTED."""
IFLA_AF_SPEC, VLAN_INFO, PVID_UNTAGGED = 26 | 0x8000, 2, 0x2 | 0x4
"""linux/if_bridge.h: IFLA_BRIDGE_VLAN_INFO and its flags."""
TCA_KIND, TCA_OPTIONS, TBF_PARMS, TBF_RATE64, TBF_BURST = 1, 2, 1, 4, 6
ROOT = 0xFFFFFFFF
ETHERNET = 1
"""linux/pkt_sched.h."""
SIOCGIFHWADDR = 0x8927
QUEUE_S = 0.05
"""How long a packet to the machine may wait for its turn before it is dropped."""


def put(run: Run, taps: Sequence[tuple[str, TapCard]]) -> None:
    """Replace the chains of these taps by those that their cards want, at once, and remove those of taps that are gone.

    Raises:  HostUnavailable where the kernel says no, MissingProgram.
    """
    wanted = [(tap, card.mac, _mac(card.bridge) if card.guard.apart else "", card.guard)
              for tap, card in taps if card.guard and card.bridge]
    own = {tap for tap, _ in taps}
    failure: CommandFailed | None = None
    for _ in range(TRIES):
        try:
            _apply(run, guards.text(wanted, [handle for handle, tap in _chains() if tap in own or not _exists(tap)]))
        except CommandFailed as error:
            failure = error
        else:
            return
    assert failure
    said = (failure.output or failure.message).splitlines()[0]
    raise HostUnavailable(f"the taps cannot be guarded: {said}", hint=NEEDED) from failure


def lacking(taps: Sequence[tuple[str, TapCard]]) -> list[TapCard]:
    """The cards whose taps lack a chain that they want."""
    there = Counter(tap for _, tap in _chains())
    return [card for tap, card in taps if card.guard and there[tap] < (2 if card.guard.apart else 1)]


def sweep(run: Run) -> None:
    """Remove the chains of taps that are gone, and the table, if it has no other."""
    gone = [handle for handle, tap in _chains() if not _exists(tap)]
    with contextlib.suppress(CommandFailed, MissingProgram):  # somebody else did it, or is just making one
        _apply(run, guards.text([], gone))
    name = _attribute(TABLE_NAME, guards.TABLE.encode() + b"\0")
    with _netfilter() as kernel:
        kernel.send(_message(BATCH, 0, struct.pack("!BBH", 0, 0, DELETE_TABLE >> 8))
                    + _message(DELETE_TABLE, IF_EMPTY, struct.pack("BBH", NETDEV, 0, 0) + name)
                    + _message(BATCH + 1, 0, struct.pack("!BBH", 0, 0, DELETE_TABLE >> 8)))


def settle(tap: str, card: TapCard) -> None:
    """What else a port of a bridge is told, before it is up. Raises OSError."""
    if card.vlan:
        admit(tap, card.vlan)
    if card.guard and card.guard.apart:
        index = socket.if_nametoindex(tap)
        _tell(SET_LINK, 0, struct.pack("BxHiII", AF_BRIDGE, 0, index, 0, 0)
              + _attribute(IFLA_PROTINFO, _attribute(ISOLATED, b"\1")))
    if card.guard and card.guard.rate:
        _shape(tap, card.guard.rate // 8)


def admit(tap: str, vlan: int) -> None:
    """What comes into the port without a tag is in this VLAN, and leaves it so. Raises OSError."""
    _tell(SET_LINK, 0, struct.pack("BxHiII", AF_BRIDGE, 0, socket.if_nametoindex(tap), 0, 0)
          + _attribute(IFLA_AF_SPEC, _attribute(VLAN_INFO, struct.pack("HH", PVID_UNTAGGED, vlan))))


def _apply(run: Run, text: str) -> None:
    if text:
        run(NFT, stdin=text.encode())


def _exists(tap: str) -> bool:
    try:
        return bool(socket.if_nametoindex(tap))
    except OSError:
        return False


def _mac(link: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, SIOCGIFHWADDR, struct.pack("16s24x", link.encode()))
    return answer[18:24].hex(":")


def _shape(tap: str, bytes_s: int) -> None:
    """A token bucket for what the machine gets (tc-tbf(8)); longer packets are cut to the bucket's size."""
    burst = max(guards.BURST_BYTES, bytes_s // 100)
    small = min(bytes_s, 0xFFFFFFFF)
    rate = struct.pack("BBHhHI", 0, ETHERNET, 0, 0, 0, small)
    parameters = rate + bytes(len(rate)) + struct.pack("III", burst + int(bytes_s * QUEUE_S), 0, 0)
    options = _attribute(TBF_PARMS, parameters) + _attribute(TBF_BURST, struct.pack("I", burst))
    if small < bytes_s:
        options += _attribute(TBF_RATE64, struct.pack("Q", bytes_s))
    _tell(NEW_QDISC, CREATE_OR_REPLACE, struct.pack("BxHiIII", 0, 0, socket.if_nametoindex(tap), 0, ROOT, 0)
          + _attribute(TCA_KIND, b"tbf\0") + _attribute(TCA_OPTIONS, options))


def _tell(kind: int, flags: int, body: bytes) -> None:
    """One message of rtnetlink(7). Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.send(_message(kind, flags | ACK, body))
        number = -struct.unpack_from("i", kernel.recv(1 << 16), 16)[0]
    if number:
        raise OSError(number, os.strerror(number))


def _netfilter() -> socket.socket:
    """Raises HostUnavailable."""
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER)
    except OSError as error:
        raise HostUnavailable(f"this kernel has no nf_tables: {error.strerror}", hint="modprobe nf_tables") from error


def _chains() -> list[tuple[int, str]]:
    """(handle, tap) of the chains of our table."""
    found: list[tuple[int, str]] = []
    with _netfilter() as kernel:
        kernel.send(_message(GET_CHAIN, DUMP, struct.pack("BBH", NETDEV, 0, 0)))
        while True:
            for kind, body in _messages(kernel.recv(1 << 17)):
                if kind in (ERROR, DONE):
                    return found
                attributes = dict(_attributes(body[4:]))
                if attributes[CHAIN_TABLE].rstrip(b"\0").decode() == guards.TABLE:
                    name = attributes[CHAIN_NAME].rstrip(b"\0").decode()
                    found.append((int.from_bytes(attributes[CHAIN_HANDLE], "big"), guards.tap_of(name)))


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("IHHII", 16 + len(body), kind, flags | REQUEST, 0, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        length, kind = struct.unpack_from("IH", data)
        yield kind, data[16:length]
        data = data[length + -length % 4:]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        length, kind = struct.unpack_from("HH", data)
        yield kind & 0x3FFF, data[4:length]
        data = data[length + -length % 4:]
