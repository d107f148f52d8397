"""What tests of relays share: a process that stands for a machine's QEMU, and servers that stand for its guest."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from cloudme.host import holders, relays, sockets
from cloudme.host.run import Programs
from cloudme.model import identity
from cloudme.model.ports import Relay
from cloudme.store import take_lock

PATIENCE_S = 60
CHUNK = 1 << 16


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
                     log=str(self.folder / f"{name}.log"), machine=self.lock, uid=identity.uid("relay"))

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
    """One that lives as long as the test, as do all the relays that it has."""
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
