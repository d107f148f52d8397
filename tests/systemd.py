"""A systemd of the test's own: Debian's, as PID 1 of a container (systemd-nspawn) whose /usr is this host's.

The container has /etc, /var, /run and a network of its own, so it needs no download and is up in a second. What it has
of cloudMe is what `make install` puts into its /usr/local.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FOLDERS = ("etc/systemd/system", "usr/local", "var/lib", "var/log/journal", "run", "tmp", "proc", "sys",
           "dev", "root", "srv")
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
"""As every Debian since 12 has them."""
SHARED = sorted(set(os.listdir("/usr")) - {"local"})
"""Of /usr: all but what `make install` changes."""
FILES = {
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",  # without one systemd takes it for a first boot
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nmessagebus:x:100:100::/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nkvm:x:36:\nmessagebus:x:100:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "etc/hosts": "127.0.0.1 localhost\n",
}
STARTED_S = 60
ENDED_S = 10
"""For more than systemd itself nobody waits: tests have stopped what they want to end in order."""


class Booted:
    """A container that runs systemd. root: its folder, as the host sees it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._groups = [path / f"cloudme-{root.name}" for path in _control_groups()]
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init = 0

    def start(self, timeout_s: float = STARTED_S) -> None:
        """Return when systemd has started all that it starts at boot."""
        for group in self._groups:
            group.mkdir()
        enter = "".join(f"echo $$ >{group}/cgroup.procs && " for group in self._groups)
        options = ["--quiet", f"--directory={self.root}", "--machine", self.root.name, "--boot", "--register=no",
                   "--keep-unit", "--private-network", "--console=pipe", *(f"--bind-ro=/usr/{name}" for name in SHARED),
                   "--bind=/dev/net/tun"]
        log = self.path("/nspawn.log")
        with log.open("wb") as said:
            self._nspawn = subprocess.Popen(
                ["sh", "-c", enter + 'exec "$@"', "sh", "systemd-nspawn", *options, "systemd.unit=multi-user.target"],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
                env={"PATH": PATH, "LC_ALL": "C.UTF-8", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"})
        deadline = time.monotonic() + timeout_s
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        while not (found := children.read_text(encoding="ascii").split()) or not self._up(int(found[0]), timeout_s):
            assert time.monotonic() < deadline and self._nspawn.poll() is None, log.read_text("utf-8")
            time.sleep(0.1)

    def path(self, inside: str) -> Path:
        """Where the host has a file of the container that is on no mount of its own."""
        return self.root / inside.lstrip("/")

    def _up(self, init: int, timeout_s: float) -> bool:
        """Whether this child is the container's systemd, and ready."""
        self._init = init
        if not os.path.exists(f"/proc/{init}/root/run/systemd/private"):
            return False
        ended = self.call("systemctl", "is-system-running", "--wait", timeout_s=timeout_s)
        return ended.stdout.strip() in ("running", "degraded")

    def stop(self, timeout_s: float = ENDED_S) -> None:
        """Have it end in order, within that time, else at once; nothing is left of it but its folder."""
        if self._nspawn is not None:
            self.call("systemctl", "poweroff", "--no-block")
            try:
                self._nspawn.wait(timeout_s)
            except subprocess.TimeoutExpired:
                os.kill(self._init, signal.SIGKILL)
                self._nspawn.wait()
            self._nspawn = None
        for group in self._groups:
            for folder, _, _ in os.walk(group, topdown=False):  # nothing, where it was stopped before
                os.rmdir(folder)

    def argv(self, *words: str) -> list[str]:
        """What runs a program inside, as root."""
        return ["nsenter", f"--target={self._init}", "--all", "env", "-i", f"PATH={PATH}", "LC_ALL=C.UTF-8",
                "HOME=/root", *words]

    def call(self, *words: str, stdin: str = "", timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.argv(*words), input=stdin, capture_output=True, text=True, check=False,
                              timeout=timeout_s)

    def run(self, *words: str, stdin: str = "", timeout_s: float = 120) -> str:
        """Run a program that must end with 0; returns what it printed."""
        ended = self.call(*words, stdin=stdin, timeout_s=timeout_s)
        assert ended.returncode == 0, f"{words}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def wait(self, unit: str, name: str, wanted: str, timeout_s: float = 60) -> None:
        """Until a property of a unit has this value."""
        deadline = time.monotonic() + timeout_s
        while (found := self.show(unit, name)) != wanted:
            assert time.monotonic() < deadline, f"{unit}: {name} is {found}, not {wanted}\n{self.journal(unit)}"
            time.sleep(0.2)

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=short-precise", f"--unit={unit}")

    def install(self) -> None:
        """`make install` of this checkout."""
        self._make("install")

    def uninstall(self) -> None:
        self._make("uninstall")

    def _make(self, target: str) -> None:
        words = ["make", "--silent", "-C", str(CHECKOUT), target, f"DESTDIR={self.root}", "PREFIX=/usr/local"]
        subprocess.run(words, check=True, capture_output=True, timeout=600)

    def files(self, *folders: str) -> set[str]:
        """All that is in these folders, by its path inside."""
        return set(self.run("find", *folders, "-xdev").splitlines())


@contextlib.contextmanager
def booted() -> Iterator[Booted]:
    """A container for the time of the block; the test is skipped where there can be none."""
    if os.geteuid() != 0:
        pytest.skip("a systemd of our own is PID 1 of a container: root is missing")
    if not shutil.which("systemd-nspawn"):
        pytest.skip("systemd-nspawn is missing")
    root = Path(f"/var/tmp/cm-systemd-{secrets.token_hex(4)}")
    root.mkdir(mode=0o755)
    it = Booted(root)
    try:
        for name in FOLDERS:
            (root / name).mkdir(parents=True)
        for name, target in LINKS.items():
            (root / name).symlink_to(target)
        for name, text in FILES.items():
            (root / name).write_text(text, encoding="utf-8")
        shutil.copy("/usr/lib/os-release", root / "etc/os-release")
        it.start()
        yield it
    finally:
        it.stop()
        shutil.rmtree(root)


def _control_groups() -> Sequence[Path]:
    """Our own folders in cgroup2 and, where it is beside the old hierarchies, in systemd's own of those."""
    with open("/proc/self/mounts", encoding="utf-8") as file:
        mounts = [line.split() for line in file]
    places = {"" if kind == "cgroup2" else "name=systemd": where for _, where, kind, options, *_ in mounts
              if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(","))}
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        ours = {name: path for _, name, path in (line.rstrip("\n").split(":", 2) for line in file)}
    return [Path(f"{where}/{ours[name]}") for name, where in places.items()]
