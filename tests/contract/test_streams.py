"""stdin and stdout joined to sockets; a log that is followed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudme import index, layout
from cloudme.errors import NotFound, TimedOut
from cloudme.host import qemu, streams
from cloudme.host.run import Programs
from cloudme.model.machine import Access, Disk, Machine, Shape
from cloudme.model.names import Name
from cloudme.operations import consoles
from cloudme.qemu import launch
from cloudme.store import Store, take_lock
from tests import fakes
from tests.sshd import ROOT, Terminal, free_port

RELAY = "import sys; from cloudme.host.streams import Standard; Standard().relay('127.0.0.1', int(sys.argv[1]))"
CONSOLE = """
import sys
from cloudme.host.streams import Standard
Standard().console(sys.argv[1], timeout_s=float(sys.argv[2]) if sys.argv[2:] else None)
print("left")
"""


def relay(port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", RELAY, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            cwd=ROOT)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        yield listener


def test_a_relay_moves_many_bytes_both_ways_at_once(server: socket.socket) -> None:
    def echo() -> None:
        client, _ = server.accept()
        with client:
            while data := client.recv(1 << 16):
                client.sendall(data)

    thread = threading.Thread(target=echo)
    thread.start()
    data = os.urandom(5_000_000)
    with relay(server.getsockname()[1]) as process:
        assert process.communicate(data, timeout=60)[0] == data
    thread.join()
    assert process.returncode == 0


def test_the_end_of_stdin_reaches_the_other_side_which_may_go_on(server: socket.socket) -> None:
    with relay(server.getsockname()[1]) as process:
        assert process.stdin and process.stdout
        client, _ = server.accept()
        with client:
            process.stdin.write(b"ask")
            process.stdin.close()
            assert client.makefile("rb").read() == b"ask"
            client.sendall(b"answer")
        assert process.stdout.read() == b"answer"
        assert process.wait(30) == 0


def test_the_end_of_the_other_side_reaches_stdout_and_we_may_go_on(server: socket.socket) -> None:
    with relay(server.getsockname()[1]) as process:
        assert process.stdin and process.stdout
        client, _ = server.accept()
        with client:
            client.sendall(b"greeting")
            client.shutdown(socket.SHUT_WR)
            assert process.stdout.read() == b"greeting"
            process.stdin.write(b"thanks")
            process.stdin.close()
            assert client.makefile("rb").read() == b"thanks"
        assert process.wait(30) == 0


def test_a_port_that_nobody_listens_on_is_told() -> None:
    with pytest.raises(TimedOut, match="does not answer"):
        streams.Standard().relay("127.0.0.1", free_port())


def test_a_socket_that_nobody_listens_on_is_told(home: Path) -> None:
    with pytest.raises(NotFound):
        streams.Standard().console(str(home / "console"))


# consoles, of a real QEMU

DOT = bytes.fromhex("fa 31c0 8ed8 8ed0 bc007c ba f803 b02e ee f4 ebfa").ljust(510, b"\0") + b"\x55\xaa"
"""A boot sector that prints one dot on COM1 and halts for good: interrupts are off.

SeaBIOS reads it by cylinder, head and sector: the disk must have a whole cylinder."""


@pytest.fixture
def machine() -> Machine:
    return Machine(
        name=Name("web00"), uuid="8b18191a-234f-45ce-b43c-b46e28cd2f70", group="g", type=Name("t"), template=None,
        shape=Shape(vcpus=1, ram_mib=64), disks=(Disk(file="disk.qcow2", size_bytes=1),), nics=(),
        access=Access(user="root", key_of=Name("t"), seeded=False), created="")


@pytest.fixture
def running(home: Path, machine: Machine) -> Iterator[Store]:
    """A world in which `machine` runs."""
    programs = Programs()
    if programs.find(launch.BINARY) is None:
        pytest.skip(f"{launch.BINARY} is missing")
    store = Store(layout.world())
    folder = store.folder(machine)
    os.makedirs(folder)
    Path(folder, "raw").write_bytes(DOT.ljust(2 << 20, b"\0"))
    programs(["qemu-img", "convert", "-O", "qcow2", f"{folder}/raw", f"{folder}/disk.qcow2"])
    store.publish(machine)
    hypervisor = qemu.Qemu(programs, fakes.FakeNet())
    hypervisor.start(launch.of(machine, launch.Place(folder=folder, run=store.run_folder(machine), accel="tcg",
                                                     networks={})))
    yield store
    hypervisor.kill(layout.lock(folder))


def test_a_console_is_taken_while_somebody_is_connected(running: Store, machine: Machine) -> None:
    host = fakes.host(qemu=qemu.Qemu(Programs(), fakes.FakeNet()))
    assert not consoles.taken(host, running, machine)
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(layout.socket(running.run_folder(machine), "console"))
        assert consoles.taken(host, running, machine)


def test_ctrl_bracket_leaves_a_console_and_restores_the_terminal(running: Store, machine: Machine) -> None:
    code = CONSOLE + "input()"
    with Terminal.python(code, layout.socket(running.run_folder(machine), "console")) as terminal:
        terminal.expect_raw()
        terminal.send(b"abc\x03\x1d")
        terminal.expect(b"left\r\n")
        assert not terminal.is_raw
        terminal.send(b"\n")
        assert terminal.wait() == 0


def test_a_console_without_a_terminal_prints_until_the_machine_stops(running: Store, machine: Machine) -> None:
    path = layout.socket(running.run_folder(machine), "console")
    with subprocess.Popen([sys.executable, "-c", CONSOLE, path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          cwd=ROOT) as process:
        assert process.stdout
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        qemu.Qemu(Programs(), fakes.FakeNet()).kill(layout.lock(running.folder(machine)))
        assert process.stdout.read().endswith(b"left\n")


def test_a_console_is_left_when_all_is_typed_and_nothing_comes(running: Store, machine: Machine) -> None:
    path = layout.socket(running.run_folder(machine), "console")
    ended = subprocess.run([sys.executable, "-c", CONSOLE, path, "0.3"], input=b"root\n", capture_output=True,
                           timeout=30, cwd=ROOT, check=True)
    assert ended.stdout.endswith(b"left\n")


# logs

def test_a_log_is_followed_until_its_machine_has_stopped(home: Path) -> None:
    log, lock = home / "console.log", home / "lock"
    log.write_bytes(b"one ")
    holder = take_lock(str(lock))
    followed = streams.follow(str(log), lambda: index.held(str(lock)))
    assert next(followed) == b"one "
    with open(log, "ab", buffering=0) as writer:
        writer.write(b"two ")
        assert next(followed) == b"two "
        writer.write(b"three")
        os.close(holder)
    assert list(followed) == [b"three"]


def test_a_real_log_ends_with_its_machine(running: Store, machine: Machine) -> None:
    lock = layout.lock(running.folder(machine))
    followed = streams.follow(f"{running.folder(machine)}/console.log", lambda: index.held(lock))
    seen = b""
    while not seen.endswith(b"."):
        seen += next(followed)
    qemu.Qemu(Programs(), fakes.FakeNet()).kill(lock)
    assert list(followed) == []


def test_following_does_not_survive_its_reader(running: Store, machine: Machine) -> None:
    with subprocess.Popen([sys.executable, str(ROOT / "bin" / "vmlogs"), "-f", "web00"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
