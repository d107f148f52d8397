"""A bridge with two taps, and who writes to them, and who listens."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from cloudme.host import netlink, outside, run
from cloudme.model.launch import Guard, TapCard
from tests.frames import Frames, Who, honest

HEADER = bytes(10)
"""struct virtio_net_hdr: nothing is left to be done."""
TUNGETIFF, IFF_VNET_HDR = 0x800454D2, 0x4000
"""linux/if_tun.h."""
ETH_P_ALL = 3
APART = ("10.210.0.1/24", "fd12:3456:789a:1::1/64")
GATEWAY = Who("52:54:00:00:00:01", "10.210.0.1", own6="fd12:3456:789a:1::1")
ME = Who("52:54:00:00:01:05", "10.210.0.5")
NEIGHBOUR = Who("52:54:00:00:01:06", "10.210.0.6")


def own(who: Who) -> Guard:
    return Guard(addresses=(who.ip,), addresses6=(who.ip6, who.link6), others=(GATEWAY.ip,))


@dataclass
class Port:
    """A tap, as its machine has it."""

    fd: int

    @property
    def header(self) -> bytes:
        flags = struct.unpack_from("H", fcntl.ioctl(self.fd, TUNGETIFF, bytes(40)), 16)[0]
        return HEADER if flags & IFF_VNET_HDR else b""

    def send(self, *frames: bytes, header: bytes | None = None) -> None:
        for frame in frames:
            with contextlib.suppress(OSError):  # half a header is nothing to the kernel
                os.write(self.fd, (self.header if header is None else header) + frame)

    def got(self) -> list[bytes]:
        """All that came since it was asked last."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(os.read(self.fd, 1 << 17)[len(self.header):])
        return found


class Bench:
    """A bridge with two taps, and who listens at the bridge itself."""

    def __init__(self, mine: Guard | None, theirs: Guard | None = None) -> None:
        self.links = netlink.Links(outside.Here(run.Programs()), run.Programs())
        self.links.unfilter()
        self.links.add_bridge("bridge0", GATEWAY.mac)
        self.links.set_bridge("bridge0", "cloudme default", IPv4Interface("10.210.0.1/24"), IPv6Interface(APART[1]))
        self.me, self.neighbour = self.port(ME, mine), self.port(NEIGHBOUR, theirs)
        self.host = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETH_P_ALL))
        self.host.bind(("bridge0", ETH_P_ALL))

    def port(self, who: Who, its: Guard | None) -> Port:
        (fd,) = self.links.taps([TapCard("net0", "bridge0", who.mac, its)])
        os.set_blocking(fd, False)
        return Port(fd)

    def host_got(self) -> list[bytes]:
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_, _, kind, *_) = self.host.recvfrom(1 << 17)
                if kind != socket.PACKET_OUTGOING:
                    found.append(frame)
        return found

    def harm(self, frames: Frames) -> set[str]:
        """The names of those that came anywhere. After each a frame that must come: nothing is still on its way. Before
        it the neighbour speaks, for the bridge to know where it is."""
        came = set()
        mark = honest(ME, NEIGHBOUR, GATEWAY)["ARP announcement"]
        for name, sent in frames.items():
            self.neighbour.send(*honest(NEIGHBOUR, ME, GATEWAY)["ARP announcement"])
            self.me.send(*sent, *mark)
            theirs, here = self.neighbour.got(), self.host_got()
            assert mark[0] in theirs, name
            if set(sent) & {*theirs, *here}:
                came.add(name)
        return came

    def table(self) -> set[str]:
        """The MACs that the bridge has learned."""
        listed = json.loads(run.Programs()(["bridge", "-j", "fdb", "show", "br", "bridge0"]))
        return {entry["mac"] for entry in listed if "permanent" not in (entry.get("state"), *entry.get("flags", []))}

    def close(self) -> None:
        self.host.close()
        for port in (self.me, self.neighbour):
            os.close(port.fd)
        self.links.remove_link("bridge0")
