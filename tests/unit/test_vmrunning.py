"""What runs, as vmrunning tells it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudme import index, layout, store
from cloudme.formats import records
from cloudme.model.machine import Access, Disk, Machine, Nic, Shape, Template
from cloudme.model.names import Name
from tests.conftest import ROOT, Ended

STARTED = 1_700_000_000
SHOWN = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(STARTED))


def machine(name: str, *, group: str = "pf1", type: str = "web", address: str | None = "198.51.100.7") -> Machine:
    return Machine(
        name=Name(name), uuid="u", group=group, type=Name(type), template=Name("debian"),
        shape=Shape(vcpus=1, ram_mib=512), disks=(Disk(file="disk.qcow2", size_bytes=1),),
        nics=(Nic(network=Name("default"), mac="52:54:00:00:00:01", address=address),),
        access=Access(user="root", key_of=Name("debian"), seeded=True), created="2025-11-20T22:00:00Z",
    )


class Made:
    """Folders and locks as the launcher leaves them."""

    def __init__(self, world: layout.World) -> None:
        self.world = world
        self.locks: list[int] = []

    def folder(self, path: str, *, held: bool, record: str = "", text: str = "") -> None:
        os.makedirs(path)
        Path(layout.lock(path)).touch()
        if held:
            self.locks.append(store.take_lock(layout.lock(path) if record else layout.maker(path)))
            os.utime(layout.lock(path), (STARTED, STARTED))
        if record:
            Path(path, record).write_text(text, encoding="utf-8")

    def machine(self, machine: Machine, *, held: bool) -> None:
        self.folder(self.world.machine(machine.name), held=held, record="machine.json", text=records.dump(machine))

    def template(self, name: str, *, held: bool) -> None:
        web = machine(name)
        template = Template(name=web.name, uuid="u", shape=web.shape, disk=web.disks[0], nic=web.nics[0],
                            access=web.access, created=web.created)
        self.folder(self.world.template(name), held=held, record="template.json", text=records.dump(template))


@pytest.fixture
def made(home: Path) -> Iterator[Made]:
    made = Made(layout.world())
    made.machine(machine("web00"), held=True)
    made.machine(machine("web01"), held=False)
    made.machine(machine("sql00", type="sql", address=None), held=True)
    made.machine(machine("web02", group="pf2"), held=True)
    made.folder(made.world.machine("new00"), held=True)
    made.folder(made.world.machine("old00"), held=False)
    made.template("debian", held=True)
    made.template("arch", held=False)
    yield made
    for fd in made.locks:
        os.close(fd)


Command = Callable[..., Ended]


def test_what_runs_is_a_line_each(made: Made, command: Command) -> None:
    assert command("vmrunning") == Ended(0, (
        f"sql00   pf1        sql      -             {SHOWN}\n"
        f"web00   pf1        web      198.51.100.7  {SHOWN}\n"
        f"web02   pf2        web      198.51.100.7  {SHOWN}\n"
        f"debian  templates  default  198.51.100.7  {SHOWN}\n"), "")


def test_all_tells_the_state_of_each(made: Made, command: Command) -> None:
    shown = [line.split()[:1] + line.split()[4:5] for line in command("vmrunning", "-a").stdout.splitlines()]
    assert shown == [
        ["new00", "being-made"], ["old00", "debris"], ["sql00", "running"], ["web00", "running"],
        ["web01", "stopped"], ["web02", "running"], ["arch", "stopped"], ["debian", "running"]]


@pytest.mark.parametrize(("arguments", "names"), [
    (["-g", "pf1"], ["sql00", "web00"]), (["-t", "web"], ["web00", "web02"]),
    (["-g", "pf1", "-t", "web", "-a"], ["web00", "web01"]), (["-g", "templates"], ["debian"]),
    (["web"], ["web00", "web02"]), (["web02", "sql"], ["sql00", "web02"]), (["-g", "nosuch"], []),
])
def test_group_type_and_beginning_of_the_name_choose(
    made: Made, command: Command, arguments: list[str], names: list[str],
) -> None:
    assert [line.split()[0] for line in command("vmrunning", *arguments).stdout.splitlines()] == names


def test_json_has_the_documented_keys(made: Made, command: Command) -> None:
    found = json.loads(command("vmrunning", "--json", "-a", "web0").stdout)
    assert found[0] == {"name": "web00", "group": "pf1", "type": "web", "address": "198.51.100.7", "address6": None,
                        "state": "running",
                        "since": STARTED, "shares": []}
    assert found[1]["since"] is None


def test_another_realm_has_its_own_machines_and_the_same_templates(made: Made, command: Command) -> None:
    there = layout.world("r1")
    made.folder(there.machine("web09"), held=True, record="machine.json", text=records.dump(machine("web09")))
    shown = command("vmrunning", "--realm", "r1").stdout
    assert [line.split()[0] for line in shown.splitlines()] == ["web09", "debian"]


def test_an_empty_world_is_no_error(command: Command) -> None:
    assert command("vmrunning", "-a") == Ended(0, "", "")


def test_a_realm_that_is_no_name_is_refused(command: Command) -> None:
    assert command("vmrunning", "--realm", "../x").status == 64


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": tru', "\x00", '"x"'])
def test_a_broken_record_is_listed_without_what_it_should_say(home: Path, text: str) -> None:
    made = Made(layout.world())
    made.folder(made.world.machine("web00"), held=False, record="machine.json", text=text)
    assert index.listing(made.world, every=True) == [
        {"name": "web00", "group": None, "type": None, "address": None, "address6": None, "state": "stopped",
         "since": None, "shares": []}]


def test_watch_tells_each_change_until_interrupted(made: Made) -> None:
    program = str(ROOT / "bin" / "vmrunning")
    with subprocess.Popen([sys.executable, program, "--watch", "web0"], stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout
        assert [watching.stdout.readline().split()[0] for _ in range(2)] == ["web00", "web02"]
        made.locks.append(store.take_lock(layout.lock(made.world.machine("web01"))))
        assert [watching.stdout.readline().split()[0] for _ in range(3)] == ["web00", "web01", "web02"]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 130


def test_watch_ends_with_its_reader(made: Made) -> None:
    program = str(ROOT / "bin" / "vmrunning")
    argv = [sys.executable, program, "--watch"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        assert watching.stdout
        assert watching.stderr
        watching.stdout.readline()
        watching.stdout.close()
        assert (watching.wait(30), watching.stderr.read()) == (0, b"")
