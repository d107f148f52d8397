"""Limits: read, merged, held, changed; with a folder that stands for cgroups, and a systemd that only listens."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudme import layout
from cloudme.errors import CloudMeError, CommandFailed, HostUnavailable, NotPermitted, UsageError
from cloudme.formats import groupfiles
from cloudme.host.cgroup import Groups
from cloudme.model import limits
from cloudme.model.groups import Group
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import Limits, Machine
from cloudme.model.names import Name
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction
from cloudme.operations import checks, limiting, power
from cloudme.operations.checks.look import Look
from cloudme.qemu import launch
from cloudme.store import Store
from tests import fakes
from tests.conftest import Ended
from tests.unit.test_vmrunning import machine

WHOLE = Limits(cpus=1.5, cpu_weight=50, memory_mib=2048, tasks=300, io_bps=50 << 20)
SETTINGS = Settings()


def test_every_limit_is_read_as_it_is_written_and_told_as_it_is_read() -> None:
    assert limits.changed(Limits(), limits.FORM) == WHOLE
    assert ",".join(f"{name}={word}" for name, word in limits.words(WHOLE).items()) == limits.FORM


def test_a_list_changes_what_it_names_lifts_it_or_leaves_it_to_the_host() -> None:
    found = limits.changed(WHOLE, "tasks=max, cpus=default")
    assert found == dataclasses.replace(WHOLE, tasks=0, cpus=None)
    assert limits.over(found, Limits(tasks=512, cpus=4)) == dataclasses.replace(WHOLE, tasks=0, cpus=4)


@pytest.mark.parametrize("text", ["", "cpus", "cpus=", "cpus=0", "cpus=0.001", "cpus=-1", "cpus=1e3", "weight=0",
                                  "weight=10001", "weight=max", "memory=x", "memory=0", "tasks=99", "io=fast",
                                  "cpu=1", "cpus=1,cpus=2", "tasks=300,"])
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        limits.changed(Limits(), text)


def test_a_limit_that_would_kill_an_honest_machine_is_refused() -> None:
    limits.check(Limits(memory_mib=640), 512)
    limits.check(Limits(memory_mib=0), 512)
    with pytest.raises(UsageError, match="would kill"):
        limits.check(Limits(memory_mib=600), 512)


def test_lines_of_group_files_have_them_too() -> None:
    (request,) = groupfiles.parse("debian:1:a:b:mem=512;cap=1.5;weight=50;memmax=2G;tasks=300;io=50M", "f", {"debian"})
    assert (request.limits, request.ram_mib) == (WHOLE, 512)


@pytest.mark.parametrize(("run", "name"), [
    ("/run/cloudme/web00", "web00"), ("/run/cloudme/templates.debian", "templates.debian"),
    ("/run/cloudme/realms.r1/web00", "r1_web00"), ("/run/user/1000/cloudme/web00", "web00"),
])
def test_groups_have_the_names_of_their_machines(run: str, name: str) -> None:
    assert layout.group(run) == name


def test_the_groups_of_two_homes_have_two_names() -> None:
    one, other = (layout.group(f"/tmp/{home}/run/realms.r1/web00") for home in "ab")
    assert one.startswith("r1_web00:") and other.startswith("r1_web00:") and one != other


@pytest.mark.parametrize(("accel", "memory_mib"), [("kvm", 512 + 1024), ("tcg", 512 + 1024 + 1024)])
def test_a_machine_without_limits_of_its_own_has_the_hosts_and_room_for_qemu(accel: str, memory_mib: int) -> None:
    place = launch.Place(
        folder="/data", run="/run/cloudme/web00", accel=accel, networks={Name("default"): SETTINGS.network()},
        limits=SETTINGS.limits, overhead_mib=SETTINGS.overhead_mib)
    made = launch.of(machine("web00"), place).group
    assert made == Group(name="web00", folder="/data", own=Limits(), limits=Limits(tasks=512, memory_mib=memory_mib))
    assert launch.of(machine("web00"), dataclasses.replace(place, limits=None)).group is None


# commands

@pytest.fixture
def web00(store: Store) -> Machine:
    made = machine("web00")
    os.makedirs(store.world.machine("web00"))
    Path(store.world.machine("web00"), "disk.qcow2").write_text("qcow2")
    store.publish(made)
    return made


def change(store: Store, host: Host, text: str) -> limiting.Limit:
    old = store.machine("web00")
    step = limiting.Limit(store, old, limiting.changed(host, store, old, text), SETTINGS)
    with Transaction(host, print) as transaction:
        transaction.apply([step])
    return step


def test_limits_are_changed_while_the_machine_runs_and_only_those_that_differ(store: Store, web00: Machine) -> None:
    groups = fakes.FakeGroups()
    host = fakes.host(groups=groups)
    assert not change(store, host, "tasks=300").held
    with Transaction(host, print) as transaction:
        power.start(transaction, store, [store.machine("web00")], SETTINGS)
    assert change(store, host, "cpus=1.5,memory=2G").held
    (name,) = groups.held
    assert groups.held[name] == Limits(cpus=1.5, memory_mib=2048)
    change(store, host, "cpus=default,memory=default,tasks=default")
    assert groups.held[name] == Limits(cpus=0, memory_mib=512 + 2048, tasks=512)
    assert store.machine("web00").limits == Limits()
    power.stop(host, store, [web00], timeout_s=1, say=print)
    assert groups.swept == 1


def test_a_change_says_what_was(store: Store, web00: Machine) -> None:
    new = dataclasses.replace(web00, limits=Limits(cpus=2, tasks=0))
    assert limiting.Limit(store, web00, new, SETTINGS).describe() == \
        "limit web00: cpus 2 (was: default), tasks max (was: default)"


def test_limits_that_cannot_be_had_are_refused_before_anything_is_changed(store: Store, web00: Machine) -> None:
    host = fakes.host(groups=fakes.FakeGroups(lacks=NotPermitted("no", hint="x")))
    with pytest.raises(NotPermitted):
        change(store, host, "cpus=1")
    store.publish(dataclasses.replace(web00, limits=Limits(cpus=1)))
    with pytest.raises(NotPermitted), Transaction(host, print) as transaction:
        power.start(transaction, store, [store.machine("web00")], SETTINGS)
    assert host.qemu.launches == []  # type: ignore[attr-defined]


def test_vmupdate_prints_what_would_change_and_refuses_to_mix(
    store: Store, web00: Machine, command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLOUDME_HOME", store.world.data)
    assert command("vmupdate", "web00", "--limit", "tasks=max", "--dry-run") == Ended(
        0, "limit web00: tasks max (was: default)\n", "")
    assert store.machine("web00") == web00
    assert command("vmupdate", "web00", "--limit", "tasks=max", "--now").status == 64
    assert command("vmupdate", "web00").status == 64


def test_cmcheck_says_each_reason_once(store: Store) -> None:
    def results(lacks: CloudMeError | None) -> list[tuple[str, str]]:
        host = fakes.host(groups=fakes.FakeGroups(lacks=lacks))
        look = Look(host, store.world, (), True)
        return [(result.level, result.fix) for result in checks.all_of(look, ["limits"])]

    assert results(None) == [("ok", "")]
    assert results(HostUnavailable("none", hint="do this")) == [("warning", "do this")]


# the adapter

class Tree:
    """A root folder with cgroups in it; `own` is the one that we are in."""

    def __init__(self, root: Path, controllers: str = "cpu io memory pids", own: str = "/session") -> None:
        self.root, self.top = root, root / "sys/fs/cgroup"
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/mountinfo").write_text(
            "30 1 0:5 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw\n"
            "31 1 0:6 / /sys/fs/cgroup rw shared:4 - cgroup2 x rw\n")
        (root / "proc/self/cgroup").write_text(f"1:name=systemd:/x\n0::{own}\n")
        self.folder("", controllers)
        self.folder("session", controllers)

    def folder(self, name: str, controllers: str) -> Path:
        path = self.top / name
        path.mkdir(parents=True, exist_ok=True)
        for file, text in (("controllers", controllers), ("procs", ""), ("subtree_control", controllers)):
            (path / f"cgroup.{file}").write_text(text)
        return path

    @property
    def groups(self) -> Groups:
        return Groups(fakes.FakeRun(), str(self.root))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path)
    made.folder("cloudme", "cpu io memory pids")
    return made


def group(tree: Tree, held: Limits, own: Limits | None = None) -> Group:
    return Group(name="web00", limits=held, own=held if own is None else own, folder=str(tree.root))


def test_a_group_is_a_folder_with_the_limits_and_the_process(tree: Tree) -> None:
    held = dataclasses.replace(WHOLE, io_bps=None)
    tree.groups.hold(group(tree, held), 1)
    files = {path.name: path.read_text() for path in (tree.top / "cloudme/web00").iterdir()}
    assert files == {"cpu.max": "150000 100000", "cpu.weight": "50", "memory.max": str(2 << 30),
                     "memory.swap.max": str(2 << 30), "pids.max": "300", "cgroup.procs": "1"}
    assert tree.groups.change(group(tree, Limits(cpus=0, tasks=0)))
    assert (tree.top / "cloudme/web00/cpu.max").read_text() == "max 100000"
    assert (tree.top / "cloudme/web00/pids.max").read_text() == "max"
    assert (tree.top / "cloudme/web00/cpu.weight").read_text() == "50"


def test_groups_that_nobody_is_in_are_swept(tree: Tree) -> None:
    (tree.top / "cloudme/old").mkdir()
    assert not tree.groups.change(group(tree, WHOLE))
    tree.groups.sweep()
    assert not (tree.top / "cloudme/old").exists()


def test_the_hosts_limits_are_left_out_where_they_cannot_be_held_and_ones_own_are_not(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "pids")
    tree.folder("cloudme", "pids")
    tree.groups.hold(group(tree, Limits(tasks=300, cpus=1), Limits()), 1)
    assert sorted(os.listdir(tree.top / "cloudme/web00")) == ["cgroup.procs", "pids.max"]
    with pytest.raises(HostUnavailable, match="controller 'cpu'"):
        tree.groups.hold(group(tree, Limits(cpus=1)), os.getpid())
    with pytest.raises(HostUnavailable, match="controller 'memory'"):
        tree.groups.check(Limits(memory_mib=1), "/")
    tree.groups.check(Limits(tasks=300), "/")


def test_without_cgroups_only_what_was_asked_for_fails(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "")
    tree.groups.hold(group(tree, WHOLE, Limits()), 1)
    tree.groups.check(Limits(tasks=0), "/")
    assert not tree.groups.change(group(tree, WHOLE))
    with pytest.raises(HostUnavailable, match="no cgroups of version 2"):
        tree.groups.check(Limits(tasks=300), "/")


def test_a_group_with_processes_of_its_own_hands_nothing_down(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "cpu pids")
    (tree.top / "cgroup.type").write_text("domain")
    (tree.top / "cgroup.procs").write_text("1\n")
    (tree.top / "cgroup.subtree_control").write_text("pids")
    tree.groups.check(Limits(tasks=300), "/")
    with pytest.raises(HostUnavailable, match="cannot hand 'cpu' down"):
        tree.groups.check(Limits(cpus=1), "/")


def test_systemd_is_asked_where_it_is(tree: Tree) -> None:
    (tree.root / "run/systemd/system").mkdir(parents=True)
    run = fakes.FakeRun()
    groups = Groups(run, str(tree.root))
    if os.geteuid():
        pytest.skip("root's systemd is asked: root is missing")
    held = Limits(cpus=1.5, memory_mib=1024, tasks=0)
    groups.hold(group(tree, held), 7)
    assert groups.change(group(tree, Limits(tasks=300)))
    start, change = (call[call.index("call") + 4:] for call in run.calls)
    assert start == [
        "StartTransientUnit", "ssa(sv)a(sa(sv))", "cloudme-web00.scope", "fail", "9", "PIDs", "au", "1", "7", "Slice",
        "s", "cloudme.slice", "CollectMode", "s", "inactive-or-failed", "Before", "as", "1", "cloudme-homelab.service",
        "Description", "s", "cloudMe machine web00", "CPUQuotaPerSecUSec", "t", "1500000", "MemoryMax", "t",
        str(1 << 30), "MemorySwapMax", "t", str(1 << 30), "TasksMax", "t", str((1 << 64) - 1), "0"]
    assert change == ["SetUnitProperties", "sba(sv)", "cloudme-web00.scope", "true", "1", "TasksMax", "t", "300"]
    run.fail["SetUnitProperties"] = CommandFailed("busctl failed: Call failed: Unit cloudme-web00.scope not found.")
    assert not groups.change(group(tree, Limits(tasks=300)))
    assert not (tree.top / "cloudme/web00").exists()
