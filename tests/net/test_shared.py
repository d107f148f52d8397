"""Root's network shared with ordinary users, with the real bridge helper: what they may join, and what not."""

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

from cloudme.host.bridgehelper import HELPERS
from cloudme.layout import World
from cloudme.store import Store
from tests.net.conftest import ip
from tests.net.test_rootless import outside
from tests.users import ACCOUNTS, User, programs

__all__ = ["outside"]

ETC = Path("/etc/qemu")


class Root:
    """Root's own world, in the namespace that plays the host's."""

    def __init__(self, home: Path, outside: str, programs: Path) -> None:
        self.home, self.outside, self.programs = home, outside, programs
        self.store = Store(World(data=str(home), run=f"{home}/run", config=f"{home}/config"))

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = ["nsenter", f"--net=/run/netns/{self.outside}", sys.executable, str(self.programs / "sbin/cmnet"), *words]
        env = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "CLOUDME_HOME": str(self.home), "LC_ALL": "C.UTF-8",
               "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120, env=env)

    def cmnet(self, *words: str) -> str:
        ended = self.call(*words)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout + ended.stderr

    def ports(self, bridge: str = "bridge0") -> list[str]:
        """Of a bridge, by name."""
        listed = json.loads(ip("-n", self.outside, "-json", "link", "show", "master", bridge) or "[]")
        return sorted(link["ifname"] for link in listed if link)


@dataclasses.dataclass
class Cloud:
    root: Root
    alice: User
    bob: User


@pytest.fixture
def etc() -> Iterator[Path]:
    """/etc/qemu, empty for the test, and the helper setuid, as an administrator makes it."""
    helper = next((path for path in HELPERS if os.path.exists(path)), None)
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
def cloud(etc: Path, outside: str) -> Iterator[Cloud]:
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
        yield Cloud(root, alice, bob)
    finally:
        for user in (alice, bob):
            user.call("vmstop", "-a", "--kill")
            user.call("cmnet", "stop")
            assert user.processes() == []
        root.cmnet("stop")
        shutil.rmtree(folder)


def machine(user: User, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Make and start a machine on an empty disk: QEMU, and no guest."""
    image, key = user.home / "empty.qcow2", user.home / "key.pub"
    if not image.exists():
        user.run("qemu-img", "create", "-q", "-f", "qcow2", str(image), "64M")
        user.run("sh", "-c", f"echo ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGr3 x >{key}; touch {user.home}/key")
        user.run("cmimage", "add", "empty", str(image), "--user", "debian")
    return user.call("vmcreate", name, "--machine", "--image", "empty", "--pubkey-path", str(key), *options)


def test_a_users_machine_is_on_roots_bridge(cloud: Cloud) -> None:
    assert cloud.root.ports() == []
    made = machine(cloud.alice, "vm0", "--network", "host")
    assert made.returncode == 0, made.stderr
    started = cloud.alice.call("vmstart", "vm0")
    assert started.returncode == 0, started.stderr
    assert len(cloud.root.ports()) == 1
    cloud.alice.run("vmstop", "--kill", "vm0")
    assert cloud.root.ports() == []
