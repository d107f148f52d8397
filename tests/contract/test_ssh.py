"""ssh, against a real sshd on the loopback."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudme.errors import NotFound, PeerError, TimedOut, UsageError
from cloudme.host.ssh import Ssh
from cloudme.model.ports import Target
from tests.sshd import ROOT, Sshd, Terminal, free_port, key_pair

SESSION = """
import json, sys
from cloudme.host.ssh import Ssh
from cloudme.model.ports import Target
sys.exit(Ssh().interactive(Target(**json.loads(sys.argv[1])), *sys.argv[2:3], tty=len(sys.argv) > 3))
"""
"""A session for the target of the first word; the second is the command, a third asks for a terminal."""


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    server = Sshd(tmp_path)
    server.start()
    yield server
    server.stop()


def packed(target: Target) -> str:
    return json.dumps(dataclasses.asdict(target))


def ignore(name: str, done: int, total: int) -> None:
    """A progress that nobody looks at."""


# commands

def test_a_command_gets_stdin_and_gives_both_outputs_and_its_status(sshd: Sshd) -> None:
    ended = Ssh().run(sshd.target, "cat; echo no >&2; exit 7", stdin=b"x\0\xff")
    assert (ended.status, ended.stdout, ended.stderr) == (7, b"x\0\xff", b"no\n")


def test_many_bytes_pass_unharmed_both_ways(sshd: Sshd) -> None:
    data = os.urandom(8_000_000)
    assert Ssh().run(sshd.target, "cat", stdin=data).stdout == data


def test_a_command_that_does_not_end_is_cut_off(sshd: Sshd) -> None:
    with pytest.raises(TimedOut, match="took more than 1 s"):
        Ssh().run(sshd.target, "exec sleep 60", timeout_s=1)


def test_a_command_that_reads_nothing_does_not_block_us(sshd: Sshd) -> None:
    assert Ssh().run(sshd.target, "true", stdin=bytes(8_000_000)).status == 0


def test_a_command_that_a_signal_ended_has_status_255(sshd: Sshd) -> None:
    assert Ssh().run(sshd.target, "kill -9 $$").status == 255


def test_a_connection_that_is_cut_off_is_an_error(sshd: Sshd) -> None:
    with pytest.raises(PeerError, match="was lost"):
        Ssh().run(sshd.target, "kill -9 $PPID")


# host keys

def test_the_first_host_key_is_pinned(sshd: Sshd) -> None:
    Ssh().run(sshd.target, "true")
    pinned = Path(sshd.target.known_hosts_file)
    public = (sshd.folder / "host_key.pub").read_text(encoding="ascii").split()[1]
    assert pinned.read_text(encoding="ascii") == f"web00,[127.0.0.1]:{sshd.port} ssh-ed25519 {public}\n"
    assert stat.S_IMODE(pinned.stat().st_mode) == 0o600


def test_another_host_key_is_never_accepted(sshd: Sshd) -> None:
    line = (key_pair(sshd.folder, "other").with_suffix(".pub")).read_text(encoding="ascii")
    Path(sshd.target.known_hosts_file).write_text(f"web00 {line}", encoding="ascii")
    assert Ssh().probe(sshd.target) == "host-key"
    with pytest.raises(PeerError, match="known_hosts") as caught:
        Ssh().run(sshd.target, "true")
    assert caught.value.exit_status == 76


def test_openssh_understands_what_was_pinned(sshd: Sshd) -> None:
    Ssh().run(sshd.target, "true")
    target = sshd.target
    subprocess.run(
        ["ssh", "-F", "none", "-i", target.key_file, "-p", str(target.port), "-o", "StrictHostKeyChecking=yes", "-o",
         f"UserKnownHostsFile={target.known_hosts_file}", f"{target.user}@{target.address}", "true"],
        check=True, stdin=subprocess.DEVNULL, timeout=30)


# probes

def test_a_guest_that_lets_us_in_is_ready(sshd: Sshd) -> None:
    assert Ssh().probe(sshd.target) == "ready"


def test_a_key_that_is_not_authorized_is_refused_and_nothing_is_pinned(sshd: Sshd) -> None:
    target = dataclasses.replace(sshd.target, key_file=str(key_pair(sshd.folder, "stranger")))
    assert Ssh().probe(target) == "refused"
    assert not os.path.exists(target.known_hosts_file)


def test_a_port_that_nobody_listens_on_is_closed(sshd: Sshd) -> None:
    assert Ssh().probe(dataclasses.replace(sshd.target, port=free_port())) == "closed"


def test_a_port_that_says_nothing_is_silent(sshd: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        target = dataclasses.replace(sshd.target, port=mute.getsockname()[1])
        begun = time.monotonic()
        assert Ssh().probe(target, timeout_s=0.3) == "silent"
        assert time.monotonic() - begun < 15


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400\r\n", b"SSH-2.0-nonsense\r\nnonsense\r\n"])
def test_a_port_that_talks_nonsense_is_silent(sshd: Sshd, said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as fool:
        def answer() -> None:
            client, _ = fool.accept()
            with client, contextlib.suppress(OSError):
                client.sendall(said)
                client.shutdown(socket.SHUT_WR)
                while client.recv(1000):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        assert Ssh().probe(dataclasses.replace(sshd.target, port=fool.getsockname()[1]), timeout_s=5) == "silent"
        thread.join()


def test_an_address_that_does_not_answer_is_unreachable(sshd: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as clients:
        for _ in range(2):  # the queue is full then, and the kernel drops what comes
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        assert Ssh().probe(dataclasses.replace(sshd.target, port=full.getsockname()[1]), timeout_s=0.3) == "unreachable"


def test_probes_are_quiet_and_leave_no_thread(sshd: Sshd, capfd: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    for target in (sshd.target, dataclasses.replace(sshd.target, key_file=str(key_pair(sshd.folder, "stranger")))):
        Ssh().probe(target)
    assert threading.active_count() == before
    assert capfd.readouterr() == ("", "")


# sessions

def test_a_session_has_a_terminal_that_resizes_and_passes_ctrl_c_and_its_status(sshd: Sshd) -> None:
    with Terminal.python(SESSION, packed(sshd.target)) as session:
        session.send(b"PS1=; echo rea''dy; stty size\r")
        session.expect(b"ready\r\n24 80\r\n")
        assert session.is_raw
        session.resize(101, 37)
        session.send(b"sleep 0.2; stty size\r")
        session.expect(b"37 101\r\n")
        session.send(b"sh -c 'trap \"kill \\$!; echo caught\" INT; sleep 60 & echo started; wait'\r")
        session.expect(b"started\r\n")
        session.send(b"\x03")
        session.expect(b"caught\r\n")
        session.send(b"exit 7\r")
        assert session.wait() == 7


def test_the_terminal_is_as_before_after_a_session(sshd: Sshd) -> None:
    code = SESSION.replace("sys.exit(", "status = (") + "\nprint('status', status); input()"
    with Terminal.python(code, packed(sshd.target)) as session:
        session.send(b"PS1=; echo rea''dy\r")
        session.expect(b"ready\r\n")
        session.send(b"exit 3\r")
        session.expect(b"status 3\r\n")
        assert not session.is_raw
        session.send(b"\n")
        assert session.wait() == 0


def test_enter_tilde_dot_leaves_a_session_that_hangs(sshd: Sshd) -> None:
    with Terminal.python(SESSION, packed(sshd.target)) as session:
        session.send(b"PS1=; echo rea''dy; stty raw -echo; sleep 60\r")
        session.expect(b"ready\r\n")
        session.send(b"\r~.")
        assert session.wait() == 255


def test_a_command_gets_a_terminal_if_asked_for(sshd: Sshd) -> None:
    with Terminal.python(SESSION, packed(sshd.target), "tty; exit 5", "tty") as session:
        session.expect(b"/dev/pts/")
        assert session.wait() == 5


def test_a_command_gets_none_if_not_and_ctrl_c_is_ours(sshd: Sshd) -> None:
    with Terminal.python(SESSION, packed(sshd.target), "tty; echo ready; exec sleep 60") as session:
        session.expect(b"not a tty\r\nready\r\n")
        assert not session.is_raw
        session.send(b"\x03")
        session.expect(b"KeyboardInterrupt")
        session.wait()


def test_without_a_terminal_a_session_is_a_shell_that_reads_stdin(sshd: Sshd) -> None:
    ended = subprocess.run([sys.executable, "-c", SESSION, packed(sshd.target)], input=b"echo $((40 + 2)); exit 9",
                           capture_output=True, timeout=60, cwd=ROOT, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (9, b"42\n", b"")


def test_a_command_streams_its_outputs_apart_while_its_stdin_is_open(sshd: Sshd) -> None:
    with subprocess.Popen([sys.executable, "-c", SESSION, packed(sshd.target), "cat; echo no >&2; exit 4"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as session:
        assert session.stdin and session.stdout and session.stderr
        session.stdin.write(b"one\n")
        session.stdin.flush()
        assert session.stdout.readline() == b"one\n"
        session.stdin.close()
        assert session.stderr.read() == b"no\n"
        assert session.wait(60) == 4


def test_a_reader_of_our_output_that_leaves_ends_the_session(sshd: Sshd) -> None:
    with subprocess.Popen([sys.executable, "-c", SESSION, packed(sshd.target), "yes"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as session:
        assert session.stdout and session.stderr
        assert session.stdout.readline() == b"y\n"
        session.stdout.close()
        assert b"BrokenPipeError" in session.stderr.read()


def test_a_guest_that_dies_ends_the_session_and_restores_the_terminal(sshd: Sshd) -> None:
    with Terminal.python(SESSION, packed(sshd.target)) as session:
        session.send(b"kill -9 $PPID\r")
        session.expect(b"was lost")
        assert session.wait() == 1


# copies

def test_a_file_goes_both_ways_with_mode_and_time(sshd: Sshd, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    here, there, back = tmp_path / "here", tmp_path / "there", tmp_path / "back"
    here.write_bytes(data)
    here.chmod(0o640)
    os.utime(here, (1_000_000_000, 1_000_000_000))
    seen: list[tuple[str, int, int]] = []
    shell = Ssh()
    assert shell.put(sshd.target, [str(here)], str(there), recursive=False, progress=lambda *it: seen.append(it)) == []
    assert seen[-1] == (str(here), 3_000_000, 3_000_000)
    assert shell.get(sshd.target, [str(there)], str(back), recursive=False, progress=ignore) == []
    for path in (there, back):
        found = path.stat()
        assert (path.read_bytes() == data, stat.S_IMODE(found.st_mode), found.st_mtime) == (True, 0o640, 1_000_000_000)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize("way", ["put", "get"])
def test_a_folder_goes_with_all_that_is_in_it(sshd: Sshd, tmp_path: Path, way: str) -> None:
    top, into = tmp_path / "top", tmp_path / "into"
    (top / "sub" / "empty").mkdir(parents=True)
    (top / "sub" / "a:file").write_text("a", encoding="ascii")
    (top / "link").symlink_to("sub/a:file")
    (top / "circle").symlink_to(".")
    (top / "nowhere").symlink_to("nothing")
    os.mkfifo(top / "fifo")
    (top / "sub").chmod(0o500)
    into.mkdir()
    copy = getattr(Ssh(), way)
    left_out = copy(sshd.target, [str(top)], str(into), recursive=True, progress=ignore)
    assert sorted(left_out) == [f"{top}/circle", f"{top}/fifo", f"{top}/nowhere"]
    found = sorted(str(path.relative_to(into)) for path in into.rglob("*"))
    assert found == ["top", "top/link", "top/sub", "top/sub/a:file", "top/sub/empty"]
    assert (into / "top" / "link").read_text(encoding="ascii") == "a"
    assert not (into / "top" / "link").is_symlink()
    assert stat.S_IMODE((into / "top" / "sub").stat().st_mode) == 0o500
    again = copy(sshd.target, [f"{top}/."], str(into / "new"), recursive=True, progress=ignore)
    assert len(again) == 3 and (into / "new" / "sub" / "a:file").exists()


@pytest.mark.parametrize("way", ["put", "get"])
def test_a_copy_that_is_interrupted_leaves_what_was_there(sshd: Sshd, tmp_path: Path, way: str) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    new.write_bytes(bytes(1_000_000))
    old.write_text("old", encoding="ascii")

    def interrupt(name: str, done: int, total: int) -> None:
        if done > 100_000:
            raise KeyboardInterrupt

    before = sorted(os.listdir(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        getattr(Ssh(), way)(sshd.target, [str(new)], str(old), recursive=False, progress=interrupt)
    assert old.read_text(encoding="ascii") == "old"
    assert set(os.listdir(tmp_path)) - set(before) <= {"known_hosts"}


def test_a_file_whose_size_is_not_known_is_read_to_its_end(sshd: Sshd, tmp_path: Path) -> None:
    Ssh().get(sshd.target, ["/proc/cpuinfo"], str(tmp_path), recursive=False, progress=ignore)
    assert b"processor" in (tmp_path / "cpuinfo").read_bytes()


def test_a_path_without_a_slash_is_in_the_home_of_the_user(sshd: Sshd, tmp_path: Path) -> None:
    home = Ssh().run(sshd.target, "pwd").stdout.decode().strip()
    name = f".cloudme-test-{os.getpid()}"
    (tmp_path / "file").write_text("x", encoding="ascii")
    Ssh().put(sshd.target, [str(tmp_path / "file")], name, recursive=False, progress=ignore)
    Path(home, name).unlink()


@pytest.mark.parametrize("way", ["put", "get"])
@pytest.mark.parametrize("source, destination, error", [
    ("missing", "new", NotFound),
    ("folder", "new", UsageError),
    ("file", "missing/new", NotFound),
    ("file", "missing/", NotFound),
    ("fifo", "new", UsageError),
    ("file", "fifo", UsageError),
])
def test_what_cannot_be_copied_is_an_error_that_changes_nothing(
    sshd: Sshd, tmp_path: Path, way: str, source: str, destination: str, error: type[Exception],
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    Ssh().probe(sshd.target)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(error):
        getattr(Ssh(), way)(sshd.target, [f"{tmp_path}/{source}"], f"{tmp_path}/{destination}", recursive=False,
                            progress=ignore)
    assert sorted(os.listdir(tmp_path)) == before


def test_sigterm_restores_the_terminal(sshd: Sshd) -> None:
    code = SESSION.replace("sys.exit(", "import signal\ndef end(*_): raise SystemExit(143)\n"
                                        "signal.signal(signal.SIGTERM, end)\nsys.exit(")
    with Terminal.python(code, packed(sshd.target)) as session:
        session.send(b"PS1=; echo rea''dy\r")
        session.expect(b"ready\r\n")
        os.kill(session.pid, signal.SIGTERM)
        assert session.wait() == 143
