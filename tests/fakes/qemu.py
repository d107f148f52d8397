"""QEMU: its processes, what is told to them and by them, and what runs beside them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloudme.errors import Busy, CloudMeError, PeerError
from cloudme.model.definitions.tpm import Tpm
from cloudme.model.launch import Folder, Launch
from cloudme.model.ports import Event, Monitor, Power
from cloudme.store import take_lock


@dataclass
class FakeBalloon:
    """heeds: how many bytes a telling takes it towards its goal. says: whether its guest tells."""

    ram: int
    left: int
    used: int = 0
    heeds: int = 1 << 40
    says: bool = True

    def answer(self, command: str, arguments: Mapping[str, Any]) -> Any:
        if command == "balloon":
            step = arguments["value"] - self.left
            self.left += max(min(step, self.heeds), -self.heeds)
        free = self.ram - self.used - (self.ram - self.left)
        stats = {"stat-total-memory": self.ram, "stat-available-memory": free, "stat-swap-in": (1 << 64) - 1}
        return {"query-balloon": {"actual": self.left}, "query-memory-size-summary": {"base-memory": self.ram},
                "qom-get": {"last-update": 1 << 40, "stats": stats} if self.says else {"last-update": 0, "stats": {}},
                }.get(command, {})


@dataclass
class FakeMonitor:
    """What it was told, in order. A state that is saved is a file with a word in it.

    answers: by command; what is an error is raised. links: netdevs that were set up or down. balloon: None for none.
    """

    agent_open: bool = True
    executed: list[str] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    links: dict[str, bool] = field(default_factory=dict)
    balloon: FakeBalloon | None = None

    def execute(self, command: str, **arguments: Any) -> Any:
        self.executed.append(command)
        if command == "set_link":
            self.links[arguments["name"]] = arguments["up"]
        if command in self.answers:
            if isinstance(self.answers[command], CloudMeError):
                raise self.answers[command]
            return self.answers[command]
        if command == "query-chardev":
            return [{"label": "agent", "frontend-open": self.agent_open}]
        return self.balloon.answer(command, arguments) if self.balloon else {}

    def execute_until(self, event: str, command: str, *, timeout_s: float, **arguments: Any) -> bool:
        self.executed.append(command)
        return command in ("set_link", "device_del")

    def lend(self, name: str, path: str, *, write: bool = False) -> None:
        if write:
            with open(path, "w", encoding="ascii") as file:
                file.write("state")
        else:
            assert os.path.exists(path)

    def give(self, name: str, fd: int) -> None:
        os.fstat(fd)

    def join(self, name: str, other: Monitor) -> None:
        self.executed.append("join")

    def admit(self, path: str) -> str:
        assert os.path.exists(path)
        return "/dev/fdset/1"

    def retract(self, path: str) -> None:
        self.executed.append(f"retract {os.path.basename(path)}")

    def await_migration(self, status: str, *, timeout_s: float) -> None:
        self.executed.append(status)

    def wait_closed(self, timeout_s: float) -> bool:
        return True


@dataclass
class FakeHypervisor:
    """Machines that 'run' hold their real lock in this process. `refuse` names those whose QEMU ends at once.

    pressed: the monitors by which machines were shut down. deaf: those who do not go.
    refused: what is raised for a monitor, by a part of its path. numbers: pids, by lock.
    """

    kvm: bool = False
    virtiofsd: bool = True
    agent_open: bool = True
    refuse: set[str] = field(default_factory=set)
    running: dict[str, int] = field(default_factory=dict)
    launches: list[Launch] = field(default_factory=list)
    serving: list[Folder] = field(default_factory=list)
    told: FakeMonitor = field(default_factory=FakeMonitor)
    number: str = "7.2.22"
    alive: set[int] = field(default_factory=set)
    pressed: list[str] = field(default_factory=list)
    deaf: set[str] = field(default_factory=set)
    refused: dict[str, CloudMeError] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)

    def start(self, launch: Launch, *, timeout_s: float = 30) -> None:
        if launch.name in self.refuse:
            raise PeerError(f"QEMU for '{launch.name}' ended: no")
        self.running[launch.lock] = take_lock(launch.lock)
        self.launches.append(launch)

    @contextlib.contextmanager
    def monitor(self, path: str, *, timeout_s: float = 5) -> Iterator[Monitor]:
        for part, error in self.refused.items():
            if part in path:
                raise error
        self.told.agent_open = self.agent_open
        yield self.told

    def stop(self, machines: Sequence[Power], *, timeout_s: float, say: Callable[[str], None]) -> None:
        for machine in machines:
            self.kill(machine.lock)

    def shut_down(self, machines: Sequence[Power], *, timeout_s: float, say: Callable[[str], None]) -> list[str]:
        self.pressed += [machine.monitor for machine in machines]
        return [machine.name for machine in machines if machine.name in self.deaf]

    def bury(self, uuid: str) -> None:
        """Nobody is left here."""

    def kill(self, lock: str) -> None:
        if lock in self.running:
            os.close(self.running.pop(lock))

    def pids(self, locks: Sequence[str]) -> Mapping[str, int]:
        return {lock: self.numbers[lock] for lock in locks if lock in self.numbers}

    def version(self) -> str:
        return self.number

    def lives(self, uid: int) -> bool:
        return uid in self.alive

    def virtiofs(self) -> bool:
        return self.virtiofsd

    @contextlib.contextmanager
    def serve(self, folder: Folder) -> Iterator[int]:
        self.running[folder.lock] = take_lock(folder.lock)
        self.serving.append(folder)
        with open(os.devnull, "rb") as nothing:
            yield nothing.fileno()

    def kvm_usable(self) -> bool:
        return self.kvm


@dataclass
class FakeEvents:
    """Tells a script, by machine; a machine that has none fails. listened: the sockets, by machine."""

    script: dict[str, list[Event]] = field(default_factory=dict)
    listened: dict[str, str] = field(default_factory=dict)

    def follow(
        self, sockets: Mapping[str, str], told: Callable[[Event], None], failed: Callable[[str, CloudMeError], None],
    ) -> None:
        self.listened |= sockets
        for machine in sockets:
            if machine not in self.script:
                failed(machine, Busy(f"the monitor {sockets[machine]} does not answer"))
            for event in self.script.get(machine, ()):
                told(event)


class FakeCompanions:
    """Starts nothing beside a QEMU."""

    @contextlib.contextmanager
    def tpm(self, tpm: Tpm, uid: int) -> Iterator[None]:
        yield
