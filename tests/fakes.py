"""The second implementation of every port: hand-written, in memory, as strict as the first.

`host()` gives a whole one; a test passes what it wants to script or look at.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Any

from cloudme import index
from cloudme.errors import Busy, CloudMeError, HostUnavailable, MissingProgram, NotFound, PeerError, SpecError
from cloudme.host import vfio
from cloudme.model.confinement import Confinement
from cloudme.model.definitions.tpm import Tpm
from cloudme.model.devices import VFIO
from cloudme.model.groups import Group
from cloudme.model.launch import Folder, Guard, Launch, TapCard
from cloudme.model.machine import Limits
from cloudme.model.network import Link
from cloudme.model.ports import Ended, Event, Host, HostReport, Line, Monitor, Power, Progress, Relay, Target
from cloudme.model.systemd import UnitState
from cloudme.store import take_lock


@dataclass
class FakeRun:
    """Records argv; answers by program name; `qemu-img create`, `convert` make the file. `fail` raises for a word.

    given: what came on stdin. daemons: the signals that each dnsmasq got, by its configuration file.
    """

    answers: dict[str, str] = field(default_factory=dict)
    fail: dict[str, CloudMeError] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    calls: list[list[str]] = field(default_factory=list)
    given: list[bytes] = field(default_factory=list)
    daemons: dict[str, list[int]] = field(default_factory=dict)

    def __call__(
        self, argv: Sequence[str], *, timeout_s: float = 60, stdin: bytes = b"", env: Mapping[str, str] | None = None,
        confinement: Confinement | None = None,
    ) -> str:
        if argv[0] in self.missing:
            raise MissingProgram(argv[0])
        self.calls.append(list(argv))
        self.given.append(stdin)
        for word, error in self.fail.items():
            if any(word in argument for argument in argv):
                raise error
        if argv[0] == "qemu-img" and argv[1] in ("create", "convert"):
            with open([word for word in argv[2:] if os.path.isabs(word)][-1], "w", encoding="ascii") as file:
                file.write("qcow2")
        if argv[0] == "dnsmasq":
            self.daemons[argv[1].partition("=")[2]] = []
        return self.answers.get(argv[0], "")

    def spawn(
        self, argv: Sequence[str], *, stdout: str, fds: Sequence[int] = (), confinement: Confinement | None = None,
        locked_bytes: int = 0,
    ) -> int:
        self.calls.append(list(argv))
        return 1

    def attend(
        self, argv: Sequence[str], *, confinement: Confinement, pins: bool, heed: Callable[[int], bool],
    ) -> int:
        self.calls.append(list(argv))
        return 0

    def become(self, argv: Sequence[str]) -> None:
        self.calls.append(list(argv))

    def signal(self, pid_file: str, mark: str, number: int) -> bool:
        if mark not in self.daemons:
            return number == 0 and os.path.exists(pid_file)
        if number == signal.SIGTERM:
            del self.daemons[mark]
        elif number:
            self.daemons[mark].append(number)
        return True

    def find(self, program: str) -> str | None:
        return None if program in self.missing else f"/usr/bin/{program}"


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
    buried: list[str] = field(default_factory=list)
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
        self.buried.append(uuid)

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


@dataclass
class FakeGroups:
    """Groups in memory, by name. lacks: why limits that are asked for cannot be had. alone: machines are in groups."""

    lacks: CloudMeError | None = None
    alone: bool = True
    held: dict[str, Limits] = field(default_factory=dict)
    swept: int = 0

    def check(self, own: Limits, folder: str) -> None:
        if self.lacks and own != Limits():
            raise self.lacks

    def hold(self, group: Group, pid: int) -> None:
        self.check(group.own, group.folder)
        self.held[group.name] = group.limits

    def change(self, group: Group) -> bool:
        if self.alone:
            self.held[group.name] = group.limits
        return self.alone

    def sweep(self) -> None:
        self.swept += 1


@dataclass
class FakeNet:
    """Links in memory. `holder` is who has the port of DNS; `sent` are the datagrams: (address, port, payload); `bare`
    are the MACs of cards whose taps have lost their guards."""

    bridges: set[str] = field(default_factory=lambda: {"bridge0"})
    neighbours: dict[str, str] = field(default_factory=dict)
    known: dict[str, Link] = field(default_factory=dict)
    root: bool = True
    forwards: bool = False
    filters: bool = False
    holder: str | None = None
    sent: list[tuple[str, int, bytes]] = field(default_factory=list)
    others: dict[str, str] = field(default_factory=dict)
    guarded: list[list[Guard | None]] = field(default_factory=list)
    bare: set[str] = field(default_factory=set)
    swept: int = 0
    vlans: bool = True

    def bridge_exists(self, bridge: str) -> bool:
        return bridge in self.bridges or (bridge in self.known and self.known[bridge].kind == "bridge")

    def link_exists(self, link: str) -> bool:
        return link in self.bridges or link in self.known

    def links(self) -> Mapping[str, Link]:
        return dict(self.known)

    def permitted(self) -> bool:
        return self.root

    def add_bridge(self, bridge: str, mac: str) -> None:
        self.known[bridge] = Link(name=bridge, kind="bridge", up=False)

    def set_bridge(
        self, bridge: str, alias: str, address: IPv4Interface, address6: IPv6Interface | None,
    ) -> None:
        before = self.known.get(bridge, Link(name=bridge, kind="bridge"))
        self.known[bridge] = dataclasses.replace(before, alias=alias, addresses=(address,), up=True,
                                                 addresses6=(address6,) if address6 else ())

    def check_trunks(self) -> None:
        if not self.vlans:
            raise HostUnavailable("this kernel's bridges do not keep VLANs apart")

    def set_trunk(self, bridge: str, mac: str, alias: str) -> None:
        self.check_trunks()
        before = self.known.get(bridge, Link(name=bridge, kind="bridge"))
        self.known[bridge] = dataclasses.replace(before, alias=alias, up=True, filtering=True)

    def add_vlan(self, bridge: str, vlan: int, link: str) -> None:
        trunk = self.known[bridge]
        self.known[bridge] = dataclasses.replace(trunk, vids=tuple(sorted({*trunk.vids, vlan})))
        self.known.setdefault(link, Link(name=link, kind="vlan", vlan=vlan, parent=bridge, up=False))

    def remove_vlan(self, bridge: str, vlan: int, link: str) -> None:
        self.known.pop(link, None)
        if trunk := self.known.get(bridge):
            self.known[bridge] = dataclasses.replace(trunk, vids=tuple(vid for vid in trunk.vids if vid != vlan))

    def tag(self, card: str, bridge: str, vlan: int) -> None:
        self._change(card, bridge, up=True)
        self.known[card] = dataclasses.replace(self.known[card], vids=tuple(sorted({*self.known[card].vids, vlan})))

    def untag(self, card: str, vlan: int) -> None:
        if link := self.known.get(card):
            self.known[card] = dataclasses.replace(link, vids=tuple(vid for vid in link.vids if vid != vlan))

    def ipv6(self) -> bool:
        return True

    def arp(self, bridge: str, addresses: Sequence[str], *, wait_s: float = 0.3) -> Mapping[str, str]:
        return {address: mac for address, mac in self.others.items() if address in addresses}

    def remove_link(self, name: str) -> None:
        self.known.pop(name, None)
        for other in [link.name for link in self.known.values() if link.parent == name]:
            del self.known[other]

    def plug(self, link: str, bridge: str) -> None:
        if bridge not in self.bridges:
            raise HostUnavailable(f"'{bridge}' is no bridge here")
        self._change(link, bridge, up=True)

    def unplug(self, link: str) -> None:
        self._change(link, "", up=False)

    def _change(self, link: str, bridge: str, *, up: bool) -> None:
        if link not in self.known:
            raise HostUnavailable(f"there is no link '{link}' here")
        self.known[link] = dataclasses.replace(self.known[link], master=bridge, up=up)

    def forwarding(self) -> bool:
        return self.forwards

    def forward(self) -> None:
        self.forwards = True

    def bridge_filter(self) -> bool:
        return self.filters

    def unfilter(self) -> None:
        self.filters = False

    def port_taken(self, address: str) -> str | None:
        return self.holder

    def datagram(self, address: str, port: int, payload: bytes) -> None:
        self.sent.append((address, port, payload))

    def taps(self, cards: Sequence[TapCard]) -> list[int]:
        return [os.open(os.devnull, os.O_RDWR) for _ in cards]

    def guard(self, cards: Sequence[TapCard]) -> None:
        self.guarded.append([card.guard for card in cards])
        self.bare -= {card.mac for card in cards}

    def unguarded(self, cards: Sequence[TapCard]) -> list[TapCard]:
        return [card for card in cards if card.guard and card.mac in self.bare]

    def sweep(self) -> None:
        self.swept += 1

    def add_tap(self, name: str, uid: int, mtu: int) -> None:
        assert name not in self.known
        self.known[name] = Link(name=name, kind="tun", up=False, mtu=mtu, owner=uid)

    def join(self, name: str, card: TapCard) -> None:
        assert card.bridge in self.known
        self.known[name] = dataclasses.replace(self.known[name], master=card.bridge or "", up=True)
        self.guard([card])

    def is_guarded(self, name: str, card: TapCard) -> bool:
        return card.mac not in self.bare

    def neighbour(self, address: str) -> str:
        return self.neighbours.get(address, "")


@dataclass
class FakeShell:
    """Answers by machine name; a machine that is not named ends with status 0. ports: of a machine, which are not open.
    """

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


@dataclass
class FakeStreams:
    """Records what was joined."""

    joined: list[tuple[Any, ...]] = field(default_factory=list)

    def console(self, path: str, *, timeout_s: float | None = None) -> None:
        self.joined.append((path, timeout_s))

    def relay(self, address: str, port: int, *, outside: bool = False) -> None:
        self.joined.append((address, port, "outside") if outside else (address, port))


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
    cancelled: bool = False

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
        self.cancelled = True


@dataclass
class FakeOutside:
    """listening: what was asked for; taken: ports that nobody can have. ran: every argv. doors: their paths."""

    listening: list[tuple[str, str, int]] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)
    ran: list[list[str]] = field(default_factory=list)
    bridges: set[str] = field(default_factory=lambda: {"bridge0"})
    doors: list[str] = field(default_factory=list)

    def listen(self, protocol: str, address: str, port: int) -> int:
        if port in self.taken:
            raise Busy(f"{protocol} {address}:{port} is taken")
        self.listening.append((protocol, address, port))
        return os.open(os.devnull, os.O_RDWR)

    def tap(self, bridge: str) -> int:
        return os.open(os.devnull, os.O_RDWR)

    def bridge_exists(self, bridge: str) -> bool:
        return bridge in self.bridges

    def tcp(self) -> int:
        return os.open(os.devnull, os.O_RDWR)

    def door(self, path: str) -> None:
        self.doors.append(path)

    def run(self, argv: Sequence[str], *, timeout_s: float = 60) -> str:
        self.ran.append(list(argv))
        return ""

    def spawn(self, argv: Sequence[str], *, stdout: str, ready: str, among: int) -> int:
        self.ran.append(list(argv))
        return 1


@dataclass
class FakeUnits:
    """systemd: the units whose files are known (`files`: name -> whether enabled), and those that run."""

    there: bool = True
    files: dict[str, bool] = field(default_factory=dict)
    active: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    said: list[str] = field(default_factory=list)

    def running(self) -> bool:
        return self.there

    def states(self, names: Sequence[str]) -> list[UnitState]:
        return [UnitState(
            name=name, load="loaded" if name in self.files else "not-found",
            active="active" if name in self.active else "failed" if name in self.failed else "inactive",
            sub="running" if name in self.active else "dead",
            enabled={True: "enabled", False: "disabled"}.get(self.files.get(name), "")) for name in names]  # type: ignore[arg-type]

    def reload(self) -> None:
        self._did("daemon-reload")

    def enable(self, names: Sequence[str], *, root: str | None = None) -> None:
        self._did("enable", *names)
        self.files |= dict.fromkeys(names, True)

    def disable(self, names: Sequence[str], *, root: str | None = None) -> None:
        self._did("disable", *names)
        self.files |= dict.fromkeys(names, False)

    def start(self, names: Sequence[str], *, timeout_s: float = 120) -> None:
        self._did("start", *names)
        self.failed -= set(names)
        self.active |= set(names)

    def stop(self, names: Sequence[str], *, timeout_s: float = 120) -> None:
        self._did("stop", *names)
        self.active -= set(names)

    def reset(self, names: Sequence[str]) -> None:
        self._did("reset-failed", *names)
        self.failed -= set(names)

    def last_words(self, name: str) -> str:
        return f"journalctl --unit {name}"

    def users(self, paths: Sequence[str], *, root: str | None = None) -> None:
        self._did("users", *paths)

    def _did(self, *words: str) -> None:
        if not self.there:
            raise HostUnavailable("this host does not run systemd")
        self.said.append(" ".join(words))


@dataclass
class FakeCompanions:
    """What was started beside a QEMU: (its folder, its user), and what still lives."""

    tpms: list[tuple[str, int]] = field(default_factory=list)
    living: set[str] = field(default_factory=set)

    @contextlib.contextmanager
    def tpm(self, tpm: Tpm, uid: int) -> Iterator[None]:
        self.tpms.append((tpm.folder, uid))
        self.living.add(tpm.folder)
        try:
            yield
        finally:
            self.living.discard(tpm.folder)


@dataclass
class FakeRelays:
    """Those that serve hold their real lock in this process. `refuse`: ports in the machine where one ends at once."""

    refuse: set[int] = field(default_factory=set)
    serving: dict[str, tuple[int, Relay]] = field(default_factory=dict)

    def start(self, relay: Relay, listener: int) -> None:
        os.fstat(listener)
        if not index.held(relay.machine):
            raise Busy(f"'{relay.name}' has stopped")
        os.makedirs(os.path.dirname(relay.lock), exist_ok=True)
        lock = take_lock(relay.lock)
        if relay.port in self.refuse:
            os.close(lock)
            raise PeerError(f"the relay of '{relay.name}' ended: no")
        self.serving[relay.lock] = lock, relay

    def end(self, lock: str) -> None:
        if lock in self.serving:
            os.close(self.serving.pop(lock)[0])

    def ways(self) -> dict[str, str]:
        """The name of the lock's file -> where it leads."""
        return {os.path.basename(lock): f"{relay.address}:{relay.port}" for lock, (_, relay) in self.serving.items()}


@dataclass
class FakeDownload:
    """Serves `files`, by URL; `fail` raises for a URL. asked: every URL, in order."""

    files: dict[str, bytes] = field(default_factory=dict)
    fail: dict[str, CloudMeError] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def text(self, url: str) -> bytes:
        self.asked.append(url)
        if url in self.fail:
            raise self.fail[url]
        if url not in self.files:
            raise NotFound(f"{url}: 404")
        return self.files[url]

    def file(self, url: str, path: str, *, mark: str, room: Callable[[int], None], progress: Progress) -> None:
        content = self.text(url)
        room(len(content))
        with open(path, "wb") as file:
            file.write(content)
        progress(os.path.basename(url), len(content), len(content))


@dataclass
class FakeIso:
    written: dict[str, Mapping[str, bytes]] = field(default_factory=dict)

    def write(self, path: str, label: str, files: Mapping[str, bytes]) -> None:
        self.written[path] = dict(files)
        with open(path, "wb") as file:
            file.write(label.encode())


@dataclass
class FakeKeys:
    made: int = 0

    def ed25519(self, comment: str) -> tuple[str, str]:
        self.made += 1
        return f"PRIVATE {self.made}\n", f"ssh-ed25519 KEY{self.made} {comment}"


@dataclass
class FakeFiles:
    """Files in memory, with modes; `closed` are those that this process may not open."""

    texts: dict[str, str] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    free: int = 100 << 30
    changed: dict[str, float] = field(default_factory=dict)

    def read(self, path: str) -> str | None:
        return self.texts.get(path)

    def mode(self, path: str) -> int | None:
        return self.modes.get(path, 0o100644 if path in self.texts else None)

    def openable(self, path: str) -> bool:
        return self.mode(path) is not None and path not in self.closed

    def names(self, path: str) -> list[str]:
        return sorted({text[len(path) + 1:].split("/")[0] for text in self.texts if text.startswith(f"{path}/")})

    def free_bytes(self, path: str) -> int:
        return self.free

    def changed_s(self, path: str) -> float:
        return self.changed.get(path, 0)

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        self.texts[path] = text
        self.modes[path] = mode

    def device(self, path: str, major: int, minor: int) -> None:
        self.texts[path] = f"{major}:{minor}"
        self.modes[path] = 0o020666

    def remove(self, path: str) -> None:
        del self.texts[path]
        self.modes.pop(path, None)

    def chmod(self, path: str, mode: int) -> None:
        self.modes[path] = mode
        self.closed.discard(path)

    def allows(self, path: str, uid: int, gid: int, mode: int) -> bool:
        return not any(path == closed or path.startswith(f"{closed}/") for closed in self.closed)


class FakeSysfs(vfio.Sysfs):
    """Files below a folder, and a kernel that acts on what is written to them, as its documentation has it
    (vfio.rst, vfio-mediated-device.rst, ABI/testing/sysfs-bus-pci). claimed: disks that are in use. stubborn: what the
    kernel says no to. given: who got which group. foreign: groups that we may not use. most: what we may lock."""

    def __init__(self, root: str = "/nonexistent") -> None:
        super().__init__(root)
        self.top = Path(root)
        self.claimed: set[str] = set()
        self.stubborn: set[str] = set()
        self.given: dict[str, tuple[int, int]] = {}
        self.foreign: set[str] = set()
        self.most = 1 << 62

    def driver(self, name: str) -> None:
        (self.top / "sys/bus/pci/drivers" / name).mkdir(parents=True, exist_ok=True)

    def device(
        self, address: str, *, driver: str = "", group: str = "", kind: str = "0x030000",
        types: Mapping[str, tuple[str, int]] | None = None, cards: Sequence[str] = (), disks: Sequence[str] = (),
    ) -> None:
        """types: id -> name, available instances."""
        folder = self.top / "sys/devices/pci0000:00" / address
        folder.mkdir(parents=True)
        (folder / "class").write_text(f"{kind}\n")
        (folder / "driver_override").write_text("(null)\n")
        self._linked(self.top / "sys/bus/pci/devices" / address, folder)
        (self.top / "sys/bus/pci/drivers_probe").touch()
        if group:
            number = self.top / "sys/kernel/iommu_groups" / group
            (number / "devices").mkdir(parents=True, exist_ok=True)
            self._linked(number / "devices" / address, folder)
            self._linked(folder / "iommu_group", number)
        for id, (name, available) in (types or {}).items():
            type = folder / "mdev_supported_types" / id
            type.mkdir(parents=True)
            (type / "available_instances").write_text(f"{available}\n")
            (type / "create").touch()
            if name:
                (type / "name").write_text(f"{name}\n")
        for card in cards:
            (folder / "net" / card).mkdir(parents=True)
        for disk in disks:
            (folder / "ata1" / disk).mkdir(parents=True)
            self._linked(self.top / "sys/block" / disk, folder / "ata1" / disk)
        if driver:
            self._drive(folder, driver)

    def deep_card(self, address: str, within: str, name: str) -> None:
        """A card that is not in the device's own folder, as virtio's."""
        folder = self.top / "sys/devices/pci0000:00" / address / within / "net" / name
        folder.mkdir(parents=True)
        self._linked(self.top / "sys/class/net" / name, folder)

    def owner(self, group: str) -> tuple[int, int] | None:
        return None if super().owner(group) is None else self.given.get(group, (0, 0))

    def give(self, group: str, uid: int, gid: int) -> None:
        assert super().owner(group) is not None
        self.given[group] = uid, gid

    def usable(self, group: str) -> bool:
        return super().owner(group) is not None and group not in self.foreign

    def lockable(self, size_bytes: int) -> bool:
        return size_bytes <= self.most

    def _linked(self, link: Path, target: Path) -> None:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(target, link.parent.resolve()))

    def _drive(self, folder: Path, driver: str) -> None:
        self.driver(driver)
        self._linked(folder / "driver", self.top / "sys/bus/pci/drivers" / driver)
        self._linked(self.top / "sys/bus/pci/drivers" / driver / folder.name, folder)
        if driver == VFIO and (folder / "iommu_group").exists():
            file = self.top / "dev/vfio" / (folder / "iommu_group").resolve().name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()

    def _claimed(self, disk: str) -> bool:
        return disk in self.claimed

    def _write(self, text: str, *path: str) -> None:
        """A file that is not there cannot be written to; the others hold nothing but do something."""
        where = Path(os.path.join(*path))
        with vfio._told(str(where)):
            if not where.is_file() and where.name not in ("bind", "unbind"):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            if text.strip() in self.stubborn:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            getattr(self, f"_{where.name}")(where, text.strip())

    def _driver_override(self, where: Path, text: str) -> None:
        where.write_text(f"{text or '(null)'}\n")

    def _unbind(self, where: Path, address: str) -> None:
        folder = self.top / "sys/devices/pci0000:00" / address
        driver = (folder / "driver").resolve()
        (driver / address).unlink()
        (folder / "driver").unlink()
        group = (folder / "iommu_group").resolve().name
        if driver.name == VFIO and all(device.driver != VFIO for device in self.group(group)):
            self.given.pop(group, None)
            (self.top / "dev/vfio" / group).unlink()

    def _drivers_probe(self, where: Path, address: str) -> None:
        folder = self.top / "sys/devices/pci0000:00" / address
        driver = (folder / "driver_override").read_text().strip()
        if driver != "(null)" and self.has_driver(driver):
            self._drive(folder, driver)

    def _bind(self, where: Path, address: str) -> None:
        folder = self.top / "sys/devices/pci0000:00" / address
        if (folder / "driver_override").read_text().strip() not in ("(null)", where.parent.name):
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        self._drive(folder, where.parent.name)

    def _create(self, where: Path, uuid: str) -> None:
        type, instances = where.parent, where.parent / "available_instances"
        if (self.top / vfio.MDEV / uuid).exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if int(instances.read_text()) == 0:
            raise OSError(errno.EUSERS, os.strerror(errno.EUSERS))
        instances.write_text(f"{int(instances.read_text()) - 1}\n")
        folder = type.parent.parent.resolve() / uuid
        (folder / "nvidia").mkdir(parents=True)
        (folder / "nvidia/placement_id").write_text("")
        (folder / "remove").touch()
        self._linked(folder / "mdev_type", type)
        number = self.top / "sys/kernel/iommu_groups" / uuid
        (number / "devices").mkdir(parents=True, exist_ok=True)
        self._linked(folder / "iommu_group", number)
        file = self.top / "dev/vfio" / uuid
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        self._linked(self.top / vfio.MDEV / uuid, folder)

    def _placement_id(self, where: Path, text: str) -> None:
        where.write_text(f"{text}\n")

    def _remove(self, where: Path, text: str) -> None:
        assert text == "1"
        folder = where.parent.resolve()
        instances = (folder / "mdev_type").resolve() / "available_instances"
        instances.write_text(f"{int(instances.read_text()) + 1}\n")
        (self.top / vfio.MDEV / folder.name).unlink()
        self.given.pop(folder.name, None)
        (self.top / "dev/vfio" / folder.name).unlink()
        shutil.rmtree(folder)


def host(**parts: Any) -> Host:
    """A whole host of fakes; keyword arguments replace parts of it."""
    fakes: dict[str, Any] = {
        "run": FakeRun(), "qemu": FakeHypervisor(), "events": FakeEvents(), "groups": FakeGroups(), "net": FakeNet(),
        "outside": FakeOutside(), "relays": FakeRelays(), "units": FakeUnits(), "agent": FakeAgent(),
        "companions": FakeCompanions(), "shell": FakeShell(), "streams": FakeStreams(), "playbooks": FakePlaybooks(),
        "download": FakeDownload(), "iso": FakeIso(),
        "keys": FakeKeys(), "files": FakeFiles(), "devices": FakeSysfs(),
        "now": lambda: 1_800_000_000.0, "synchronised": lambda: True,
        "become_root": lambda: None,
    }
    return Host(**{**fakes, **parts})

