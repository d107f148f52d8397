"""Templates: made from an image or an ISO, adjusted, brought to the standard, removed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cloudme import chains, index, layout, place, seed
from cloudme.errors import AlreadyExists, Busy, CommandFailed, NotFound, SpecError, UsageError
from cloudme.formats import render
from cloudme.model import identity
from cloudme.model.machine import Access, Disk, Machine, Nic, Shape, Template
from cloudme.model.names import Name
from cloudme.model.network import DEFAULT_NETWORK
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction, deferred
from cloudme.model.units import human
from cloudme.store import Store, blank, reported, take_lock, write_atomic

SAFEGUARD = "cloudme-before-change"
"""The internal snapshot of a template's disk that a failed change goes back to (qemu-img(1), snapshot)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What vmcreate was asked for. One of image (a name), file (a disk), iso (a path); sizes None: the default."""

    name: Name
    image: Name | None = None
    file: str | None = None
    iso: str | None = None
    vcpus: int
    ram_mib: int
    disk_bytes: int | None = None


def make(transaction: Transaction, store: Store, wanted: Wanted, *, default_disk_bytes: int) -> Template:
    """Make a template, not yet prepared, and return it.

    Raises:  AlreadyExists, NotFound (image, file), SpecError (no disk, a broken one), UsageError (shrinking).
    """
    host = transaction.host
    base = check_source(host, store, wanted)
    smallest = base or 0
    size = wanted.disk_bytes or (smallest or default_disk_bytes)
    if size < smallest:
        raise UsageError(f"a disk of {human(size)} is smaller than the image's {human(smallest)}")
    uuid = identity.new_uuid()
    template = Template(
        name=wanted.name, uuid=uuid, shape=Shape(vcpus=wanted.vcpus, ram_mib=wanted.ram_mib),
        disk=Disk(file="disk.qcow2", size_bytes=size),
        nic=Nic(network=DEFAULT_NETWORK, mac=identity.mac(uuid), address=None),
        access=Access(user="root", key_of=wanted.name, seeded=wanted.iso is None),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(host.now())), image=wanted.image,
        iso=os.path.abspath(wanted.iso) if wanted.iso else None,
    )
    if os.path.exists(store.world.template_record(wanted.name)):
        raise AlreadyExists(f"there is a template '{wanted.name}' already", hint=f"vmcreate -a -n {wanted.name}")
    transaction.apply([Make(store, template, wanted)])
    return template


def same(template: Template, wanted: Wanted) -> bool:
    """Whether `template` is what a call that makes `wanted` would leave behind."""
    return (template.prepared and wanted.image is not None and template.image == wanted.image
            and template.shape == Shape(vcpus=wanted.vcpus, ram_mib=wanted.ram_mib)
            and wanted.disk_bytes in (None, template.disk.size_bytes))


def check_source(host: Host, store: Store, wanted: Wanted) -> int | None:
    """The size of the disk that the template will stand on, None for an ISO. Raises NotFound, SpecError."""
    if wanted.image:
        return store.image(wanted.image).size_bytes
    path = wanted.file or wanted.iso
    assert path
    if not os.path.isfile(path):
        raise NotFound(f"there is no file '{path}'", hint="cmimage list shows the images that have a name")
    if wanted.iso:
        with open(path, "rb") as file:
            file.seek(0x8001)
            if file.read(5) != b"CD001":  # ECMA-119, 8.1: the identifier of the first volume descriptor
                raise SpecError([f"{path}: this is no ISO image"])
        return None
    return disk_size(host, path)


def disk_size(host: Host, path: str) -> int:
    """The virtual size of a qcow2 or raw disk that is whole. Raises SpecError."""
    import json

    try:
        found = json.loads(host.run(["qemu-img", "info", "--output=json", path]))
        if found["format"] == "qcow2":
            host.run(["qemu-img", "check", "-q", path], timeout_s=600)
    except CommandFailed as error:
        raise SpecError([f"{path}: this disk is broken: {error.message}"]) from error
    if found["format"] not in ("qcow2", "raw"):
        raise SpecError([f"{path}: a {found['format']} disk"], hint=f"qemu-img convert -O qcow2 {path} NEW")
    if "backing-filename" in found:
        raise SpecError([f"{path}: this disk stands on another one"], hint=f"qemu-img convert -O qcow2 {path} NEW")
    return int(found["virtual-size"])


def adjust(
    transaction: Transaction, store: Store, name: Name, *, vcpus: int | None, ram_mib: int | None,
    disk_bytes: int | None,
) -> Template:
    """Change memory and CPUs and grow the disk of a stopped template without clones.

    Raises:  Busy (it runs, it has clones), UsageError (a shrink).
    """
    template = store.template(name)
    without_clones(store, template)
    shape = Shape(vcpus=vcpus or template.shape.vcpus, ram_mib=ram_mib or template.shape.ram_mib)
    size = disk_bytes or template.disk.size_bytes
    if size < template.disk.size_bytes:
        raise UsageError(f"a disk of {human(template.disk.size_bytes)} cannot shrink to {human(size)}",
                         hint="data would be lost; make a new template")
    new = dataclasses.replace(template, shape=shape, disk=dataclasses.replace(template.disk, size_bytes=size))
    if new != template:
        transaction.apply([Adjust(store, template, new)])
    return new


def without_clones(store: Store, template: Template) -> None:
    """Raises Busy while the template runs, or clones stand on it."""
    if index.held(layout.lock(store.world.template(template.name))):
        raise Busy(f"template '{template.name}' runs", hint="power it off first")
    if clones := store.clones_of(template.name):
        raise Busy(f"template '{template.name}' has clones: {', '.join(clones)}",
                   hint="vmstop -d destroys machines; or make a new template")


@contextlib.contextmanager
def alone(store: Store, template: Template) -> Iterator[str]:
    """Nobody starts or clones the template inside, and nothing stands on it. Yields its folder. Raises Busy."""
    folder = store.world.template(template.name)
    with reported(folder):
        lock = take_lock(layout.lock(folder))
    try:
        if clones := store.clones_of(template.name):
            raise Busy(f"template '{template.name}' has clones: {', '.join(clones)}",
                       hint="vmstop -d destroys machines")
        yield folder
    finally:
        os.close(lock)


def thaw(store: Store, template: Template) -> None:
    """Make the disk of a template whose clones are all gone writable again."""
    with alone(store, template) as folder:
        _thaw(folder, template)


def _thaw(folder: str, template: Template) -> None:
    """Make the disk writable; what was laid over it falls."""
    os.chmod(os.path.join(folder, template.disk.file), 0o600)
    overlay = os.path.join(folder, blank())
    if os.path.exists(overlay):
        os.unlink(overlay)
    shutil.rmtree(os.path.join(folder, layout.WARM), ignore_errors=True)


def remove(transaction: Transaction, store: Store, name: Name) -> None:
    """Remove a template that nothing stands on."""
    template = store.template(name)
    without_clones(store, template)
    transaction.apply([Remove(store, template)])




def prepare(host: Host, store: Store, machine: Machine, say: Callable[[str], None]) -> None:
    """Check the standard on a template that answers ssh, and scrub what no clone may share.

    Raises:  CommandFailed with what the guest said.
    """
    say(f"preparing {machine.name}")
    ended = host.shell.run(store.target(machine), render.script("scrub.sh", store.world.config), timeout_s=120)
    if ended.status:
        words = ended.stderr.decode(errors="replace").strip() or f"exit status {ended.status}"
        raise CommandFailed(f"template '{machine.name}' could not be prepared: {words}",
                            hint="--no-prepare leaves the image as it is")


def finish(store: Store, template: Template) -> Template:
    """Record that a template is prepared and powered off; what was only for its preparation goes."""
    if template.access.seeded:
        seed.remove(store, template.machine())
    store.forget_template(template.name)
    done = dataclasses.replace(template, prepared=True)
    store.publish_template(done)
    return done


@dataclass(slots=True)
class Make:
    """Makes the template's folder, key and disk, and last its record."""

    store: Store
    template: Template
    wanted: Wanted
    claimed: bool = field(default=False)

    def describe(self) -> str:
        source = self.wanted.image or self.wanted.file or self.wanted.iso
        return f"make template {self.template.name} from {source}, disk {human(self.template.disk.size_bytes)}"

    def do(self, host: Host) -> None:
        folder = self.store.world.template(self.template.name)
        with self.store.locked(), deferred():
            lock = self.store.claim(host, folder, layout.TEMPLATE_RECORD)
            self.claimed = True
        try:
            with reported(folder):
                private, public = host.keys.ed25519(f"cloudme-{self.template.name}")
                write_atomic(os.path.join(folder, "ssh_key"), private, mode=0o600)
                write_atomic(os.path.join(folder, "ssh_key.pub"), public + "\n")
                self._disk(host, os.path.join(folder, self.template.disk.file))
                with self.store.locked():  # an image may have been removed meanwhile; from now on it cannot be
                    if self.wanted.image:
                        self.store.image(self.wanted.image)
                    self.store.publish_template(self.template)
        finally:
            os.close(lock)

    def _disk(self, host: Host, disk: str) -> None:
        create = ["qemu-img", "create", "-q", "-f", "qcow2"]
        size = str(self.template.disk.size_bytes)
        if self.wanted.image:
            base = self.store.world.image_disk(self.wanted.image)
            host.run([*create, "-b", base, "-F", "qcow2", disk, size])
        elif self.wanted.file:
            host.run(["qemu-img", "convert", "-q", "-O", "qcow2", self.wanted.file, disk], timeout_s=3600)
            host.run(["qemu-img", "resize", "-q", "-f", "qcow2", disk, size])
        else:
            host.run([*create, disk, size])
        os.chmod(disk, 0o600)

    def undo(self, host: Host) -> None:
        if self.claimed:
            self.store.forget_template(self.template.name)
            self.store.remove(self.store.world.template(self.template.name), layout.TEMPLATE_RECORD)
            shutil.rmtree(self.store.world.template_run(self.template.name), ignore_errors=True)


def _checked(store: Store, template: Template) -> str:
    """The path of its disk, whose head names no file that it should not: qemu-img opens what is named there."""
    folder = store.world.template(template.name)
    path = os.path.join(folder, template.disk.file)
    chains.below(template.name, path, (folder, *place.grounds(store, template.machine())))
    return path


def settle(host: Host, store: Store, template: Template) -> None:
    """What was changed in the template stays: its safeguard goes."""
    host.run(["qemu-img", "snapshot", "-d", SAFEGUARD, _checked(store, template)])


@dataclass(slots=True)
class Safeguard:
    """Makes a template's disk writable, and marks its state in the disk itself, to go back to it if a change fails."""

    store: Store
    template: Template
    made: bool = field(default=False)

    def describe(self) -> str:
        return f"mark the state of template {self.template.name}"

    def do(self, host: Host) -> None:
        with alone(self.store, self.template) as folder:
            _thaw(folder, self.template)
            host.run(["qemu-img", "snapshot", "-c", SAFEGUARD, _checked(self.store, self.template)])
            self.made = True

    def undo(self, host: Host) -> None:
        if self.made:
            with alone(self.store, self.template):
                disk = _checked(self.store, self.template)
                host.run(["qemu-img", "check", "-q", "-r", "leaks", disk])  # its QEMU was killed
                for verb in ("-a", "-d"):
                    host.run(["qemu-img", "snapshot", verb, SAFEGUARD, disk])
                finish(self.store, self.template)


@dataclass(frozen=True, slots=True)
class Adjust:
    """Grows the disk, then rewrites the record. A grown disk is not shrunk by the undo: the record is what counts."""

    store: Store
    old: Template
    new: Template

    def describe(self) -> str:
        return (f"adjust template {self.new.name}: {self.new.shape.vcpus} CPUs, {self.new.shape.ram_mib} MiB, "
                f"disk {human(self.new.disk.size_bytes)}")

    def do(self, host: Host) -> None:
        with alone(self.store, self.old) as folder:
            _thaw(folder, self.old)
            if self.new.disk.size_bytes > self.old.disk.size_bytes:
                disk = _checked(self.store, self.old)
                host.run(["qemu-img", "resize", "-q", "-f", "qcow2", disk, str(self.new.disk.size_bytes)])
            self.store.publish_template(self.new)

    def undo(self, host: Host) -> None:
        self.store.publish_template(self.old)


@dataclass(frozen=True, slots=True)
class Remove:
    store: Store
    template: Template

    def describe(self) -> str:
        return f"remove template {self.template.name} and its disk"

    def do(self, host: Host) -> None:
        with alone(self.store, self.template) as folder:
            self.store.forget_template(self.template.name)
            self.store.remove(folder, layout.TEMPLATE_RECORD)
            shutil.rmtree(self.store.world.template_run(self.template.name), ignore_errors=True)

    def undo(self, host: Host) -> None:
        """Nothing can bring a disk back."""
