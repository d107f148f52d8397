"""Shares of a machine that is there: some more, some no longer; at once where the machine runs and can be told."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cloudme import defined, folders, index, layout, monitors, seed
from cloudme.errors import Busy, CloudMeError, CommandFailed, PeerError
from cloudme.model import identity, share
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import Machine
from cloudme.model.ports import Host, Json, Monitor
from cloudme.model.share import Share
from cloudme.model.steps import Step, Transaction
from cloudme.qemu import hardware, launch
from cloudme.store import Store

PULL_S, FREE_S, LOOK_S = 30, 5, 0.05
"""What the guest's kernel gets to let go of a device; what QEMU gets to let go of what was behind it, of which no event
tells, and the pace of looking."""


def changed(machine: Machine, more: Sequence[Share], without: Sequence[str]) -> Machine:
    """The machine as it is to be. Raises UsageError, AlreadyExists."""
    defined.refuse(machine, "it is what its definition says", "edit that, then: sudo vmunit generate NAME")
    shares = share.changed(machine.shares, more, without)
    if shares == machine.shares:
        return machine
    return dataclasses.replace(machine, shares=shares, seed_id=identity.new_uuid())


def update(transaction: Transaction, store: Store, old: Machine, new: Machine, settings: Settings) -> str:
    """Write it down, and make it true of a machine that runs. Returns why that waits for its next start; '' for not.

    Raises:  NotFound (a folder), Busy where the guest uses what is to go, PeerError.
    """
    more = [one for one in new.shares if one not in old.shares]
    steps: list[Step] = [*folders.making(store.world, more, of=new), Change(store, old, new, settings)]
    why = ""
    if store.is_running(old) and (_but(old, new) or _but(new, old)):
        why = why_later(transaction.host, store, old, new)
        steps += [] if why else [Swap(store, old, new)]
    transaction.apply(steps)
    return why


@dataclass(frozen=True, slots=True)
class Change:
    """Writes record and seed anew: at the next start it has the shares, and mounts them as it boots."""

    store: Store
    old: Machine
    new: Machine
    settings: Settings

    def describe(self) -> str:
        shares = ", ".join(str(one) for one in self.new.shares) or "nothing"
        return f"let {self.new.name} share {shares}, from its next start on"

    def do(self, host: Host) -> None:
        self._write(host, self.new)

    def undo(self, host: Host) -> None:
        self._write(host, self.old)

    def _write(self, host: Host, machine: Machine) -> None:
        if machine.access.seeded:
            seed.write(host, self.store, machine, self.store.networks_of(self.settings, [machine]))
        self.store.amend(machine.name, shares=machine.shares, seed_id=machine.seed_id)


@dataclass(slots=True)
class Swap:
    """Takes devices from a machine that runs, and gives it others, all in one slot; the guest unmounts, and mounts."""

    store: Store
    old: Machine
    new: Machine
    begun: bool = False

    def describe(self) -> str:
        gone, more = ([one.tag for one in _but(*pair)] for pair in ((self.old, self.new), (self.new, self.old)))
        words = [f"{word} {', '.join(tags)}" for word, tags in (("unplug", gone), ("plug in", more)) if tags]
        return f"{', '.join(words)} while {self.new.name} runs"

    def do(self, host: Host) -> None:
        self._swap(host, self.old, self.new)

    def undo(self, host: Host) -> None:
        if self.begun:
            self._swap(host, self.new, self.old, undoing=True)
        else:
            folders.mount(host, self.store, self.old)

    def _swap(self, host: Host, before: Machine, after: Machine, *, undoing: bool = False) -> None:
        """Of what is to go only what is there is taken, of what is to come only what is not: so it undoes itself."""
        going = _but(before, after)
        if going:
            with contextlib.suppress(*([CommandFailed] if undoing else [])):
                folders.mount(host, self.store, dataclasses.replace(
                    before, shares=tuple(one for one in before.shares if one not in going)))
        with monitors.monitor(host, monitors.of(self.store, before)) as monitor:
            self.begun, tags = True, {one.tag for one in going}
            self._pull(host, monitor, [one for one in _devices(monitor) if one.tag in tags])
            there = {one.tag for one in _devices(monitor)}
            coming = [one for one in _but(after, before) if one.tag not in there]
            ports = _free(monitor) if coming else []
            if coming and not ports:
                raise Busy(f"'{self.new.name}' has no slot left", hint=f"vmrestart {self.new.name}")
            for number, one in reversed(list(enumerate(coming))):
                self._plug(host, monitor, one, number, ports[0])
        if after.shares:
            folders.mount(host, self.store, after)

    def _plug(self, host: Host, monitor: Monitor, one: Share, number: int, port: str) -> None:
        role = f"fs-{one.tag}"
        folder = launch.folder(one, role, self.store.folder(self.new), self.store.run_folder(self.new))
        with host.qemu.serve(folder) as fd:
            monitor.give(role, fd)
            address = {"type": "fd", "data": {"str": role}}
            monitor.execute("chardev-add", id=role,
                            backend={"type": "socket", "data": {"addr": address, "server": False}})
        try:
            for part in hardware.later_share(role, one.tag, number, port):
                monitor.execute("device_add", **part.props)
        except CloudMeError:
            with contextlib.suppress(CloudMeError):
                _forget(monitor, role)
            if not index.held(folder.lock):
                raise PeerError(f"what serves the share '{one.tag}' of '{self.new.name}' ended",
                                hint=f"see {folder.log}") from None
            raise

    def _pull(self, host: Host, monitor: Monitor, devices: Sequence[Device]) -> None:
        for port in sorted({one.port for one in devices}):
            first = next(one for one in devices if one.port == port)
            if not monitor.execute_until("DEVICE_DELETED", "device_del", id=first.name, timeout_s=PULL_S):
                raise PeerError(f"the guest does not let go of the share '{first.tag}'",
                                hint=f"vmrestart {self.new.name}")
        for one in devices:
            _forget(monitor, one.chardev)
            lock = layout.share(self.store.run_folder(self.new), one.tag)
            host.qemu.kill(lock)  # it has ended by itself, or is about to
            with contextlib.suppress(FileNotFoundError):
                os.unlink(lock)


@dataclass(frozen=True, slots=True)
class Device:
    """What a machine that runs has of a share. port: the root port; '' where nothing can be pulled."""

    name: str
    tag: str
    chardev: str
    port: str


def why_later(host: Host, store: Store, old: Machine, new: Machine) -> str:
    """Why this cannot be made true of a machine that runs; '' where it can."""
    if not host.qemu.virtiofs():
        return "QEMU serves 9p from its start on"
    if down := folders.down(store, old):
        return f"its share '{down[0].tag}' is down"
    with monitors.monitor(host, monitors.of(store, old)) as monitor:
        if not any(one["id"] == "ram0" and one["share"] for one in monitor.execute("query-memdev")):
            return "it was started without shares, so nobody else sees its memory"
        if not any(one["label"] == "agent" and one.get("frontend-open") for one in monitor.execute("query-chardev")):
            return "no guest agent answers, who would mount them"
        gone, devices = {one.tag for one in _but(old, new)}, _devices(monitor)
        pulled = {one.port for one in devices if one.tag in gone}
        if "" in pulled:
            return "what it was started with stays until then"
        if any(one.port in pulled and one.tag not in gone for one in devices):
            return "others are in the same slot, and would go, too"
        if any(one.tag == more.tag and one.tag not in gone for one in devices for more in _but(new, old)):
            return "it has another one of that tag until then"
        if _but(new, old) and not (pulled or _free(monitor)):
            return "it has no slot left"
    return ""


def _but(these: Machine, those: Machine) -> list[Share]:
    """Shares that are not among those; owner and mode are of a folder that is made, and no difference afterwards."""
    known = {(one.source, one.mount_point, one.tag, one.readonly) for one in those.shares}
    return [one for one in these.shares if (one.source, one.mount_point, one.tag, one.readonly) not in known]


def _inhabitants(monitor: Monitor) -> dict[str, list[str]]:
    """Each root port of a machine -> the ids of what is in it; '' for its root bus."""
    found: dict[str, list[str]] = {"": []}
    for device in (device for bus in monitor.execute("query-pci") for device in bus["devices"]):
        if device["qdev_id"] in hardware.ROOT_PORTS:
            inner: Json = device["pci_bridge"].get("devices", [])
            found[device["qdev_id"]] = [one["qdev_id"] for one in inner]
        else:
            found[""].append(device["qdev_id"])
    return found


def _free(monitor: Monitor) -> list[str]:
    return [port for port, there in _inhabitants(monitor).items() if port and not there]


def _devices(monitor: Monitor) -> list[Device]:
    """The shares that a machine has now, whatever its record says."""
    return [Device(name, _property(monitor, name, "tag"), _property(monitor, name, "chardev"), port)
            for port, names in _inhabitants(monitor).items() for name in names if name.startswith("share")]


def _property(monitor: Monitor, device: str, name: str) -> str:
    return str(monitor.execute("qom-get", path=f"/machine/peripheral/{device}", property=name))


def _forget(monitor: Monitor, chardev: str) -> None:
    """Remove it, once the device has let go of it."""
    deadline = time.monotonic() + FREE_S
    while True:
        try:
            monitor.execute("chardev-remove", id=chardev)
            return
        except PeerError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(LOOK_S)
