"""vmquery and vmobserve: what QEMU answers, as people and scripts read it; with fakes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudme import cli, layout, monitors
from cloudme.cli import observing, querying
from cloudme.errors import Busy, CloudMeError, NotFound, PeerError
from cloudme.model.ports import Event
from cloudme.qemu import answers
from cloudme.store import Store, take_lock
from tests import fakes
from tests.conftest import Ended, program
from tests.unit.test_launch import DATA
from tests.unit.test_vmrunning import machine

PCI = json.loads((DATA / "queries/pci.json").read_text("utf-8"))
"""From a real QEMU; what lspci makes of the same machine lies beside it (pciutils 3.9.0)."""

VD0 = {"qdev": "/machine/peripheral/vd0/virtio-backend", "device": ""}
CHAIN = "json:" + json.dumps({"driver": "qcow2", "file": {"driver": "file", "filename": "/dev/fdset/3"},
                              "backing": {"driver": "qcow2", "file": {"driver": "file", "filename": "/dev/fdset/4"}}})
ANSWERS: dict[str, Any] = {
    "query-pci": PCI,
    "query-cpus-fast": [
        {"cpu-index": 0, "thread-id": 31802, "props": {"socket-id": 0, "core-id": 0, "thread-id": 0}},
        {"cpu-index": 1, "thread-id": 31803, "props": {"socket-id": 0, "core-id": 1}}],
    "query-block": [
        {**VD0, "inserted": {"file": CHAIN, "drv": "qcow2", "ro": False, "backing_file": "/dev/fdset/4",
                             "image": {"virtual-size": 2 << 30, "actual-size": 200704}}},
        {"qdev": "cd\x1b[2J0", "device": ""}],
    "query-blockstats": [{**VD0, "stats": {"rd_bytes": 512, "wr_bytes": 0}}],
    "query-fdsets": [{"fdset-id": 3, "fds": [{"fd": 9, "opaque": "write:/m/web00/disk.qcow2"}, {"fd": 8}]},
                     {"fdset-id": 4, "fds": [{"fd": 7, "opaque": "read:/base.qcow2"}]}],
    "query-memory-size-summary": {"base-memory": 64 << 20, "plugged-memory": 0},
    "query-balloon": PeerError("QEMU refused 'query-balloon': No balloon device has been activated"),
    "query-memory-devices": [{"type": "dimm", "data": {"id": "dimm0", "size": 1 << 30}}],
    "query-migrate": {},
}


class Here:
    """web00 and web01, which run, and web02, which does not."""

    def __init__(self, store: Store, capfd: pytest.CaptureFixture[str]) -> None:
        self.store = store
        self.host = fakes.host()
        self.told.answers = dict(ANSWERS)
        self._capfd = capfd
        self._locks = []
        for name in ("web00", "web01", "web02"):
            os.makedirs(store.world.machine(name))
            store.publish(machine(name))
            if name != "web02":
                self._locks.append(take_lock(layout.lock(store.world.machine(name))))

    @property
    def told(self) -> fakes.FakeMonitor:
        return self.qemu.told

    @property
    def qemu(self) -> fakes.FakeHypervisor:
        assert isinstance(self.host.qemu, fakes.FakeHypervisor)
        return self.host.qemu

    @property
    def events(self) -> fakes.FakeEvents:
        assert isinstance(self.host.events, fakes.FakeEvents)
        return self.host.events

    def call(self, name: str, *words: str) -> Ended:
        parser = program(name).parser()
        args = parser.parse_args(words)
        run = {"vmquery": querying.run, "vmobserve": observing.run}[name]
        status = cli.run(name, lambda args: run(args, self.store, self.host), args)
        out = self._capfd.readouterr()
        return Ended(status, out.out, out.err)

    def close(self) -> None:
        for lock in self._locks:
            os.close(lock)


@pytest.fixture
def here(store: Store, capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Here:
    site = Here(store, capfd)
    request.addfinalizer(site.close)
    return site


def test_pci_is_what_lspci_says(here: Here) -> None:
    assert here.call("vmquery", "pci", "web00", "--tree").stdout == (DATA / "queries/lspci-t").read_text("utf-8")
    ended = here.call("vmquery", "pci", "web00", "--json")
    rows = json.loads(ended.stdout)
    lines = "".join(f"{row['address']} {row['class']}: {row['vendor']}:{row['device']}\n" for row in rows)
    assert lines == (DATA / "queries/lspci-n").read_text("utf-8")
    assert rows[1] == {"machine": "web00", "address": "00:01.0", "class": "0200", "class_name": "Ethernet controller",
                       "vendor": "1af4", "device": "1000", "id": "nic1", "bridge": None}
    assert {row["address"]: row["bridge"] for row in rows}["04:03.0"] == "03:02.0"
    table = here.call("vmquery", "pci", "web00").stdout
    assert table.splitlines()[4].split() == ["00:10.0", "0604", "1b36:000c", "rp0", "-", "PCI", "bridge"]


def test_a_bridge_without_a_number_has_nothing_behind_it() -> None:
    bridge = {**PCI[0]["devices"][0], "pci_bridge": {"bus": {"number": 0, "secondary": 0, "subordinate": 0}}}
    assert answers.tree({"query-pci": [{"bus": 0, "devices": [bridge]}]}) == ["-[0000:00]---00.0-[00]--"]
    assert answers.tree({"query-pci": [{"bus": 0, "devices": []}]}) == ["-[0000:00]-"]


def test_trees_of_several_have_heads(here: Here) -> None:
    said = here.call("vmquery", "pci", "--tree").stdout
    assert [line for line in said.splitlines() if line.startswith("----")] == ["----web00----", "----web01----"]
    assert here.call("vmquery", "cpu", "--tree").status == 64
    assert here.call("vmquery", "pci", "--tree", "--json").status == 64


@pytest.mark.parametrize(("what", "table", "row"), [
    ("cpu", ["0  31802  0  0  0", "1  31803  0  1  -"],
     {"cpu": 1, "tid": 31803, "socket": 0, "core": 1, "thread": None}),
    ("block", ["vd0      qcow2  2G  196K  no  512  0  /m/web00/disk.qcow2  /base.qcow2",
               "cd?[2J0  -      -   -     -   -    -  -                    -"],
     {"device": "cd?[2J0", "file": None, "format": None, "size_bytes": None, "allocated_bytes": None,
      "read_only": None, "backing": None, "read_bytes": None, "written_bytes": None}),
    ("memory", ["64M  0  -  dimm0=1G"],
     {"base_bytes": 64 << 20, "plugged_bytes": 0, "balloon_bytes": None,
      "devices": [{"id": "dimm0", "type": "dimm", "size_bytes": 1 << 30}]}),
    ("migrate", ["-  -  -  -  -  -  -"],
     {"status": None, "transferred_bytes": None, "remaining_bytes": None, "total_bytes": None, "total_ms": None,
      "downtime_ms": None, "error": None}),
])
def test_the_others_are_tables_and_rows(here: Here, what: str, table: list[str], row: dict[str, Any]) -> None:
    assert here.call("vmquery", what, "web00").stdout.splitlines() == table
    rows = json.loads(here.call("vmquery", what, "web00", "web01", "--json").stdout)
    assert rows[len(rows) // 2 - 1] == {"machine": "web00", **row}
    assert rows[-1] == {"machine": "web01", **row}


def test_a_migration_and_a_balloon_are_told() -> None:
    said = {"status": "failed", "ram": {"transferred": 10, "remaining": 0, "total": 20}, "total-time": 7,
            "error-desc": "no\nroute"}
    assert answers.rows("migrate", {"query-migrate": said}) == [
        {"status": "failed", "transferred_bytes": 10, "remaining_bytes": 0, "total_bytes": 20, "total_ms": 7,
         "downtime_ms": None, "error": "no?route"}]
    memory = {**ANSWERS, "query-balloon": {"actual": 1 << 20}}
    assert answers.rows("memory", memory)[0]["balloon_bytes"] == 1 << 20


def test_one_that_does_not_answer_keeps_nobody_from_being_shown(here: Here) -> None:
    ended = here.call("vmquery", "cpu", "web00", "web02")
    assert ended.status == 0  # the fake answers for whomever
    here.qemu.refused = {"/web02/": NotFound("nobody listens"), "/web01/": Busy("the monitor is silent")}
    ended = here.call("vmquery", "cpu", "web02", "web01", "web00")
    assert ended.status == 75
    assert ended.stderr.splitlines()[0].endswith(": 'web02' does not run")
    assert ended.stderr.splitlines()[1].endswith(": web01: the monitor is silent")
    assert ended.stdout.splitlines() == ["web00  0  31802  0  0  0", "web00  1  31803  0  1  -"]
    assert here.call("vmquery", "cpu", "nobody").status == 66
    assert here.call("vmquery", "cpu", "-t", "web").status == 64


def test_sockets_are_tried_in_turn_and_not_that_of_listeners(here: Here) -> None:
    here.qemu.refused = {"qmp.0": Busy("taken"), "qmp.2": Busy("taken")}
    assert here.call("vmquery", "cpu", "web00").status == 0
    here.qemu.refused = {"qmp.1": Busy("taken"), "qmp.2": Busy("taken")}
    assert here.call("vmquery", "cpu", "web00").status == 0


def test_a_definition_has_sockets_by_its_name_alone_and_systemds_is_left_alone() -> None:
    speaker = monitors.of_definition("test-vm", "/run/machina")
    assert speaker.commands == tuple(f"/run/machina/test-vm/command.{number}.qmp.socket" for number in (0, 1))
    assert speaker.events == speaker.commands[1]


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(
    inner, max_size=3) | st.dictionaries(st.sampled_from(["bus", "devices", "slot", "inserted", "stats", "fds", "ram",
                                                          "data", "qdev", "props", "pci_bridge", "id"]), inner,
                                         max_size=4), max_leaves=12)


@given(st.sampled_from(sorted(answers.QUESTIONS)), st.fixed_dictionaries({
    question: JSON for questions in answers.QUESTIONS.values() for question in questions}))
def test_nonsense_is_told_as_such(what: str, said: dict[str, Any]) -> None:
    reads: list[Callable[[], object]] = [lambda: answers.rows(what, said), lambda: answers.tree(said)]
    for read in reads:
        try:
            read()
        except CloudMeError as error:
            assert error.exit_status == 76


# vmobserve

STOP = Event("web00", 1_700_000_000.25, "STOP", {})
SHUTDOWN = Event("web01", 1_700_000_001.0, "SHUTDOWN\x1b[2J", {"guest": True, "reason": "guest-\x1b"})


def test_events_are_lines(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.events.script = {"web00": [STOP], "web01": [SHUTDOWN]}
    ended = here.call("vmobserve")
    time, *rest = ended.stdout.splitlines()[0].split(" ", 1)
    assert rest == ["web00 STOP"] and time.endswith(".250") and time.startswith("2023-11-1")
    assert ended.stdout.splitlines()[1].endswith(
        'web01 SHUTDOWN\\u001b[2J {"guest": true, "reason": "guest-\\u001b"}')
    run = here.store.world.machine_run
    assert here.events.listened == {name: f"{run(name)}/qmp.2" for name in ("web00", "web01")}
    lines = here.call("vmobserve", "web00", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"time": 1_700_000_000.25, "machine": "web00", "event": "STOP", "data": {}}]


def test_who_cannot_be_listened_to_is_told_and_the_others_go_on(here: Here) -> None:
    here.events.script = {"web01": [SHUTDOWN]}
    ended = here.call("vmobserve", "web00", "web01")
    assert (ended.status, len(ended.stdout.splitlines())) == (75, 1)
    assert ": web00: the monitor " in ended.stderr
