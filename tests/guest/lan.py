"""A LAN of the test's own: a realm whose bridge br0 has a cable to a router with its own DHCP server."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.guest.conftest import CACHE, PACKAGES, Cloud

ROUTER, HOST, ELSEWHERE = "192.168.86.1", "192.168.86.10", "192.168.86.200"
"""The router's address, that of the host on br0, and one more of the router's, which no record of ours knows."""
SYSCTLS = [f"net.bridge.bridge-nf-call-{what}" for what in ("iptables", "ip6tables", "arptables")]


@dataclass(frozen=True)
class Lan(Cloud):
    """The world of the host on that LAN."""

    router: str = ""

    def from_router(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["ip", "netns", "exec", self.router, *argv], check=check, capture_output=True, text=True,
                              timeout=120, stdin=subprocess.DEVNULL)

    def ssh(self, machine: str, key: str, address: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Plain ssh from the router, with the host key that was pinned."""
        options = ["BatchMode=yes", "ConnectTimeout=5", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes",
                   f"UserKnownHostsFile={self.folder(machine)}/known_hosts"]
        return self.from_router("ssh", "-F", "none", *(word for one in options for word in ("-o", one)), "-i", key,
                                f"debian@{address}", *command, check=False)

    def folder(self, machine: str) -> Path:
        return Path(self.world.machine(machine))

    def record(self, machine: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(Path(self.world.machine_record(machine)).read_text(encoding="utf-8"))
        return found


@contextlib.contextmanager
def made() -> Iterator[Lan]:
    """The LAN with the network `lan` created on it, and the image of the tests."""
    home = tempfile.mkdtemp(prefix="cm-lan-")
    it = Lan(home, f"l{os.getpid()}", f"cm-router-{os.getpid()}")
    space = os.path.basename(it.world.namespace)
    router = None
    try:
        for one in (space, it.router):
            _ip("netns", "add", one)
            _ip("-n", one, "link", "set", "lo", "up")
        _cable(space, it.router)
        subprocess.run(["ip", "netns", "exec", space, "sysctl", "-qw", *(f"{name}=0" for name in SYSCTLS)], check=True)
        router = subprocess.Popen(
            ["ip", "netns", "exec", it.router, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0",
             "--user=root", "--group=root", "--pid-file=", f"--dhcp-leasefile={home}/router.leases", "--no-ping",
             "--log-facility=-", "--interface=lan0", "--dhcp-range=192.168.86.100,192.168.86.150,1h"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        it.run("cmimage", "build", "debian", "--include", PACKAGES, "--cache", f"{CACHE}/images")
        it.run("cmnet", "create", "lan", "--bridge", "br0", "--external", "--cidr", "192.168.86.0/24",
               "--gateway", ROUTER, "--dns", ROUTER)
        yield it
    finally:
        if names := list(it.machines()):
            it.call("vmstop", "-d", "-y", "--timeout", "1", *names)
        if router:
            router.send_signal(signal.SIGTERM)
            router.wait()
        for one in (space, it.router):
            subprocess.run(["ip", "netns", "del", one], check=False)
        shutil.rmtree(home)


def key(folder: Path, name: str, kind: str) -> str:
    """A fresh pair; the path of the private one."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(folder / name)], check=True)
    return str(folder / name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _cable(space: str, router: str) -> None:
    commands: Sequence[tuple[str, str]] = [
        (space, "link add br0 type bridge forward_delay 0 stp_state 0"),
        (space, f"link add ens18 type veth peer name lan0 netns {router}"),
        (space, "link set ens18 master br0 up"), (space, f"address add {HOST}/24 dev br0"),
        (space, "link set br0 up"), (space, f"route add default via {ROUTER}"),
        (router, f"address add {ROUTER}/24 dev lan0"), (router, f"address add {ELSEWHERE}/24 dev lan0"),
        (router, "link set lan0 up"),
    ]
    for where, words in commands:
        _ip("-n", where, *words.split())
