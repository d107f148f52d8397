"""Root, who shares a network with alice, but not with bob, both ordinary users; the bridge helper is real."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudme.layout import BRIDGE_HELPERS, World
from cloudme.store import Store
from tests.users import User, programs

ETC = Path("/etc/qemu")
ACCOUNTS = ("uucp", "lp")
"""Not those of the other tests, which look at all that they run. Each has a group of its own."""
ALICE, BOB = ACCOUNTS


class Root:
    """Root's own world, in the namespace that plays the host's."""

    def __init__(self, home: Path, outside: str, programs: Path) -> None:
        self.home, self.outside, self.programs = home, outside, programs
        self.store = Store(World(data=str(home), run=f"{home}/run", config=f"{home}/config"))

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = ["nsenter", f"--net=/run/netns/{self.outside}", sys.executable, f"{self.programs}/sbin/cmnet", *words]
        env = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "CLOUDME_HOME": str(self.home), "LC_ALL": "C.UTF-8",
               "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120, env=env)

    def cmnet(self, *words: str) -> str:
        ended = self.call(*words)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout + ended.stderr

    def ip(self, *words: str) -> str:
        return subprocess.run(["ip", "-n", self.outside, *words], capture_output=True, text=True, check=True).stdout

    def ports(self, bridge: str = "bridge0") -> list[str]:
        """Of a bridge, by name."""
        listed = json.loads(self.ip("-json", "link", "show", "master", bridge) or "[]")
        return sorted(link["ifname"] for link in listed if link)


@dataclasses.dataclass
class Sharing:
    root: Root
    alice: User
    bob: User


@pytest.fixture
def etc() -> Iterator[Path]:
    """/etc/qemu, empty for the test, and the helper setuid, as an administrator makes it."""
    helper = next((path for path in BRIDGE_HELPERS if os.path.exists(path)), None)
    if os.geteuid() != 0 or helper is None:
        pytest.skip("needs root and qemu-bridge-helper")
    kept = ETC.with_name("qemu.kept-by-a-test")
    if there := ETC.exists():
        ETC.rename(kept)
    mode = stat.S_IMODE(os.stat(helper).st_mode)
    os.chmod(helper, mode | stat.S_ISUID)
    try:
        yield ETC
    finally:
        os.chmod(helper, mode)
        shutil.rmtree(ETC, ignore_errors=True)
        if there:
            kept.rename(ETC)


@pytest.fixture
def sharing(etc: Path, outside: str) -> Iterator[Sharing]:
    """Root with a network, alice who may use it, and bob who may not."""
    folder = Path(tempfile.mkdtemp(prefix="cm-shared-"))
    folder.chmod(0o755)
    copy = folder / "programs"
    copy.mkdir()
    programs(copy)
    root = Root(folder / "root", outside, copy)
    within = ["nsenter", f"--net=/run/netns/{outside}", "env", f"CLOUDME_HOST_HOME={root.home}"]
    alice, bob = (dataclasses.replace(User.made(name, folder, copy, within), helped=True) for name in ACCOUNTS)
    root.cmnet("start", "--resolve", "none", "--allow-user", alice.name)
    try:
        yield Sharing(root, alice, bob)
    finally:
        for user in (alice, bob):
            user.call("vmstop", "--timeout", "0s", "vm")
            user.call("cmnet", "stop")
        root.cmnet("stop")
        shutil.rmtree(folder)
    assert [*alice.processes(), *bob.processes()] == []
