"""Who has a port, asked of the kernel of the namespace that this thread is in; connections, also from outside of it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from typing import Literal

from cloudme import index
from cloudme.errors import Busy, CloudMeError, HostUnavailable, NotPermitted, UsageError
from cloudme.model.ports import Outside

BACKLOG = 1024
"""Connections that may wait to be accepted; the kernel takes fewer where it is told so (listen(2))."""

IP_FREEBIND = 15
"""linux/in.h: bind to an address that is not there yet."""

DNS, DHCP = 53, 67


def taken(address: str) -> str | None:
    """Who keeps dnsmasq from serving on `address`, as 'port 53: named (pid 12)'; None where nobody does."""
    for port, kind, bound in ((DNS, socket.SOCK_STREAM, address), (DHCP, socket.SOCK_DGRAM, "")):
        if not _free(port, kind, bound):
            return f"port {port}: {_holder(port) or 'somebody'}"
    return None


def listen(protocol: Literal["tcp", "udp"], address: str, port: int) -> int:
    """The descriptor of a socket that listens at an IP address; an IPv6 one takes no IPv4.

    Raises:  Busy, naming who has the port where that can be known; NotPermitted, UsageError.
    """
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as listener:
        try:
            if listener.family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if protocol == "tcp":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of before may linger
            listener.bind((address, port))
            if protocol == "tcp":
                listener.listen(BACKLOG)
        except OSError as error:
            raise _refused(error, protocol, address, port) from error
        return listener.detach()


def _refused(error: OSError, protocol: str, address: str, port: int) -> CloudMeError:
    if error.errno == errno.EADDRINUSE:
        who = _holder(port, (protocol, f"{protocol}6")) or "somebody"
        return Busy(f"{protocol} port {port} of {address} is taken: {who}", hint="end that, or choose another port")
    if error.errno in (errno.EADDRNOTAVAIL, errno.EINVAL, errno.EAFNOSUPPORT):
        return UsageError(f"this host has no address {address}", hint="ip -br address shows those that it has")
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotPermitted(f"port {port} is for root: this user may listen from {_first_port()} on",
                            hint=f"choose another one, or sudo sysctl net.ipv4.ip_unprivileged_port_start={port}")
    return HostUnavailable(f"cannot listen at {protocol} port {port} of {address}: {error.strerror}")


def _first_port() -> int:
    """The first that needs no capability (ip(7))."""
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
            return int(file.read())
    except OSError:
        return 1024


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


def _holder(port: int, tables: Iterable[str] = ("tcp", "tcp6", "udp", "udp6")) -> str:
    inodes = set()
    for table in tables:
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


@contextlib.contextmanager
def reached(path: str) -> Iterator[str]:
    """A path by which just this Unix socket is connected to, though who owns its folder may put a link in its place.

    Raises:  OSError, also for what is no socket.
    """
    fd = os.open(index.behind(path), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED), path)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


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


def by_vsock(cid: int, port: int, timeout_s: float) -> socket.socket:
    """A connection to a guest that goes by no network. Raises OSError, also where the kernel has no vsock."""
    peer = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    try:
        peer.settimeout(timeout_s)
        peer.connect((cid, port))
    except BaseException:
        peer.close()
        raise
    return peer
