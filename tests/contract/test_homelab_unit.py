"""The unit that brings a homelab back at boot: installed, taken by systemd, removed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cloudme.host import cgroup
from cloudme.model.groups import Group
from cloudme.model.machine import Limits
from tests.conftest import ROOT
from tests.contract.test_systemd import Within
from tests.systemd import booted

pytestmark = pytest.mark.contract

PROGRAMS = ("sbin/cmapply", "bin/vmstop")


INSTEAD = """\
[Unit]
ConditionPathExists=
[Service]
ExecStart=
ExecStart=true
ExecStop=
ExecStop=sh -c 'sleep 2; kill -0 {pid} && touch {witness}'
"""
WITNESS = "/var/lib/it-was-alive"


def links(what: str, prefix: Path, root: Path | str = "") -> None:
    subprocess.run([ROOT / "tools/links", what, prefix], check=True,
                   env={"PATH": os.environ["PATH"], "DESTDIR": str(root)})


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


def test_when_the_host_goes_down_machines_live_until_it_has_stopped() -> None:
    with booted() as host:
        host.path("/usr/local/lib/cloudme").mkdir(parents=True)
        links("make", Path("/usr/local"), host.root)
        pid = int(host.run("sh", "-c", "sleep infinity >/dev/null 2>&1 & echo $!"))
        limits = Limits()
        cgroup.Scopes(Within(host), "/", "/").hold(Group(name="web00", limits=limits, own=limits, folder="/"), pid)
        assert cgroup.STOPPER in host.show("cloudme-web00.scope", "Before").split()
        own = host.path(f"/etc/systemd/system/{cgroup.STOPPER}.d")
        own.mkdir()
        own.joinpath("test.conf").write_text(INSTEAD.format(pid=pid, witness=WITNESS), encoding="utf-8")
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "start", cgroup.STOPPER)
        host.stop(60)
        assert host.path(WITNESS).exists()
