"""Waiting for machines: until they are what is wanted, or until it is known why they will not be.

One thread a machine; most of its time passes in the guest agent's `ping` or a connect, which answer at once when
something happens there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor
from concurrent.futures import wait as all_ended
from dataclasses import dataclass, field
from typing import TypeVar

from cloudme import index, layout
from cloudme.errors import CloudMeError, NotPermitted, PeerError, TimedOut
from cloudme.formats import evidence
from cloudme.model import readiness
from cloudme.model.machine import Machine
from cloudme.model.ports import Host, Target
from cloudme.model.readiness import Boot, Cause, Dhcp, Evidence, Firmware, Serial, Stage
from cloudme.qemu import launch
from cloudme.store import Store

FIRST_S, MOST_S = 0.05, 1.0
"""The pace of looking: quick after something was seen, slower while nothing is."""

KNOCK_S, HANDSHAKE_S, ANSWER_S = 1.0, 5.0, 10.0
"""What one try of ssh gets: little while nothing answers there, enough for a handshake under TCG (2 s) after that."""

TAIL_BYTES = 256 << 10
"""How much of a log's end is read: the serial log of a whole boot is below 128 KiB."""

DEFINED_AGENT = "guestagent"
"""What its port is called in machines that are defined (qemu/definitions/command.py). It may be one of the host's, and
no socket: then that it is open has to do."""

SCREEN_S = 5.0
"""How often the screen is looked at while a guest says nothing on its serial console, as GRUB's rescue mode does."""

T = TypeVar("T")


def wait(
    host: Host, store: Store, machines: Sequence[Machine], goal: str, *, timeout_s: float, say: Callable[[str], None]
) -> None:
    """Return when every machine has reached `goal`, one of readiness.GOALS.

    say:     told how far each machine has come, whenever that changes.
    Raises:  TimedOut, with a line for each machine that did not make it; PeerError as soon as one never can, with a
             line for each of those; NotFound where `goal` needs an address and a machine has none of ours.
    """
    if not machines:
        return
    deadline = time.monotonic() + timeout_s
    over = threading.Event()
    watches = [Watch(host, store, machine, goal, say, over, _target(store, machine, goal)) for machine in machines]
    with ThreadPoolExecutor(max_workers=len(watches)) as pool:
        try:
            futures = [pool.submit(watch.run, deadline) for watch in watches]
            all_ended(futures, return_when=FIRST_EXCEPTION)
        finally:
            over.set()
    failed = {str(watch.machine.name): cause for watch, future in zip(watches, futures, strict=True)
              if (cause := future.result())}
    if failed:
        raise _error(failed)


def each(
    host: Host, store: Store, goals: Sequence[tuple[Machine, str]], *, timeout_s: float, say: Callable[[str], None],
) -> list[CloudMeError | None]:
    """Like `wait`, each machine for its own goal; what keeps one from it, and None for who reached it."""
    if not goals:
        return []
    deadline = time.monotonic() + timeout_s
    watches = [Watch(host, store, machine, goal, say, threading.Event(), _target(store, machine, goal))
               for machine, goal in goals]

    def one(watch: Watch) -> CloudMeError | None:
        try:
            cause = watch.run(deadline)
        except CloudMeError as error:
            return error
        return _error({str(watch.machine.name): cause}) if cause else None

    with ThreadPoolExecutor(max_workers=len(watches)) as pool:
        try:
            futures = [pool.submit(one, watch) for watch in watches]
            all_ended(futures)
        finally:  # an interrupt ends them all
            for watch in watches:
                watch.over.set()
    return [future.result() for future in futures]


def _error(failed: dict[str, Cause]) -> CloudMeError:
    if hopeless := {name: cause for name, cause in failed.items() if cause.hopeless}:
        return PeerError(_lines(hopeless), hint=_hint(hopeless))
    return TimedOut(_lines(failed), hint=_hint(failed))


def _target(store: Store, machine: Machine, goal: str) -> Target | None:
    """What has no serial console shows at its address that it has booted, if it has one."""
    shown = goal == "booted" and machine.definition and machine.address
    return store.target(machine) if shown or goal in ("address", "ssh") else None


def _lines(causes: dict[str, Cause]) -> str:
    return "\n".join(f"{name} did not reach '{cause.stage.name}': {cause.why}" for name, cause in causes.items())


def _hint(causes: dict[str, Cause]) -> str:
    """What to type next; for several machines each advice once, with NAME left to the reader."""
    hints = "; ".join(dict.fromkeys(cause.hint for cause in causes.values()))
    return hints.replace("NAME", next(iter(causes))) if len(causes) == 1 else hints


@dataclass(slots=True)
class Watch:
    """Watches one machine. `over` ends all watches of a wait; `parsed` keeps what was read from files that rest."""

    host: Host
    store: Store
    machine: Machine
    goal: str
    say: Callable[[str], None]
    over: threading.Event
    target: Target | None
    seen: Evidence = field(default_factory=Evidence)
    probed_since: float = 0
    parsed: dict[str, tuple[tuple[int, int], object]] = field(default_factory=dict)
    screen: Serial = field(default_factory=Serial)
    screen_at: float = field(default_factory=lambda: time.monotonic() + SCREEN_S)

    def run(self, deadline: float) -> Cause | None:
        """Return None once the goal is reached, or the wait is over; else the cause why it is not."""
        if self.machine.definition:
            self.seen = dataclasses.replace(self.seen, unit=layout.unit(self.machine.definition))
        pace_s = FIRST_S
        while True:
            began = time.monotonic()
            before = readiness.progress(self.seen)
            self._look(deadline)
            stage = readiness.progress(self.seen)
            if readiness.reached(self.seen, self.goal):
                self.say(f"{self.machine.name} {readiness.SAID[Stage[self.goal]]}")
                return None
            if stage > before:
                self.say(f"{self.machine.name} {readiness.SAID[stage]}")
            cause = readiness.diagnose(self.seen, self.goal)
            if cause.hopeless:
                self.over.set()
                return cause
            now = time.monotonic()
            if now >= deadline:
                return self._last_look()
            pace_s = FIRST_S if stage != before else min(pace_s * 1.5, MOST_S)
            if self.over.wait(max(min(began + pace_s, deadline) - now, 0)):
                return None

    def _look(self, deadline: float) -> None:
        """Look at what may have changed."""
        folder, run = self.store.folder(self.machine), self.store.run_folder(self.machine)
        if not index.held(layout.lock(folder)):
            words = "" if self.seen.unit else self._read(os.path.join(run, launch.OUTPUT), evidence.last_words, "")
            said = self._said(folder)
            self.seen = dataclasses.replace(self.seen, alive=False, last_words=words, serial=said)
            return
        seen = dataclasses.replace(
            self.seen, met=True, serial=self._console(folder, run),
            firmware=self._read(os.path.join(folder, launch.FIRMWARE_LOG), evidence.firmware, self.seen.firmware)
            if not self.seen.unit else Firmware.unseen,
            dhcp=self._dhcp() if self.goal == "address" else self.seen.dhcp,
            agent=self.seen.agent or self._agent(run),
        )
        if self.target:
            patience_s = HANDSHAKE_S if self.seen.probe in readiness.ANSWERS else KNOCK_S
            left_s = max(deadline - time.monotonic(), KNOCK_S)  # the last try shall be a fair one
            probe = self.host.shell.probe(self.target, timeout_s=min(patience_s, left_s))
            if probe != self.seen.probe:
                self.probed_since = time.monotonic()
            seen = dataclasses.replace(seen, probe=probe, steady_s=time.monotonic() - self.probed_since)
        self.seen = seen

    def _agent(self, run: str) -> bool:
        """Whether the agent is there: QEMU knows whether the guest has opened the port.

        It is asked itself only where that is the goal, and then patiently: an agent whose answer nobody waits for
        spins until somebody connects (QEMU 7.2, qga/channel-posix.c, ga_channel_write_all).
        """
        try:
            with self.host.qemu.monitor(layout.socket(run, "qmp.0"), timeout_s=KNOCK_S) as monitor:
                ports = {port["label"]: port["frontend-open"] for port in monitor.execute("query-chardev")}
        except CloudMeError:
            return False
        there = bool(ports.get("agent") or ports.get(DEFINED_AGENT))
        socket = layout.socket(run, "agent")
        if not there or self.goal != "agent" or not os.path.exists(socket):
            return there
        return self.host.agent.ping(socket, timeout_s=ANSWER_S)

    def _last_look(self) -> Cause:
        """What is dear to know, asked once."""
        self.screen_at = 0
        self.seen = dataclasses.replace(self.seen, serial=self._console(
            self.store.folder(self.machine), self.store.run_folder(self.machine)))
        if self.target:
            self.seen = dataclasses.replace(
                self.seen, dhcp=self._dhcp(), neighbour="" if self.target.outside
                else self.host.net.neighbour(self.target.address),
                network_trouble=self._network_trouble(),
            )
        return readiness.diagnose(self.seen, self.goal)

    def _console(self, folder: str, run: str) -> Serial:
        """The serial console; where it is silent since the disk was started, the screen."""
        said = self._said(folder)
        answers = self.seen.agent or self.seen.probe in readiness.ANSWERS
        if said.boot != Boot.silent or self.seen.firmware != Firmware.started or answers:
            return said
        if time.monotonic() >= self.screen_at:
            self.screen_at = time.monotonic() + SCREEN_S
            path = layout.socket(run, "qmp.0")
            with contextlib.suppress(CloudMeError), self.host.qemu.monitor(path, timeout_s=KNOCK_S) as monitor:
                dump = monitor.execute("human-monitor-command", **{"command-line": evidence.SCREEN_COMMAND})
                self.screen = evidence.serial(evidence.screen(str(dump)))
        return self.screen

    def _said(self, folder: str) -> Serial:
        """A machine that is defined may have logs from when it was ours alone."""
        if self.seen.unit:
            return Serial()
        return self._read(os.path.join(folder, launch.SERIAL_LOG), evidence.serial, Serial())

    def _network_trouble(self) -> str:
        network = self.store.network(self.machine.nics[0].network) if self.machine.nics else None
        if network is None:
            return ""
        if not self.host.net.link_exists(network.link):
            return f"the bridge {network.link} is gone"
        if network.external:
            return ""
        world = self.store.world
        try:
            serves = self.host.run.signal(world.dnsmasq(network.name, "pid"), world.dnsmasq(network.name, "conf"), 0)
        except NotPermitted:  # it is another user's, and lives
            return ""
        return "" if serves else "dnsmasq has ended"

    def _dhcp(self) -> Dhcp:
        since = index.started(layout.lock(self.store.folder(self.machine)))
        if since is None or not self.machine.nics:
            return Dhcp()
        nic = self.machine.nics[0]
        path = self.store.world.dnsmasq(nic.network, "log")
        try:
            written = os.stat(path).st_mtime
        except OSError:
            return Dhcp()
        return self._read(path, lambda text: evidence.dhcp(text, nic.mac, written=written, since=since), Dhcp())

    def _read(self, path: str, parse: Callable[[str], T], missing: T) -> T:
        """Parse the end of a file; what was parsed is kept until the file changes."""
        try:
            state = os.stat(path)
            key = (state.st_size, state.st_mtime_ns)
            kept = self.parsed.get(path)
            if kept and kept[0] == key:
                return kept[1]  # type: ignore[return-value]
            with open(path, "rb") as file:
                file.seek(max(state.st_size - TAIL_BYTES, 0))
                text = file.read().decode(errors="replace")
        except OSError:
            return missing
        value = parse(text)
        self.parsed[path] = key, value
        return value
