"""Forks: the memory and the disks of a machine that runs, saved for clones of that very moment.

The memory is received, while the machine goes on, by a second QEMU that keeps it in a file and runs nothing. When all
is there but what changes too quickly, the machine is stopped for a moment: its disks are frozen under new overlays, the
rest is sent, and it goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cloudme import balloon, defined, layout, warm
from cloudme.errors import Busy, CloudMeError, CommandFailed, HostUnavailable, PeerError
from cloudme.formats import render
from cloudme.model.machine import Disk, Machine, disk_file
from cloudme.model.ports import Host, Monitor
from cloudme.model.steps import deferred
from cloudme.qemu import hardware, launch
from cloudme.store import Store, reported

RESIDENT_S = 30
SEND_S, RESUME_S, PULL_S = 600, 10, 30
DOWNTIME_MS = 100
"""The machine is stopped when what is left of its memory can be sent within this."""

BANDWIDTH = 1 << 40
"""Bytes a second: no limit between two processes of one host."""


def check(host: Host, store: Store, machine: Machine) -> None:
    """Raises Busy where it does not run, HostUnavailable where it is of a kind that cannot be forked."""
    defined.refuse(machine, "only clones of templates have what a fork needs", "vminstantiate makes some")
    if not store.is_running(machine):
        raise Busy(f"'{machine.name}' does not run", hint=f"vm {machine.name} starts it")
    if machine.shares:
        tag = machine.shares[0].tag
        raise HostUnavailable(f"'{machine.name}' cannot be forked: it has shares, and nobody can save what is known "
                              "here of open files", hint=f"vmupdate {machine.name} --no-share {tag}; vmrestart")
    if machine.devices:
        raise HostUnavailable(f"'{machine.name}' cannot be forked: it has a device of the host's, "
                              f"{machine.devices[0]}, whose state nobody can save")
    why = ""
    if machine.template is None or not machine.access.seeded:
        why = "it was installed by hand: nobody knows what its clones may share"
    if any(nic.static for nic in machine.nics):
        why = "its address is told by its seed, at a boot"
    with host.qemu.monitor(layout.socket(store.run_folder(machine), "qmp.0")) as monitor:
        ports = {port["label"]: port["frontend-open"] for port in monitor.execute("query-chardev")}
        running = ".".join(str(monitor.execute("query-version")["qemu"][part]) for part in ("major", "minor", "micro"))
    if "identity" not in ports:
        why = "it was started by an older cloudMe (vmrestart)"
    elif not ports.get("agent"):
        why = "no guest agent answers in it"
    elif running != host.qemu.version():
        why = f"it runs in QEMU {running}, here is {host.qemu.version()} (vmrestart)"
    if why:
        raise HostUnavailable(f"'{machine.name}' cannot be forked: {why}")


def name(store: Store, machine: Machine) -> str:
    """The name of the next fork of a machine: no folder and no disk has it."""
    number = 1
    while (os.path.exists(os.path.join(store.world.forks, f"{machine.name}.{number}"))
           or any(os.path.exists(os.path.join(store.folder(machine), _overlay(index, number)))
                  for index in range(len(machine.disks)))):
        number += 1
    return f"{machine.name}.{number}"


def _overlay(index: int, number: int) -> str:
    """The file over disk number `index` that a machine goes on with after its fork `number`."""
    return f"{disk_file(index).removesuffix('.qcow2')}.{number}.qcow2"


@dataclass(slots=True)
class Moment:
    """Saves a moment of a running machine in a folder of its own. Undone, the machine keeps its new overlays: they are
    as good as one disk. paused_s: how long it stood still."""

    store: Store
    machine: Machine
    fork: str
    accel: str
    say: Callable[[str], None]
    claimed: bool = False
    unused: list[str] = field(default_factory=list)
    paused_s: float = 0

    @property
    def folder(self) -> str:
        return os.path.join(self.store.world.forks, self.fork)

    def describe(self) -> str:
        return f"save this moment of {self.machine.name}: its memory, {self.machine.shape.ram_mib} MiB, and its disks"

    def do(self, host: Host) -> None:
        run = self.store.run_folder(self.machine)
        with contextlib.ExitStack() as mine, reported(self.folder):
            with self.store.locked(), deferred():
                mine.callback(os.close, self.store.claim(host, self.folder, layout.MANIFEST))
                self.claimed = True
            kind = warm.kind(host, self.machine, self.accel)
            mine.enter_context(self._resident(host, run))
            mine.enter_context(_bare(host, run))
            self._link()
            place = launch.Place(folder=self.folder, run=self.store.world.fork_run(self.fork), accel=self.accel,
                                 networks={})
            warm.empty(self.folder, self.machine.shape.ram_mib)
            host.qemu.start(launch.of(dataclasses.replace(self.machine, nics=()), place, launch.Ram(
                path=os.path.join(self.folder, layout.RAM), qemu=kind.qemu, use="receive", cards=self.machine.nics)))
            with (host.qemu.monitor(layout.socket(place.run, "qmp.0")) as keeper,
                  host.qemu.monitor(layout.socket(run, "qmp.0")) as source):
                self._send(host, source, keeper)
                keeper.await_migration("completed", timeout_s=SEND_S)
                warm.save(keeper, self.folder)
            self._end_keeper(host)
            warm.publish(host, self.folder, kind, disks=self.machine.disks)
        self.say(f"{self.machine.name} stood still for {self.paused_s * 1000:.0f} ms")

    @contextlib.contextmanager
    def _resident(self, host: Host, run: str) -> Iterator[None]:
        """The process that gives each clone its identity; in the machine itself it is sent away again."""
        with host.agent.line(layout.socket(run, "identity")) as line:
            ended = host.agent.execute(
                layout.socket(run, "agent"), ["/usr/bin/python3", "-"], timeout_s=RESIDENT_S,
                stdin=render.script("identity.py", self.store.world.config).encode())
            if ended.status:
                said = ended.stderr.decode(errors="replace").strip() or f"exit status {ended.status}"
                raise CommandFailed(f"'{self.machine.name}' cannot be forked: {said}")
            try:
                yield
            finally:
                with contextlib.suppress(CloudMeError):
                    line.tell({"leave": True}, timeout_s=RESIDENT_S)

    def _link(self) -> None:
        """The disks, and all that they stand on in the machine's folder, by a second name: both may go alone."""
        own = self.store.folder(self.machine)
        for file in os.listdir(own):
            if file.endswith(".qcow2"):
                os.link(os.path.join(own, file), os.path.join(self.folder, file))

    def _overlays(self, host: Host, source: Monitor) -> list[tuple[str, Disk]]:
        """A new overlay for each disk: (QEMU's node of the disk, the overlay)."""
        number = int(self.fork.rpartition(".")[2])
        own = self.store.folder(self.machine)
        inserted = {block["qdev"]: block["inserted"]["node-name"] for block in source.execute("query-block")
                    if block.get("inserted")}
        found = []
        for index, disk in enumerate(self.machine.disks):
            overlay = dataclasses.replace(disk, file=_overlay(index, number))
            path = os.path.join(own, overlay.file)
            host.run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", disk.file, "-F", "qcow2",
                      path, str(disk.size_bytes)])
            self.unused.append(path)
            os.chmod(path, 0o600)
            node = next(name for qdev, name in inserted.items() if f"/vd{index}/" in f"{qdev}/")
            found.append((node, overlay))
        return found

    def _send(self, host: Host, source: Monitor, keeper: Monitor) -> None:
        overlays = self._overlays(host, source)
        for disk in self.machine.disks:
            source.retract(os.path.join(self.store.folder(self.machine), disk.file))
        keeper.execute("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
        source.execute("migrate-set-capabilities", capabilities=[
            {"capability": name, "state": name != "x-ignore-shared"}  # which it has on where it is a clone itself
            for name in ("events", "pause-before-switchover", "x-ignore-shared")])
        source.execute("migrate-set-parameters", **{"max-bandwidth": BANDWIDTH, "downtime-limit": DOWNTIME_MS})
        keeper.join("memory", source)
        keeper.execute("migrate-incoming", uri="fd:memory")
        began = time.monotonic()
        try:
            if self.accel == "tcg":  # whose vCPUs mark a page as written before they write it: it may be sent between
                source.execute("stop")
            source.execute("migrate", uri="fd:memory")
            source.await_migration("pre-switchover", timeout_s=SEND_S)
            if self.accel != "tcg":
                began = time.monotonic()
            self._freeze(source, overlays)
            source.execute("migrate-continue", state="pre-switchover")
            source.await_migration("completed", timeout_s=SEND_S)
            _resume(source)
            self.paused_s = time.monotonic() - began
        except BaseException:
            _go_on(source)
            raise

    def _freeze(self, source: Monitor, overlays: list[tuple[str, Disk]]) -> None:
        """The record first: an overlay without a word in it, over a disk that is still written to, is that disk.

        No file is renamed: QEMU opens them anew by their names when their permissions change (block/file-posix.c).
        It opens the overlays itself: over one that it was given with `backing: null`, 7.2 leaves the disk open for
        writing at the next fork.
        """
        own = self.store.folder(self.machine)
        names = [source.admit(os.path.join(own, overlay.file)) for _, overlay in overlays]
        self.store.publish(dataclasses.replace(self.machine, disks=tuple(overlay for _, overlay in overlays)))
        self.unused.clear()
        source.execute("transaction", actions=[
            {"type": "blockdev-snapshot-sync", "data": {
                "node-name": node, "snapshot-node-name": overlay.file.removesuffix(".qcow2"),
                "snapshot-file": file, "format": "qcow2", "mode": "existing"}}
            for (node, overlay), file in zip(overlays, names, strict=True)])

    def undo(self, host: Host) -> None:
        for path in self.unused:
            os.unlink(path)
        if self.claimed:
            self._end_keeper(host)
            self.store.remove(self.folder, layout.MANIFEST)

    def _end_keeper(self, host: Host) -> None:
        host.qemu.kill(layout.lock(self.folder))
        shutil.rmtree(self.store.world.fork_run(self.fork), ignore_errors=True)


@contextlib.contextmanager
def _bare(host: Host, run: str) -> Iterator[None]:
    """Without its balloon, which must not be in a state that is restored (launch.of); then with one again."""
    path = layout.socket(run, "qmp.0")
    with host.qemu.monitor(path) as monitor:
        left = balloon.left(monitor) if balloon.there(monitor) else None
        if left is not None and not monitor.execute_until(
                "DEVICE_DELETED", "device_del", id=hardware.BALLOON, timeout_s=PULL_S):
            raise PeerError("the guest does not let go of its balloon", hint="again may help")
    try:
        yield
    finally:
        if left is not None:
            with contextlib.suppress(CloudMeError), host.qemu.monitor(path) as monitor:
                for part in hardware.balloon():
                    monitor.execute("device_add", **part.props)
                monitor.execute("balloon", value=left)


def _go_on(source: Monitor) -> None:
    """However far it came: the machine runs."""
    with contextlib.suppress(CloudMeError):
        source.execute("migrate_cancel")
        _resume(source)


def _resume(source: Monitor) -> None:
    """QEMU says that a migration is over a moment before it lets the machine go on, and does not say when it does."""
    deadline = time.monotonic() + RESUME_S
    while source.execute("query-status")["status"] == "finish-migrate" and time.monotonic() < deadline:
        pass
    source.execute("cont")
