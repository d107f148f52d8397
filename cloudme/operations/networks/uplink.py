"""The way out of a user's realm: pasta, or slirp4netns, which makes connections of its own of what guests send."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass

from cloudme.errors import CommandFailed
from cloudme.layout import World
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction
from cloudme.operations.networks.changes import Reversed
from cloudme.store import reported, write_atomic

LINK = "uplink"
PASTA_DNS = "169.254.53.53"
"""An address of the link's own (RFC 3927), at which pasta answers in the name of the host's name server (passt(1))."""
SLIRP_DNS = "10.0.2.3"
"""slirp4netns(1), DNS."""
PROGRAMS = {"pasta": "passt", "slirp4netns": "slirp4netns"}
"""In this order. The package of each, in Debian."""
NOTHING_IN = ("-t", "none", "-u", "none", "-T", "none", "-U", "none")
"""passt(1): no port is forwarded, neither in nor out; vmexpose is for that."""


def start(transaction: Transaction, world: World) -> str | None:
    """Start one, unless one runs. Returns why there is none, where there is none: machines run without."""
    host = transaction.host
    if not world.rootless or running(host, world):
        return None
    program = next((program for program in PROGRAMS if host.run.find(program)), None)
    if program is None:
        return f"nothing leads out of this realm: apt install {' or '.join(PROGRAMS.values())}"
    try:
        transaction.apply([Connect(world, program)])
    except CommandFailed as error:
        return f"nothing leads out of this realm: {error.message}"
    return None


def stop(transaction: Transaction, world: World) -> None:
    """Missing: nothing."""
    if program := running(transaction.host, world):
        transaction.apply([Reversed(Connect(world, program), f"stop {program}")])


def running(host: Host, world: World) -> str | None:
    """The program that leads out."""
    if not world.rootless:
        return None
    return next((program for program in PROGRAMS if host.run.signal(world.uplink("pid"), program, 0)), None)


@dataclass(frozen=True, slots=True)
class Connect:
    """It runs outside and holds a tap inside; it would go on when all else in the realm has ended."""

    world: World
    program: str

    def describe(self) -> str:
        return f"start {self.program}: guests get out, nobody gets in, the host's loopback is not reached"

    def do(self, host: Host) -> None:
        with reported(self.world.realm_run):
            os.makedirs(self.world.realm_run, 0o700, exist_ok=True)
        name_server = self._pasta(host) if self.program == "pasta" else self._slirp(host)
        write_atomic(self.world.uplink("resolv"), f"nameserver {name_server}\n")

    def _pasta(self, host: Host) -> str:
        """It goes into the background once it is connected. Without --map-gw the gateway's address is not the host's
        loopback; guests have no IPv6 out in any case."""
        host.outside.run([
            "pasta", "--config-net", "--ipv4-only", "--no-map-gw", *NOTHING_IN, "--dns-forward", PASTA_DNS,
            "--ns-ifname", LINK, "--log-file", self.world.uplink("log"), "--pid", self.world.uplink("pid"),
            str(os.getpid()),
        ])
        return PASTA_DNS

    def _slirp(self, host: Host) -> str:
        pid = host.outside.spawn([
            "slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback",
            "--enable-seccomp", "--netns-type=path", "NET", LINK,
        ], stdout=self.world.uplink("log"), ready="--ready-fd=", among=os.getpid())
        write_atomic(self.world.uplink("pid"), f"{pid}\n")
        return SLIRP_DNS

    def undo(self, host: Host) -> None:
        host.run.signal(self.world.uplink("pid"), self.program, signal.SIGTERM)
        for what in ("pid", "log", "resolv"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.world.uplink(what))
