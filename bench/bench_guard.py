"""What guards cost: packets through a guarded tap against an unguarded one, and starts with guarded taps.

No guest is needed: frames are written to one tap and read from another, on a bridge in a namespace that ends with us.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface

from bench.ratios import race
from cloudme.host import netlink, outside, realm, run
from cloudme.model.launch import Guard, TapCard
from cloudme.model.network import LINK_LOCAL, eui64

APART = ("10.210.0.1/24", "fd12::1/64")
PACKETS, STARTS = 20000, 20
MAC, OTHER = "52:54:00:00:01:05", "52:54:00:00:01:06"
GUARD = Guard(addresses=("10.210.0.5",), addresses6=(eui64(LINK_LOCAL, MAC),), others=("10.210.0.1",))
GSO_TCP4 = struct.pack("<BBHHHH", 1, 1, 54, 1448, 34, 16)
"""struct virtio_net_hdr: a segment of TCP over IPv4, its checksum left out, to be cut to packets of 1500 bytes."""


def octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def tcp(size: int) -> bytes:
    """A segment of TCP over IPv4, without its checksums."""
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 40 + size, 0, 0, 64, 6, 0) + bytes((10, 210, 0, 5, 10, 210, 0, 6))
    return octets(OTHER) + octets(MAC) + b"\x08\0" + ip + struct.pack("!HHIIBBHHH", 9, 9, 0, 0, 80, 16, 9, 0, 0) + \
        bytes(size)


def arp() -> bytes:
    """What the last rules but one let through."""
    return octets(OTHER) + octets(MAC) + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x800, 6, 4, 2) + octets(MAC) + \
        bytes((10, 210, 0, 5)) + octets(OTHER) + bytes((10, 210, 0, 6))


def through(links: netlink.Links, guard: Guard | None, packet: bytes) -> Callable[[], float]:
    """Seconds for many of this packet, header included."""
    def once() -> float:
        (source,) = links.taps([TapCard("net0", "bridge0", MAC, guard)])
        (target,) = links.taps([TapCard("net0", "bridge0", OTHER)])
        os.set_blocking(target, False)
        began = time.perf_counter()
        for _ in range(PACKETS):
            os.write(source, packet)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.read(target, 1 << 17)
        spent = time.perf_counter() - began
        for fd in (source, target):
            os.close(fd)
        return spent

    return once


def starts(links: netlink.Links, guard: Guard | None) -> Callable[[], float]:
    """Seconds for the taps of many machines that start side by side."""
    def once() -> float:
        cards = [TapCard("net0", "bridge0", f"52:54:00:00:02:{number:02x}", guard) for number in range(STARTS)]
        began = time.perf_counter()
        with ThreadPoolExecutor(max_workers=8) as pool:
            fds = list(pool.map(lambda card: links.taps([card])[0], cards))
        spent = time.perf_counter() - began
        for fd in fds:
            os.close(fd)
        return spent

    return once


def main() -> None:
    realm.fresh()
    links = netlink.Links(outside.Here(run.Programs()), run.Programs())
    links.unfilter()
    links.add_bridge("bridge0", "52:54:00:00:00:01")
    links.set_bridge("bridge0", "bench", IPv4Interface(APART[0]), IPv6Interface(APART[1]))
    apart = replace(GUARD, apart=APART)
    for what, packet in (("packets of 1500 bytes", bytes(10) + tcp(1446)), ("ARP", bytes(10) + arp()),
                         ("segments of 60 KiB", GSO_TCP4 + tcp(60000))):
        race(f"{PACKETS} {what}, guarded", through(links, GUARD, packet), "unguarded", through(links, None, packet),
             most=1.3, aim=1.1)
    race(f"taps of {STARTS} machines, guarded", starts(links, GUARD), "unguarded", starts(links, None), most=4, aim=2)
    race(f"taps of {STARTS} machines, set apart", starts(links, apart), "guarded", starts(links, GUARD), most=2,
         aim=1.3)
    for name, guard in (("guarded", GUARD), ("unguarded", None)):
        each = starts(links, guard)() / STARTS
        print(f"a {name} tap: {each * 1000:.1f} ms each, {STARTS} at once")


if __name__ == "__main__":
    if os.geteuid() != 0:
        raise SystemExit("this makes a network namespace: root is needed")
    main()
