"""Which playbook is whose, and what vmlaunch makes of the answers."""

from __future__ import annotations

import argparse
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cloudme import layout
from cloudme.cli import launching
from cloudme.errors import CommandFailed, NotFound, SpecError, UsageError
from cloudme.host.playbook import Heard
from cloudme.model.ports import Host, HostReport
from cloudme.operations import playbooks
from cloudme.store import Store
from tests import fakes
from tests.conftest import program
from tests.unit.test_vmrunning import machine

FAILED = HostReport(status="failed", message="Start nginx: no such service")
CHANGED = HostReport(status="changed")


def group(store: Store) -> None:
    """web00, web01, sql00 of pf1, all stopped."""
    for number, (name, kind) in enumerate((("web00", "web"), ("web01", "web"), ("sql00", "sql"))):
        os.makedirs(store.world.machine(name))
        for file in ("disk.qcow2", "lock"):
            Path(store.world.machine(name), file).touch()
        store.publish(machine(name, type=kind, address=f"10.210.0.{number + 2}"))


def folder(path: Path, *types: str) -> Path:
    path.mkdir()
    for kind in types:
        (path / f"{kind}.yml").write_text("- hosts: all\n", encoding="ascii")
    return path


def test_the_first_folder_that_has_a_playbook_wins(tmp_path: Path) -> None:
    first, second = folder(tmp_path / "first", "web"), folder(tmp_path / "second", "web", "sql")
    assert playbooks.find(["web", "sql", "dns"], [str(tmp_path / "none"), str(first), str(second)]) == {
        "web": str(first / "web.yml"), "sql": str(second / "sql.yml")}


def test_a_playbook_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        playbooks.readable(str(tmp_path))


def configure(store: Store, host: Host, whose: Mapping[str, str], type: str | None = None) -> dict[str, HostReport]:
    return playbooks.configure(host, store, store.group("pf1", type), whose, lambda line: None)


def test_each_playbook_runs_once_for_all_machines_of_its_type(store: Store) -> None:
    group(store)
    ansible = fakes.FakePlaybooks(reports={"web00": CHANGED})
    reports = configure(store, fakes.host(playbooks=ansible), {"web": "/p/web.yml", "sql": "/p/sql.yml"})
    assert sorted(ansible.runs) == [("/p/sql.yml", ["sql00"]), ("/p/web.yml", ["web00", "web01"])]
    assert {name: report.status for name, report in reports.items()} == {
        "web00": "changed", "web01": "ok", "sql00": "ok"}


def test_one_playbook_for_all_types_runs_once(store: Store) -> None:
    group(store)
    ansible = fakes.FakePlaybooks()
    configure(store, fakes.host(playbooks=ansible), {"web": "/p/all.yml", "sql": "/p/all.yml"})
    assert ansible.runs == [("/p/all.yml", ["sql00", "web00", "web01"])]


def test_an_error_that_was_another_hosts_is_not_told_of_this_one() -> None:
    """Ansible says an error once, however often it happens."""
    heard = Heard("/p/web.yml", print)
    heard.event({"event": "error", "stdout": "[ERROR]: no role 'one'\r\nOrigin: /p/web.yml:3:5\r\n\r\n3 - x"})
    for host, reason in (("web00", "no role 'one'"), ("web01", "no role 'two'"), ("sql00", "no role  'one'\n\nIt is")):
        heard.event({"event": "runner_on_failed", "event_data": {"host": host, "res": {"reason": reason}}})
    assert heard.said == {"web00": "a task: /p/web.yml:3: no role 'one'", "web01": "a task: no role 'two'",
                          "sql00": "a task: /p/web.yml:3: no role 'one'"}


def test_a_type_without_a_playbook_is_ok(store: Store) -> None:
    group(store)
    ansible = fakes.FakePlaybooks(reports={"sql00": CHANGED})
    assert configure(store, fakes.host(playbooks=ansible), {"web": "/p/web.yml"})["sql00"] == playbooks.NOTHING
    assert configure(store, fakes.host(playbooks=ansible), {}) == dict.fromkeys(
        ["sql00", "web00", "web01"], playbooks.NOTHING)


def test_a_playbook_for_one_type_sees_the_whole_group(store: Store) -> None:
    group(store)
    ansible = fakes.FakePlaybooks()
    configure(store, fakes.host(playbooks=ansible), {"web": "/p/web.yml"}, type="web")
    assert ansible.inventories[0]["all"]["children"]["pf1_sql"]["hosts"] == {"sql00": {}}


def test_the_error_names_each_machine_and_its_task() -> None:
    error = playbooks.failed({"web01": FAILED, "web00": FAILED, "sql00": CHANGED})
    assert error
    assert error.message == "web00: Start nginx: no such service\nweb01: Start nginx: no such service"
    assert playbooks.failed({"sql00": CHANGED}) is None


@dataclass
class Stuck(fakes.FakePlaybooks):
    """The playbook for sql fails to start; the other one goes on until it is cancelled."""

    ended: threading.Event = field(default_factory=threading.Event)
    waited: list[bool] = field(default_factory=list)

    def run(self, playbook: str, inventory: Mapping[str, Any], *, hosts: Sequence[str], say: Any) -> Any:
        if "sql" in playbook:
            raise CommandFailed("no")
        self.waited.append(self.ended.wait(30))
        return {}

    def cancel(self) -> None:
        self.ended.set()


def test_what_runs_beside_a_failure_is_cancelled(store: Store) -> None:
    group(store)
    ansible = Stuck()
    with pytest.raises(CommandFailed):
        configure(store, fakes.host(playbooks=ansible), {"web": "/p/web.yml", "sql": "/p/sql.yml"})
    assert ansible.waited == [True]


@pytest.fixture
def world(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The group in the test's home; the current folder has playbooks/web.yml."""
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "playbooks", "web")
    store = Store(layout.world())
    group(store)
    return store


def launch(store: Store, host: Host, *words: str) -> None:
    args: argparse.Namespace = program("vmlaunch").parser().parse_args(list(words))
    launching.launch(args, store, host)


def test_vmlaunch_starts_configures_and_prints_a_line_a_machine(
    world: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ansible = fakes.FakePlaybooks(reports={"web00": CHANGED})
    host = fakes.host(playbooks=ansible)
    launch(world, host, "pf1")
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["sql00", "sql", "10.210.0.4", "ok"], ["web00", "web", "10.210.0.2", "changed"],
        ["web01", "web", "10.210.0.3", "ok"]]
    assert all(world.is_running(machine) for machine in world.machines())
    assert ansible.runs == [(str(tmp_path / "playbooks/web.yml"), ["web00", "web01"])]


def test_a_second_vmlaunch_starts_nothing(world: Store, capsys: pytest.CaptureFixture[str]) -> None:
    qemu = fakes.FakeHypervisor()
    for _ in range(2):
        launch(world, fakes.host(qemu=qemu), "pf1")
    assert len(qemu.launches) == 3


def test_vmlaunch_prints_all_rows_before_it_fails_and_leaves_the_machines_running(
    world: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    host = fakes.host(playbooks=fakes.FakePlaybooks(reports={"web01": FAILED}))
    with pytest.raises(CommandFailed, match="web01: Start nginx: no such service"):
        launch(world, host, "--json", "-g", "pf1", "-t", "web")
    assert json.loads(capsys.readouterr().out) == [
        {"name": "web00", "type": "web", "address": "10.210.0.2", "result": "ok", "message": ""},
        {"name": "web01", "type": "web", "address": "10.210.0.3", "result": "failed", "message": FAILED.message}]
    assert [m.name for m in world.machines() if world.is_running(m)] == ["web00", "web01"]


def test_a_broken_playbook_is_told_before_anything_starts(world: Store, tmp_path: Path) -> None:
    qemu = fakes.FakeHypervisor()
    ansible = fakes.FakePlaybooks(broken={str(tmp_path / "playbooks/web.yml")})
    with pytest.raises(SpecError):
        launch(world, fakes.host(qemu=qemu, playbooks=ansible), "pf1")
    assert qemu.launches == []


def test_a_dry_run_says_what_would_start_and_which_playbook_is_whose(
    world: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qemu = fakes.FakeHypervisor()
    launch(world, fakes.host(qemu=qemu), "pf1", "--dry-run")
    path = tmp_path / "playbooks/web.yml"
    assert capsys.readouterr().out.splitlines() == [
        "start sql00 (tcg)", "start web00 (tcg)", "start web01 (tcg)",
        f"apply {path} to web00", f"apply {path} to web01"]
    assert qemu.launches == []


def test_no_configure_starts_and_awaits_and_no_more(world: Store, capsys: pytest.CaptureFixture[str]) -> None:
    ansible = fakes.FakePlaybooks()
    launch(world, fakes.host(playbooks=ansible), "pf1", "--no-configure", "-v")
    said = capsys.readouterr()
    assert ansible.runs == [] and said.out.count(" ok") == 3
    assert "no playbook" not in said.err


def test_a_type_without_a_playbook_is_named_with_v(world: Store, capsys: pytest.CaptureFixture[str]) -> None:
    launch(world, fakes.host(), "pf1", "-v")
    assert "no playbook for type sql" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "kind"), [
    ([], UsageError), (["pf1", "-g", "pf2"], UsageError), (["templates"], UsageError), (["nosuch"], NotFound),
    (["pf1", "-t", "dns"], NotFound), (["pf1", "--playbook", "nosuch.yml"], NotFound),
    (["pf1", "--playbooks", "nosuch"], NotFound),
])
def test_what_vmlaunch_refuses(world: Store, words: list[str], kind: type[Exception]) -> None:
    qemu = fakes.FakeHypervisor()
    with pytest.raises(kind):
        launch(world, fakes.host(qemu=qemu), *words)
    assert qemu.launches == []
