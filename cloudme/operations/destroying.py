"""Destroying a machine that is defined: its volumes, and last its definition.

Whoever runs as the machine may write in the folders of its volumes: no link in them is followed, and a file is removed
by its name in a folder that is held open.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cloudme import index, layout
from cloudme.chains import DEPTH_MAX
from cloudme.disk import reported, sync_folder
from cloudme.errors import Busy, NotPermitted
from cloudme.formats import qcow2
from cloudme.formats.definitions import Site
from cloudme.model.definitions.nouns import Kind, Merged, Storage, Volume
from cloudme.model.ports import Host
from cloudme.model.units import human
from cloudme.store import Store, everywhere

UNITS = "/etc/systemd/system"
READ_ONLY = (Kind.iso_ahci, Kind.iso_scsi, Kind.iso_usb, Kind.vvfat_block)
"""Kinds that a machine can only read, whatever their pool says."""
WRITABLE = 0o222
OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
HINT = "nothing was destroyed; vmcat shows where each volume is"
Identity = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the machine is. root: '' for this host; else a folder that is the root of one that is off."""

    root: str
    store: Store

    def at(self, path: str) -> str:
        """A path of the host as it is to be opened here."""
        return os.path.join(self.root, path.lstrip("/")) if self.root and os.path.isabs(path) else path


@dataclass(frozen=True, slots=True)
class Spot:
    """A name below the folder of a pool, which its owner may reach by links; below it none is followed."""

    pool: str
    parts: tuple[str, ...]

    @property
    def path(self) -> str:
        return os.path.join(self.pool, *self.parts)

    @contextlib.contextmanager
    def folder(self) -> Iterator[int]:
        """The folder that it is in, held open. Raises FileNotFoundError, NotPermitted where a link leads to it."""
        with contextlib.ExitStack() as held:
            fd = os.open(self.pool, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
            held.callback(os.close, fd)
            for part in self.parts[:-1]:
                try:
                    fd = os.open(part, OPEN | os.O_DIRECTORY, dir_fd=fd)
                except OSError as error:
                    if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                        raise
                    raise NotPermitted(f"{self.path}: on the way, '{part}' is no folder", hint=HINT) from error
                held.callback(os.close, fd)
            yield fd


@dataclass(frozen=True, slots=True)
class Delete:
    """A file, or a folder of them, as it was found. There is no way back: it was asked for, and confirmed."""

    spot: Spot
    identity: Identity
    size_bytes: int
    files: tuple[str, ...] = ()
    """Of a folder: what is in it."""

    def describe(self) -> str:
        inner = f", with {', '.join(self.files)}" if self.files else ""
        return f"delete {self.spot.path} ({human(self.size_bytes)}){inner}"

    def do(self, host: Host) -> None:
        with reported(self.spot.path), contextlib.suppress(FileNotFoundError), self.spot.folder() as folder:
            name = self.spot.parts[-1]
            now = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if (now.st_dev, now.st_ino) != self.identity:
                raise Busy(f"{self.spot.path} is another file by now", hint="see what it is, and try again")
            if stat.S_ISDIR(now.st_mode):
                shutil.rmtree(name, dir_fd=folder)
            else:
                os.unlink(name, dir_fd=folder)
            os.fsync(folder)

    def undo(self, host: Host) -> None:
        """Nothing can bring a disk back. The definition is still there: the command can be repeated."""


@dataclass(frozen=True, slots=True)
class DeleteFolder:
    """A folder that is called after the machine, or is in such a one, if nothing is in it."""

    spot: Spot

    def describe(self) -> str:
        return f"delete the folder {self.spot.path}, if it is empty"

    def do(self, host: Host) -> None:
        with reported(self.spot.path), contextlib.suppress(FileNotFoundError), self.spot.folder() as folder:
            try:
                os.rmdir(self.spot.parts[-1], dir_fd=folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.ENOENT):
                    raise

    def undo(self, host: Host) -> None:
        """It was empty."""


@dataclass(frozen=True, slots=True)
class Forget:
    """The definition goes last: as long as it is there, the rest can be repeated."""

    path: str

    def describe(self) -> str:
        return f"delete {self.path}"

    def do(self, host: Host) -> None:
        with reported(self.path), contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
            sync_folder(os.path.dirname(os.path.abspath(self.path)))

    def undo(self, host: Host) -> None:
        """Nothing comes after it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps, and the volumes that stay: lines that say why."""

    steps: tuple[Delete | DeleteFolder | Forget, ...]
    left: tuple[str, ...]


def plan(host: Host, site: Site, machine: Merged, place: Place, *, keep_readonly: bool) -> Plan:
    """What destroying a machine takes.

    site:           with all definitions, none of them wrong.
    keep_readonly:  volumes that can only be read stay; else they are a reason to refuse.
    Raises:         Busy while it runs or has a unit; NotPermitted with every volume that may not be destroyed.
    """
    _idle(host, machine, place)
    users = _users(site, machine, place)
    doomed: list[Delete] = []
    wrong: list[str] = []
    left = [f"{place.at(volume.path)} stays: it is firmware" for volume in _firmware(machine)]
    spots: list[Spot] = []
    for volume in _own(machine):
        pool = site.host.storage[volume.storage]
        spot = _spot(volume, pool, place)
        readonly = pool.readonly or pool.kind in READ_ONLY
        if not readonly:
            spots.append(spot)
        if not os.path.isdir(spot.pool):
            wrong.append(f"{spot.path}: there is no folder {spot.pool}: is its disk mounted?")
            continue
        if not os.path.lexists(spot.path):
            left.append(f"{spot.path} is not there")
            continue
        with reported(spot.path), contextlib.suppress(FileNotFoundError), spot.folder() as folder:
            found = os.stat(spot.parts[-1], dir_fd=folder, follow_symlinks=False)
            if readonly or not found.st_mode & WRITABLE:
                if keep_readonly:
                    left.append(f"{spot.path} stays: it can only be read")
                else:
                    wrong.append(f"{spot.path} can only be read: --keep-readonly leaves it where it is")
            elif complaint := _complaint(spot, folder, found, pool.kind) or _shared(spot, found, users):
                wrong.append(f"{spot.path} {complaint}")
            else:
                doomed.append(_delete(spot, folder, found))
    if wrong:
        raise NotPermitted("\n".join(wrong), hint=HINT)
    return Plan((*doomed, *_folders(machine, spots), Forget(machine.definition.body.origin.file)), tuple(left))


def _idle(host: Host, machine: Merged, place: Place) -> None:
    """Raises Busy where it runs, or a unit would start it; NotPermitted where it is a machine of our store, too."""
    units = [layout.unit(machine.name), layout.unit(f"swtpm-{machine.name}")]
    if not place.root:
        states = host.units.states(units) if host.units.running() else []
        active = [state.name for state in states if state.active not in ("inactive", "failed")]
        if index.held(layout.machina_lock(machine.name)):
            raise Busy(f"'{machine.name}' runs", hint=f"sudo systemctl stop {units[0]}" if active
                       else f"sudo vmstop {machine.definition.name.plain}")
        if active:
            raise Busy(f"{active[0]} is active", hint=f"sudo systemctl stop {units[0]}")
    there = f" --root {place.root}" if place.root else ""
    for unit in units:
        if host.files.mode(place.at(os.path.join(UNITS, unit))) is not None:
            raise Busy(f"'{machine.name}' has a unit, {unit}", hint=f"sudo vmunit remove {machine.name}{there}")
    if not place.root and os.path.exists(place.store.world.prepared(machine.name)):
        raise Busy(f"the host is prepared for '{machine.name}'", hint=f"sudo vmteardown {machine.name}")
    for name, known in everywhere(place.store.world, lambda other: other.uuid == machine.uuid).items():
        hint = f"sudo vmunit remove {machine.name}" if known.definition else f"vmstop -d {name}"
        raise NotPermitted(f"'{machine.name}' is the machine '{name}' of the store, too", hint=hint)


def _own(machine: Merged) -> Iterator[Volume]:
    """All that is the machine's alone, if nothing says otherwise."""
    yield from machine.volumes
    yield from filter(None, (machine.attributes.firmware_variables, machine.attributes.tpm_data))


def _firmware(machine: Merged) -> Iterator[Volume]:
    """What is there for all machines."""
    yield from filter(None, (machine.attributes.firmware_code, machine.attributes.firmware_template))


def _spot(volume: Volume, pool: Storage, place: Place) -> Spot:
    """Raises NotPermitted where the pool leads out of the root."""
    base = place.at(pool.path)
    if place.root and not _inside(f"{os.path.realpath(base)}/", os.path.realpath(place.root)):
        raise NotPermitted(f"{base} leads out of {place.root}", hint=HINT)
    return Spot(base, tuple(os.path.relpath(volume.path, pool.path).split("/")))


def _complaint(spot: Spot, folder: int, found: os.stat_result, kind: Kind) -> str:
    """Why it cannot be deleted; '' where it can. Raises Busy where it is in use."""
    if stat.S_ISLNK(found.st_mode):
        return "is a link: delete what it leads to, and the link"
    if stat.S_ISBLK(found.st_mode):
        return "is a device: wipe it yourself, and take it out of the definition"
    if not (stat.S_ISREG(found.st_mode) or (stat.S_ISDIR(found.st_mode) and kind == Kind.tpm_data)):
        return "is no file"
    if not os.access(".", os.W_OK | os.X_OK, dir_fd=folder, effective_ids=True):
        return "is in a folder that this user may not change"
    for path, inner, name in _files(spot, folder):
        if _in_use(inner, name):
            raise Busy(f"{path} is in use", hint="a QEMU or a swtpm has it open")
    return ""


def _files(spot: Spot, folder: int) -> Iterator[tuple[str, int, str]]:
    """(path, folder that is held open, name in it) of the file, or of all that is in the folder that it is."""
    name = spot.parts[-1]
    if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        yield spot.path, folder, name
        return
    for top, _, files, inner in os.fwalk(name, dir_fd=folder):
        for file in sorted(files):
            yield os.path.join(os.path.dirname(spot.path), top, file), inner, file


def _in_use(folder: int, name: str) -> bool:
    """Whether anybody has a lock on any byte of it, as QEMU has on every disk that it has open.

    Source: QEMU, docs/system/images.rst. `qemu-img info` would say the same, and read what the machine has written.
    """
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        return False
    fd = os.open(name, OPEN | os.O_NONBLOCK, dir_fd=folder)
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, index.WRITE_LOCK)
    finally:
        os.close(fd)
    return bool(struct.unpack_from("h", answer)[0] != fcntl.F_UNLCK)


def _delete(spot: Spot, folder: int, found: os.stat_result) -> Delete:
    identity = (found.st_dev, found.st_ino)
    if not stat.S_ISDIR(found.st_mode):
        return Delete(spot, identity, found.st_size)
    inner = [(os.path.relpath(path, spot.path), os.stat(name, dir_fd=fd, follow_symlinks=False).st_size)
             for path, fd, name in _files(spot, folder)]
    return Delete(spot, identity, sum(size for _, size in inner), tuple(name for name, _ in inner))


def _folders(machine: Merged, spots: Iterable[Spot]) -> list[DeleteFolder]:
    """Those that the pattern of a pool made for this machine, the inner ones first."""
    found = {Spot(spot.pool, spot.parts[:depth]) for spot in spots for depth in range(1, len(spot.parts))
             if machine.name in spot.parts[:depth]}
    return [DeleteFolder(spot) for spot in sorted(found, key=lambda spot: (-len(spot.parts), spot.path))]


# who else

@dataclass(frozen=True, slots=True)
class User:
    """Who has a file of his own, or stands on one."""

    who: str
    path: str
    identity: Identity


def _shared(spot: Spot, found: os.stat_result, users: Iterable[User]) -> str:
    """With whom a volume is shared; '' for nobody."""
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        return f"is shared: it has {found.st_nlink} names (hard links)"
    here = os.path.realpath(spot.path)
    for user in users:
        if user.identity == (found.st_dev, found.st_ino) or _inside(user.path, here) or _inside(here, user.path):
            return f"is shared: {user.who} has it, too"
    return ""


def _inside(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/")


def _users(site: Site, machine: Merged, place: Place) -> list[User]:
    """All whose files there are: other definitions, machines and templates and images of the store."""
    return [User(who, os.path.realpath(path), (found.st_dev, found.st_ino))
            for who, first in _elsewhere(site, machine, place) for path in (first, *_below(first, place))
            if (found := _status(path))]


def _elsewhere(site: Site, machine: Merged, place: Place) -> Iterator[tuple[str, str]]:
    """(who, path) of files that somebody else uses."""
    yield from (("the firmware of all machines", place.at(volume.path)) for volume in _firmware(machine))
    for other in site.machines.values():
        if other is not machine:
            for volume in (*_own(other), *_firmware(other)):
                yield f"the definition '{other.name}'", place.at(volume.path)
    world = place.store.world
    for whole, one in everywhere(world, lambda _: True).items():
        folder = world.beside(whole.rpartition("/")[0]).machine(one.name)
        yield from ((f"the machine '{whole}' of the store", os.path.join(folder, disk.file)) for disk in one.disks)
    for template in place.store.templates():
        yield f"the template '{template.name}'", os.path.join(world.template(template.name), template.disk.file)
    yield from ((f"the image '{image.name}'", world.image_disk(image.name)) for image in place.store.images())


def _below(path: str, place: Place) -> Iterator[str]:
    """The disks that one stands on, as far as their heads say so in plain words."""
    for _ in range(DEPTH_MAX):
        head = _head(path)
        backing = qcow2.backing(head, path)
        if backing is None:
            return
        path = place.at(backing.name) if os.path.isabs(backing.name) else os.path.normpath(
            os.path.join(os.path.dirname(path), backing.name))
        yield path


def _head(path: str) -> bytes:
    """The first bytes of what is a plain file; none of anything else, which to open might do something."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                with open(f"/proc/self/fd/{fd}", "rb", buffering=0) as file:
                    return file.read(qcow2.HEAD_BYTES)
        finally:
            os.close(fd)
    return b""


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
