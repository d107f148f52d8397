"""What is behind ssh, the guest agent, the console and Ansible."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloudme.errors import SpecError
from cloudme.model.ports import Ended, HostReport, Line, Progress, Target


@dataclass
class FakeShell:
    """Answers by machine name; a machine that is not named ends with status 0. ports: of a machine, those not open."""

    answers: dict[str, Ended] = field(default_factory=dict)
    probes: dict[str, list[str]] = field(default_factory=dict)
    commands: list[tuple[str, str]] = field(default_factory=list)
    ports: dict[tuple[str, int], str] = field(default_factory=dict)

    def run(self, target: Target, command: str, *, stdin: bytes = b"", timeout_s: float = 60) -> Ended:
        self.commands.append((target.name, command))
        return self.answers.get(target.name, Ended(status=0, stdout=b"", stderr=b""))

    def probe(self, target: Target, *, timeout_s: float = 5) -> str:
        script = self.probes.get(target.name, ["ready"])
        return script.pop(0) if len(script) > 1 else script[0]

    def knock(self, target: Target, *, greeting: bytes = b"", timeout_s: float = 5) -> str:
        return self.ports.get((target.name, target.port), "open")

    def stream(self, target: Target, command: str, heard: Callable[[bytes], None]) -> int:
        ended = self.run(target, command)
        heard(ended.stdout)
        return ended.status

    def interactive(self, target: Target, command: str | None = None, *, tty: bool = False) -> int:
        self.commands.append((target.name, f"{command or 'shell'}{' on a terminal' if tty else ''}"))
        return self.answers.get(target.name, Ended(status=0, stdout=b"", stderr=b"")).status

    def put(
        self, target: Target, sources: Sequence[str], destination: str, *, recursive: bool, progress: Progress,
    ) -> list[str]:
        self.commands.append((target.name, f"put {' '.join(sources)} {destination}"))
        return []

    def get(
        self, target: Target, sources: Sequence[str], destination: str, *, recursive: bool, progress: Progress,
    ) -> list[str]:
        self.commands.append((target.name, f"get {' '.join(sources)} {destination}"))
        return []


class FakeStreams:
    """Joins nothing."""

    def console(self, path: str, *, timeout_s: float | None = None) -> None: ...

    def relay(self, address: str, port: int, *, outside: bool = False) -> None: ...


@dataclass
class FakeAgent:
    """ended: how each script ends, by a word in it; the others with 0. told: the identities. refuses: the answer."""

    answers: bool = True
    ended: dict[str, Ended] = field(default_factory=dict)
    told: list[Any] = field(default_factory=list)
    refuses: str = ""
    ran: list[Sequence[str]] = field(default_factory=list)

    def ping(self, socket: str, *, timeout_s: float) -> bool:
        return self.answers

    def execute(self, socket: str, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60) -> Ended:
        self.ran.append(argv)
        for word, ended in self.ended.items():
            if word.encode() in stdin:
                return ended
        return Ended(status=0, stdout=b"", stderr=b"")

    @contextlib.contextmanager
    def line(self, socket: str) -> Iterator[Line]:
        yield self

    def tell(self, question: Any, *, timeout_s: float) -> Any:
        self.told.append(question)
        return {"error": self.refuses} if self.refuses else {"done": True}


@dataclass
class FakePlaybooks:
    reports: dict[str, HostReport] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    runs: list[tuple[str, list[str]]] = field(default_factory=list)
    inventories: list[Mapping[str, Any]] = field(default_factory=list)

    def run(
        self, playbook: str, inventory: Mapping[str, Any], *, hosts: Sequence[str], say: Callable[[str], None],
    ) -> Mapping[str, HostReport]:
        self.runs.append((playbook, list(hosts)))
        self.inventories.append(inventory)
        assert set(hosts) <= set(inventory["all"]["hosts"])
        return {name: self.reports.get(name, HostReport(status="ok")) for name in hosts}

    def check(self, playbooks: Sequence[str]) -> None:
        if broken := [f"{playbook}: broken" for playbook in playbooks if playbook in self.broken]:
            raise SpecError(broken)

    def cancel(self) -> None:
        """Nothing runs in other threads."""
