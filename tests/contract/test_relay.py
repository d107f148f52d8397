"""What goes through a relay: the real one, on the loopback."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloudme.host import relay
from tests.relaying import CHUNK, PATIENCE_S, Qemu, connect, echo, everything, free, qemu, server

BIG = 100 << 20


__all__ = ["qemu"]


# connections

def test_one_byte_goes_and_comes_back(qemu: Qemu) -> None:
    with server(echo) as port, connect(qemu.serve(port)) as client:
        client.sendall(b"x")
        assert client.recv(10) == b"x"


def test_many_bytes_go_both_ways_at_once(qemu: Qemu) -> None:
    block = os.urandom(1 << 20)
    with server(echo) as port, connect(qemu.serve(port)) as client, ThreadPoolExecutor(max_workers=1) as pool:
        def write() -> str:
            digest = hashlib.sha256()
            for _ in range(BIG // len(block)):
                client.sendall(block)
                digest.update(block)
            client.shutdown(socket.SHUT_WR)
            return digest.hexdigest()

        written = pool.submit(write)
        digest = hashlib.sha256()
        while data := client.recv(CHUNK):
            digest.update(data)
        assert digest.hexdigest() == written.result()


def test_the_end_of_one_direction_leaves_the_other_open(qemu: Qemu) -> None:
    def answer(client: socket.socket) -> None:
        client.sendall(b"got " + everything(client))

    def greet(client: socket.socket) -> None:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        heard.append(everything(client))
        done.set()

    heard: list[bytes] = []
    done = threading.Event()
    with server(answer) as port, connect(qemu.serve(port)) as client:
        client.sendall(b"ask")
        client.shutdown(socket.SHUT_WR)
        assert everything(client) == b"got ask"
    with server(greet) as port, connect(qemu.serve(port)) as client:
        assert everything(client) == b"hello"
        client.sendall(b"late")
        client.shutdown(socket.SHUT_WR)
        assert done.wait(PATIENCE_S)
        assert heard == [b"late"]


def test_two_hundred_at_once(qemu: Qemu) -> None:
    with server(echo) as port, contextlib.ExitStack() as mine:
        where = qemu.serve(port)
        clients = [mine.enter_context(connect(where)) for _ in range(200)]
        for number, client in enumerate(clients):
            client.sendall(f"{number} ".encode() * 1000)
        for client in clients:
            client.shutdown(socket.SHUT_WR)
        assert [everything(client) for client in clients] == [f"{n} ".encode() * 1000 for n in range(200)]


def test_what_the_machine_refuses_is_refused(qemu: Qemu) -> None:
    where = qemu.serve(free())
    for _ in range(3):
        with pytest.raises(ConnectionResetError), connect(where) as client:
            client.recv(1)


def test_a_connection_that_the_machine_resets_is_reset(qemu: Qemu) -> None:
    def reset(client: socket.socket) -> None:
        client.recv(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, relay.LINGER_RESET)

    with server(reset) as port, connect(qemu.serve(port)) as client:
        client.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_client_that_never_reads_fills_no_memory_and_stops_nobody(qemu: Qemu) -> None:
    sent: list[int] = []
    full = threading.Event()

    def pour(client: socket.socket) -> None:
        if client.recv(1) == b"o":
            client.sendall(b"other")
            return
        client.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while True:
                sent.append(client.send(bytes(CHUNK)))
        full.set()
        with contextlib.suppress(OSError):
            client.recv(1)

    with server(pour) as port:
        where = qemu.serve(port)
        with connect(where) as lazy:
            lazy.sendall(b"p")
            assert full.wait(PATIENCE_S), "nothing holds the machine back"
            before = spent(qemu.pid())
            time.sleep(0.5)
            assert spent(qemu.pid()) - before < 20, "it turns in circles"
            with connect(where) as other:
                other.sendall(b"o")
                assert everything(other) == b"other"
            status = Path(f"/proc/{qemu.pid()}/status").read_text(encoding="ascii")
            rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
            assert rss < 64 << 10, f"{rss} KiB, after {sum(sent)} bytes"


def spent(pid: int) -> int:
    """Ticks of CPU time, a hundred a second (proc(5), stat: utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_clients_that_go_away_in_the_middle_leave_nothing_open(qemu: Qemu) -> None:
    with server(echo) as port:
        where = qemu.serve(port)
        before = len(os.listdir(f"/proc/{qemu.pid()}/fd"))
        for how in (b"", relay.LINGER_RESET) * 20:
            with connect(where) as client:
                client.sendall(bytes(1000))
                if how:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)
        await_descriptors(qemu, before)


def await_descriptors(qemu: Qemu, most: int) -> None:
    """It learns of an end when the kernel tells it: looked at until it has; pytest ends what never comes."""
    while len(os.listdir(f"/proc/{qemu.pid()}/fd")) > most:
        os.sched_yield()


def test_an_ipv6_address_of_the_host_leads_there_too(qemu: Qemu) -> None:
    try:
        free("tcp", "::1")
    except OSError:
        pytest.skip("the kernel has no IPv6 here")
    with server(echo) as port, connect(qemu.serve(port, address="::1")) as client:
        client.sendall(b"six")
        assert client.recv(10) == b"six"


# datagrams

@contextlib.contextmanager
def datagrams() -> Iterator[tuple[int, set[tuple[str, int]]]]:
    """A server that answers each datagram with 'got' and it, and notes who asked."""
    asked: set[tuple[str, int]] = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))

        def serve() -> None:
            while (got := listener.recvfrom(CHUNK))[0] != b"end":
                asked.add(got[1])
                listener.sendto(b"got " + got[0], got[1])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], asked
        finally:
            listener.sendto(b"end", listener.getsockname())
            thread.join()


def client() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(PATIENCE_S)
    return made


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_each_client_gets_the_answers_to_its_own_datagrams(qemu: Qemu, address: str) -> None:
    with datagrams() as (port, asked), contextlib.ExitStack() as mine:
        number = qemu.serve(port, "udp", address)[1]
        clients = [mine.enter_context(client()) for _ in range(20)]
        for one in clients:
            one.connect(("127.0.0.9" if address == "0.0.0.0" else "127.0.0.1", number))
        for turn in range(3):
            for which, one in enumerate(clients):
                one.send(f"{turn} {which}".encode())
            assert [one.recv(100) for one in clients] == [f"got {turn} {n}".encode() for n in range(20)]
        assert len(asked) == 20


def test_large_and_empty_datagrams_pass_and_a_closed_port_harms_nobody(qemu: Qemu) -> None:
    with client() as one:
        one.connect(qemu.serve(free("udp"), "udp"))
        one.send(b"to nobody")
        one.send(b"to nobody")
    with datagrams() as (port, _), client() as one:
        one.connect(qemu.serve(port, "udp"))
        for data in (b"", bytes(60000), b"x"):
            one.send(data)
            assert one.recv(CHUNK) == b"got " + data
