"""vm and vmcopy as programs, from outside of a realm: the machine in it is an sshd with a record and a held lock."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloudme import layout
from cloudme.model.machine import Access, Disk, Machine, Nic, Shape
from cloudme.model.names import Name
from cloudme.store import Store, take_lock
from tests.sshd import ROOT, Sshd, Terminal

REALM = f"vm{os.getpid()}"


@dataclass
class Guest:
    """What stands for a machine `web00` that is up."""

    store: Store
    sshd: Sshd
    machine: Machine

    def argv(self, program: str, *words: str) -> list[str]:
        return [sys.executable, str(ROOT / "bin" / program), "--realm", REALM, *words]

    def call(self, program: str, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(self.argv(program, *words), input=stdin, capture_output=True, timeout=60, check=False)


@pytest.fixture
def guest(home: Path, tmp_path: Path) -> Iterator[Guest]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("root and ip are wanted for a network namespace")
    store = Store(layout.world(REALM))
    machine = Machine(
        name=Name("web00"), uuid="u", group="pf1", type=Name("web"), template=Name("debian"),
        shape=Shape(vcpus=1, ram_mib=512), disks=(Disk(file="disk.qcow2", size_bytes=1),),
        nics=(Nic(network=Name("default"), mac="52:54:00:00:00:01", address="127.0.0.1"),),
        access=Access(user=getpass.getuser(), key_of=Name("debian"), seeded=True), created="2025-11-20T22:00:00Z")
    os.makedirs(store.folder(machine))
    store.publish(machine)
    namespace = os.path.basename(store.world.namespace)
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    try:
        subprocess.run(["ip", "-n", namespace, "link", "set", "lo", "up"], check=True)
        sshd = Sshd(tmp_path, port=22, prefix=["ip", "netns", "exec", namespace])
        os.makedirs(store.world.template("debian"))
        shutil.copy(sshd.key, os.path.join(store.world.template("debian"), "ssh_key"))
        lock = take_lock(layout.lock(store.folder(machine)))
        sshd.start()
        try:
            yield Guest(store, sshd, machine)
        finally:
            sshd.stop()
            os.close(lock)
    finally:
        subprocess.run(["ip", "netns", "delete", namespace], check=True)


def test_a_command_runs_with_its_own_stdin_outputs_and_status(guest: Guest) -> None:
    ended = guest.call("vm", "web", "--", "cat;", "echo no >&2; exit 42", stdin=b"\0\xff")
    assert (ended.returncode, ended.stdout, ended.stderr) == (42, b"\0\xff", b"no\n")


def test_the_spelling_of_the_seed_is_understood(guest: Guest) -> None:
    ended = guest.call("vm", "-n", "web00", "-g", "pf1", "-t", "web", "--", "echo", "a  b")
    assert (ended.returncode, ended.stdout) == (0, b"a b\n")


def test_a_session_has_a_terminal(guest: Guest) -> None:
    with Terminal(guest.argv("vm", "web00")) as terminal:
        terminal.send(b"PS1=; stty size; exit 7\r")
        terminal.expect(b"24 80\r\n")
        assert terminal.wait() == 7


def test_ctrl_c_ends_a_command_without_a_terminal_of_its_own(guest: Guest) -> None:
    with Terminal(guest.argv("vm", "web00", "--", "echo ready; exec sleep 60")) as terminal:
        terminal.expect(b"ready\r\n")
        terminal.send(b"\x03")
        terminal.expect(b"vm: interrupted\r\n")
        assert terminal.wait() == 130


def test_without_a_name_there_is_a_list_to_choose_from(guest: Guest) -> None:
    with Terminal(guest.argv("vm", "--", "echo here")) as terminal:
        terminal.expect(b"   1  web00  running\r\nnumber or name of the machine: ")
        terminal.send(b"7\n")
        terminal.expect(b"no machine '7'\r\nnumber or name of the machine: ")
        terminal.send(b"1\n")
        terminal.expect(b"here\r\n")
        assert terminal.wait() == 0


def test_openssh_reaches_the_machine_through_the_proxy(guest: Guest) -> None:
    target = guest.store.target(guest.machine)
    assert guest.call("vm", "web00", "--", "true").returncode == 0
    ended = subprocess.run(
        ["ssh", "-F", "none", "-i", target.key_file, "-o", "StrictHostKeyChecking=yes",
         "-o", f"UserKnownHostsFile={target.known_hosts_file}",
         "-o", f"ProxyCommand={' '.join(guest.argv('vm', '--proxy', 'web00'))}",
         f"{target.user}@web00", "wc -c; exit 5"],
        input=bytes(1_000_000), capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (5, b"1000000\n"), ended.stderr


def test_files_go_in_and_out_by_their_machine_s_name(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("hello", encoding="ascii")
    ended = guest.call("vmcopy", "-r", f"{tmp_path}/site", f"web:{tmp_path}/copy")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
    assert guest.call("vmcopy", f"web00:{tmp_path}/copy/index.html", str(tmp_path)).returncode == 0
    assert (tmp_path / "index.html").read_text(encoding="ascii") == "hello"
    ended = guest.call("vmcopy", "web00:/no/such", str(tmp_path))
    assert (ended.returncode, ended.stderr) == (66, b"vmcopy: no file or folder web00:/no/such\n")


def test_a_copy_that_takes_long_shows_a_bar_on_a_terminal(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "big").touch()
    os.truncate(tmp_path / "big", 300_000_000)
    with Terminal(guest.argv("vmcopy", f"web00:{tmp_path}/big", f"{tmp_path}/copy")) as terminal:
        terminal.expect(b"big ")
        terminal.expect(b"MB/s")
        assert terminal.wait() == 0


def test_a_changed_host_key_stops_everything(guest: Guest) -> None:
    assert guest.call("vm", "web00", "--", "true").returncode == 0
    known = Path(guest.store.target(guest.machine).known_hosts_file)
    known.write_text(known.read_text(encoding="ascii").replace("AAAAI", "AAAAJ"), encoding="ascii")
    ended = guest.call("vm", "web00", "--", "true")
    assert ended.returncode == 76
    assert str(known).encode() in ended.stderr
