"""Machines of their own, on an image rather than on a template: made, and told anew who may come in, and where."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cloudme import claim, defined, folders, layout, seed
from cloudme.errors import AlreadyExists, CommandFailed, PeerError, TimedOut, UsageError
from cloudme.formats import render
from cloudme.model import identity, limits
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import Access, Board, Disk, Image, Kernel, Limits, Machine, Nic, Port, Shape, disk_file
from cloudme.model.names import ImageName, Name
from cloudme.model.network import Network
from cloudme.model.ports import Ended, Host, Target
from cloudme.model.share import Share
from cloudme.model.steps import Transaction
from cloudme.model.units import human
from cloudme.qemu import taps
from cloudme.store import Store, reported, write_atomic

OPEN = 0o444
APPLY_S, PROOF_S = 60, 60
"""What a guest gets to change its address, and to let somebody in there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What `vmcreate --machine` was asked for. user None: the image's; disk_bytes None: the image's size, at least.

    kernel: what it boots; files: where that is copied from, by the name that it gets.
    like: gives the planned machine what else it is to have.
    public_key:  the text of the file; key_file: the private one that belongs to it, for our own commands.
    """

    name: Name
    image: ImageName
    group: str
    type: Name
    user: str | None
    public_key: str
    key_file: str
    networks: tuple[Name, ...]
    address: str | None
    user_data: str
    shape: Shape
    disk_bytes: int
    vnc_port: int | None
    isolate: bool = False
    net_rate: int | None = None
    limits: Limits = field(default_factory=Limits)
    ports: tuple[Port, ...] | None = None
    board: str = Board.q35
    kernel: Kernel | None = None
    vsock_cid: int | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    shares: tuple[Share, ...] = ()
    devices: tuple[str, ...] = ()
    like: Callable[[Machine], Machine] = lambda machine: machine


def make(transaction: Transaction, store: Store, wanted: Wanted, settings: Settings) -> Machine:
    """Make a machine, and return it; it does not run yet.

    Raises:  AlreadyExists (name, address), NotFound (image, network), UsageError (address), Busy (none is free).
    """
    host = transaction.host
    image = store.image(wanted.image)
    networks = {name: store.network_of(settings, name) for name in wanted.networks}
    if os.path.exists(store.world.machine_record(wanted.name)):
        raise AlreadyExists(f"there is a machine '{wanted.name}' already", hint=f"vmupdate {wanted.name}")
    claim.check_cid(store, wanted.vsock_cid)
    claim.check_apart(wanted.isolate, wanted.net_rate, list(networks.values()))
    claim.check_ports(wanted.ports, list(networks.values()))
    first, addresses = networks[wanted.networks[0]], [wanted.address] if wanted.address else []
    claim.check_free(host, store, first, addresses)
    limits.check(wanted.limits, wanted.shape.ram_mib)
    host.groups.check(wanted.limits, store.world.machines)
    made = folders.making(store.world, wanted.shares)
    user = wanted.user or image.user
    if user == "root":
        raise UsageError(f"nobody logs in as root here, and image '{image.name}' names nobody else", hint="--user NAME")
    with store.locked() if not transaction.dry_run else contextlib.nullcontext():
        claim.check_records(store, first, addresses)
        machine = wanted.like(_machine(store, wanted, image, user, networks, host.now()))
        taken = claim.Claim(store, machine, networks)
        transaction.apply([taken])
    transaction.apply([*made, Make(store, machine, networks, wanted)])
    taken.let_go()
    return machine


def _machine(
    store: Store, wanted: Wanted, image: Image, user: str, networks: Mapping[Name, Network], now_s: float,
) -> Machine:
    uuid = identity.new_uuid()
    return Machine(
        name=wanted.name, uuid=uuid, group=wanted.group, type=wanted.type, template=None, shape=wanted.shape,
        disks=(Disk(file=disk_file(), size_bytes=max(wanted.disk_bytes, image.size_bytes)),),
        nics=tuple(_nic(store, networks[name], uuid, index, wanted.address if index == 0 else None)
                   for index, name in enumerate(wanted.networks)),
        access=Access(user=user, key_of=None, seeded=True, key_file=wanted.key_file),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s)), image=image.name, vnc_port=wanted.vnc_port,
        isolate=wanted.isolate, net_rate=wanted.net_rate,
        limits=wanted.limits, ports=wanted.ports, board=wanted.board, kernel=wanted.kernel, vsock_cid=wanted.vsock_cid,
        shares=wanted.shares, devices=wanted.devices,
    )


def _nic(store: Store, network: Network, uuid: str, index: int, address: str | None) -> Nic:
    """A card; one whose address was chosen is told it by the seed, whatever DHCP there is."""
    if address is None and not network.external:
        return claim.nic(network, uuid, index, claim.addresses(store, network, 1)[0])
    told = address is not None and (network.external or not network.shared)
    return dataclasses.replace(claim.nic(network, uuid, index, address), static=told)


@dataclass(frozen=True, slots=True)
class Make:
    """Makes a claimed machine whole; undone with its claim."""

    store: Store
    machine: Machine
    networks: Mapping[Name, Network]
    wanted: Wanted

    def describe(self) -> str:
        return (f"make machine {self.machine.name} on image {self.machine.image}, disk "
                f"{human(self.machine.disks[0].size_bytes)}, for user {self.machine.access.user}")

    def do(self, host: Host) -> None:
        folder = self.store.folder(self.machine)
        with reported(folder):
            write_atomic(os.path.join(folder, seed.PUBLIC_KEY), self.wanted.public_key)
            if self.wanted.user_data:
                write_atomic(os.path.join(folder, seed.USER_DATA), self.wanted.user_data, mode=0o600)
            disk, base = self.machine.disks[0], self.store.world.image_disk(self.wanted.image)
            path = os.path.join(folder, disk.file)
            host.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path, str(disk.size_bytes)])
            os.chmod(path, 0o600)
            for name, source in self.wanted.files.items():  # QEMU opens them by itself, as a user without rights
                shutil.copyfile(source, os.path.join(folder, name))
                os.chmod(os.path.join(folder, name), OPEN)
            seed.write(host, self.store, self.machine, self.networks)
            with self.store.locked():  # the image may have been removed meanwhile; from now on it cannot be
                self.store.image(self.wanted.image)
                self.store.publish(self.machine)

    def undo(self, host: Host) -> None:
        """Nothing: undoing the claim removes the whole folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What `vmupdate` was asked for; None leaves as it is."""

    public_key: str | None = None
    key_file: str | None = None
    address: str | None = None
    user_data: str | None = None


def changed(host: Host, store: Store, machine: Machine, change: Change, settings: Settings) -> Machine | None:
    """The machine as it is to be; None where that is what it is.

    Raises:  UsageError (it stands on a template; the address), AlreadyExists (the address).
    """
    defined.refuse(machine, "it is what its definition says", "edit that, then: sudo vmunit generate NAME")
    if machine.image is None:
        raise UsageError(f"'{machine.name}' is a clone: its template's key opens it",
                         hint="vmupdate is for machines of vmcreate --machine")
    first, *others = machine.nics
    if change.address and change.address != first.address:
        network = store.network_of(settings, first.network)
        if network.shared and not network.external:
            raise UsageError(f"on root's network '{network.name}' an address goes with its card",
                             hint=f"vmcreate makes another machine; '{machine.name}' keeps {first.address}")
        claim.check_free(host, store, network, [change.address], own=machine.name)
        first = dataclasses.replace(first, address=change.address, static=True)
    access = machine.access
    if change.public_key is not None:
        access = dataclasses.replace(access, key_file=change.key_file)
    new = dataclasses.replace(machine, nics=(first, *others), access=access)
    files = {seed.PUBLIC_KEY: change.public_key, seed.USER_DATA: change.user_data}
    same = all(text is None or text == seed.own(store, machine, file) for file, text in files.items())
    return None if new == machine and same else dataclasses.replace(new, seed_id=identity.new_uuid())


@dataclass(slots=True)
class Update:
    """Writes record, keys, reservation and seed anew; its undo writes the old ones."""

    store: Store
    old: Machine
    new: Machine
    change: Change
    settings: Settings
    before: dict[str, str] = field(default_factory=dict)

    def describe(self) -> str:
        parts = [("key", self.change.public_key), ("user-data", self.change.user_data)]
        words = [word for word, given in parts if given is not None]
        if self.new.address != self.old.address:
            words.append(f"address {self.new.address}")
        return f"write the seed of {self.new.name} anew: {', '.join(words)}"

    def do(self, host: Host) -> None:
        self.before = {file: seed.own(self.store, self.old, file) for file in (seed.PUBLIC_KEY, seed.USER_DATA)}
        self._write(host, self.new, {seed.PUBLIC_KEY: self.change.public_key, seed.USER_DATA: self.change.user_data})

    def undo(self, host: Host) -> None:
        self._write(host, self.old, self.before)

    def _write(self, host: Host, machine: Machine, files: Mapping[str, str | None]) -> None:
        folder = self.store.folder(machine)
        for file, text in files.items():
            if text is not None:
                write_atomic(os.path.join(folder, file), text, mode=0o600 if file == seed.USER_DATA else 0o644)
        networks = self.store.networks_of(self.settings, [machine])
        nic = machine.nics[0]
        if nic.address:
            self.store.reserve(networks[nic.network], machine.name, nic.mac, nic.address)
        seed.write(host, self.store, machine, networks)
        self.store.publish(machine)


@dataclass(slots=True)
class Apply:
    """Makes a change true in a guest that runs, and proves it; its undo makes the old state true again.

    target:  where the guest is before the change.
    """

    update: Update
    network: Network
    target: Target

    @property
    def store(self) -> Store:
        return self.update.store

    @property
    def new(self) -> Machine:
        return self.update.new

    def describe(self) -> str:
        return f"change {self.new.name} while it runs, and log in with the new key at the new address"

    def do(self, host: Host) -> None:
        self._guard(host, self.update.old, self.new)
        keys = self.update.change.public_key or self.update.before[seed.PUBLIC_KEY]
        self._tell(host, self.update.old, self.new, self.target, keys)
        target = self.store.target(self.new)
        if (stage := _reached(host, target)) != "ready":
            raise TimedOut(f"'{self.new.name}' was changed, but nobody gets in at {target.address} with "
                           f"{target.key_file} ({stage}): it is as before again", hint=f"vmconsole {self.new.name}")
        if self.target.key_file != target.key_file and os.path.exists(self.target.key_file) \
                and host.shell.probe(dataclasses.replace(target, key_file=self.target.key_file)) == "ready":
            raise PeerError(f"the old key {self.target.key_file} still opens '{self.new.name}'")
        self._guard(host, self.new, self.new)

    def undo(self, host: Host) -> None:
        self._guard(host, self.update.old, self.new)
        self._tell(host, self.new, self.update.old, self.store.target(self.new), self.update.before[seed.PUBLIC_KEY])
        _reached(host, self.target)
        self._guard(host, self.update.old, self.update.old)

    def _guard(self, host: Host, before: Machine, after: Machine) -> None:
        """Let the machine have the addresses of both, until it is known which it has."""
        networks = self.store.networks_of(self.update.settings, [self.new])
        host.net.guard(taps.changing(taps.of(before, networks), taps.of(after, networks)))

    def _tell(self, host: Host, before: Machine, after: Machine, reach: Target, keys: str) -> None:
        length = self.network.address.network.prefixlen
        words = [after.access.user, after.nics[0].mac, before.address or "", after.address or "", str(length),
                 str(self.network.address.ip)]
        script = render.script("update.sh", self.store.world.config)
        ended = self._run(host, ["/bin/sh", "-c", script, "update.sh", *words], keys.encode(), reach)
        if ended.status:
            said = ended.stderr.decode(errors="replace").strip() or f"exit status {ended.status}"
            raise CommandFailed(f"'{after.name}' could not be changed: {said}", hint=f"vmrestart {after.name}")

    def _run(self, host: Host, argv: list[str], stdin: bytes, reach: Target) -> Ended:
        """By the guest agent, where one listens; else by ssh, as long as the old key opens."""
        import shlex

        run = self.store.run_folder(self.new)
        with host.qemu.monitor(layout.socket(run, "qmp.0")) as monitor:
            ports: dict[str, Any] = {port["label"]: port for port in monitor.execute("query-chardev")}
        if ports.get("agent", {}).get("frontend-open"):
            return host.agent.execute(layout.socket(run, "agent"), argv, stdin=stdin, timeout_s=APPLY_S)
        return host.shell.run(reach, f"sudo -n {shlex.join(argv)}", stdin=stdin, timeout_s=APPLY_S)


def _reached(host: Host, target: Target) -> str:
    """How far a log-in comes, once the guest is at its address: a word of `Shell.probe`."""
    deadline = time.monotonic() + PROOF_S
    stage = ""
    while time.monotonic() < deadline and stage not in ("ready", "refused", "host-key"):
        stage = host.shell.probe(target, timeout_s=10)
    return stage
