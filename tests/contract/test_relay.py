"""A port that leads to a machine: the real relay, on the loopback, and a process that stands for the machine's QEMU."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from cloudme import index
from cloudme.errors import Busy, CloudMeError, NotPermitted, PeerError, UsageError
from cloudme.host import holders, relay, relays, sockets
from cloudme.host.run import Programs
from cloudme.model.ports import Relay
from cloudme.store import take_lock
from tests import fakes

PATIENCE_S = 60
CHUNK = 1 << 16
BIG = 100 << 20


@dataclass
class Qemu:
    """Holds the lock of a machine, and does nothing else."""

    folder: Path
    process: subprocess.Popen[bytes]
    made: list[str] = field(default_factory=list)

    @property
    def lock(self) -> str:
        return str(self.folder / "lock")

    def way(self, port: int, protocol: Literal["tcp", "udp"] = "tcp", name: str = "way") -> Relay:
        return Relay(name="web00", protocol=protocol, address="127.0.0.1", port=port, lock=str(self.folder / name),
                     log=str(self.folder / f"{name}.log"), machine=self.lock)

    def serve(
        self, port: int, protocol: Literal["tcp", "udp"] = "tcp", address: str = "127.0.0.1",
    ) -> tuple[str, int]:
        """Start a relay to a port of the loopback; where it listens."""
        listener = socket.socket(fileno=sockets.listen(protocol, address, free(protocol, address)))
        self.made.append(f"way{len(self.made)}")
        with listener:
            relays.Relays(Programs()).start(self.way(port, protocol, self.made[-1]), listener.fileno())
            host, number = listener.getsockname()[:2]
        return host, number

    def pid(self) -> int:
        return holders.open_by(str(self.folder / self.made[-1]))


def free(protocol: str = "tcp", address: str = "127.0.0.1") -> int:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as probe:
        probe.bind((address, 0))
        number: int = probe.getsockname()[1]
        return number


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[Qemu]:
    lock = take_lock(str(tmp_path / "lock"))
    with subprocess.Popen(["sleep", "infinity"], pass_fds=[lock]) as process:
        os.close(lock)
        it = Qemu(tmp_path, process)
        try:
            yield it
        finally:
            for name in it.made:
                relays.Relays(Programs()).end(str(tmp_path / name))
            process.kill()


@contextlib.contextmanager
def server(serve: Callable[[socket.socket], None], address: str = "127.0.0.1") -> Iterator[int]:
    """What stands for the guest: calls `serve` with each connection, in a thread of its own."""
    with socket.create_server((address, 0), backlog=512) as listener, ThreadPoolExecutor(max_workers=256) as pool:
        def one(client: socket.socket) -> None:
            with client, contextlib.suppress(OSError):
                client.settimeout(PATIENCE_S)
                serve(client)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    pool.submit(one, listener.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def echo(client: socket.socket) -> None:
    while data := client.recv(CHUNK):
        client.sendall(data)


def connect(where: tuple[str, int]) -> socket.socket:
    return socket.create_connection(where, timeout=PATIENCE_S)


def everything(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(CHUNK), b""))


def await_free(lock: str) -> None:
    """Return when nobody holds it."""
    with open(lock, "r+b") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLKW, index.WRITE_LOCK)


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
        with connect(where) as client, pytest.raises(ConnectionResetError):
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


# its life

def test_it_ends_with_the_machine_and_its_port_is_free_then(qemu: Qemu) -> None:
    with server(echo) as port:
        where = qemu.serve(port)
        with connect(where) as open_one:
            open_one.sendall(b"x")
            assert open_one.recv(1) == b"x"
            qemu.process.send_signal(signal.SIGKILL)
            assert open_one.recv(1) == b""
        await_free(str(qemu.folder / "way0"))
        os.close(sockets.listen("tcp", *where))
    assert Path(qemu.way(1, name="way0").log).read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_it_is_ended_and_its_port_is_free_then(qemu: Qemu, protocol: Literal["tcp", "udp"]) -> None:
    where = qemu.serve(free(protocol), protocol)
    with pytest.raises(Busy, match=rf"{protocol} port {where[1]} of 127.0.0.1 is taken: vmexpose \(pid \d+\)"):
        sockets.listen(protocol, *where)
    relays.Relays(Programs()).end(str(qemu.folder / "way0"))
    os.close(sockets.listen(protocol, *where))
    relays.Relays(Programs()).end(str(qemu.folder / "way0"))


def test_it_has_nothing_open_but_what_it_needs(qemu: Qemu) -> None:
    stray = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(stray, False)
    qemu.serve(free())
    pid = qemu.pid()
    targets = sorted(os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
    os.close(stray)
    assert [target for target in targets if not target.startswith("socket:")] == sorted([
        "/dev/null", *[str(qemu.folder / "way0.log")] * 2, str(qemu.folder / "way0"), "anon_inode:[pidfd]",
        "anon_inode:[eventpoll]"])
    assert len(targets) == 7


@pytest.fixture(params=["fake", "real"])
def port(request: pytest.FixtureRequest) -> fakes.FakeRelays | relays.Relays:
    return fakes.FakeRelays(refuse={666}) if request.param == "fake" else relays.Relays(Programs())


def test_the_port_keeps_its_promises(
    port: fakes.FakeRelays | relays.Relays, qemu: Qemu, monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener = sockets.listen("tcp", "127.0.0.1", free())
    way = qemu.way(1)
    port.start(way, listener)
    assert index.held(way.lock)
    with pytest.raises(Busy):
        port.start(way, listener)
    port.end(way.lock)
    port.end(way.lock)
    assert not index.held(way.lock)
    monkeypatch.setattr(relays, "PROGRAM", "/nowhere/relay.py")
    with pytest.raises(PeerError, match="ended"):
        port.start(qemu.way(666), listener)
    qemu.process.kill()
    qemu.process.wait()
    with pytest.raises(Busy, match="has stopped"):
        port.start(way, listener)
    os.close(listener)


# where it listens

@pytest.mark.parametrize(("address", "error", "words"), [
    ("192.0.2.1", UsageError, "no address 192.0.2.1"), ("2001:db8::1", UsageError, "no address 2001:db8::1"),
    ("::ffff:127.0.0.1", UsageError, "no address"),
])
def test_where_nobody_can_listen_is_said(address: str, error: type[CloudMeError], words: str) -> None:
    with pytest.raises(error, match=words):
        sockets.listen("tcp", address, free())


def test_a_port_for_root_is_not_for_others() -> None:
    """In a child: it gives its capability away (capabilities(7), by becoming somebody else)."""
    if os.geteuid() == 0:
        pid = os.fork()
        if pid == 0:
            os.setresuid(65534, 65534, 65534)
            try:
                sockets.listen("tcp", "127.0.0.1", 81)
            except NotPermitted as error:
                os._exit(77 if "from 1024 on" in error.message else 1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 77
    else:
        with pytest.raises(NotPermitted, match="is for root"):
            sockets.listen("tcp", "127.0.0.1", 81)
