"""A cloud for the guest tests: a home and a realm of its own, an image from the cache, one prepared template.

The image is built once a machine (CLOUDME_CACHE, keyed by the digest of its recipe); the template and its group of
three once a session.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloudme.layout import World
from tests.users import outside as outside
from tests.users import users as users

ROOT = Path(__file__).resolve().parents[2]
CACHE = os.environ.get("CLOUDME_CACHE", "/var/cache/cloudme")
PACKAGES = "nginx-light,postgresql,pciutils,dnsmasq-base,nftables,rsync"
NONCE = os.urandom(16).hex()


@dataclass(frozen=True)
class Cloud:
    """One world, and the programs of this checkout acting in it."""

    home: str
    realm: str

    @property
    def world(self) -> World:
        return World(data=self.home, run=f"{self.home}/run", config=f"{self.home}/config", realm=self.realm)

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "CLOUDME_HOME": self.home, "CLOUDME_REALM": self.realm, "LC_ALL": "C.UTF-8"}

    @property
    def inside(self) -> list[str]:
        """What a command line begins with to run in the realm's network."""
        return ["nsenter", f"--net={self.world.namespace}"]

    def argv(self, *words: str) -> list[str]:
        folder = "sbin" if words[0].startswith("cm") else "bin"
        return [sys.executable, str(ROOT / folder / words[0]), *words[1:]]

    def call(self, *words: str, stdin: bytes = b"", cwd: str | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run a program of ours and return how it ended."""
        return subprocess.run(self.argv(*words), input=stdin, capture_output=True, env=self.env, check=False,
                              timeout=900, cwd=cwd)

    def run(self, *words: str, stdin: bytes = b"", cwd: str | None = None) -> str:
        """Run a program of ours that must end with 0; returns what it printed."""
        ended = self.call(*words, stdin=stdin, cwd=cwd)
        assert ended.returncode == 0, f"{words}: {ended.returncode}\n{ended.stdout.decode()}\n{ended.stderr.decode()}"
        return ended.stdout.decode()

    def popen(self, *words: str, **how: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.argv(*words), env=self.env, **how)

    @contextlib.contextmanager
    def instant(self, template: str, group: str, name: str) -> Iterator[str]:
        """A machine that goes on from the RAM image, until the end of the block; its name."""
        (made,) = self.run("vminstantiate", "-n", template, "-g", group, "--name", name, "--instant").split()
        try:
            yield made
        finally:
            self.call("vmstop", "-d", "-y", "--timeout", "1", made)

    def machines(self) -> dict[str, dict[str, Any]]:
        return {machine["name"]: machine for machine in json.loads(self.run("vmrunning", "-a", "--json"))}

    def inside_run(self, argv: Sequence[str]) -> str:
        return subprocess.run([*self.inside, *argv], capture_output=True, check=True, timeout=60).stdout.decode()

    def evidence(self, test: str) -> str:
        """Keep the logs of everything, and return where."""
        kept = tempfile.mkdtemp(prefix=f"cloudme-evidence-{test[:40].replace('/', '_')}-")
        for pattern in ("**/console.log", "**/*.log"):
            for path in Path(self.home).glob(pattern):
                with open(path, "rb") as source, open(f"{kept}/{'.'.join(path.parts[-2:])}", "wb") as target:
                    shutil.copyfileobj(source, target)
        return kept


CLOUD = pytest.StashKey[Cloud]()


@pytest.fixture(scope="session")
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """A started network in a realm of its own; everything is ended and removed afterwards."""
    if os.geteuid() != 0:
        pytest.skip("guest tests build an image and a realm: root is missing")
    home = tempfile.mkdtemp(prefix="cm-guest-")
    it = request.config.stash[CLOUD] = Cloud(home, f"t{os.getpid()}")
    try:
        it.run("cmnet", "start")
        yield it
    finally:
        alive = [name for name, machine in it.machines().items() if machine["group"] != "templates"]
        if alive:
            it.call("vmstop", "-d", "-y", "--timeout", "1", *alive)
        it.run("cmnet", "stop")
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def image(cloud: Cloud) -> str:
    cloud.run("cmimage", "build", "debian", "--include", PACKAGES, "--cache", f"{CACHE}/images")
    return "debian"


@pytest.fixture(scope="session")
def template(cloud: Cloud, image: str) -> str:
    cloud.run("vmcreate", "-n", "debian", "--image", image, "-m", "640")
    return "debian"


@pytest.fixture(scope="session")
def warm(cloud: Cloud, template: str) -> str:
    """The template, with a RAM image: its clones need not boot. A nonce is in the image's memory, and nowhere else."""
    own = Path(cloud.world.config, "templates")
    own.mkdir(parents=True)
    script = (ROOT / "templates/settle.sh").read_text(encoding="utf-8")
    own.joinpath("settle.sh").write_text(script.replace("\nexit 0\n", f"\necho {NONCE} >/run/nonce\nexit 0\n"),
                                         encoding="utf-8")
    cloud.run("vmwarm", template)
    return template


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """After a failure, also of what it stands on, the evidence is kept, and its place is in the report."""
    report = yield
    it = item.config.stash.get(CLOUD, None)
    if report.when != "teardown" and report.failed and it is not None:
        report.sections.append(("evidence", it.evidence(item.name)))
    return report
