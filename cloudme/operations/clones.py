"""Clones of templates: names and addresses chosen, disks laid over the template's, seeds written, all or none."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cloudme import claim, defined, folders, index, layout, notes, passthrough, seed
from cloudme.errors import AlreadyExists, Busy, StoreError
from cloudme.model import identity, limits
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import CloneRequest, Disk, Machine, Nic, Template, disk_file
from cloudme.model.names import Name, numbered
from cloudme.model.network import Network
from cloudme.model.ports import Host
from cloudme.model.steps import Parallel, Transaction
from cloudme.store import FROZEN, Store, blank, reported, take_lock, write_atomic


@contextlib.contextmanager
def making(
    transaction: Transaction, store: Store, requests: Sequence[CloneRequest], settings: Settings,
    based: Callable[[Machine], Machine] = lambda machine: machine,
) -> Iterator[list[Machine]]:
    """Make every clone that is asked for, or none; yields them in the order of the requests.

    based:   gives a planned machine the RAM image that it stands on, if any, and what comes of that. These machines are
             not published yet: who restores them inside the block does that, when they are what they shall be.
    Raises:  NotFound (template), Busy (template runs, no address is free), StoreError (disk).
    """
    templates = {request.template: store.template(request.template) for request in requests}
    for template in templates.values():
        _check(store, template)
    networks = {name: store.network_of(settings, name) for request in requests for name in request.networks}
    for request in requests:
        claim.check_apart(request.isolate, request.net_rate, [networks[name] for name in request.networks])
        claim.check_ports(request.ports, [networks[name] for name in request.networks])
        limits.check(request.limits, request.ram_mib or templates[request.template].shape.ram_mib)
        transaction.host.groups.check(request.limits, store.world.machines)
    for name, network in networks.items():
        claim.check_free(transaction.host, store, network, [
            address for request in requests if request.networks[0] == name for address in request.addresses])
    made = folders.making(store.world, (share for request in requests for share in request.shares))
    with store.locked() if not transaction.dry_run else contextlib.nullcontext():
        for request in requests:  # somebody may have been quicker
            claim.check_records(store, networks[request.networks[0]], request.addresses)
        machines = [based(machine) for machine in _plan(store, requests, templates, networks)]
        claims = [claim.Claim(store, machine, networks) for machine in machines]
        transaction.apply(claims)
    freezes: list[Freeze | Hold] = [
        *(Freeze(store, template) for template in templates.values()),
        *(Hold(base) for base in {_base(store, machine) for machine in machines if machine.bases})]
    try:
        transaction.apply([*made, *freezes])
        texts = [request.user_data for request in requests for _ in range(request.count)]
        transaction.apply([Parallel([Fill(store, machine, networks, text)
                                     for machine, text in zip(machines, texts, strict=True)])])
        yield machines
        for one in claims:
            one.let_go()
    finally:
        for freeze in freezes:
            freeze.let_go()


def destroy(transaction: Transaction, store: Store, machines: Sequence[Machine]) -> None:
    """Remove stopped machines with their disks, names and addresses. Raises Busy where one runs."""
    defined.check_apart(machines)
    for machine in machines:
        defined.refuse(machine, "its disks are its definition's", "vmdestroy NAME")
        if store.is_running(machine) and not transaction.dry_run:
            raise Busy(f"'{machine.name}' runs", hint=f"vmstop {machine.name}")
    transaction.apply([Destroy(store, machine) for machine in machines])


def _template(machine: Machine) -> Name:
    assert machine.template is not None
    return machine.template


def _base(store: Store, machine: Machine) -> str:
    """The folder of the disk that the machine's stands on."""
    if machine.bases:
        return os.path.join(store.world.data, machine.bases[-1])
    return store.world.template(_template(machine))


def _check(store: Store, template: Template) -> None:
    if index.held(layout.lock(store.world.template(template.name))):
        raise Busy(f"template '{template.name}' runs", hint="power it off first")
    disk = os.path.join(store.world.template(template.name), template.disk.file)
    if not os.path.exists(disk):
        raise StoreError(f"template '{template.name}' has lost its disk {disk}")


def _plan(
    store: Store, requests: Sequence[CloneRequest], templates: dict[Name, Template], networks: Mapping[Name, Network],
) -> list[Machine]:
    """Choose names and addresses; called under the store's lock. Folders of crashed attempts count as free names."""
    world = store.world
    taken = {name for name in index.names(world.machines)
             if index.state(world.machine(name), layout.MACHINE_RECORD) != "debris"}
    free = {name: _free(store, network, requests) for name, network in networks.items()}
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    machines = []
    next_number: Counter[str] = Counter()
    for request in requests:
        given = iter(request.addresses)
        for _ in range(request.count):
            while (name := request.name or numbered(request.prefix, next_number[request.prefix])) in taken:
                if request.name:
                    raise AlreadyExists(f"there is a machine '{name}' already")
                next_number[request.prefix] += 1
            taken.add(name)
            uuid = identity.new_uuid()
            first, *others = request.networks
            nics = (claim.nic(networks[first], uuid, 0, next(given, None) or next(free[first])),
                    *(claim.nic(networks[other], uuid, number, next(free[other]))
                      for number, other in enumerate(others, 1)))
            machines.append(_machine(name, uuid, request, templates[request.template], nics, created))
    return machines


def _free(store: Store, network: Network, requests: Sequence[CloneRequest]) -> Iterator[str | None]:
    """An address for each card that needs one; None for ever where the network's DHCP is not ours."""
    if network.external:
        return itertools.repeat(None)
    wanted = sum(request.count for request in requests for name in request.networks
                 if name == network.name and not (request.addresses and name == request.networks[0]))
    given = [address for request in requests for address in request.addresses if request.networks[0] == network.name]
    return iter(claim.addresses(store, network, wanted, given))


def _machine(
    name: Name, uuid: str, request: CloneRequest, template: Template, nics: tuple[Nic, ...], created: str,
) -> Machine:
    shape = dataclasses.replace(
        template.shape, **{key: value for key, value in (("ram_mib", request.ram_mib), ("vcpus", request.vcpus))
                           if value is not None})
    extra = tuple(Disk(file=disk_file(number), size_bytes=size) for number, size in enumerate(request.extra_disks, 1))
    return Machine(
        name=name, uuid=uuid, group=request.group, type=request.type, template=template.name, shape=shape,
        disks=(Disk(file=disk_file(), size_bytes=template.disk.size_bytes), *extra),
        nics=nics, access=template.access, created=created, isolate=request.isolate, net_rate=request.net_rate,
        limits=request.limits, ports=request.ports, shares=request.shares,
    )


@dataclass(slots=True)
class Freeze:
    """Makes the template's disk read-only and lays the blank overlay beside it; once for ever.

    It shares the template's lock until it is let go, when the clones are published and protect the template.
    """

    store: Store
    template: Template
    lock: int = field(default=-1)

    def describe(self) -> str:
        return f"freeze the disk of template {self.template.name}"

    def do(self, host: Host) -> None:
        folder = self.store.world.template(self.template.name)
        disk, overlay = os.path.join(folder, self.template.disk.file), os.path.join(folder, blank())
        with reported(folder):
            self.lock = take_lock(layout.lock(folder), shared=True)
            os.chmod(disk, FROZEN)
            if not os.path.exists(overlay):
                temporary = f"{overlay}.{os.getpid()}"
                host.run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", disk, "-F", "qcow2", temporary,
                          str(self.template.disk.size_bytes)])
                os.rename(temporary, overlay)

    def undo(self, host: Host) -> None:
        """Stays: another call may have cloned it meanwhile, and a frozen template without clones harms nobody."""

    def let_go(self) -> None:
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


@dataclass(slots=True)
class Hold:
    """Shares the lock of a RAM image until the clones are published and protect it."""

    folder: str
    lock: int = field(default=-1)

    def describe(self) -> str:
        return f"use the RAM image {self.folder}"

    def do(self, host: Host) -> None:
        with reported(self.folder):
            self.lock = take_lock(layout.maker(self.folder), shared=True)

    def undo(self, host: Host) -> None:
        """It is let go in any case."""

    def let_go(self) -> None:
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


@dataclass(slots=True)
class Fill:
    """Makes a claimed machine whole: disks, keys, seed, and last, unless it is restored, the record.

    Undone with its claim.
    """

    store: Store
    machine: Machine
    networks: Mapping[Name, Network]
    user_data: str = ""

    def describe(self) -> str:
        return f"make {self.machine.name}: a clone of {self.machine.template}, group {self.machine.group}, " \
               f"type {self.machine.type}, {self.machine.shape.vcpus} CPUs, {self.machine.shape.ram_mib} MiB"

    def do(self, host: Host) -> None:
        world = self.store.world
        folder = world.machine(self.machine.name)
        with reported(folder):
            base = _base(self.store, self.machine)
            for index, disk in enumerate(self.machine.disks):
                path, overlay = os.path.join(folder, disk.file), os.path.join(base, blank(index))
                if os.path.exists(overlay):
                    shutil.copyfile(overlay, path)
                else:
                    host.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(disk.size_bytes)])
                os.chmod(path, 0o600)
            if self.user_data:
                write_atomic(os.path.join(folder, seed.USER_DATA), self.user_data, mode=0o600)
            if self.machine.access.seeded:
                seed.write(host, self.store, self.machine, self.networks)
            if not self.machine.bases:
                self.store.publish(self.machine)

    def undo(self, host: Host) -> None:
        """Nothing: undoing the claim removes the whole folder."""


@dataclass(slots=True)
class Destroy:
    """Removes a machine. There is no way back: it was asked for, and confirmed."""

    store: Store
    machine: Machine

    def describe(self) -> str:
        return f"destroy {self.machine.name} and its disks"

    def do(self, host: Host) -> None:
        world = self.store.world
        host.qemu.bury(self.machine.uuid)
        for nic in self.machine.nics:
            self.store.release(nic.network, self.machine.name)
        self.store.remove(world.machine(self.machine.name), layout.MACHINE_RECORD)
        shutil.rmtree(world.machine_run(self.machine.name), ignore_errors=True)
        for base in self.machine.bases:
            _forget_fork(self.store, os.path.join(world.data, base))
        passthrough.sweep(host, world, own=[self.machine])
        notes.forget(world.loan(self.machine.uuid))

    def undo(self, host: Host) -> None:
        """Nothing can bring a disk back."""


def _forget_fork(store: Store, folder: str) -> None:
    """Remove the memory and the disk of a machine that was forked, with the last of its clones."""
    if os.path.dirname(folder) != store.world.forks or store.standing_on(folder):
        return
    with contextlib.suppress(Busy, FileNotFoundError):  # somebody is about to make more of them
        lock = take_lock(layout.maker(folder))
        try:
            store.remove(folder, layout.MANIFEST)
        finally:
            os.close(lock)

