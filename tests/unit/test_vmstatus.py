"""How machines are, with fakes: each number from where it is known, each trouble in words."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Iterator

import pytest

from cloudme import layout
from cloudme.cli import status as shown
from cloudme.errors import Busy, NotFound
from cloudme.formats import processes
from cloudme.model.machine import Disk
from cloudme.model.names import Name
from cloudme.model.ports import Ended, Host
from cloudme.operations import status
from cloudme.store import Store, take_lock
from tests import fakes
from tests.conftest import program
from tests.unit.test_vmrunning import machine

MIB = 1 << 20
STAT = "71 (qemu (x) 1) S " + " ".join(["0"] * 10) + " {} 50 " + " ".join(["0"] * 20)
ROLLUP = "7f-8f ---p 0 00:00 0 [rollup]\nRss:  900 kB\nPss:  2048 kB\nPss_Anon:  1 kB\n"
MEMINFO = "MemTotal:  1000 kB\nMemFree:  10 kB\nMemAvailable:  600 kB\n"


class Here:
    """web00 of pf1, which runs as process 71; sql00 of pf2, which does not."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.files = fakes.FakeFiles({"/proc/71/stat": STAT.format(50), "/proc/71/smaps_rollup": ROLLUP})
        self.host = fakes.host(files=self.files)
        for name in ("sql00", "web00"):
            os.makedirs(store.world.machine(name))
        store.publish(dataclasses.replace(machine("web00"), disks=(Disk(file="disk.qcow2", size_bytes=1 << 30),)))
        store.publish(dataclasses.replace(machine("sql00"), group="pf2", type=Name("sql")))
        self.write("web00", "disk.qcow2", "x" * 10)
        self.lock = layout.lock(store.world.machine("web00"))
        self.held = take_lock(self.lock)
        self.qemu.numbers = {self.lock: 71}

    @property
    def qemu(self) -> fakes.FakeHypervisor:
        assert isinstance(self.host.qemu, fakes.FakeHypervisor)
        return self.host.qemu

    def write(self, name: str, file: str, text: str) -> None:
        with open(os.path.join(self.store.world.machine(name), file), "w", encoding="utf-8") as target:
            target.write(text)

    def of(self, name: str, *, agent: bool = False) -> status.Status:
        (found,) = status.of(self.host, self.store, [self.store.machine(name)], interval_s=0, agent=agent)
        return found

    def names(self, *words: str) -> list[str]:
        args = program("vmstatus").parser().parse_args(words)
        from cloudme.cli import selection

        return [machine.name for machine in selection.either(args, self.store)]


@pytest.fixture
def here(store: Store) -> Iterator[Here]:
    it = Here(store)
    yield it
    os.close(it.held)


def test_numbers_of_processes_are_read_whatever_their_names() -> None:
    assert processes.cpu_s(STAT.format(150)) == 200 / processes.TICKS
    assert processes.cpu_s("") == 0
    assert processes.own_bytes(ROLLUP) == 2 * MIB
    assert processes.own_bytes("") is None
    assert processes.used_bytes(MEMINFO) == 400 << 10
    assert processes.used_bytes("") is None


def test_a_machine_that_runs_tells_what_it_uses_and_costs(here: Here) -> None:
    here.qemu.told.balloon = fakes.FakeBalloon(512 * MIB, 256 * MIB, used=90 * MIB)
    found = here.of("web00")
    assert (found.state, found.address, found.error) == ("running", "198.51.100.7", "")
    assert (found.used_bytes, found.left_bytes, found.ram_bytes) == (90 * MIB, 256 * MIB, 512 * MIB)
    assert (found.host_bytes, found.cpu_percent) == (2 * MIB, 0)
    assert found.allocated_bytes and found.allocated_bytes < found.disk_bytes == 1 << 30
    assert found.since


def test_the_guest_is_no_longer_asked_when_nobody_wants_to_know(here: Here) -> None:
    here.qemu.told.balloon = fakes.FakeBalloon(512 * MIB, 256 * MIB)
    here.of("web00")
    told = here.qemu.told.executed
    assert told.index("qom-set") < told.index("qom-get") < len(told) - 1 - told[::-1].index("qom-set")


def test_without_a_balloon_the_agent_is_asked_if_wanted(here: Here) -> None:
    assert isinstance(here.host.agent, fakes.FakeAgent)
    here.host.agent.ended = {"": Ended(status=0, stdout=MEMINFO.encode(), stderr=b"")}
    assert here.of("web00").used_bytes is None
    assert here.of("web00", agent=True).used_bytes == 400 << 10


def test_a_machine_that_does_not_run_costs_a_disk(here: Here) -> None:
    found = here.of("sql00")
    assert (found.state, found.since, found.cpu_percent, found.host_bytes) == ("stopped", None, None, None)
    assert found.allocated_bytes is None  # its disk is gone
    assert found.error == ""


def test_a_qemu_that_does_not_answer_keeps_nobody_from_the_rest(here: Here) -> None:
    here.qemu.refused = {"web00": Busy("no")}
    found = here.of("web00")
    assert (found.state, found.host_bytes, found.left_bytes) == ("running", 2 * MIB, None)


@pytest.mark.parametrize(("file", "text", "error"), [
    ("console.log", "Kernel panic - not syncing: VFS\x1b[0m gone\n", "the kernel panicked: VFS gone"),
    ("firmware.log", "SeaBIOS (version 1)\nNo bootable device.\n", "the firmware found no disk to boot"),
    ("console.log", "cloud-init[1]: ERROR no such key\nweb00 login:\n", "cloud-init[1]: ERROR no such key"),
    ("console.log", "web00 login:\n", ""),
])
def test_what_went_wrong_is_told_in_words(here: Here, file: str, text: str, error: str) -> None:
    here.write("web00", file, text)
    assert here.of("web00").error == error


def test_what_qemu_said_last_is_told_of_a_machine_that_ended(here: Here) -> None:
    run = here.store.world.machine_run("sql00")
    os.makedirs(run)
    with open(os.path.join(run, "qemu.log"), "w", encoding="utf-8") as log:
        log.write("qemu: warning: no feature\n")
    assert here.of("sql00").error == ""
    with open(os.path.join(run, "qemu.log"), "a", encoding="utf-8") as log:
        log.write("qemu: terminating on signal 15\x07\n")
    assert here.of("sql00").error == "qemu: terminating on signal 15?"


def test_a_machine_that_qemu_stopped_is_not_running(here: Here) -> None:
    here.qemu.told.answers["query-status"] = {"status": "io-error"}
    found = here.of("web00")
    assert found.state == "io-error" and "df -h" in found.error


def test_a_word_is_a_machine_or_a_group(here: Here) -> None:
    assert here.names() == ["sql00", "web00"]
    assert here.names("pf1") == here.names("web") == here.names("-g", "pf1") == here.names("-t", "web") == ["web00"]
    assert here.names("pf2", "web00", "pf1") == ["sql00", "web00"]
    with pytest.raises(NotFound):
        here.names("pf3")


def run(here: Here, host: Host, *words: str) -> None:
    shown.run(program("vmstatus").parser().parse_args(words), here.store, host)


def test_people_get_a_line_and_scripts_get_keys(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    run(here, here.host, "sql00")
    assert capsys.readouterr().out.split() == ["sql00", "stopped", "198.51.100.7", "-", "-", "-/512M", "-", "-/1"]
    run(here, here.host, "--json")
    sql, web = json.loads(capsys.readouterr().out)
    assert (sql["name"], web["host_bytes"], web["used_bytes"]) == ("sql00", 2 * MIB, None)


@pytest.mark.parametrize(("seconds", "words"), [(-3, "0s"), (59.9, "59s"), (3599, "59m"), (7500, "2h05m"),
                                                (86400 * 3 + 4 * 3600, "3d4h")])
def test_uptimes_are_short(seconds: float, words: str) -> None:
    assert shown.uptime(seconds) == words


def test_the_live_table_takes_no_word_of_a_guest_for_a_style(here: Here) -> None:
    from rich.console import Console

    one = dataclasses.replace(here.of("web00"), error="[red]no[/]")
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(shown.table([one]))
    assert "[red]no[/]" in console.export_text()


def test_watching_takes_its_time_where_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("cloudme.cli.status.time.sleep", slept.append)
    rounds = shown.rounds(list[status.Status])
    assert [next(rounds), next(rounds)] == [[], []]
    assert len(slept) == 1 and 0 < slept[0] <= shown.WATCH_S


def test_a_machine_that_ends_meanwhile_took_nothing(here: Here) -> None:
    texts = iter([STAT.format(150), ""])

    class Ending(fakes.FakeFiles):
        def read(self, path: str) -> str | None:
            return next(texts) if path.endswith("/stat") else None

    here.host = dataclasses.replace(here.host, files=Ending({}))
    assert here.of("web00").cpu_percent == 0
