"""Namespaces of the test's own: a realm with the real bridge and dnsmasq, and a client on a cable to it."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from cloudme.host import realm as namespaces
from cloudme.layout import World
from cloudme.store import Store
from tests.leases import lease
from tests.users import outside as outside
from tests.users import users as users
from tests.vlans import inside as inside
from tests.vlans import ip as ip

T = TypeVar("T")
CMNET = Path(__file__).resolve().parents[2] / "sbin" / "cmnet"
NUMBERS = itertools.count()
PATIENCE_S = 5.0


class Apart(Protocol):
    def __call__(self, function: Callable[[], T]) -> T: ...


@pytest.fixture
def apart() -> Iterator[Apart]:
    """Runs functions in one thread that has a namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make network namespaces")
    with ThreadPoolExecutor(max_workers=1, initializer=namespaces.fresh) as pool:
        def run_there(function: Callable[[], T]) -> T:
            return pool.submit(function).result()

        yield run_there


@dataclass
class Client:
    """The other end of a cable into a bridge."""

    namespace: str
    device: str

    def lease(self, mac: str, patience_s: float = PATIENCE_S) -> str | None:
        """DHCP as a guest does it: discover, offer, request, ack. The address, None where nobody answers."""
        return inside(self.namespace, lambda: lease(self.device, mac, patience_s))

    def resolve(self, name: str, address: str, server: str = "10.210.0.1") -> list[str]:
        """Ask the server for the name, with `address` as our own."""
        ip("-n", os.path.basename(self.namespace), "address", "replace", f"{address}/24", "dev", self.device)
        return inside(self.namespace, lambda: ask(name, server))


A, PTR, AAAA = 1, 12, 28
"""RFC 1035, 3.2.2; RFC 3596."""


def ask(name: str, server: str) -> list[str]:
    return answer(name, server)[1]


def answer(name: str, server: str, kind: int = A) -> tuple[int, list[str]]:
    """A query (RFC 1035, 4.1): the code of its answer, and the addresses, or the names."""
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE_S)
        client.sendto(struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels + struct.pack("!x2H", kind, 1), (server, 53))
        reply = client.recv(2048)
    (count,), records, found = struct.unpack("!H", reply[6:8]), reply[12 + len(labels) + 5:], []
    for _ in range(count):
        end = 12 + struct.unpack("!H", records[10:12])[0]
        found.append(_told(records[12:end], kind))
        records = records[end:]
    return reply[3] & 15, found


def _told(data: bytes, kind: int) -> str:
    if kind != PTR:
        return socket.inet_ntop(socket.AF_INET if kind == A else socket.AF_INET6, data)
    labels = []
    while data[0]:
        labels.append(data[1:data[0] + 1].decode())
        data = data[data[0] + 1:]
    return ".".join(labels)


@dataclass
class Realm:
    """A realm as the commands see it."""

    name: str
    home: Path
    cables: list[str] = field(default_factory=list)

    @property
    def store(self) -> Store:
        home = str(self.home)
        return Store(World(data=home, run=f"{home}/run", config=f"{home}/config", realm=self.name))

    @property
    def namespace(self) -> str:
        return self.store.world.namespace

    def cmnet(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [sys.executable, str(CMNET), *arguments, "--realm", self.name], capture_output=True, text=True, check=False,
            env=os.environ | {"CLOUDME_HOME": str(self.home)}, cwd=self.home)
        assert ended.returncode == status, ended.stdout + ended.stderr
        return ended

    def run(self, *argv: str) -> str:
        return subprocess.run(["ip", "netns", "exec", os.path.basename(self.namespace), *argv],
                              check=True, capture_output=True, text=True).stdout

    def client(self) -> Client:
        """A namespace with a cable to the bridge."""
        name = f"cmtest-{os.getpid()}-{next(NUMBERS)}"
        ip("netns", "add", name)
        self.cables.append(name)
        ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", "cable", "netns",
           os.path.basename(self.namespace))
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", os.path.basename(self.namespace), "link", "set", "cable", "master", "bridge0", "up")
        return Client(f"/run/netns/{name}", "eth0")

    def dnsmasq(self) -> int:
        return int(Path(self.store.world.dnsmasq("default", "pid")).read_text())


@pytest.fixture
def make_realm(home: Path, evidence: Path) -> Iterator[Callable[[], Realm]]:
    """Makes realms, not started. They are stopped after the test, and dnsmasq's log is kept if it failed."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make network namespaces")
    for program in ("ip", "nft", "dnsmasq"):
        if shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
            pytest.skip(f"needs {program}")
    realms: list[Realm] = []

    def make() -> Realm:
        realms.append(Realm(f"t{os.getpid()}-{next(NUMBERS)}", home))
        return realms[-1]

    try:
        yield make
    finally:
        for one in realms:
            log = Path(one.store.world.dnsmasq("default", "log"))
            if log.exists():
                shutil.copyfile(log, evidence / f"{one.name}.dnsmasq.log")
            for cable in one.cables:
                ip("netns", "delete", cable)
            one.cmnet("stop")


@pytest.fixture
def realm(make_realm: Callable[[], Realm]) -> Realm:
    """A realm whose network is started."""
    made = make_realm()
    made.cmnet("start")
    return made


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before
