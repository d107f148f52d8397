"""vmupgrade, over a real store and a host of fakes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloudme import layout
from cloudme.cli import templates
from cloudme.errors import Busy, CommandFailed, NotFound, SpecError
from cloudme.model.names import Name
from cloudme.model.ports import Host, HostReport
from cloudme.store import Store
from tests import fakes
from tests.conftest import ROOT, program
from tests.unit.test_clones import instantiate, request, template

OURS = str(ROOT / "templates" / "upgrade.yml")


@pytest.fixture
def world(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    os.makedirs(home, exist_ok=True)
    store = Store(layout.world())
    template(store, fakes.host())
    return store


def upgrade(store: Store, host: Host, *words: str) -> None:
    templates.upgrade(program("vmupgrade").parser().parse_args(["debian", *words]), store, host, Name("debian"))


def test_a_template_is_booted_upgraded_and_powered_off(world: Store, capsys: pytest.CaptureFixture[str]) -> None:
    ansible, qemu = fakes.FakePlaybooks(), fakes.FakeHypervisor()
    upgrade(world, fakes.host(playbooks=ansible, qemu=qemu), "-q")
    assert capsys.readouterr().out == "debian\n"
    assert ansible.runs == [(OURS, ["debian"])]
    assert len(qemu.launches) == 1 and qemu.running == {}
    assert world.template("debian").prepared and world.reservations("default") == {}


def test_a_playbook_of_ones_own_wins(world: Store) -> None:
    own = Path(world.world.config, "templates", "upgrade.yml")
    own.parent.mkdir(parents=True)
    own.write_text("- hosts: all\n", encoding="ascii")
    ansible = fakes.FakePlaybooks()
    upgrade(world, fakes.host(playbooks=ansible))
    assert ansible.runs == [(str(own), ["debian"])]


def test_a_failing_upgrade_is_told_and_the_template_does_not_run_on(world: Store) -> None:
    ansible = fakes.FakePlaybooks(reports={"debian": HostReport(status="failed", message="Upgrade by apt: no mirror")})
    qemu = fakes.FakeHypervisor()
    with pytest.raises(CommandFailed, match="debian: Upgrade by apt: no mirror"):
        upgrade(world, fakes.host(playbooks=ansible, qemu=qemu))
    assert qemu.running == {}


def test_a_template_with_clones_is_refused(world: Store) -> None:
    instantiate(world, fakes.host(), request(1))
    with pytest.raises(Busy, match="web00"):
        upgrade(world, fakes.host())


@pytest.mark.parametrize("broken", [True, False])
def test_nothing_starts_for_a_broken_playbook_or_a_dry_run(world: Store, broken: bool) -> None:
    qemu = fakes.FakeHypervisor()
    host = fakes.host(qemu=qemu, playbooks=fakes.FakePlaybooks(broken={OURS} if broken else set()))
    if broken:
        with pytest.raises(SpecError):
            upgrade(world, host)
    else:
        upgrade(world, host, "--dry-run")
    assert qemu.launches == []


def test_there_must_be_such_a_template(world: Store) -> None:
    with pytest.raises(NotFound):
        templates.upgrade(program("vmupgrade").parser().parse_args(["x"]), world, fakes.host(), Name("nosuch"))
