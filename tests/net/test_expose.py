"""vmexpose from outside of a realm: a client on a cable to its bridge stands for the guest, a process for its QEMU."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cloudme import index, layout
from cloudme.model.machine import Access, Disk, Machine, Nic, Shape
from cloudme.model.names import Name
from cloudme.store import take_lock
from tests.conftest import ROOT
from tests.net.conftest import Client, Realm, inside, ip
from tests.relaying import free

ADDRESS = "10.210.0.77"
PATIENCE_S = 30


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"{self.client_address[0]} asked for {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: pytest shows what fails."""


@dataclass
class Guest:
    """A machine `web00` as its record and its lock tell it."""

    realm: Realm
    client: Client
    machine: Machine
    process: subprocess.Popen[bytes]

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "bin" / "vmexpose"), *words, "--realm", self.realm.name], capture_output=True,
            text=True, check=False, timeout=PATIENCE_S, env=os.environ | {"CLOUDME_HOME": str(self.realm.home)})

    def run(self, *words: str) -> str:
        ended = self.call(*words)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def lock(self, port: int, protocol: str = "tcp", address: str = "127.0.0.1") -> str:
        return layout.forward(self.realm.store.run_folder(self.machine), protocol, address, port)


@pytest.fixture
def guest(realm: Realm) -> Iterator[Guest]:
    store = realm.store
    machine = Machine(
        name=Name("web00"), uuid="u", group="pf1", type=Name("web"), template=Name("debian"),
        shape=Shape(vcpus=1, ram_mib=512), disks=(Disk(file="disk.qcow2", size_bytes=1),),
        nics=(Nic(network=Name("default"), mac="52:54:00:00:00:01", address=ADDRESS),),
        access=Access(user="root", key_of=Name("debian"), seeded=True), created="2026-11-21T22:00:00Z")
    os.makedirs(store.folder(machine))
    os.makedirs(store.run_folder(machine))
    store.publish(machine)
    client = realm.client()
    ip("-n", os.path.basename(client.namespace), "address", "add", f"{ADDRESS}/24", "dev", client.device)
    lock = take_lock(layout.lock(store.folder(machine)))
    with subprocess.Popen(["sleep", "infinity"], pass_fds=[lock]) as process:
        os.close(lock)
        try:
            yield Guest(realm, client, machine, process)
        finally:
            process.kill()


@contextlib.contextmanager
def web(client: Client) -> Iterator[None]:
    """A web server in the guest, on port 80."""
    server = inside(client.namespace, lambda: HTTPServer((ADDRESS, 80), Answer))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fetch(where: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{where}/page", timeout=PATIENCE_S) as answer:
        text: bytes = answer.read()
        return text.decode()


def test_the_hosts_loopback_leads_into_the_realm_until_it_is_removed(guest: Guest) -> None:
    port = free()
    with web(guest.client):
        where = guest.run("web00", f"{port}:80").strip()
        assert where == f"127.0.0.1:{port}"
        assert fetch(where) == "10.210.0.1 asked for /page"
        assert json.loads(guest.run("--list", "--json")) == [
            {"name": "web00", "protocol": "tcp", "address": "127.0.0.1", "port": port, "guest_port": 80,
             "state": "open"}]
        assert "already" in guest.call("web00", f"{port}:80").stderr
        guest.run("web00", "--remove", str(port))
        with pytest.raises(OSError, match="refused"):
            fetch(where)
    assert guest.run("--list") == ""
    assert not Path(guest.lock(port)).exists()


def test_an_ipv6_address_and_datagrams(guest: Guest) -> None:
    def serve() -> None:
        data, who = server.recvfrom(100)
        server.sendto(b"got " + data, who)

    server = inside(guest.client.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with server, web(guest.client):
        assert fetch(guest.run("web00", f"{free()}:80", "--address", "::1").strip()) == "10.210.0.1 asked for /page"
        server.bind((ADDRESS, 5353))
        thread = threading.Thread(target=serve)
        thread.start()
        port = free("udp")
        guest.run("web00", f"{port}:5353", "--udp")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(PATIENCE_S)
            asking.sendto(b"ask", ("127.0.0.1", port))
            assert asking.recvfrom(100) == (b"got ask", ("127.0.0.1", port))
        thread.join()


def test_a_taken_port_of_the_host_is_refused_with_its_holder_and_one_of_the_realm_is_none(guest: Guest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as here:
        port = here.getsockname()[1]
        refused = guest.call("web00", f"{port}:80")
        assert refused.returncode == 75
        assert f"tcp port {port} of 127.0.0.1 is taken: " in refused.stderr and f"(pid {os.getpid()})" in refused.stderr
    with inside(guest.realm.namespace, lambda: socket.create_server(("127.0.0.1", port))), web(guest.client):
        assert fetch(guest.run("web00", f"{port}:80").strip()) == "10.210.0.1 asked for /page"


def test_when_the_machine_ends_its_port_closes(guest: Guest) -> None:
    port = free()
    guest.run("web00", f"{port}:80")
    guest.process.kill()
    guest.process.wait()
    while index.held(guest.lock(port)):
        os.sched_yield()
    with socket.create_server(("127.0.0.1", port)):
        assert guest.run("--list").split()[-1] == "waiting"
