"""A port that leads to a machine: one process for each, which ends with the machine (`relays.py` starts it).

    python3 -I -S /proc/self/fd/PROGRAM MACHINE tcp|udp ADDRESS PORT LISTENER QEMU READY

Address and port are the machine's. It inherits descriptors: of this file, of the socket that listens, a pidfd of the
machine's QEMU, and a pipe that gets a byte when it serves. It imports the standard library only, and little of it:
there may be many of it. What goes wrong with a connection ends that connection; no peer can make it wait, write a log
that grows, or hold more than a chunk of each direction in memory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 1 << 16
CONNECT_S = 10
"""What the machine gets to accept a connection; a closed port is told at once."""
PAUSE_S = 1
"""No connection is accepted for so long after the kernel had no room for one."""
BATCH = 64
"""Connections or datagrams that are taken at a time, before others have their turn."""
SPARE = 16
"""Descriptors that are not for connections."""
CONNECTIONS_MAX, CLIENTS_MAX = 4096, 1024
IDLE_S = 60
"""How long a client's datagrams have the same way back (RFC 4787 wants two minutes of routers that many share)."""
DATAGRAM = 1 << 16
LINGER_RESET = bytes((1, 0, 0, 0, 0, 0, 0, 0))
"""struct linger {1, 0}: closing resets the connection (socket(7))."""
IP_PKTINFO = 8
IPV6_RECVPKTINFO, IPV6_PKTINFO = 49, 50
"""linux/in.h, linux/in6.h: which of our addresses a datagram was sent to, and is answered from."""
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Loop:
    """Calls whoever wants an event, and whose time has come."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._wanted: dict[int, int] = {}
        self._calls: dict[int, Callable[[int], None]] = {}
        self.last = -1
        """The descriptor that is served after the others: new ones take no number that has an event in this round."""
        self.due: Callable[[], float | None] = lambda: None
        """Does what is due, and says how many seconds later to come again."""
        self.ended = False

    def want(self, fd: int, events: int, call: Callable[[int], None]) -> None:
        """Call `call` with the events. Where none is wanted none is told, while epoll tells errors for ever."""
        before = self._wanted.get(fd, 0)
        if events == before:
            return
        if not events:
            self._poll.unregister(fd)
            del self._wanted[fd], self._calls[fd]
            return
        if before:
            self._poll.modify(fd, events)
        else:
            self._poll.register(fd, events)
        self._wanted[fd], self._calls[fd] = events, call

    def drop(self, fd: int) -> None:
        """Call it before the descriptor is closed."""
        if self._wanted.get(fd):
            self.want(fd, 0, lambda events: None)

    def run(self) -> None:
        while not self.ended:
            wait = self.due()
            ready = self._poll.poll(wait)
            for fd, events in sorted(ready, key=lambda one: one[0] == self.last):
                if call := self._calls.get(fd):
                    call(events)


class Flow:
    """One direction of a connection; at most one chunk of it is here."""

    __slots__ = ("data", "ended", "sink", "source")

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.data = memoryview(b"")
        self.ended = False

    def read(self, room: memoryview) -> None:
        """Read into `room` what there is, and pass on what can be. Raises OSError where one of the two has gone."""
        try:
            count = self.source.recv_into(room)
        except BlockingIOError:
            return
        if not count:
            self.ended = True
            self.sink.shutdown(socket.SHUT_WR)
            return
        sent = 0
        with contextlib.suppress(BlockingIOError):
            sent = self.sink.send(room[:count])
        if sent < count:
            self.data = memoryview(bytes(room[sent:count]))

    def write(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.data = self.data[self.sink.send(self.data):]


class Tcp:
    """Joins each connection to one of its own to the machine."""

    def __init__(self, loop: Loop, listener: socket.socket, guest: tuple[str, int], most: int) -> None:
        self.loop, self.listener, self.guest, self.most = loop, listener, guest, most
        self.room = memoryview(bytearray(CHUNK))
        self.pairs: set[Pair] = set()
        self.connecting: dict[Pair, float] = {}
        self.pause = 0.0
        loop.due = self._due

    def _due(self) -> float | None:
        """End what could not connect in time, and listen as long as there is room."""
        now = time.monotonic()
        while self.connecting and (late := next(iter(self.connecting.items())))[1] <= now:
            late[0].close(reset=True)
        listens = len(self.pairs) < self.most and self.pause <= now
        self.loop.want(self.listener.fileno(), select.EPOLLIN if listens else 0, self._accept)
        times = [*list(self.connecting.values())[:1], *([self.pause] if self.pause > now else [])]
        return max(min(times) - now, 0) if times else None

    def _accept(self, events: int) -> None:
        for _ in range(min(BATCH, self.most - len(self.pairs))):
            client = None
            try:
                client = self.listener.accept()[0]
                guest = socket.socket(_family(self.guest))
            except OSError as error:
                if client:
                    client.close()
                if error.errno in NO_ROOM:
                    self.pause = time.monotonic() + PAUSE_S
                if error.errno != errno.ECONNABORTED:
                    return
                continue
            pair = Pair(self, client, guest)
            self.pairs.add(pair)
            pair.connect()


class Pair:
    """A connection and the one that it was joined to."""

    __slots__ = ("client", "flows", "guest", "tcp")

    def __init__(self, tcp: Tcp, client: socket.socket, guest: socket.socket) -> None:
        self.tcp, self.client, self.guest = tcp, client, guest
        self.flows = (Flow(client, guest), Flow(guest, client))
        for one in (client, guest):
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def connect(self) -> None:
        """The client is not listened to until the machine has answered: what it says waits in the kernel."""
        if self.guest.connect_ex(self.tcp.guest) not in (0, errno.EINPROGRESS):
            self.close(reset=True)
            return
        self.tcp.connecting[self] = time.monotonic() + CONNECT_S
        self.tcp.loop.want(self.guest.fileno(), select.EPOLLOUT, self._connected)

    def _connected(self, events: int) -> None:
        if self.guest.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.close(reset=True)
            return
        del self.tcp.connecting[self]
        self.tcp.loop.drop(self.guest.fileno())
        self._want()

    def _want(self) -> None:
        """Where something waits to be written its source is not read: the peer that is too slow slows the other."""
        there, back = self.flows
        for one, out, into, call in ((self.client, there, back, self._at_client),
                                     (self.guest, back, there, self._at_guest)):
            events = 0 if out.ended or out.data else select.EPOLLIN
            self.tcp.loop.want(one.fileno(), events | (select.EPOLLOUT if into.data else 0), call)

    def _at_client(self, events: int) -> None:
        self._move(*self.flows)

    def _at_guest(self, events: int) -> None:
        self._move(*reversed(self.flows))

    def _move(self, out: Flow, into: Flow) -> None:
        """Whatever the event is, an error too, trying what was waited for gets further, or ends it."""
        try:
            if into.data:
                into.write()
            if not out.data and not out.ended:
                out.read(self.tcp.room)
        except OSError:
            self.close(reset=True)
            return
        if out.ended and into.ended:
            self.close()
        else:
            self._want()

    def close(self, *, reset: bool = False) -> None:
        """reset: what went wrong on one side is told to the other as what it is, not as an end in peace."""
        for one in (self.client, self.guest):
            self.tcp.loop.drop(one.fileno())
            if reset:
                with contextlib.suppress(OSError):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            one.close()
        self.tcp.connecting.pop(self, None)
        self.tcp.pairs.discard(self)


class Udp:
    """Gives each client a socket of its own to the machine, as long as something goes through it."""

    def __init__(self, loop: Loop, listener: socket.socket, guest: tuple[str, int], most: int) -> None:
        self.loop, self.listener, self.guest, self.most = loop, listener, guest, most
        self.ways: dict[object, tuple[socket.socket, float]] = {}
        """By client, the one that was used last at the end; each with the time until when it stays."""
        listener.setblocking(False)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        else:
            listener.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        loop.due = self._due
        loop.want(listener.fileno(), select.EPOLLIN, self._from_clients)

    def _due(self) -> float | None:
        now = time.monotonic()
        while self.ways and (oldest := next(iter(self.ways.items())))[1][1] <= now:
            self._forget(oldest[0])
        return max(next(iter(self.ways.values()))[1] - now, 0) if self.ways else None

    def _forget(self, client: object) -> None:
        way = self.ways.pop(client)[0]
        self.loop.drop(way.fileno())
        way.close()

    def _from_clients(self, events: int) -> None:
        for _ in range(BATCH):
            try:
                data, extra, _, client = self.listener.recvmsg(DATAGRAM, socket.CMSG_SPACE(32))
            except OSError:  # none is left; an error that ICMP brought is taken by reading it
                return
            way = self._way(client, _source(extra))
            if way:
                with contextlib.suppress(OSError):
                    way.send(data)

    def _way(self, client: tuple[object, ...], ours: list[tuple[int, int, bytes]]) -> socket.socket | None:
        """The client's socket to the machine; ours: which of our addresses it writes to. None: no room for one."""
        key = (client, *(part[2] for part in ours))
        if known := self.ways.pop(key, None):
            way = known[0]
        else:
            if len(self.ways) >= self.most:
                self._forget(next(iter(self.ways)))
            try:
                way = socket.socket(_family(self.guest), socket.SOCK_DGRAM)
                way.setblocking(False)
                way.connect(self.guest)
            except OSError:
                return None
            self.loop.want(way.fileno(), select.EPOLLIN, lambda events: self._from_guest(way, key, client, ours))
        self.ways[key] = way, time.monotonic() + IDLE_S
        return way

    def _from_guest(
        self, way: socket.socket, key: object, client: tuple[object, ...], ours: list[tuple[int, int, bytes]],
    ) -> None:
        for _ in range(BATCH):
            try:
                data = way.recv(DATAGRAM)
            except OSError:
                return
            with contextlib.suppress(OSError):
                self.listener.sendmsg([data], ours, 0, client)
            self.ways.pop(key)
            self.ways[key] = way, time.monotonic() + IDLE_S


def _family(address: tuple[str, int]) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def _source(extra: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """What makes an answer come from the address that was written to, on whatever link: 0 (ip(7), ipv6(7))."""
    return [(level, kind, bytes(4) + data[4:] if kind == IP_PKTINFO else data[:16] + bytes(4))
            for level, kind, data in extra if kind in (IP_PKTINFO, IPV6_PKTINFO)]


def room(most: int, each: int) -> int:
    """How many of at most `most` the limit of descriptors allows, which is raised as far as it may be."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = most * each + SPARE
    limit = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return max((limit - SPARE) // each, 1)


def main() -> None:
    program, _, protocol, address, port, *numbers = sys.argv
    fd, qemu, ready = map(int, numbers)
    os.close(int(os.path.basename(program)))
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as name:
        name.write("vmexpose")
    loop = Loop()

    def ended(events: int) -> None:
        loop.ended = True

    loop.want(qemu, select.EPOLLIN, ended)
    listener = socket.socket(fileno=fd)
    listener.setblocking(False)
    loop.last = fd
    if protocol == "tcp":
        Tcp(loop, listener, (address, int(port)), room(CONNECTIONS_MAX, 2))
    else:
        Udp(loop, listener, (address, int(port)), room(CLIENTS_MAX, 1))
    with contextlib.suppress(OSError):  # whoever started it was killed: the machine lives, and so does this
        os.write(ready, b".")
    os.close(ready)
    loop.run()
    listener.close()  # before the lock is let go: who finds that free finds the port free


if __name__ == "__main__":
    main()
