"""Two networks that stand for VLANs, machines in them that are namespaces on a cable, and who reaches whom.

Standard library and cloudme only: a test brings it into a guest, whose kernel has what this one's may not have.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import selectors
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TypeVar

from cloudme.host import realm
from cloudme.host.netlink import Links
from cloudme.host.outside import Here
from cloudme.host.run import Programs
from cloudme.layout import World
from cloudme.model import openports
from cloudme.model.launch import TapCard
from cloudme.model.machine import Access, Machine, Nic, Shape
from cloudme.model.names import Name
from cloudme.store import Store

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 20
TCP, UDP = (22, 80, 81, 30001), (53, 54)
OPEN, CLOSED = "open", "closed"
"""CLOSED: a rule said no, at once. All else is told by its error."""

NO = (errno.EHOSTUNREACH, errno.EPERM)
"""How a rule's no is told: by ICMP (icmp(7), admin-prohibited), and to who sends here himself."""

VLANS = {"management": 10, "services": 20}
MACHINES = {
    "jenkins": ("management", "10.20.10.11", "ssh=22,web=80"),
    "registry": ("services", "10.20.20.10", "api=80,nodes=30000-32767,dns=53/udp"),
    "worker": ("services", "10.20.20.22", "all"),
}


def inside(namespace: str, function: Callable[[], T]) -> T:
    """Run in a thread that is in the namespace (setns(2) moves one thread); '' is where we are."""
    def moved() -> T:
        if namespace:
            realm.enter(namespace, namespace)
        return function()

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(moved).result()


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@dataclass
class Site:
    """A world, and the namespace that it is in; '' is the host's own."""

    world: World
    namespace: str
    vlans: bool

    def cmnet(self, *words: str, status: int = 0) -> str:
        return self.call("sbin/cmnet", *words, status=status)

    def call(self, program: str, *words: str, status: int = 0) -> str:
        more = ["--realm", self.world.realm] if self.world.realm else []
        ended = subprocess.run([sys.executable, str(ROOT / program), *words, *more], capture_output=True, text=True,
                               check=False, env=os.environ | {"CLOUDME_HOME": self.world.data})
        assert ended.returncode == status, f"{words}: {ended.returncode}\n{ended.stdout}{ended.stderr}"
        return ended.stdout + ended.stderr

    def create(self, *more: str) -> None:
        """management, which reaches services, and services, which reaches nobody."""
        for name, vlan, reaches in (("management", 10, "services"), ("services", 20, "none")):
            where = ["--vlan", str(vlan), "--bridge", "vmbr0", *more] if self.vlans else ["--ipv6", "none"]
            self.cmnet("create", name, "--cidr", f"10.20.{vlan}.0/24", "--reaches", reaches, *where)

    @property
    def store(self) -> Store:
        return Store(self.world)

    def publish(self, name: str, address: str | None = None, ports: str | None = None) -> Machine:
        """A machine as its record and its reservation tell it; the rules follow with the next command."""
        network, old, said = MACHINES[name]
        nic = Nic(network=Name(network), mac=mac(name), address=address or old)
        machine = Machine(
            name=Name(name), uuid=name, group="homelab", type=Name("x"), template=Name("debian"),
            shape=Shape(vcpus=1, ram_mib=512), disks=(), nics=(nic,),
            access=Access(user="root", key_of=Name("debian"), seeded=True), created="2026-11-21T22:00:00Z",
            ports=openports.read(ports or said))
        os.makedirs(self.store.folder(machine), exist_ok=True)
        self.store.publish(machine)
        found = self.store.network(network)
        assert found and nic.address
        self.store.reserve(found, name, nic.mac, nic.address)
        return machine

    def plug(self, name: str, device: str) -> None:
        """Make the end of a cable a port, as a tap becomes one."""
        network = self.store.network(MACHINES[name][0])
        assert network
        card = TapCard("net0", network.bridge, mac(name), vlan=network.vlan)
        run = Programs()
        inside(self.namespace, lambda: Links(Here(run), run).join(device, card))


def mac(name: str) -> str:
    return f"52:54:00:00:00:{sorted(MACHINES).index(name) + 1:02x}"


@dataclass
class Box:
    """What stands for a machine: a namespace, and the card in it."""

    name: str
    namespace: str
    address: str

    def set_address(self, address: str) -> None:
        self.address = address
        netns, gateway = os.path.basename(self.namespace), address.rpartition(".")[0] + ".1"
        ip("-n", netns, "address", "flush", "dev", "eth0")
        ip("-n", netns, "address", "add", f"{address}/24", "dev", "eth0")
        ip("-n", netns, "route", "replace", "default", "via", gateway)


@contextlib.contextmanager
def boxes(site: Site, mark: str) -> Iterator[dict[str, Box]]:
    """One for each of MACHINES, on a cable to its network, that serves on TCP and UDP. mark: of their names."""
    def hurry() -> None:
        """A sender is answered by ICMP as often as it asks, not once a second (icmp(7))."""
        Path("/proc/sys/net/ipv4/icmp_ratelimit").write_text("0", encoding="ascii")

    inside(site.namespace, hurry)
    with contextlib.ExitStack() as undo:
        found = {}
        for number, (name, (_, address, _)) in enumerate(MACHINES.items()):
            netns = f"{mark}-{name}"
            ip("netns", "add", netns)
            undo.callback(ip, "netns", "delete", netns)
            near = [] if not site.namespace else ["netns", os.path.basename(site.namespace)]
            ip("-n", netns, "link", "add", "eth0", "address", mac(name), "type", "veth",
               "peer", "name", f"cable{number}", *(near or ["netns", str(os.getpid())]))
            for link in ("lo", "eth0"):
                ip("-n", netns, "link", "set", link, "up")
            site.plug(name, f"cable{number}")
            found[name] = Box(name, f"/run/netns/{netns}", address)
            found[name].set_address(address)
            undo.enter_context(serving(found[name]))
        yield found


@contextlib.contextmanager
def serving(box: Box) -> Iterator[None]:
    def sockets() -> list[socket.socket]:
        streams = [socket.create_server(("", port)) for port in TCP]
        packets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in UDP]
        for one, port in zip(packets, UDP, strict=True):
            one.bind(("", port))
        return [*streams, *packets]

    ours, end = socket.socketpair()
    listeners = inside(box.namespace, sockets)
    thread = Thread(target=_answer, args=(listeners, end))
    thread.start()
    try:
        yield
    finally:
        ours.close()
        thread.join()
        for one in (*listeners, end):
            one.close()


def _answer(listeners: list[socket.socket], end: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        for one in (*listeners, end):
            selector.register(one, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                asked = key.fileobj
                assert isinstance(asked, socket.socket)
                if asked is end:
                    return
                if asked.type == socket.SOCK_STREAM:
                    with asked.accept()[0] as stream:
                        stream.send(OPEN.encode())
                else:
                    _, who = asked.recvfrom(100)
                    asked.sendto(OPEN.encode(), who)


def ask(address: str, what: str) -> str:
    """what: 'tcp/80', 'udp/53', 'icmp'. OPEN, CLOSED, or an error."""
    kind, _, port = what.partition("/")
    for _ in range(PATIENCE_S):
        try:
            return _ping(address) if kind == "icmp" else _ask(address, int(port), datagram=kind == "udp")
        except TimeoutError:
            """The kernel answers a sender once a second, no more (icmp(7), icmp_ratelimit)."""
        except OSError as error:
            return CLOSED if error.errno in NO else str(error)
    return "no answer"


def _ask(address: str, port: int, *, datagram: bool) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM) as one:
        one.settimeout(1 if datagram else PATIENCE_S)
        one.connect((address, port))
        if datagram:
            one.send(b"?")
        return one.recv(100).decode()


def _ping(address: str) -> str:
    """ICMP by hand (RFC 792): an echo, and its answer, or the word that it was not let through."""
    echo = struct.pack("!BBHHH", 8, 0, 0, 7, 7)
    total = sum(struct.unpack("!4H", echo))
    echo = struct.pack("!BBHHH", 8, 0, ~(total + (total >> 16)) & 0xFFFF, 7, 7)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as one:
        one.settimeout(1)
        one.sendto(echo, (address, 0))
        while True:
            packet, (who, _) = one.recvfrom(1500)
            kind = packet[(packet[0] & 15) * 4]
            if kind == 0 and who == address:
                return OPEN
            if kind == 3:
                return CLOSED


EVERYTHING = (*(f"tcp/{port}" for port in TCP), *(f"udp/{port}" for port in UDP), "icmp")


def reached(site: Site, found: Mapping[str, Box], source: str, target: str) -> set[str]:
    """What of EVERYTHING is open from one to the other; 'host' is the host itself. All else was refused in words."""
    namespace = found[source].namespace if source != "host" else site.namespace
    said = {what: inside(namespace, functools.partial(ask, found[target].address, what)) for what in EVERYTHING}
    assert set(said.values()) <= {OPEN, CLOSED}, said
    return {what for what, answer in said.items() if answer == OPEN}


def matrix(site: Site, found: Mapping[str, Box]) -> dict[str, list[str]]:
    """'jenkins registry' -> what is open, for all pairs, and from the host."""
    return {f"{source} {target}": sorted(reached(site, found, source, target))
            for source in ("host", *MACHINES) for target in MACHINES if source != target}


LISTED = sorted({"tcp/80", "tcp/30001", "udp/53", "icmp"})
ALL = sorted(EVERYTHING)
WANTED = {
    "host jenkins": ["icmp", "tcp/22", "tcp/80"], "host registry": sorted({*LISTED, "tcp/22"}), "host worker": ALL,
    "jenkins registry": LISTED, "jenkins worker": ALL, "registry jenkins": [], "worker jenkins": [],
    "registry worker": ALL, "worker registry": ALL,
}
"""The host comes in by ssh; in one network everything is open; services open no connection to management."""
