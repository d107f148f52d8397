"""What cmapply does to machines that are there, over a host of fakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cloudme import layout
from cloudme.cli import wiring
from cloudme.model.ports import Host
from cloudme.store import Store
from tests import fakes
from tests.conftest import Ended
from tests.unit.test_clones import template

LAB = """\
networks:
  vlan_mode: bridges
  vlans: {lan: {id: 10, cidr: 10.20.10.0/24}}
hosts: {template: debian, vlan: lan, playbook: site.yml}
machines:
  web: {ip: 10.20.10.10}
  sql: {ip: 10.20.10.11, autostart: false}
"""


class Lab:
    """A file of this text, applied to one home."""

    def __init__(self, command: Callable[..., Ended], folder: Path) -> None:
        self.command = command
        self.folder = folder
        self.store = Store(layout.world())

    def apply(self, text: str, *words: str, status: int = 0) -> dict[str, str]:
        (self.folder / "lab.yaml").write_text(text, encoding="utf-8")
        self.ended = self.command("cmapply", "lab.yaml", *words)
        assert self.ended.status == status, self.ended
        rows = [line.split(None, 2) for line in self.ended.stdout.splitlines()]
        return {row[0]: row[2].strip() for row in rows if len(row) == 3}

    def runs(self, name: str) -> bool:
        return self.store.is_running(self.store.machine(name))


@pytest.fixture
def host() -> Host:
    return fakes.host()


@pytest.fixture
def lab(command: Callable[..., Ended], home: Path, tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(wiring, "host", lambda world: host)
    (home / "config").mkdir()
    (home / "config/cloudme.toml").write_text('[network]\nresolve = "none"\n', encoding="utf-8")
    (tmp_path / "site.yml").write_text("- hosts: all\n", encoding="utf-8")
    it = Lab(command, tmp_path)
    template(it.store, host)
    assert it.apply(LAB) == {"web": "made, started, configured", "sql": "made"}
    return it


def test_what_ran_runs_again_after_its_restart_and_nothing_else_starts(lab: Lab) -> None:
    assert lab.apply(LAB, "sql") == {"sql": "started, configured"}
    more = LAB.replace("10.20.10.11", "10.20.10.11, vcpu: 4")
    assert lab.apply(more) == {"web": "ok", "sql": "needs a restart"}
    lab.apply(more, "--restart", "--dry-run")
    words = [" ".join(line.split()[:2]) for line in lab.ended.stdout.splitlines()]
    assert [word for word in words if word.startswith(("stop", "start"))] == ["stop sql", "start sql"]
    assert lab.apply(more, "--restart") == {"web": "ok", "sql": "changed vcpu, started"}
    assert lab.runs("sql")


def test_what_stands_in_the_way_is_known_before_a_machine_is_stopped(lab: Lab, host: Host) -> None:
    apart = LAB.replace("machines:", "machines:\n  old: {ip: 10.20.10.12}")
    assert lab.apply(apart)["old"] == "made, started, configured"
    assert lab.apply(LAB.replace("10.20.10.10", "10.20.10.12"), "--restart", status=73)["web"] == "failed"
    assert lab.runs("web") and "10.20.10.12" in lab.ended.stderr


def test_a_machine_that_is_made_again_is_configured_again(lab: Lab) -> None:
    assert lab.command("vmstop", "-d", "-y", "web").status == 0
    assert lab.apply(LAB) == {"web": "made, started, configured", "sql": "ok"}
    assert lab.apply(LAB) == {"web": "ok", "sql": "ok"}


def test_what_fails_keeps_only_those_that_depend_on_it(lab: Lab, host: Host) -> None:
    assert isinstance(host.qemu, fakes.FakeHypervisor)
    host.qemu.refuse.add("new")
    more = LAB + "  after: {ip: 10.20.10.14, depends_on: new}\n  new: {ip: 10.20.10.13}\n  beside: {ip: 10.20.10.15}\n"
    assert lab.apply(more, status=76) == {
        "web": "ok", "sql": "ok", "new": "made, failed", "after": "skipped", "beside": "made, started, configured"}
    host.qemu.refuse.clear()
    assert lab.apply(more) == {"web": "ok", "sql": "ok", "new": "started, configured", "beside": "ok",
                               "after": "made, started, configured"}
