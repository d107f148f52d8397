"""QEMU's monitors: what vmquery reads of a real QEMU, the events of several at once, links by their netdevs, and whose
symlinks are followed.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloudme import monitors
from cloudme.errors import Busy, CloudMeError, NotFound, PeerError
from cloudme.host import events, qemu, qmp
from cloudme.host.run import Programs
from cloudme.model.ports import Event, Events, Host
from cloudme.monitors import Speaker
from cloudme.operations import queries
from cloudme.qemu import answers
from tests import fakes
from tests.contract.test_qemu import COUNTER

pytestmark = [pytest.mark.contract,
              pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="qemu-system-x86_64 is missing")]

PATIENCE_S = 60

DEVICES = """\
-device pcie-root-port,id=rp0,bus=pcie.0,addr=10.0,multifunction=on,chassis=1
-device pcie-root-port,id=rp1,bus=pcie.0,addr=10.1,chassis=2
-device pcie-root-port,id=rp2,bus=pcie.0,addr=10.2,chassis=3
-netdev user,id=net.0,restrict=on
-device virtio-net-pci,bus=rp0,netdev=net.0
-device pcie-pci-bridge,id=below,bus=rp1
-device pci-bridge,id=deep,bus=below,addr=2,chassis_nr=5
-device virtio-rng-pci,id=rng,bus=deep,addr=3
"""
"""A card, and a device behind three bridges; the third root port is empty."""

TREE = """\
-[0000:00]-+-00.0
           +-01.0
           +-10.0-[01]----00.0
           +-10.1-[02-04]----00.0-[03-04]----02.0-[04]----03.0
           +-10.2-[05]--
           +-1f.0
           +-1f.2
           \\-1f.3
"""


@dataclass
class Machine:
    """A QEMU with two monitors, the second of which is for who listens."""

    name: str
    folder: str
    process: subprocess.Popen[bytes]

    @property
    def speaker(self) -> Speaker:
        return Speaker(self.name, (f"{self.folder}/{self.name}.0", f"{self.folder}/{self.name}.1"),
                       f"{self.folder}/{self.name}.1")


@pytest.fixture
def folder() -> Iterator[str]:
    """Short: a socket's path has 108 bytes at most."""
    made = tempfile.mkdtemp(prefix="cm-")
    try:
        yield made
    finally:
        shutil.rmtree(made)


@pytest.fixture
def machine(folder: str) -> Iterator[Machine]:
    with start(folder, "one") as process:
        try:
            yield Machine("one", folder, process)
        finally:
            process.kill()


def start(folder: str, name: str) -> subprocess.Popen[bytes]:
    """Returns when the guest has said its first dot: the firmware has numbered the buses."""
    disk = Path(folder, f"{name}.raw")
    disk.write_bytes(COUNTER.ljust(2 << 20, b"\0"))
    argv = ["qemu-system-x86_64", "-name", name, "-nodefaults", "-display", "none", "-machine", "q35", "-accel", "tcg",
            "-m", "64", "-smp", "sockets=1,cores=2", "-serial", "stdio", *DEVICES.split(),
            "-drive", f"if=none,id=d,format=raw,file={disk}", "-device", "virtio-blk-pci,id=vd0,drive=d,addr=1"]
    for number in (0, 1):
        argv += ["-qmp", f"unix:{folder}/{name}.{number},server=on,wait=off"]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.read(1) == b"."
    return process


@pytest.fixture
def host() -> Host:
    return fakes.host(qemu=qemu.Qemu(Programs(), fakes.FakeNet()))


def ask(host: Host, what: str, machine: Machine) -> answers.Answers:
    (answer,) = queries.ask(host, what, [machine.speaker])
    assert not isinstance(answer, CloudMeError)
    return answer


def test_what_is_asked_is_what_was_started(host: Host, machine: Machine) -> None:
    pci = ask(host, "pci", machine)
    assert "".join(f"{line}\n" for line in answers.tree(pci)) == TREE
    found = {row["id"]: row for row in answers.rows("pci", pci) if row["id"]}
    assert {name: row["address"] for name, row in found.items()} == {
        "vd0": "00:01.0", "rp0": "00:10.0", "rp1": "00:10.1", "rp2": "00:10.2", "below": "02:00.0", "deep": "03:02.0",
        "rng": "04:03.0"}
    assert (found["rng"]["bridge"], found["rng"]["vendor"], found["rng"]["device"]) == ("03:02.0", "1af4", "1005")
    cpus = answers.rows("cpu", ask(host, "cpu", machine))
    assert [(row["socket"], row["core"]) for row in cpus] == [(0, 0), (0, 1)]
    assert all(os.path.exists(f"/proc/{machine.process.pid}/task/{row['tid']}") for row in cpus)
    (disk,) = (row for row in answers.rows("block", ask(host, "block", machine)) if row["device"] == "vd0")
    assert (disk["file"], disk["format"], disk["size_bytes"]) == (f"{machine.folder}/one.raw", "raw", 2 << 20)
    assert disk["read_bytes"] >= 512 and disk["read_only"] is False
    assert answers.rows("memory", ask(host, "memory", machine))[0]["base_bytes"] == 64 << 20
    assert answers.rows("migrate", ask(host, "migrate", machine))[0]["status"] is None


def test_a_taken_monitor_is_passed_over_and_who_finds_all_taken_says_so(host: Host, machine: Machine) -> None:
    first, second = machine.speaker.commands
    with qmp.connected(first, 5):
        assert len(answers.rows("cpu", ask(host, "cpu", machine))) == 2
        with qmp.connected(second, 5):
            (answer,) = queries.ask(host, "cpu", [machine.speaker])
            assert isinstance(answer, Busy) and "does not answer" in answer.message


def test_both_ends_of_a_card_know_its_netdev(host: Host, machine: Machine) -> None:
    with monitors.monitor(host, machine.speaker) as monitor:
        for up in (False, False, True, True):
            monitor.execute("set_link", name="net.0", up=up)
        with pytest.raises(PeerError, match="not found"):
            monitor.execute("set_link", name="net.1", up=True)


def test_links_are_followed_into_folders_of_machines_and_never_there(
    machine: Machine, home: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLOUDME_MACHINA_RUN", os.path.dirname(machine.folder))
    (home / "run").mkdir()
    ours, planted = str(home / "run/qmp.0"), f"{machine.folder}/planted"
    os.symlink(machine.speaker.commands[0], ours)
    os.symlink(machine.speaker.commands[0], planted)
    with qmp.connected(ours, 5) as monitor:
        assert monitor.execute("query-name") == {"name": "one"}
    with pytest.raises(NotFound), qmp.connected(planted, 5):
        pass


@pytest.fixture(params=["fake", "real"])
def listener(request: pytest.FixtureRequest) -> Events:
    if request.param == "real":
        return events.Monitors()
    said: dict[str, Any] = {name: [Event(name, 1.0, word, {"guest": False} if word == "SHUTDOWN" else {})
                                   for word in ("STOP", "RESUME", "SHUTDOWN")] for name in ("one", "two")}
    return fakes.FakeEvents(script=said)


def test_events_of_several_are_told_until_all_have_gone(host: Host, listener: Events, machine: Machine) -> None:
    """Also the last word of a machine, after which its monitor is closed; and one that nobody has is told."""
    told: queue.Queue[Event] = queue.Queue()
    failed: dict[str, CloudMeError] = {}
    with start(machine.folder, "two") as process:
        other = Machine("two", machine.folder, process)
        sockets = {one.name: one.speaker.events for one in (machine, other)} | {"three": f"{machine.folder}/three.1"}
        thread = threading.Thread(target=listener.follow, args=(sockets, told.put, failed.__setitem__))
        thread.start()
        try:
            for one in (machine, other):
                await_listener(one, listener)
                with qmp.connected(one.speaker.commands[0], 5) as monitor:
                    for command in ("stop", "cont", "quit"):
                        monitor.execute(command)
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        finally:
            process.kill()
    found = list(told.queue)
    for name in ("one", "two"):
        mine = [event for event in found if event.machine == name]
        assert [event.name for event in mine] == ["STOP", "RESUME", "SHUTDOWN"]
        assert mine[-1].data["guest"] is False and mine[0].time_s <= mine[-1].time_s
    assert list(failed) == ["three"]


def test_what_the_one_who_is_told_raises_ends_it(machine: Machine) -> None:
    """As a pipe that nobody reads any more."""
    def told(event: Event) -> None:
        raise BrokenPipeError

    raised: list[BaseException] = []

    def follow() -> None:
        try:
            events.Monitors().follow({"one": machine.speaker.events}, told, lambda name, error: None)
        except BrokenPipeError as error:
            raised.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    await_listener(machine, events.Monitors())
    with qmp.connected(machine.speaker.commands[0], 5) as monitor:
        monitor.execute("stop")
    thread.join(PATIENCE_S)
    assert len(raised) == 1


def test_a_second_listener_is_told_that_there_is_one(machine: Machine) -> None:
    failed: list[CloudMeError] = []
    with qmp.connected(machine.speaker.events, 5):
        events.Monitors().follow({"one": machine.speaker.events}, print, lambda name, error: failed.append(error))
    assert [(error.exit_status, error.message) for error in failed] == [
        (75, "somebody else observes it already, and one can at a time")]


def await_listener(machine: Machine, listener: Events) -> None:
    """Return when the monitor for events is taken: QEMU tells what comes later, and nothing of before."""
    if isinstance(listener, fakes.FakeEvents):
        return
    for _ in range(PATIENCE_S * 10):
        try:
            with qmp.connected(machine.speaker.events, 0.1):
                pass
        except Busy:
            return
    raise AssertionError("nobody listens")


def test_an_event_that_is_none_is_told_as_such() -> None:
    with pytest.raises(PeerError):
        events._event("one", json.loads('{"event": "STOP", "timestamp": 7}'))
