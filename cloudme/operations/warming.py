"""RAM images of templates: made, listed, dropped."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field

from cloudme import index, layout, place, seed, warm
from cloudme.errors import Busy, CommandFailed, NotFound, UsageError
from cloudme.formats import render
from cloudme.model.machine import WARMING, Machine, Template
from cloudme.model.network import Network
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction, deferred
from cloudme.model.warm import DISK
from cloudme.qemu import launch
from cloudme.store import FROZEN, Store, reported, take_lock

SETTLE_S = 300
"""How long a guest may take to settle after its agent answered."""

Wait = Callable[[Machine], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What there is to say of a template's RAM image. why_not: why it cannot be used now, None where it can."""

    template: str
    size_bytes: int
    created: str
    clones: list[str]
    why_not: str | None


def machine_of(template: Template) -> Machine:
    """The template as the machine whose memory is saved: without cards."""
    return dataclasses.replace(template.machine(), group=WARMING, nics=(), cdrom=None)


def listed(host: Host, store: Store, accel: str) -> list[Image]:
    """The RAM images of all templates."""
    found = []
    for template in store.templates():
        folder = store.world.warm(template.name)
        if manifest := warm.manifest(folder):
            size = sum(os.stat(os.path.join(folder, file)).st_blocks * 512 for file in os.listdir(folder))
            found.append(Image(
                template=template.name, size_bytes=size, created=manifest.created, clones=store.standing_on(folder),
                why_not=warm.why_not(host, folder, machine_of(template), accel)))
    return found


def make(
    transaction: Transaction, store: Store, template: Template, network: Network, *, accel: str, wait: Wait,
    say: Callable[[str], None],
) -> bool:
    """Make the RAM image of a template, unless it has a valid one. Returns whether it was made.

    wait:    returns when the agent of the machine answers.
    Raises:  Busy (it runs, clones live on an older image), UsageError (it was installed by hand),
             CommandFailed with what the guest said, where it is of a kind that cannot be scrubbed.
    """
    host = transaction.host
    folder = store.world.warm(template.name)
    machine = machine_of(template)
    if warm.manifest(folder):
        if warm.why_not(host, folder, machine, accel) is None:
            return False
        _without_clones(store, template)
    if not template.access.seeded:
        raise UsageError(f"template '{template.name}' was installed by hand: nobody knows what its clones may share",
                         hint="vminstantiate boots its clones")
    if not template.prepared:
        raise UsageError(f"template '{template.name}' was never prepared", hint="vmcreate without --no-prepare")
    if index.held(layout.lock(store.world.template(template.name))):
        raise Busy(f"template '{template.name}' runs", hint="power it off first")
    transaction.apply([Make(store, template, network, accel, wait, say)])
    return True


def drop(transaction: Transaction, store: Store, template: Template) -> None:
    """Remove a template's RAM image. Raises NotFound where there is none, Busy while clones live on it."""
    if not warm.manifest(store.world.warm(template.name)):
        raise NotFound(f"template '{template.name}' has no RAM image", hint=f"vmwarm {template.name}")
    _without_clones(store, template)
    transaction.apply([Drop(store, template)])


def _without_clones(store: Store, template: Template) -> None:
    if clones := store.standing_on(store.world.warm(template.name)):
        raise Busy(f"the RAM image of template '{template.name}' has clones: {', '.join(clones)}",
                   hint="vmstop -d destroys machines")


@dataclass(slots=True)
class Make:
    """Boots the template over its disk, without a card, and saves it when it rests."""

    store: Store
    template: Template
    network: Network
    accel: str
    wait: Wait
    say: Callable[[str], None]
    claimed: bool = field(default=False)

    def describe(self) -> str:
        return f"make the RAM image of template {self.template.name}, {self.template.shape.ram_mib} MiB"

    def do(self, host: Host) -> None:
        world, name = self.store.world, self.template.name
        folder = world.warm(name)
        with contextlib.ExitStack() as mine, reported(folder):
            mine.callback(os.close, take_lock(layout.lock(world.template(name)), shared=True))
            with self.store.locked(), deferred():
                if warm.manifest(folder):
                    _drop(self.store, self.template)
                mine.callback(os.close, self.store.claim(host, folder, layout.MANIFEST))
                self.claimed = True
            machine = machine_of(self.template)
            kind = warm.kind(host, machine, self.accel)
            place = self._furnish(host, machine)
            host.qemu.start(launch.of(machine, place, launch.Ram(
                path=os.path.join(folder, layout.RAM), qemu=kind.qemu, use="boot")))
            self.wait(machine)
            self._rest(host, place)
            self._save(host, place)
            seed.remove(self.store, machine)
            warm.publish(host, folder, kind, disks=[dataclasses.replace(machine.disks[0], file=DISK)],
                         others=[warm.TEMPLATE_DISK])

    def _furnish(self, host: Host, machine: Machine) -> launch.Place:
        """Everything that the machine needs, in the image's own folder: the template's disk is only read."""
        world = self.store.world
        folder, disk = world.warm(self.template.name), os.path.join(world.template(self.template.name), DISK)
        os.chmod(disk, FROZEN)
        host.run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", disk, "-F", "qcow2",
                  os.path.join(folder, DISK), str(self.template.disk.size_bytes)])
        warm.empty(folder, machine.shape.ram_mib)
        seed.write(host, self.store, machine, {self.network.name: self.network})
        return place.of(self.store, machine, accel=self.accel, networks={})

    def _rest(self, host: Host, place: launch.Place) -> None:
        """Wait until nothing starts any more, scrub, and leave the process that gives each clone its identity."""
        agent, config = layout.socket(place.run, "agent"), self.store.world.config
        for argv, script, words in (
            ("/bin/sh", "settle.sh", "waiting until it has settled"),
            ("/bin/sh", "scrub.sh", "scrubbing it"),
            ("/usr/bin/python3", "identity.py", "saving it"),
        ):
            self.say(f"{self.template.name}: {words}")
            ended = host.agent.execute(agent, [argv, "-"] if argv.endswith("3") else [argv, "-s"],
                                       stdin=render.script(script, config).encode(), timeout_s=SETTLE_S)
            if ended.status:
                said = ended.stderr.decode(errors="replace").strip() or f"exit status {ended.status}"
                raise CommandFailed(f"template '{self.template.name}' cannot be saved: {said}",
                                    hint="its clones are booted: vminstantiate --cold")

    def _save(self, host: Host, place: launch.Place) -> None:
        with host.qemu.monitor(layout.socket(place.run, "qmp.0")) as monitor:
            monitor.execute("stop")
            warm.save(monitor, place.folder)
        host.qemu.kill(layout.lock(place.folder))

    def undo(self, host: Host) -> None:
        if self.claimed:
            host.qemu.kill(layout.lock(self.store.world.warm(self.template.name)))
            _remove(self.store, self.template)


@dataclass(frozen=True, slots=True)
class Drop:
    store: Store
    template: Template

    def describe(self) -> str:
        return f"drop the RAM image of template {self.template.name}"

    def do(self, host: Host) -> None:
        _drop(self.store, self.template)

    def undo(self, host: Host) -> None:
        """Nothing brings it back; vmwarm makes another."""


def _drop(store: Store, template: Template) -> None:
    """Raises Busy where clones live on it, or are being made."""
    folder = store.world.warm(template.name)
    with reported(folder):
        lock = take_lock(layout.maker(folder))
    try:
        _without_clones(store, template)
        _remove(store, template)
    finally:
        os.close(lock)


def _remove(store: Store, template: Template) -> None:
    store.remove(store.world.warm(template.name), layout.MANIFEST)
    shutil.rmtree(store.world.warm_run(template.name), ignore_errors=True)
