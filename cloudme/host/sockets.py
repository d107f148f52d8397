"""Who has a port, asked of the kernel of the namespace that this thread is in; connections, also from outside of it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from cloudme.model.ports import Outside

IP_FREEBIND = 15
"""linux/in.h: bind to an address that is not there yet."""

DNS, DHCP = 53, 67


def taken(address: str) -> str | None:
    """Who keeps dnsmasq from serving on `address`, as 'port 53: named (pid 12)'; None where nobody does."""
    for port, kind, bound in ((DNS, socket.SOCK_STREAM, address), (DHCP, socket.SOCK_DGRAM, "")):
        if not _free(port, kind, bound):
            return f"port {port}: {_holder(port) or 'somebody'}"
    return None


def _free(port: int, kind: socket.SocketKind, address: str) -> bool:
    """Try to bind as dnsmasq will (its make_sock and make_fd): another dnsmasq on another link is no obstacle."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if kind == socket.SOCK_DGRAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        probe.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True


def _holder(port: int) -> str:
    inodes = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        with contextlib.suppress(OSError), open(f"/proc/thread-self/net/{table}", encoding="ascii") as file:
            for fields in (line.split() for line in file.readlines()[1:]):
                if int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as descriptors:
            for descriptor in descriptors:
                if os.readlink(descriptor.path) in inodes:
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                        return f"{file.read().strip()} (pid {pid})"
    return ""


def connected(address: str, port: int, timeout_s: float, outside: Outside | None) -> socket.socket:
    """A TCP connection; outside: who makes the socket, where that is not to be in our own namespace. Raises OSError."""
    if outside is None:
        return socket.create_connection((address, port), timeout_s)
    peer = socket.socket(fileno=outside.tcp())
    try:
        peer.settimeout(timeout_s)
        peer.connect((address, port))
    except BaseException:
        peer.close()
        raise
    return peer
