"""What a relay costs: bytes through a port of the host's that leads to a machine, and without it. On the loopback."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from bench.ratios import race
from cloudme.host import relays, sockets
from cloudme.host.run import Programs
from cloudme.model import identity
from cloudme.model.ports import Relay
from cloudme.store import take_lock

MIB = 512
SINK = f"""
import socket
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    room = bytearray(1 << 18)
    while True:
        client = listener.accept()[0]
        left = {MIB} << 20
        while left and (got := client.recv_into(room)):
            left -= got
        client.sendall(b".")
        client.close()
"""


@contextlib.contextmanager
def guest() -> Iterator[int]:
    """What takes the bytes; its port."""
    with subprocess.Popen([sys.executable, "-c", SINK], stdout=subprocess.PIPE) as process:
        assert process.stdout
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextlib.contextmanager
def relayed(port: int) -> Iterator[int]:
    """A port that leads to that one; a process that sleeps stands for QEMU."""
    with tempfile.TemporaryDirectory() as folder:
        lock = take_lock(f"{folder}/lock")
        with subprocess.Popen(["sleep", "infinity"], pass_fds=[lock]) as qemu, \
                socket.socket(fileno=sockets.listen("tcp", "127.0.0.1", 0)) as listener:
            os.close(lock)
            try:
                relays.Relays(Programs()).start(Relay(
                    name="bench", protocol="tcp", address="127.0.0.1", port=port, lock=f"{folder}/relay",
                    log=f"{folder}/log", machine=f"{folder}/lock", uid=identity.uid("relay")), listener.fileno())
                yield listener.getsockname()[1]
            finally:
                qemu.kill()


def sending(port: int) -> float:
    """Seconds until all bytes have arrived."""
    block = bytes(1 << 20)
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as client:
        for _ in range(MIB):
            client.sendall(block)
        assert client.recv(1) == b"."
    return time.perf_counter() - began


if __name__ == "__main__":
    with guest() as direct, relayed(direct) as port:
        race(f"{MIB} MiB through a relay", lambda: sending(port), "direct", lambda: sending(direct), most=4, aim=2)
