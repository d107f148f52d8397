"""Ordinary users, for tests that root runs: accounts that every Debian has, with a home of the test's own."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloudme.layout import World
from tests.conftest import ROOT
from tests.vlans import ip

ACCOUNTS = ("games", "news")
NUMBERS = itertools.count()


def programs(folder: Path) -> Path:
    """A copy of what runs, where every user may read it: a checkout may lie in root's home."""
    folder.chmod(0o755)
    for part in ("bin", "sbin", "cloudme", "templates", "examples"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@dataclass(frozen=True)
class User:
    """One of them. within: what every command line begins with. helped: setuid programs help him, as people who log in.
    """

    name: str
    home: Path
    programs: Path
    within: tuple[str, ...] = ()
    helped: bool = False

    @classmethod
    def made(cls, name: str, folder: Path, programs: Path, within: Sequence[str] = ()) -> User:
        """With a home below `folder`, which others may enter."""
        user = cls(name, folder / name, programs, tuple(within))
        user.home.mkdir()
        user.home.chmod(0o700)
        os.chown(user.home, user.uid, user.gid)
        return user

    @property
    def uid(self) -> int:
        return pwd.getpwnam(self.name).pw_uid

    @property
    def gid(self) -> int:
        return pwd.getpwnam(self.name).pw_gid

    @property
    def world(self) -> World:
        home = str(self.home)
        return World(data=home, run=f"{home}/run", config=f"{home}/config", rootless=True)

    def argv(self, *words: str) -> list[str]:
        """Of a program of ours, or any other one."""
        ours = [path for folder in ("bin", "sbin") if (path := self.programs / folder / words[0]).exists()]
        if ours and not os.path.isabs(words[0]):
            words = (sys.executable, str(ours[0]), *words[1:])
        never = [] if self.helped else ["--no-new-privs", "--bounding-set=-all"]
        return [*self.within, "setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups",
                *never, "--inh-caps=-all", *words]

    @property
    def env(self) -> dict[str, str]:
        path = f"{self.programs}/bin:{self.programs}/sbin:{os.path.dirname(sys.executable)}:/usr/bin:/bin:/usr/sbin"
        return {"HOME": str(self.home), "CLOUDME_HOME": str(self.home), "PATH": path, "LC_ALL": "C.UTF-8",
                "USER": self.name, "PYTHONDONTWRITEBYTECODE": "1"}

    def call(
        self, *words: str, stdin: str = "", more: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as this user; returns how it ended."""
        return subprocess.run(self.argv(*words), input=stdin, capture_output=True, text=True, check=False, timeout=600,
                              env=self.env | (more or {}), cwd=self.home)

    def run(self, *words: str, stdin: str = "") -> str:
        """Likewise, where it must end with 0; returns what it printed."""
        ended = self.call(*words, stdin=stdin)
        assert ended.returncode == 0, f"{words}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    def processes(self) -> dict[int, str]:
        """What runs as this user for this home: pid -> command line; a zombie has none."""
        found = {}
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                folder = Path("/proc", entry)
                if f"Uid:\t{self.uid}\t" in (folder / "status").read_text() and \
                        f"HOME={self.home}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(entry)] = (folder / "cmdline").read_text().replace("\0", " ")
        return {pid: line for pid, line in found.items() if line}


@pytest.fixture
def outside() -> Iterator[str]:
    """A network namespace that is the host to the users of the test: behind it is a router that serves a page."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make network namespaces and to become other users")
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK) or not os.stat("/dev/net/tun").st_mode & 0o006:
        os.chmod("/dev/net/tun", 0o666)  # as udev has it (its 50-udev-default.rules)
    host, router = (f"cmhost-{os.getpid()}-{next(NUMBERS)}" for _ in range(2))
    with contextlib.ExitStack() as mine:
        for name in (host, router):
            ip("netns", "add", name)
            mine.callback(ip, "netns", "delete", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", host, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", router)
        for name, address in ((host, "203.0.113.2/24"), (router, "203.0.113.1/24")):
            ip("-n", name, "address", "add", address, "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", host, "route", "add", "default", "via", "203.0.113.1")
        yield host
        for name in (host, router):
            left = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True).stdout
            assert left == ""


@pytest.fixture
def users(outside: str) -> Iterator[list[User]]:
    folder = Path(tempfile.mkdtemp(prefix="cm-users-"))
    copy = folder / "programs"
    copy.mkdir()
    programs(copy)
    folder.chmod(0o755)
    within = ["nsenter", f"--net=/run/netns/{outside}"]
    found = [User.made(name, folder, copy, within) for name in ACCOUNTS]
    try:
        yield found
    finally:
        for user in found:
            user.call("cmnet", "stop")
        left = [user.processes() for user in found]
        for pid in (pid for processes in left for pid in processes):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder)
        assert left == [{}] * len(found)
