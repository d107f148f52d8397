"""cmapply, and vmrestart, where somebody types Ctrl-C."""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections.abc import Callable, Sequence

import pytest

from cloudme.cli import wiring
from cloudme.model.launch import Launch
from cloudme.model.ports import Power, Target
from tests import fakes
from tests.conftest import Ended
from tests.unit.labs import REALM, TWO, Lab, lab, one

__all__ = ["lab"]

OTHER = "machines: {other: {template: debian, autostart: false}}"


class Awaited(fakes.FakeShell):
    """Notes who is awaited, and who runs by then."""

    def __init__(self, lab: Lab) -> None:
        super().__init__()
        self.lab = lab
        self.seen: dict[str, set[str]] = {}

    def probe(self, target: Target, *, timeout_s: float = 5) -> str:
        self.seen.setdefault(target.name, self.lab.runs())
        return super().probe(target, timeout_s=timeout_s)


class Interrupting(fakes.FakeShell):
    """Machines are silent, and somebody who waits for them types Ctrl-C, once: at the third try he surely waits."""

    tries = 0

    def probe(self, target: Target, *, timeout_s: float = 5) -> str:
        self.tries += 1
        if self.tries == 3:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return "silent"


@dataclasses.dataclass
class Hasty(fakes.FakeHypervisor):
    """Somebody types Ctrl-C when machines are started; or stopped, before."""

    when: str = ""

    def start(self, launch: Launch, *, timeout_s: float = 30) -> None:
        raise KeyboardInterrupt

    def stop(self, machines: Sequence[Power], *, timeout_s: float, say: Callable[[str], None]) -> None:
        if self.when == "stop":
            raise KeyboardInterrupt
        super().stop(machines, timeout_s=timeout_s, say=say)


def interrupted(lab: Lab, text: str) -> Ended:
    """Apply a file, interrupted while its first machines are awaited."""
    before, lab.host = lab.host, dataclasses.replace(lab.host, shell=Interrupting())
    ended = lab.apply(text)
    lab.host = before
    return ended


def test_an_interrupt_leaves_notes_of_what_was_done_and_the_realm(lab: Lab) -> None:
    ended = interrupted(lab, TWO)
    assert ended.status == 130 and lab.kept == [True]
    assert lab.runs() == {"db"}
    assert list(lab.notes()["machines"]) == ["db"] and lab.notes()["vlans"] == ["lan", "dmz"]
    assert lab.well(OTHER, "--prune", "-y") == {"other": "made"}
    assert [machine.name for machine in lab.store.machines()] == ["other"]
    assert [network.name for network in lab.store.networks()] == ["default"]


def test_who_was_not_awaited_is_before_others_start(lab: Lab) -> None:
    interrupted(lab, TWO)
    shell = Awaited(lab)
    lab.host = dataclasses.replace(lab.host, shell=shell)
    assert lab.well(TWO) == {"db": "ok", "web00": "made, started", "web01": "made, started"}
    everybody = {"db", "web00", "web01"}
    assert shell.seen == {"db": {"db"}, "web00": everybody, "web01": everybody}
    shell.seen.clear()
    lab.well(TWO)
    assert shell.seen == {}


def test_an_interrupt_in_the_middle_of_making_leaves_nothing(lab: Lab) -> None:
    lab.iso.fails = [KeyboardInterrupt()]
    assert lab.apply(one()).status == 130
    assert lab.store.machines() == [] and lab.store.owners("lan") == {}
    assert lab.notes()["machines"] == {}


def test_an_interrupt_in_the_middle_of_a_restart_lets_the_machine_run_as_before(lab: Lab) -> None:
    lab.well(one())
    before = lab.machine("db")
    lab.iso.fails = [KeyboardInterrupt()]
    assert lab.apply(one("hostname: other"), "--restart").status == 130
    assert lab.machine("db") == before and lab.runs() == {"db"}


@pytest.mark.parametrize(("when", "words"), [("stop", "may be powering down: when it is off, vmstart db"),
                                             ("start", "is off: vmstart db")])
@pytest.mark.parametrize("name", ["cmapply", "vmrestart"])
def test_an_interrupt_that_leaves_a_machine_off_says_so(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str, when: str, words: str,
) -> None:
    lab.well(one())
    lab.host = dataclasses.replace(lab.host, qemu=Hasty(running=lab.qemu.running, when=when))
    monkeypatch.setattr(wiring, "host", lambda world: lab.host)
    ended = (lab.apply(one("hostname: other"), "--restart") if name == "cmapply"
             else lab.command("vmrestart", "db", "--realm", REALM))
    assert ended.status == 130 and ended.stderr.endswith(f"{name}: db {words}\n{name}: interrupted\n")


@pytest.mark.parametrize("destroys", [True, False])
def test_who_stops_machines_and_interrupts_it_is_not_told_to_start_them(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, destroys: bool,
) -> None:
    lab.well(one())
    lab.host = dataclasses.replace(lab.host, qemu=Hasty(running=lab.qemu.running, when="stop"))
    monkeypatch.setattr(wiring, "host", lambda world: lab.host)
    ended = lab.apply(OTHER, "--prune", "-y") if destroys else lab.command("vmstop", "db", "--realm", REALM)
    assert ended.status == 130 and "vmstart" not in ended.stderr and lab.runs() == {"db"}


def test_a_wait_is_over_when_somebody_interrupts_it(lab: Lab) -> None:
    assert interrupted(lab, one()).status == 130  # and not when its time is over
    assert lab.runs() == {"db"}
