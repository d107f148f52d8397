"""The unit that brings a homelab back at boot: installed, taken by systemd, removed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cloudme.host import cgroup
from tests.conftest import ROOT

pytestmark = pytest.mark.contract

PROGRAMS = ("sbin/cmapply", "bin/vmstop")


def links(what: str, prefix: Path) -> None:
    subprocess.run([ROOT / "tools/links", what, prefix], check=True, env={"PATH": os.environ["PATH"]})


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """With what pip would have installed."""
    venv = tmp_path / "lib/cloudme/venv/bin"
    venv.mkdir(parents=True)
    for program in PROGRAMS:
        path = venv / Path(program).name
        path.write_text("#!/bin/sh\n", encoding="ascii")
        path.chmod(0o755)
    return tmp_path


def unit(prefix: Path, kind: str) -> Path:
    return prefix / f"lib/systemd/{kind}" / cgroup.STOPPER


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is missing")
@pytest.mark.parametrize(("kind", "target"), [("system", "multi-user.target"), ("user", "default.target")])
def test_systemd_takes_it(prefix: Path, tmp_path: Path, kind: str, target: str) -> None:
    links("make", prefix)
    run = tmp_path / "run"
    (run / "systemd").mkdir(parents=True)
    ended = subprocess.run(["systemd-analyze", f"--{kind}", "verify", "--man=no", unit(prefix, kind)], check=False,
                           capture_output=True, text=True,
                           env={"XDG_RUNTIME_DIR": str(run), "HOME": str(tmp_path), "PATH": os.environ["PATH"]})
    assert (ended.returncode, ended.stderr) == (0, "")
    text = unit(prefix, kind).read_text(encoding="utf-8")
    assert f"WantedBy={target}\n" in text
    assert all(f"={prefix}/{program} " in text or f"=-{prefix}/{program} " in text for program in PROGRAMS)


def test_it_goes_as_it_came(prefix: Path) -> None:
    before = sorted(prefix.rglob("*"))
    links("make", prefix)
    assert unit(prefix, "system").exists() and not unit(prefix, "system").is_symlink()
    links("remove", prefix)
    assert sorted(prefix.rglob("*")) == before
