"""vmunit: what it writes, when it does not, what it refuses, and what it asks of systemd."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudme.errors import AlreadyExists, Busy, NotFound
from cloudme.host.files import Below
from cloudme.model.definitions import accounts
from cloudme.model.steps import Transaction
from cloudme.operations import units as operations
from cloudme.store import take_lock
from tests import fakes
from tests.conftest import Ended
from tests.unit.test_definitions import OTHER, Machina
from tests.unit.test_units import RAM, texts


@pytest.fixture
def machina(tmp_path: Path) -> Machina:
    return Machina(tmp_path)


@pytest.fixture
def root(machina: Machina) -> Path:
    """A host that is off, with one machine."""
    machina.machine("vm", {"attrs": RAM})
    return machina.folder.parents[1]


def vmunit(command: Callable[..., Ended], root: Path, *words: str) -> Ended:
    return command("vmunit", *words, "--root", str(root))


def unit_of(root: Path, name: str = "vm") -> Path:
    return root / f"etc/systemd/system/machina-{name}.service"


def test_the_second_time_nothing_is_written_or_said(command: Callable[..., Ended], root: Path) -> None:
    assert vmunit(command, root, "generate", "vm") == Ended(0, "", "")
    before = unit_of(root).stat()
    assert stat.S_IMODE(before.st_mode) == 0o644 and (root / "etc/sysusers.d/machina-vm.conf").exists()
    assert vmunit(command, root, "generate", "--all") == Ended(0, "", "")
    after = unit_of(root).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_check_names_what_is_missing_or_stale_and_changes_nothing(command: Callable[..., Ended], root: Path) -> None:
    missing = vmunit(command, root, "generate", "--all", "--check")
    assert (missing.status, missing.stdout.splitlines()) == (1, [
        str(unit_of(root)), str(root / "etc/sysusers.d/machina-vm.conf")])
    assert not unit_of(root).exists()
    vmunit(command, root, "generate", "--all")
    assert vmunit(command, root, "generate", "--all", "--check") == Ended(0, "", "")
    unit_of(root).write_text(unit_of(root).read_text("utf-8") + "# more\n", "utf-8")
    assert vmunit(command, root, "generate", "--all", "--check") == Ended(1, f"{unit_of(root)}\n", "")


def test_a_unit_that_changes_is_shown_first(command: Callable[..., Ended], root: Path, machina: Machina) -> None:
    vmunit(command, root, "generate", "vm")
    machina.machine("vm", {"attrs": RAM | {"memory": {"ram": 128}}})
    tried = vmunit(command, root, "generate", "vm", "--dry-run")
    assert {"--m size=64M \\", "+-m size=128M \\", f"write {unit_of(root)}"} <= set(tried.stdout.splitlines())
    done = vmunit(command, root, "generate", "vm")
    assert done.stdout == "" and "+-m size=128M \\" in done.stderr.splitlines()
    assert vmunit(command, root, "generate", "vm") == Ended(0, "", "")


def test_several_previews_have_heads(command: Callable[..., Ended], root: Path, machina: Machina) -> None:
    machina.machine("b", {"id": OTHER, "attrs": RAM})
    said = vmunit(command, root, "generate", "--all", "--preview").stdout
    assert [line for line in said.splitlines() if line.startswith("----")] == [
        "----machina-b.service----", "----machina-vm.service----"]


def test_somebody_elses_unit_stays(command: Callable[..., Ended], root: Path) -> None:
    unit_of(root).parent.mkdir(parents=True)
    unit_of(root).write_text("[Unit]\n", "utf-8")
    for words in (["generate"], ["remove"]):
        ended = vmunit(command, root, *words, "vm")
        assert (ended.status, unit_of(root).read_text("utf-8")) == (73, "[Unit]\n")
        assert f"{unit_of(root)} is not ours" in ended.stderr
    assert not (root / "etc/sysusers.d").exists()


def test_a_tpm_that_is_gone_takes_its_unit_with_it(command: Callable[..., Ended], root: Path, machina: Machina) -> None:
    machina.host({"storage": {"tpm": {"path": "/srv/tpm", "type": "tpm-data"}}})
    machina.machine("vm", {"attrs": RAM | {"tpm": {"enabled": True, "data": {"name": "t", "storage": "tpm"}}}})
    vmunit(command, root, "generate", "vm")
    assert unit_of(root, "swtpm-vm").exists()
    machina.machine("vm", {"attrs": RAM})
    assert vmunit(command, root, "generate", "vm", "--check").stdout.splitlines() == [
        str(unit_of(root)), str(unit_of(root, "swtpm-vm"))]
    vmunit(command, root, "generate", "vm")
    assert unit_of(root).exists() and not unit_of(root, "swtpm-vm").exists()


def test_remove_needs_no_definition_and_leaves_no_file(command: Callable[..., Ended], root: Path,
                                                      machina: Machina) -> None:
    vmunit(command, root, "generate", "vm")
    Path(f"{unit_of(root)}.d").mkdir()
    (machina.machines / "vm.conf.json").unlink()
    assert vmunit(command, root, "remove", "vm").status == 0
    assert sorted(path.name for path in root.rglob("*") if path.is_file()) == ["machina.conf.json"]
    assert not Path(f"{unit_of(root)}.d").exists()
    assert vmunit(command, root, "remove", "vm").status == 66


def test_what_somebody_added_to_a_unit_stays(command: Callable[..., Ended], root: Path) -> None:
    vmunit(command, root, "generate", "vm")
    mine = Path(f"{unit_of(root)}.d/mine.conf")
    mine.parent.mkdir()
    mine.touch()
    vmunit(command, root, "remove", "--all")
    assert mine.exists() and not unit_of(root).exists()


def test_templates_of_the_hosts_own_win(command: Callable[..., Ended], root: Path) -> None:
    (root / "etc/cloudme/templates").mkdir(parents=True)
    (root / "etc/cloudme/templates/machine.service.j2").write_text("[Unit]\nDescription={{ name }}\n", "utf-8")
    assert vmunit(command, root, "generate", "--preview", "vm").stdout.splitlines()[1:] == ["[Unit]", "Description=vm"]


@pytest.mark.parametrize(("words", "status"), [
    (["generate"], 64), (["enable"], 64), (["generate", "no"], 66), (["enable", "vm"], 66), (["remove", "../x"], 64),
    (["status"], 64),
])
def test_what_cannot_be_asked(command: Callable[..., Ended], root: Path, words: list[str], status: int) -> None:
    assert vmunit(command, root, *words).status == status


# systemd

Live = tuple[fakes.FakeUnits, Callable[[], Transaction], operations.Folders, dict[str, dict[str, str]]]
"""systemd, what makes a transaction on a host with it, where files are, and what is wanted of machine vm."""


@pytest.fixture
def live(root: Path, machina: Machina) -> Live:
    systemd = fakes.FakeUnits()
    host = fakes.host(units=systemd, files=Below(str(root)))
    site = machina.read()
    folders = operations.Folders("/etc/systemd/system", "/etc/sysusers.d")
    return systemd, lambda: Transaction(host, lambda line: None), folders, {"vm": texts(site, site.pick()[0])}


def test_users_are_made_and_units_read_anew_only_where_something_was_written(live: Live) -> None:
    systemd, transaction, folders, wanted = live
    for _ in range(2):
        it = transaction()
        operations.write(it, folders, operations.changes(it.host, folders, wanted))
    assert systemd.said == ["users /etc/sysusers.d/machina-vm.conf", "daemon-reload"]


def test_enable_and_remove_ask_systemd(live: Live, root: Path) -> None:
    systemd, transaction, folders, wanted = live
    it = transaction()
    with pytest.raises(NotFound):
        operations.enable(it, folders, ["vm"], on=True)
    operations.write(it, folders, operations.changes(it.host, folders, wanted))
    for _ in range(2):
        operations.enable(it, folders, ["vm"], on=True)
    assert systemd.said.count("enable machina-vm.service") == 1
    systemd.active.add("machina-vm.service")
    assert operations.running(it.host, folders, ["vm"]) == operations.known(it.host, folders) == ["vm"]
    with pytest.raises(Busy):
        operations.remove(it, folders, ["vm"])
    systemd.active.clear()
    systemd.said.clear()
    operations.remove(it, folders, ["vm"])
    assert systemd.said == ["disable machina-vm.service", "daemon-reload"]
    assert operations.known(it.host, folders) == [] and not unit_of(root).exists()


def test_only_accounts_of_ours_are_removed(live: Live, root: Path, machina: Machina) -> None:
    _, transaction, folders, wanted = live
    uid = accounts.of(machina.one()).uid
    for number, calls in ((uid, [["userdel", "machina-vm"], ["groupdel", "machina-vm"]]), (1000, [])):
        (root / "etc/passwd").write_text(f"root:x:0:0::/:\nmachina-vm:x:{number}:1::/:\n", "utf-8")
        (root / "etc/group").write_text(f"machina-vm:x:{number}:\n", "utf-8")
        it = transaction()
        run = it.host.run
        assert isinstance(run, fakes.FakeRun)
        run.calls.clear()
        operations.write(it, folders, operations.changes(it.host, folders, wanted))
        operations.remove(it, folders, ["vm"])
        assert run.calls == calls


def test_a_step_that_fails_leaves_what_was_there(live: Live, root: Path) -> None:
    systemd, transaction, folders, wanted = live
    systemd.files["machina-vm.service"] = False
    it = transaction()
    operations.write(it, folders, operations.changes(it.host, folders, wanted))
    before = unit_of(root).read_text("utf-8")
    with pytest.raises(AlreadyExists), transaction() as it:
        operations.remove(it, folders, ["vm"])
        raise AlreadyExists("another")
    assert unit_of(root).read_text("utf-8") == before


def test_a_template_of_another_host_runs_nothing_here(command: Callable[..., Ended], root: Path) -> None:
    own = root / "etc/cloudme/templates/machine.service.j2"
    own.parent.mkdir(parents=True)
    own.write_text("{{ cycler.__init__.__globals__.os.getpid() }}\n", "utf-8")
    ended = vmunit(command, root, "generate", "vm")
    assert ended.status == 78 and "unsafe" in ended.stderr and not unit_of(root).exists()


def test_links_below_a_root_lead_nowhere_else(command: Callable[..., Ended], root: Path, home: Path) -> None:
    home.mkdir(exist_ok=True)
    (root / "etc/systemd").symlink_to(home)
    ended = vmunit(command, root, "generate", "vm")
    assert ended.status == 77 and "leads out of" in ended.stderr and not (home / "system").exists()


def test_what_vmrun_runs_is_not_removed(live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its unit is inactive, and its user would be taken from it."""
    _, transaction, folders, wanted = live
    monkeypatch.setenv("CLOUDME_MACHINA_RUN", str(tmp_path / "m"))
    (tmp_path / "m/vm").mkdir(parents=True)
    it = transaction()
    operations.write(it, folders, operations.changes(it.host, folders, wanted))
    lock = take_lock(str(tmp_path / "m/vm/lock"))
    with pytest.raises(Busy, match="vm runs"):
        operations.remove(it, folders, ["vm"])
    os.close(lock)
    operations.remove(it, folders, ["vm"])
