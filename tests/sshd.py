"""A real sshd on the loopback, and a real terminal to use it from."""

from __future__ import annotations

import fcntl
import getpass
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from cloudme.host.keys import SshKeys
from cloudme.model.ports import Target

PROGRAM = "/usr/sbin/sshd"
DEADLINE_S = 30
ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def key_pair(folder: Path, name: str) -> Path:
    private, public = SshKeys().ed25519(name)
    path = folder / name
    path.write_text(private, encoding="ascii")
    path.chmod(0o600)
    Path(f"{path}.pub").write_text(public + "\n", encoding="ascii")
    return path


class Sshd:
    """Runs between `start` and `stop`, with a host key of its own. `prefix`: what its command line begins with.
    `env`: what its sessions have besides the usual, without spaces."""

    def __init__(self, folder: Path, *, port: int | None = None, prefix: Sequence[str] = (),
                 env: Mapping[str, str] | None = None) -> None:
        if not os.path.exists(PROGRAM):
            pytest.skip("sshd is missing")
        self.folder = folder
        self.port = port or free_port()
        self._prefix = prefix
        self._env = " ".join(f"{name}={value}" for name, value in (env or {}).items())
        key_pair(folder, "host_key")
        self.key = key_pair(folder, "ssh_key")
        self.target = Target(
            name="web00", address="127.0.0.1", user=getpass.getuser(), key_file=str(self.key),
            known_hosts_file=str(folder / "known_hosts"), port=self.port,
        )

    def start(self) -> None:
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        config = self.folder / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder}/host_key\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {self.folder}/ssh_key.pub\nStrictModes no\nPasswordAuthentication no\n"
            "PermitRootLogin yes\nSubsystem sftp internal-sftp\n" + (f"SetEnv {self._env}\n" if self._env else ""),
            encoding="ascii")
        self._process = subprocess.Popen(
            [*self._prefix, PROGRAM, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert self._process.stderr
        line = b""
        while b"Server listening" not in line:
            line = self._process.stderr.readline()
            assert line, "sshd ended"

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """Sessions that are open keep its stderr: what they say is not waited for."""
        assert self._process.stderr
        self._process.terminate()
        self._process.wait(DEADLINE_S)
        self._process.stderr.close()


class Terminal:
    """A program on a terminal of its own, 80 by 24."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.execv(argv[0], list(argv))
        self._ended: int | None = None
        self.resize(80, 24)
        self.seen = b""

    @classmethod
    def python(cls, code: str, *words: str) -> Terminal:
        return cls([sys.executable, "-c", code, *words])

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._ended is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        os.close(self._fd)

    def send(self, text: bytes) -> None:
        os.write(self._fd, text)

    def expect(self, text: bytes) -> None:
        """Read until `text` comes; what came before is forgotten afterwards."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.seen:
            assert self._read(deadline), f"{text!r} did not come: {self.seen!r}"
        self.seen = self.seen.partition(text)[2]

    def _read(self, deadline: float) -> bytes:
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        if not poller.poll(max(deadline - time.monotonic(), 0) * 1000):
            return b""
        try:
            got = os.read(self._fd, 4096)
        except OSError:  # the other end was closed
            return b""
        self.seen += got
        return got

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def expect_raw(self) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not self.is_raw:
            assert time.monotonic() < deadline, f"the terminal did not become raw: {self.seen!r}"
            self._read(time.monotonic() + 0.02)

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self._fd)[3] & termios.ICANON

    def wait(self) -> int:
        """Returns the exit status; kills the program at the deadline."""
        deadline = time.monotonic() + DEADLINE_S
        while self._read(deadline):
            pass
        pidfd = os.pidfd_open(self.pid)
        try:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            if not poller.poll(max(deadline - time.monotonic(), 0) * 1000):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            self._ended = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            return self._ended
        finally:
            os.close(pidfd)
