"""Two machines, and a program that has exactly the rights of the first one's QEMU and tries what it should not.

Run as a program, in a folder that belongs to the user, it prints the report as JSON: that of an ordinary user.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cloudme.host import holders, qemu
from cloudme.host.run import Programs
from cloudme.model.confinement import Confinement
from cloudme.model.machine import Access, Disk, Machine, Shape
from cloudme.model.names import Name
from cloudme.qemu import launch
from tests import fakes

PYTHON = "/usr/bin/python3"
"""It has to be where QEMU is, too: nothing else can be run."""

PROBE = """
import ctypes, json, os, socket, sys

def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as it:
        it.connect(address)

def listen(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as it:
        it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        it.bind(address)
        it.listen()

def attach(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, pid, None, None) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

verbs = {
    "read": lambda path: open(path, "rb").read(1),
    "write": lambda path: os.close(os.open(path, os.O_WRONLY)),
    "make": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)),
    "list": os.listdir,
    "follow": os.readlink,
    "tcp": lambda port: connect(socket.AF_INET, ("127.0.0.1", port)),
    "udp": lambda _: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
    "netlink": lambda _: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close(),
    "unix": lambda path: connect(socket.AF_UNIX, path),
    "abstract": lambda name: connect(socket.AF_UNIX, chr(0) + name),
    "listen": lambda port: listen(socket.AF_INET, ("127.0.0.1", port)),
    "serve": lambda path: listen(socket.AF_UNIX, path),
    "signal": lambda pid: os.kill(pid, 0),
    "ptrace": attach,
    "memory": lambda pid: open(f"/proc/{pid}/mem", "rb").close(),
    "become": os.setuid,
    "run": lambda path: os.posix_spawn(path, [path], {}),
}
found = {}
for name, verb, what in json.load(sys.stdin):
    try:
        verbs[verb](what)
        found[name] = "done"
    except OSError as error:
        found[name] = error.strerror
print(json.dumps(found))
"""

SOCKETS = """
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
found = {}
for family in (2, 10):
    for kind, protocol in ((1, 0), (1 | 0o2004000, 6), (2, 0), (2, 17), (2, 136), (1, 262), (1, 132), (5, 132), (2, 1),
                           (10, 0), (2 | 1 << 32, 1 << 32)):
        fd = libc.syscall(ctypes.c_long({"x86_64": 41, "aarch64": 198}[os.uname().machine]), ctypes.c_long(family),
                          ctypes.c_long(kind), ctypes.c_long(protocol))
        found[f"{family} {kind} {protocol}"] = 0 if fd >= 0 else ctypes.get_errno()
        if fd >= 0:
            os.close(fd)
print(json.dumps(found))
"""
"""Makes sockets of many kinds by the bare call, and prints the errors' numbers."""

FAST = """
import ctypes, json, socket, struct
port, fast = int(PORT), 0x20000000
address, libc = ("127.0.0.1", port), ctypes.CDLL(None, use_errno=True)

def checked(answer):
    if answer < 0:
        raise OSError(ctypes.get_errno(), "")

def sendmmsg(it):
    name = ctypes.create_string_buffer(struct.pack("=H", 2) + struct.pack("!H4s8x", port, bytes((127, 0, 0, 1))))
    text = ctypes.create_string_buffer(b"x")
    vector = ctypes.create_string_buffer(struct.pack("PN", ctypes.addressof(text), 1))
    message = struct.pack("@PIPNPNiI", ctypes.addressof(name), 16, ctypes.addressof(vector), 1, 0, 0, 0, 0)
    checked(libc.sendmmsg(it.fileno(), ctypes.create_string_buffer(message + bytes(8)), 1, fast))

def pass_on(it):
    left, right = socket.socketpair()
    left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", it.fileno()))])
    left.send(b"x", socket.MSG_NOSIGNAL)

ways = {
    "sendto": lambda it: it.sendto(b"x", fast, address),
    "sendto among others": lambda it: it.sendto(b"x", fast | socket.MSG_NOSIGNAL, address),
    "sendmsg": lambda it: it.sendmsg([b"x"], [], fast, address),
    "sendmmsg": sendmmsg,
    "option": lambda it: it.setsockopt(socket.IPPROTO_TCP, 30, 1),
    "other options": lambda it: (it.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
                                 it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)),
    "unix": pass_on,
}
found = {}
for name, way in ways.items():
    with socket.socket() as it:
        try:
            way(it)
            found[name] = 0
        except OSError as error:
            found[name] = error.errno
print(json.dumps(found))
"""
"""Connects to PORT without connect(), likewise."""

WORD = """
import fcntl, json, os
path, found = "/proc/self/fd/WORD", {}

def write():
    fd = os.open(path, os.O_RDWR)
    os.write(fd, b"1")

ways = {
    "read": lambda: os.pread(WORD, 9, 0).decode(),
    "write": write,
    "write to what is open": lambda: os.write(WORD, b"1"),
    "permit": lambda: os.chmod(path, 0o600),
    "write when permitted": write,
    "empty": lambda: os.truncate(path, 0),
}
for name, way in ways.items():
    try:
        found[name] = way()
    except OSError as error:
        found[name] = error.strerror
print(json.dumps(found))
"""
"""Changes the file that it inherits as descriptor WORD, likewise."""

Attempt = tuple[str, str, Any]


class Recording(Programs):
    """Keeps what the last program was confined by."""

    confinement: Confinement | None = None

    def spawn(
        self, argv: Sequence[str], *, stdout: str, fds: Sequence[int] = (), confinement: Confinement | None = None,
        locked_bytes: int = 0,
    ) -> int:
        self.confinement = confinement
        return super().spawn(argv, stdout=stdout, fds=fds, confinement=confinement, locked_bytes=locked_bytes)


@dataclasses.dataclass(frozen=True)
class Started:
    """A machine that runs."""

    folder: Path
    pid: int
    confinement: Confinement

    def status(self) -> dict[str, str]:
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def machine(number: int) -> Machine:
    return Machine(
        name=Name(f"web{number:02}"), uuid=f"8b18191a-234f-45ce-b43c-b46e28cd2f{number:02x}", group="g", type=Name("t"),
        template=None, shape=Shape(vcpus=1, ram_mib=64), disks=(Disk(file="disk.qcow2", size_bytes=1 << 20),), nics=(),
        access=Access(user="root", key_of=Name("t"), seeded=False), created="", image=Name("image"))


@contextlib.contextmanager
def started(home: Path, number: int) -> Iterator[Started]:
    """A machine with an empty disk, below `home`, which is open to all: what keeps others out is not its path."""
    folder = home / f"web{number:02}"
    folder.mkdir()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", folder / "disk.qcow2", "1M"], check=True)
    for name, mode in (("disk.qcow2", 0o600), ("machine.json", 0o600), ("ssh_key", 0o600), ("open", 0o666)):
        (folder / name).touch()
        (folder / name).chmod(mode)
    folder.chmod(0o755)
    run = Recording()
    real = qemu.Qemu(run, fakes.FakeNet())
    place = launch.Place(folder=str(folder), run=str(folder / "run"), accel="tcg", networks={})
    real.start(launch.of(machine(number), place))
    assert run.confinement
    try:
        yield Started(folder, holders.open_by(str(folder / "lock")), run.confinement)
    finally:
        real.kill(str(folder / "lock"))


def attempts(own: Started, other: Started, port: int, abstract: str, folder: int) -> list[Attempt]:
    """folder: a descriptor of its own one, as QEMU has it."""
    return [
        ("another's disk", "read", str(other.folder / "disk.qcow2")),
        ("another's disk to write", "write", str(other.folder / "disk.qcow2")),
        ("another's record", "read", str(other.folder / "machine.json")),
        ("a private key", "read", str(other.folder / "ssh_key")),
        ("its own record", "read", str(own.folder / "machine.json")),
        ("its own disk by path", "read", str(own.folder / "disk.qcow2")),
        ("its own log", "write", str(own.folder / "console.log")),
        ("what all may read", "read", str(other.folder / "open")),
        ("what all may write", "write", str(other.folder / "open")),
        ("a file in /tmp", "make", f"/tmp/cm-probe-{own.pid}"),
        ("passwords", "read", "/etc/shadow"),
        ("users", "read", "/etc/passwd"),
        ("root's folder", "list", "/root"),
        ("the home", "list", str(own.folder.parent)),
        ("tcp", "tcp", port),
        ("a port", "listen", 0),
        ("udp", "udp", None),
        ("netlink", "netlink", None),
        ("another's monitor", "unix", str(other.folder / "run/qmp.0")),
        ("an abstract socket", "abstract", abstract),
        ("what another was told", "read", f"/proc/{other.pid}/cmdline"),
        ("what another has open", "follow", f"/proc/{other.pid}/fd/0"),
        ("a signal", "signal", other.pid),
        ("ptrace", "ptrace", other.pid),
        ("memory", "memory", other.pid),
        ("root", "become", 0),
        ("a program of the home", "run", str(other.folder / "open")),
        ("its own folder: a socket", "serve", f"/proc/self/fd/{folder}/probe"),
        ("random numbers", "read", "/dev/urandom"),
        ("its firmware", "list", "/usr/share"),
    ]


def report(home: Path) -> dict[str, Any]:
    """status of a machine; what a program with its rights achieves; what one that has no more than its user does."""
    with started(home, 0) as own, started(home, 1) as other, socket.create_server(("127.0.0.1", 0)) as tcp, \
            socket.socket(socket.AF_UNIX) as unix:
        name = f"cm-probe-{own.pid}"
        unix.bind(f"\0{name}")
        unix.listen()
        folder = os.open(own.folder / "run/own", os.O_PATH)
        tried = json.dumps(attempts(own, other, tcp.getsockname()[1], name, folder)).encode()
        found: dict[str, Any] = {"status": own.status()}
        for kind, how in (("confined", own.confinement), ("bare", dataclasses.replace(own.confinement, reach=None))):
            found[kind] = json.loads(Programs()([PYTHON, "-I", "-c", PROBE], stdin=tried, fds=[folder],
                                                confinement=how))
        os.close(folder)
        return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(report(Path(sys.argv[1]))))
