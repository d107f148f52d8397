"""A home and a realm of a bench's own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class World:
    """A home and a realm of the bench's own."""

    def __init__(self, home: str) -> None:
        self.home = home
        self.realm = f"bench{os.getpid()}"
        self.env = {**os.environ, "CLOUDME_HOME": home, "CLOUDME_REALM": self.realm}

    def run(self, *words: str) -> str:
        folder = "sbin" if words[0].startswith("cm") else "bin"
        argv = [sys.executable, str(ROOT / folder / words[0]), *words[1:]]
        return subprocess.run(argv, env=self.env, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True).stdout

    def popen(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, str(ROOT / "bin" / words[0]), *words[1:]], env=self.env,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def gone(self, group: str) -> None:
        self.run("vmstop", "-q", "-d", "-y", "-g", group, "--timeout", "0")

    def outside(self, script: str) -> str:
        """A shell script in the realm's network."""
        return subprocess.run(["nsenter", f"--net=/run/netns/cloudme-{self.realm}", "sh", "-ec", script], check=True,
                              stdout=subprocess.PIPE, text=True).stdout


@contextlib.contextmanager
def world() -> Iterator[World]:
    home = tempfile.mkdtemp(prefix="cm-bench-")
    os.chmod(home, 0o755)  # libvirt's QEMU is somebody else
    it = World(home)
    try:
        it.run("cmnet", "start")
        yield it
    finally:
        names = [m["name"] for m in json.loads(it.run("vmrunning", "-a", "--json")) if m["group"] != "templates"]
        if names:
            it.run("vmstop", "-d", "-y", "--timeout", "0", *names)
        it.run("cmnet", "stop")
        shutil.rmtree(home)


def seconds(it: World, *words: str) -> float:
    began = time.perf_counter()
    it.run(*words)
    return time.perf_counter() - began
