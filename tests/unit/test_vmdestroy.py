"""What is destroyed with a machine that is defined, and all that is refused: then nothing is gone."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudme import index, layout
from cloudme.cli import wiring
from cloudme.errors import Busy
from cloudme.model.names import DefinitionName
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction
from cloudme.operations import destroying
from cloudme.store import Store, take_lock
from tests import fakes
from tests.conftest import Ended
from tests.disks import Disks, based
from tests.unit import test_vmrunning
from tests.unit.test_definitions import ID

Destroy = Callable[..., Ended]


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disks:
    monkeypatch.setenv("CLOUDME_MACHINA_RUN", str(tmp_path / "machina-run"))
    made = Disks(tmp_path / "x")
    monkeypatch.setenv("CLOUDME_HOME", str(tmp_path / "home"))
    (tmp_path / "home/config").mkdir(parents=True)
    (tmp_path / "home/config/machina").symlink_to(made.folder)
    return made


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """Programs get theirs from `wiring`: only a patch gives them fakes."""
    made = fakes.host()
    monkeypatch.setattr(wiring, "host", lambda world: made)
    return made


@pytest.fixture
def destroy(command: Destroy, disks: Disks, host: Host) -> Destroy:
    return lambda *words: command("vmdestroy", "vm", *words)


YES = ("--yes-destroy", "vm")
STAYS = ["data/code/ovmf.firmware", "data/raw/bystander.raw", "etc/machina/machina.conf.json"]


def refused(destroy: Destroy, disks: Disks, *words: str) -> Ended:
    before = disks.files()
    ended = destroy(*words)
    assert ended.status != 0
    assert disks.files() == before
    return ended


def test_everything_of_the_machine_goes_and_nothing_else(destroy: Destroy, disks: Disks) -> None:
    ended = destroy(*YES)
    assert (ended.status, ended.stdout) == (0, "")
    assert disks.files() == STAYS
    assert ended.stderr.splitlines() == [
        f"delete {disks.data}/raw/vm/os/os.raw (2K)", f"delete {disks.data}/qcow2/vm/os/data.qcow2 (2K)",
        f"delete {disks.data}/firmware/vm/os/vars.firmware (2K)",
        f"delete {disks.data}/tpm-data/vm/os/tpm.tpm-data (2K), with tpm2-00.permall",
        *(f"delete the folder {disks.data}/{pool}/{folder}, if it is empty" for folder in ("vm/os", "vm")
          for pool in ("firmware", "qcow2", "raw", "tpm-data")),
        f"delete {disks.folder.parents[2]}/home/config/machina/machine.conf.d/vm.conf.json",
        f"{disks.data}/code/ovmf.firmware stays: it is firmware"]
    assert not (disks.data / "raw/vm").exists()


def test_a_dry_run_deletes_nothing(destroy: Destroy, disks: Disks) -> None:
    before = disks.files()
    ended = destroy("--dry-run")
    assert (ended.status, ended.stderr, disks.files()) == (0, "", before)
    assert f"delete {disks.data}/raw/vm/os/os.raw (2K)\n" in ended.stdout
    assert ended.stdout.endswith("stays: it is firmware\n")


def test_folders_with_something_else_stay(destroy: Destroy, disks: Disks) -> None:
    note = disks.put("raw/vm/note")
    assert destroy(*YES).status == 0
    assert note.exists()
    assert not (disks.data / "raw/vm/os").exists()


def test_a_volume_that_is_missing_is_told(destroy: Destroy, disks: Disks) -> None:
    (disks.data / "raw/vm/os/os.raw").unlink()
    ended = destroy(*YES)
    assert ended.status == 0
    assert f"{disks.data}/raw/vm/os/os.raw is not there" in ended.stderr.splitlines()


def test_not_while_a_pool_is_missing(destroy: Destroy, disks: Disks) -> None:
    (disks.data / "raw").rename(disks.data / "away")
    ended = destroy(*YES)
    assert ended.status == 77 and f"there is no folder {disks.data}/raw: is its disk mounted?" in ended.stderr
    assert (disks.machines / "vm.conf.json").exists() and (disks.data / "away/vm/os/os.raw").exists()


@pytest.mark.parametrize("gone", range(1, 6))
def test_what_was_cut_off_can_be_repeated(
    destroy: Destroy, disks: Disks, monkeypatch: pytest.MonkeyPatch, gone: int,
) -> None:
    plain, calls = os.unlink, []

    def failing(path: str, *, dir_fd: int | None = None) -> None:
        calls.append(path)
        if len(calls) == gone:
            raise OSError(5, "Input/output error", path)
        plain(path, dir_fd=dir_fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", failing)
        assert destroy(*YES).status == 74
    assert (disks.machines / "vm.conf.json").exists()
    assert destroy(*YES).status == 0
    assert disks.files() == STAYS
    assert not list(disks.data.rglob("vm"))


# the name

def test_nobody_is_asked_without_a_terminal(destroy: Destroy, disks: Disks) -> None:
    ended = refused(destroy, disks)
    assert (ended.status, "--yes-destroy vm" in ended.stderr) == (64, True)
    assert f"delete {disks.data}/raw/vm/os/os.raw (2K)\n" in ended.stderr


@pytest.mark.parametrize("name", ["other", "v", "VM", ""])
def test_the_name_has_to_be_the_machines(destroy: Destroy, disks: Disks, name: str) -> None:
    assert refused(destroy, disks, "--yes-destroy", name).status == 64


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Types a line on a terminal that is stdin and stderr."""
    master, slave = pty.openpty()
    with open(slave, encoding="utf-8") as stdin, open(os.dup(slave), "w", encoding="utf-8") as stderr:
        def type(line: str) -> None:
            monkeypatch.setattr(sys, "stdin", stdin)
            monkeypatch.setattr(sys, "stderr", stderr)
            os.write(master, f"{line}\n".encode())

        yield type
    os.close(master)


@pytest.mark.parametrize(("line", "status"), [("vm", 0), ("y", 64), ("yes", 64), ("", 64), ("vmx", 64)])
def test_the_name_is_typed_again(
    destroy: Destroy, disks: Disks, typed: Callable[[str], None], line: str, status: int,
) -> None:
    before = disks.files()
    typed(line)
    assert destroy().status == status
    assert disks.files() == (before if status else STAYS)


# refusals

def test_not_while_it_runs(destroy: Destroy, disks: Disks) -> None:
    folder = Path(layout.machina_run(), "vm")
    folder.mkdir(parents=True)
    lock = take_lock(str(folder / "lock"))
    ended = refused(destroy, disks, *YES)
    os.close(lock)
    assert (ended.status, "'vm' runs\nvmdestroy: (sudo vmstop vm)" in ended.stderr) == (75, True)
    assert destroy(*YES).status == 0


def test_not_while_a_unit_is_active_or_there(destroy: Destroy, disks: Disks, host: Host) -> None:
    host.units.active.add("machina-swtpm-vm.service")  # type: ignore[attr-defined]
    ended = refused(destroy, disks, *YES)
    assert (ended.status, "machina-swtpm-vm.service is active" in ended.stderr) == (75, True)
    host.units.active.clear()  # type: ignore[attr-defined]
    host.files.write("/etc/systemd/system/machina-vm.service", "")
    ended = refused(destroy, disks, *YES)
    assert (ended.status, "(sudo vmunit remove vm)" in ended.stderr) == (75, True)


def test_no_systemd_no_units(destroy: Destroy, host: Host) -> None:
    host.units.there = False  # type: ignore[attr-defined]
    assert destroy(*YES).status == 0


@pytest.mark.parametrize("path", ["raw/vm/os/os.raw", "tpm-data/vm/os/tpm.tpm-data/.lock"])
def test_not_while_a_file_is_in_use(destroy: Destroy, disks: Disks, path: str) -> None:
    held = take_lock(str(disks.data / path), shared=True)
    ended = refused(destroy, disks, *YES)
    os.close(held)
    assert (ended.status, f"{path} is in use" in ended.stderr) == (75, True)
    assert destroy(*YES).status == 0


@pytest.mark.parametrize(("folder", "name"), [("raw/vm/os", "os"), ("links", "l"), ("again/os", "os")])
def test_not_where_another_definition_has_the_volume(destroy: Destroy, disks: Disks, folder: str, name: str) -> None:
    disks.host({"storage": disks.pools | {"mine": {"path": f"{disks.data}/{folder}", "type": "raw"}}})
    (disks.data / "links").mkdir()
    (disks.data / "links/l.raw").symlink_to("../raw/vm/os/os.raw")
    (disks.data / "again").symlink_to("raw/vm")
    disks.other([{"name": name, "storage": "mine"}])
    ended = refused(destroy, disks, *YES, "--keep-readonly")
    assert (ended.status, "os.raw is shared: the definition 'other' has it, too" in ended.stderr) == (77, True)


@pytest.mark.parametrize("absolute", [False, True])
def test_not_where_another_disk_stands_on_it(destroy: Destroy, disks: Disks, absolute: bool) -> None:
    disks.host({"storage": disks.pools | {"flat": {"path": f"{disks.data}/flat", "type": "qcow2"}}})
    disks.other([{"name": "top", "storage": "flat"}])
    disks.put("flat/top.qcow2", based("middle.qcow2"))
    disks.put("flat/middle.qcow2", based(
        f"{disks.data}/raw/vm/os/os.raw" if absolute else "../raw/vm/os/os.raw"))
    ended = refused(destroy, disks, *YES)
    assert (ended.status, "the definition 'other'" in ended.stderr) == (77, True)
    disks.put("flat/middle.qcow2", based("nbd://elsewhere"))
    assert destroy(*YES).status == 0


def test_not_where_the_store_stands_on_it(destroy: Destroy, disks: Disks, home: Path) -> None:
    store = Store(layout.world())
    made = test_vmrunning.machine("web00")
    os.makedirs(store.world.machine("web00"))
    store.publish(made)
    Path(store.world.machine("web00"), "disk.qcow2").write_bytes(based(f"{disks.data}/qcow2/vm/os/data.qcow2"))
    ended = refused(destroy, disks, *YES)
    assert (ended.status, "the machine 'web00' of the store has it, too" in ended.stderr) == (77, True)


def test_not_a_file_with_another_name(destroy: Destroy, disks: Disks) -> None:
    os.link(disks.data / "raw/vm/os/os.raw", disks.data / "raw/backup")
    ended = refused(destroy, disks, *YES)
    assert (ended.status, "os.raw is shared: it has 2 names (hard links)" in ended.stderr) == (77, True)


@pytest.mark.parametrize(("definition", "hint"), [(None, "vmstop -d web00"), ("vm", "sudo vmunit remove vm")])
def test_not_a_machine_of_the_store(destroy: Destroy, disks: Disks, definition: str | None, hint: str) -> None:
    store = Store(layout.world())
    os.makedirs(store.world.machine("web00"))
    store.publish(dataclasses.replace(test_vmrunning.machine("web00"), uuid=ID,
                                      definition=DefinitionName(definition) if definition else None))
    ended = refused(destroy, disks, *YES)
    assert (ended.status, f"({hint})" in ended.stderr) == (77, True)


@pytest.mark.parametrize("volume", [
    {"name": "win", "storage": "iso"}, {"name": "base", "storage": "golden"}, {"name": "frozen", "storage": "raw"}])
def test_volumes_that_can_only_be_read_stay_or_all_stays(
    destroy: Destroy, disks: Disks, volume: dict[str, str],
) -> None:
    for path in "iso/win.iso-scsi", "golden/base.raw":
        disks.put(path)
    frozen = disks.put("raw/vm/os/frozen.raw")
    frozen.chmod(0o444)
    document = json.loads((disks.machines / "vm.conf.json").read_text())
    disks.machine("vm", document | {"volumes": [*document["volumes"], volume]})
    ended = refused(destroy, disks, *YES)
    assert (ended.status, "can only be read: --keep-readonly leaves it" in ended.stderr) == (77, True)
    ended = destroy(*YES, "--keep-readonly")
    assert (ended.status, ended.stderr.count("stays: it can only be read")) == (0, 1)
    assert {"data/iso/win.iso-scsi", "data/golden/base.raw", "data/raw/vm/os/frozen.raw"} <= set(disks.files())
    assert "data/raw/vm/os/os.raw" not in disks.files()


def test_no_link_is_followed(destroy: Destroy, disks: Disks) -> None:
    volume = disks.data / "raw/vm/os/os.raw"
    volume.rename(disks.data / "real.raw")
    volume.symlink_to(disks.data / "real.raw")
    ended = refused(destroy, disks, *YES)
    assert (ended.status, "os.raw is a link" in ended.stderr) == (77, True)
    volume.unlink()
    (disks.data / "real.raw").rename(volume)
    (disks.data / "raw/vm").rename(disks.data / "raw/away")
    (disks.data / "raw/vm").symlink_to("away")
    ended = refused(destroy, disks, *YES)
    assert (ended.status, "on the way, 'vm' is no folder" in ended.stderr) == (77, True)


def test_the_pool_may_be_behind_a_link(destroy: Destroy, disks: Disks) -> None:
    (disks.data / "raw").rename(disks.data / "tank")
    (disks.data / "raw").symlink_to("tank")
    assert destroy(*YES).status == 0
    assert not (disks.data / "tank/vm").exists()


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_what_is_no_file_is_nobodys(destroy: Destroy, disks: Disks, kind: str) -> None:
    volume = disks.data / "raw/vm/os/os.raw"
    volume.unlink()
    os.mkfifo(volume) if kind == "fifo" else volume.mkdir()
    ended = refused(destroy, disks, *YES)
    assert (ended.status, "os.raw is no file" in ended.stderr) == (77, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="a device can be made by root only")
def test_a_block_device_is_wiped_by_its_owner(destroy: Destroy, disks: Disks) -> None:
    volume = disks.data / "raw/vm/os/os.raw"
    volume.unlink()
    try:
        os.mknod(volume, 0o060600, os.makedev(7, 250))
    except PermissionError:
        pytest.skip("no device can be made here")
    ended = refused(destroy, disks, *YES)
    assert (ended.status, "is a device: wipe it yourself" in ended.stderr) == (77, True)


def test_a_file_that_was_swapped_meanwhile_stays(disks: Disks, host: Host) -> None:
    site, place = disks.read(), destroying.Place(root="", store=Store(layout.world()))
    (machine,) = site.pick(["vm"])
    plan = destroying.plan(host, site, machine, place, keep_readonly=False)
    volume = disks.data / "raw/vm/os/os.raw"
    volume.rename(disks.data / "raw/vm/os/kept.raw")
    volume.write_bytes(b"new")
    with pytest.raises(Busy, match="is another file by now"), Transaction(host, lambda line: None) as transaction:
        transaction.apply(plan.steps)
    assert volume.read_bytes() == b"new"


def test_a_wrong_definition_may_share_anything(destroy: Destroy, disks: Disks) -> None:
    disks.machine("other", "{")
    ended = refused(destroy, disks, *YES)
    assert (ended.status, "other.conf.json" in ended.stderr) == (65, True)


def test_all_that_is_wrong_is_told_at_once(destroy: Destroy, disks: Disks) -> None:
    (disks.data / "qcow2/vm/os/data.qcow2").chmod(0o400)
    os.link(disks.data / "raw/vm/os/os.raw", disks.data / "raw/backup")
    (disks.data / "firmware/vm/os/vars.firmware").chmod(0o444)
    ended = refused(destroy, disks, *YES)
    assert len([line for line in ended.stderr.splitlines() if line.startswith("vmdestroy: /")]) == 3


# another host's root

def test_below_a_root_all_paths_are_that_hosts(command: Destroy, disks: Disks, host: Host) -> None:
    root = disks.folder.parents[1]
    pools = {name: pool | {"path": str(pool["path"]).removeprefix(str(root))} for name, pool in disks.pools.items()}
    disks.host({"storage": pools})
    held = take_lock(index_lock(Path(layout.machina_run())))
    unit = root / "etc/systemd/system/machina-vm.service"
    host.files.write(str(unit), "")
    ended = command("vmdestroy", "--root", str(root), "vm", *YES)
    assert (ended.status, f"vmunit remove vm --root {root}" in ended.stderr) == (75, True)
    host.files.remove(str(unit))
    assert command("vmdestroy", "--root", str(root), "vm", *YES).status == 0
    os.close(held)
    assert disks.files() == STAYS


def index_lock(run: Path) -> str:
    """The lock of a machine of this host that has the same name."""
    (run / "vm").mkdir(parents=True)
    assert not index.held(str(run / "vm/lock"))
    return str(run / "vm/lock")


def test_a_pool_that_leads_out_of_the_root_is_refused(
    command: Destroy, disks: Disks, host: Host, tmp_path: Path,
) -> None:
    root = disks.folder.parents[1]
    outside = tmp_path / "outside/vm/os"
    outside.mkdir(parents=True)
    (outside / "os.raw").write_bytes(b"mine")
    (root / "srv").symlink_to(tmp_path / "outside")
    disks.host({"storage": {"raw": disks.pools["raw"] | {"path": "/srv"}}})
    disks.machine("vm", {"volumes": [{"name": "os", "storage": "raw"}]})
    ended = command("vmdestroy", "--root", str(root), "vm", *YES)
    assert (ended.status, f"leads out of {root}" in ended.stderr) == (77, True)
    assert (outside / "os.raw").exists()
