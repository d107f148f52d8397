"""Waits over real links and real ssh: what ARP, the port and its banner say of a neighbour in another namespace."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cloudme import layout
from cloudme.errors import TimedOut
from cloudme.host.keys import SshKeys
from cloudme.host.netlink import Links
from cloudme.host.outside import Here
from cloudme.host.run import Programs
from cloudme.host.ssh import Ssh
from tests import fakes
from tests.net.conftest import Apart
from tests.unit.test_readiness import Room, dnsmasq

MUTE = "import socket, time; s = socket.create_server(('198.51.100.7', 22)); print('up', flush=True); time.sleep(600)"


def sh(line: str) -> None:
    subprocess.run(["sh", "-ec", line], check=True)


@pytest.fixture
def cabled(apart: Apart) -> Apart:
    """Where there is a bridge, too, and v0 in it, whose other end is v1. Threads that are started are in it as well."""
    apart(lambda: sh("ip link add bridge0 type bridge; ip address add 198.51.100.1/24 dev bridge0; "
                     "ip link set bridge0 up; ip link add v0 type veth peer name v1; ip link set v0 master bridge0 up"))
    return apart


@pytest.fixture
def room(home: Path) -> Iterator[Room]:
    with ExitStack() as held:
        room = Room(layout.world(), held)
        room.network()
        room.log(room.store.world.template("debian"), "ssh_key", SshKeys().ed25519("test")[0])
        yield room


@pytest.fixture
def neighbour() -> Iterator[Callable[[str], None]]:
    """Gives 198.51.100.7 to a namespace at the other end of v0, where the Python program given runs."""
    with ExitStack() as started:
        def start(program: str) -> None:
            process = subprocess.Popen(["unshare", "-n", "sh", "-c", f'read line; exec python3 -c "{program}"'],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            started.enter_context(process)
            started.callback(process.kill)
            ours, deadline = os.stat("/proc/thread-self/ns/net").st_ino, time.monotonic() + 10
            while os.stat(f"/proc/{process.pid}/ns/net").st_ino == ours and time.monotonic() < deadline:
                os.sched_yield()
            sh(f"ip link set v1 netns {process.pid}; nsenter -t {process.pid} -n "
               "sh -ec 'ip address add 198.51.100.7/24 dev v1; ip link set v1 up'")
            assert process.stdin
            assert process.stdout
            process.stdin.write(b"go\n")
            process.stdin.flush()
            process.stdout.readline()

        yield start


@pytest.mark.parametrize(("program", "why"), [
    (None, "it was given its address, but nobody answers ARP for it"),
    ("import time; print('up', flush=True); time.sleep(600)", "its address answers, but the ssh port is closed"),
    (MUTE, "the ssh port is open, but nothing speaks ssh there"),
])
def test_a_wait_for_ssh_tells_how_far_the_network_reaches(
    room: Room, cabled: Apart, neighbour: Callable[[str], None], program: str | None, why: str,
) -> None:
    def work() -> None:
        runner = Programs()
        host: Any = fakes.host(run=runner, net=Links(Here(runner), runner), shell=Ssh())
        machine = room.machine("web00")
        dnsmasq(room, "DHCPACK")
        if program:
            neighbour(program)
        error = room.failure(host, machine, timeout_s=5)
        assert isinstance(error, TimedOut)
        assert why in error.message

    cabled(work)
