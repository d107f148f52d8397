"""cmapply, where machines differ from the file: what changes at once, what after a restart, and what if it fails."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cloudme.errors import HostUnavailable, StoreError
from cloudme.model.ports import Ended
from cloudme.qemu import launch
from tests import fakes
from tests.unit.labs import REALM, TWO, Lab, lab, one
from tests.unit.test_shares_live import Ports

__all__ = ["lab"]


class Leaving(Ports):
    """Its guest agent answers once."""

    def execute(self, command: str, **arguments: Any) -> Any:
        answer = super().execute(command, **arguments)
        if command == "query-chardev":
            self.answers[command] = []
        return answer


def test_a_machine_that_was_stopped_for_a_change_that_fails_runs_again(lab: Lab) -> None:
    lab.well(one("ip: 10.1.0.10"))
    before = lab.machine("db")
    (reserved,) = lab.store.reservations("lan").items()
    lab.iso.fails = [StoreError("no seed")]
    ended = lab.apply(one("ip: 10.1.0.11"), "--restart")
    assert (ended.status, lab.told(ended)) == (74, {"db": "failed"})
    assert lab.runs() == {"db"} and lab.machine("db") == before
    assert lab.store.reservations("lan").items() == {reserved}
    assert len(lab.qemu.launches) == 2


def test_what_cannot_be_is_known_before_a_machine_is_stopped(lab: Lab) -> None:
    lab.well(one())
    lab.net.others["10.1.0.50"] = "52:54:00:99:99:99"
    ended = lab.apply(one("ip: 10.1.0.50"), "--restart")
    assert ended.status == 73 and "10.1.0.50 is in use" in ended.stderr
    assert len(lab.qemu.launches) == 1 and lab.runs() == {"db"}


def test_addresses_are_not_swapped_by_halves(lab: Lab) -> None:
    text = one("ip: 10.1.0.10") + "  sql: {template: debian, vlan: lan, ip: 10.1.0.11}\n"
    lab.well(text)
    swapped = text.replace("0.10", "0.x").replace("0.11", "0.10").replace("0.x", "0.11")
    assert lab.well(swapped, "--restart") == {"db": "changed ip, started", "sql": "changed ip, started"}
    assert lab.store.owners("lan") == {"10.1.0.11": "db", "10.1.0.10": "sql"}
    assert lab.runs() == {"db", "sql"}


def test_addresses_are_not_swapped_where_one_runs_and_may_not_be_stopped(lab: Lab) -> None:
    text = one("ip: 10.1.0.10") + "  sql: {template: debian, vlan: lan, ip: 10.1.0.11}\n"
    lab.well(text)
    lab.stop("sql")
    swapped = text.replace("0.10", "0.x").replace("0.11", "0.10").replace("0.x", "0.11")
    ended = lab.apply(swapped)
    assert ended.status == 73 and "10.1.0.10 is the address of 'db'" in ended.stderr
    assert lab.store.owners("lan") == {"10.1.0.10": "db", "10.1.0.11": "sql"}
    assert lab.apply(swapped, "--restart", "--dry-run").status == 0
    assert lab.runs() == {"db"}
    lab.stop()
    assert lab.well(swapped, "--no-start") == {"db": "changed ip", "sql": "changed ip"}


def test_a_swap_that_fails_leaves_all_as_they_were(lab: Lab) -> None:
    text = one("ip: 10.1.0.10") + "  sql: {template: debian, vlan: lan, ip: 10.1.0.11}\n"
    lab.well(text)
    before = {name: lab.machine(name) for name in ("db", "sql")}
    lab.iso.fails = [None, StoreError("disk full")]
    swapped = text.replace("0.10", "0.x").replace("0.11", "0.10").replace("0.x", "0.11")
    ended = lab.apply(swapped, "--restart")
    assert ended.status == 74 and lab.runs() == {"db", "sql"}
    assert {name: lab.machine(name) for name in before} == before
    assert lab.store.owners("lan") == {"10.1.0.10": "db", "10.1.0.11": "sql"}


def test_a_new_machine_has_the_address_that_another_one_leaves(lab: Lab) -> None:
    lab.well(one("ip: 10.1.0.10"))
    lab.stop()
    text = one("ip: 10.1.0.11").replace("  db:", "  sql: {template: debian, vlan: lan, ip: 10.1.0.10}\n  db:")
    assert lab.well(text) == {"sql": "made, started", "db": "changed ip, started"}
    assert lab.store.owners("lan") == {"10.1.0.11": "db", "10.1.0.10": "sql"}


def test_replicas_move_up_by_one(lab: Lab) -> None:
    lab.well(TWO)
    moved = TWO.replace("10.2.0.20", "10.2.0.21")
    assert lab.well(moved) == {"db": "ok", "web00": "needs a restart", "web01": "needs a restart"}
    assert lab.well(moved, "--restart") == {
        "db": "ok", "web00": "changed ip, started", "web01": "changed ip, started"}
    assert lab.store.owners("dmz") == {"10.2.0.21": "web00", "10.2.0.22": "web01"}


@pytest.mark.parametrize(("more", "status"), [("vsock_cid: 9", 77), ("devices: '0000:01:00.0'", 69)])
def test_a_machine_that_would_not_start_again_is_not_stopped(lab: Lab, more: str, status: int) -> None:
    lab.files.closed.add("/dev/vhost-vsock")
    lab.well(one())
    before = lab.machine("db")
    assert lab.apply(one(more), "--restart").status == status
    assert lab.machine("db") == before and lab.runs() == {"db"} and len(lab.qemu.launches) == 1


# what is live and what is not

def test_limits_group_and_type_change_while_it_runs(lab: Lab) -> None:
    lab.well(one())
    assert lab.well(one("limits: {cpus: 1.5}, group: pf1, type: sql")) == {
        "db": "changed group, changed type, changed limits"}
    assert [held.cpus for held in lab.groups.held.values()] == [1.5]
    machine = lab.machine("db")
    assert (machine.group, machine.type, machine.limits.cpus) == ("pf1", "sql", 1.5)
    assert lab.runs() == {"db"} and len(lab.qemu.launches) == 1


def test_limits_that_cannot_be_held_are_none_and_hold_nothing_else_back(lab: Lab) -> None:
    lab.well(one())
    lab.groups.lacks = HostUnavailable("no cgroups")
    wanted = one("limits: {cpus: 1.5}, group: pf1")
    ended = lab.apply(wanted)
    assert (ended.status, lab.told(ended)) == (69, {"db": "changed group, failed"})
    machine = lab.machine("db")
    assert (machine.group, machine.limits.cpus, lab.runs()) == ("pf1", None, {"db"})
    assert lab.notes()["homelab"]["machines"]["db"].get("limits") is None
    ended = lab.apply(wanted, "--restart")
    assert (ended.status, lab.told(ended), lab.machine("db")) == (69, {"db": "failed"}, machine)
    lab.stop()
    assert lab.apply(one("limits: {cpus: 1.5}, group: pf2")).status == 69
    assert lab.machine("db") == machine


def test_all_that_fails_at_once_is_told(lab: Lab) -> None:
    lab.well(one("mem: 1G"))
    lab.groups.lacks = HostUnavailable("no cgroups")
    lab.qemu.told.balloon = fakes.FakeBalloon(ram=1 << 30, left=1 << 30, used=900 << 20)
    ended = lab.apply(one("mem: 600, limits: {cpus: 1.5}"))
    assert ended.status == 64 and "would starve it; no cgroups" in ended.stderr
    assert "needs a restart: mem" in ended.stderr


def test_a_share_that_is_in_use_holds_no_other_change_back(lab: Lab) -> None:
    (lab.folder / "data").mkdir()
    lab.well(one("mem: 1G, shares: [{source: %s, mount_point: /srv}]" % (lab.folder / "data")))
    (share,) = before = lab.machine("db").shares
    folders = [lab.store.folder(lab.machine("db")), lab.store.run_folder(lab.machine("db"))]
    os.makedirs(folders[1], exist_ok=True)
    lab.qemu.told = monitor = Ports()
    monitor.root, monitor.ports["rp1"], monitor.tags = [], ["share-srv"], {"share-srv": "srv"}
    monitor.chardevs, monitor.balloon = {"fs-srv"}, fakes.FakeBalloon(ram=1 << 30, left=1 << 30)
    lab.agent.ended["mount"] = Ended(status=5, stdout=b"", stderr=b"/srv: busy\n")
    with lab.qemu.serve(launch.folder(share, "fs-srv", *folders)):
        ended = lab.apply(one("mem: 600"))
    assert (ended.status, lab.told(ended)) == (75, {"db": "changed mem, failed"}) and "/srv: busy" in ended.stderr
    assert (lab.machine("db").shape.ram_mib, lab.machine("db").shares) == (600, before)
    assert monitor.balloon.left == 600 << 20 and monitor.ports["rp1"] == ["share-srv"]
    lab.agent.ended.clear()
    assert lab.well(one("mem: 600")) == {"db": "changed shares"}
    assert lab.machine("db").shares == () and monitor.ports["rp1"] == []


def test_shares_that_can_no_longer_come_at_once_are_no_change(lab: Lab) -> None:
    (lab.folder / "data").mkdir()
    text = one("group: pf1, shares: [{source: %s, mount_point: /srv}]" % (lab.folder / "data"))
    lab.well(one())
    lab.qemu.told = monitor = Leaving()
    monitor.root = []
    ended = lab.apply(text)
    assert (ended.status, lab.told(ended)) == (75, {"db": "changed group, failed"}) and "no guest agent" in ended.stderr
    assert lab.machine("db").shares == ()
    assert lab.well(text) == {"db": "needs a restart"}


def test_memory_is_given_back_at_once_and_more_needs_a_restart(lab: Lab) -> None:
    lab.well(one("mem: 1G"))
    lab.qemu.told.balloon = fakes.FakeBalloon(ram=1 << 30, left=1 << 30)
    assert lab.well(one("mem: 600")) == {"db": "changed mem"}
    assert lab.machine("db").shape.ram_mib == 600 and lab.qemu.told.balloon.left == 600 << 20
    assert lab.well(one("mem: 1G")) == {"db": "changed mem"}
    assert lab.well(one("mem: 2G")) == {"db": "needs a restart"}
    lab.qemu.told.balloon.used = 900 << 20
    ended = lab.apply(one("mem: 600"))
    assert ended.status == 64 and "would starve it" in ended.stderr and lab.machine("db").shape.ram_mib == 1024
    lab.qemu.told.balloon = None
    lab.qemu.told.answers["balloon"] = lab.qemu.told.answers["query-balloon"] = HostUnavailable("none")
    lab.qemu.told.answers["query-memory-size-summary"] = {"base-memory": 1 << 30}
    assert lab.well(one("mem: 600")) == {"db": "needs a restart"}


def test_memory_and_its_limit_change_in_one_step_both_ways(lab: Lab) -> None:
    lab.well(one("mem: 2G, limits: {memory: 3G}"))
    lab.qemu.told.balloon = fakes.FakeBalloon(ram=2 << 30, left=2 << 30)
    for mem, limit in (1024, 1500), (2048, 3072):
        assert lab.well(one(f"mem: {mem}, limits: {{memory: {limit}M}}")) == {"db": "changed limits, changed mem"}
        machine = lab.machine("db")
        assert (machine.shape.ram_mib, machine.limits.memory_mib, len(lab.qemu.launches)) == (mem, limit, 1)


# files that the file names

def test_user_data_is_that_of_the_file_whatever_its_lines_end_with(lab: Lab) -> None:
    given = lab.folder / "user-data"
    given.write_bytes(b"#cloud-config\r\npackages: [vim]\r\n# \xff")
    text = one("user_data: user-data")
    lab.well(text)
    assert lab.well(text, "--restart") == {"db": "ok"}
    before = lab.machine("db").seed_id
    given.write_text("#cloud-config\npackages: [emacs]\n")
    assert lab.well(text) == {"db": "needs a restart"}
    assert lab.well(text, "--restart") == {"db": "changed user_data, started"}
    folder = lab.store.folder(lab.machine("db"))
    assert Path(folder, "user-data").read_text() == given.read_text() and lab.machine("db").seed_id != before
    lab.stop()
    assert lab.well(one(), "--no-start") == {"db": "changed user_data"}
    assert lab.well(one(), "--no-start") == {"db": "ok"}


def test_shares_are_made_with_their_folders(lab: Lab) -> None:
    text = one("shares: [{source: %s, mount_point: /srv/data, mode: 0750}]" % (lab.folder / "data"))
    assert f"make the folder {lab.folder}/data, mode 0750" in lab.apply(text, "--dry-run").stdout
    assert not (lab.folder / "data").exists()
    lab.well(one())
    assert lab.well(text) == {"db": "needs a restart"}
    assert not (lab.folder / "data").exists()
    assert lab.well(text, "--restart") == {"db": "changed shares, started"}
    assert (lab.folder / "data").is_dir() and lab.well(text) == {"db": "ok"}


@pytest.mark.parametrize("words", [("--dry-run",), ()])
def test_a_folder_that_nobody_can_own_fails_its_machine_alone(lab: Lab, words: tuple[str, ...]) -> None:
    text = one("shares: [{source: %s, mount_point: /srv, owner: no-such-user}]" % (lab.folder / "data"))
    ended = lab.apply(text + "  sql: {template: debian, vlan: lan}\n", *words)
    assert ended.status == 66 and "no user 'no-such-user'" in ended.stderr
    assert ("make sql" in ended.stdout) if words else (lab.runs() == {"sql"})


IMAGE = """\
machines:
  box: {image: bookworm, machine: microvm, kernel: vmlinuz, mem: 2G, ip: 10.210.0.9%s}
"""


def test_a_machine_on_an_image_boots_what_the_file_says(lab: Lab) -> None:
    for name in ("vmlinuz", "initrd"):
        (lab.folder / name).write_text(f"{name} 1")
    ended = lab.apply(IMAGE % "")
    assert ended.status == 0 and "hangs with 2048 MiB: it gets 2047" in ended.stderr
    machine = lab.machine("box")
    assert (machine.board, machine.shape.ram_mib, machine.image, machine.template) == (
        "microvm", 2047, "bookworm", None)
    assert machine.kernel and not machine.kernel.initrd
    assert lab.well(IMAGE % "") == {"box": "ok"}
    (lab.folder / "vmlinuz").write_text("vmlinuz 2")
    assert lab.well(IMAGE % ", initrd: initrd") == {"box": "needs a restart"}
    folder = Path(lab.store.folder(machine))
    assert (folder / "kernel").read_text() == "vmlinuz 1"
    assert lab.well(IMAGE % ", initrd: initrd", "--restart") == {"box": "changed kernel, changed initrd, started"}
    assert ((folder / "kernel").read_text(), (folder / "initrd").read_text()) == ("vmlinuz 2", "initrd 1")
    assert lab.machine("box").kernel.initrd  # type: ignore[union-attr]
    assert lab.well(IMAGE % ", initrd: initrd", "--restart") == {"box": "ok"}
    assert sorted(path.name for path in folder.glob("*.new")) == []


def test_a_machine_on_an_image_wants_a_key(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(lab.folder / "nobody"))
    text = "machines: {box: {image: bookworm}, db: {template: debian}}"
    ended = lab.command("cmapply", lab.write(text), "--realm", REALM)
    assert ended.status == 64 and "--pubkey-path FILE" in ended.stderr
    assert {machine.name for machine in lab.store.machines()} == {"db"}


def test_a_machine_that_is_to_boot_a_kernel_is_another_one(lab: Lab) -> None:
    (lab.folder / "vmlinuz").write_text("1")
    lab.well("machines: {box: {image: bookworm}}")
    ended = lab.apply("machines: {box: {image: bookworm, kernel: vmlinuz}}", "--restart")
    assert ended.status == 73 and "kernel: not set ->" in ended.stderr and lab.runs() == {"box"}
