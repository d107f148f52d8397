"""Volumes that the machine's own user can use, and no other machine's: root's are given to it, others are not touched.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from cloudme.chains import DEPTH_MAX
from cloudme.errors import Busy, ConfigError, NotFound, NotPermitted, StoreError
from cloudme.formats import qcow2
from cloudme.model import identity
from cloudme.model.definitions.nouns import Kind, Volume
from cloudme.model.ports import Host
from cloudme.model.steps import Step
from cloudme.operations.preparing import paths
from cloudme.operations.preparing.tenant import Tenant
from cloudme.qemu.definitions import disks
from cloudme.qemu.definitions.disks import Disk

OWN = 0o600


@dataclass(slots=True)
class Give:
    """Make a file the machine's own; or, where it is to be read only, one that its group can read, and is root's.

    identity: device, inode and owner of the file that was looked at.
    """

    path: str
    tenant: Tenant
    identity: tuple[int, int, int]
    readonly: bool = False
    before: os.stat_result | None = None

    def describe(self) -> str:
        user = f"the user {self.tenant.user} ({self.tenant.uid})"
        return f"let {user} read {self.path}" if self.readonly else f"give {self.path} to {user}"

    def do(self, host: Host) -> None:
        with paths.opened(self.path, self.tenant.uid, self.tenant.gid) as fd:
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino, found.st_uid) != self.identity:
                raise Busy(f"{self.path} has just been replaced by another file, or given to another machine")
            self.before = found
            if self.readonly:
                _change(fd, found.st_uid, self.tenant.gid, stat.S_IMODE(found.st_mode) | stat.S_IRGRP)
            else:
                _change(fd, self.tenant.uid, found.st_gid if self.tenant.shared else self.tenant.gid, OWN)

    def undo(self, host: Host) -> None:
        if self.before:
            with paths.opened(self.path, self.tenant.uid, self.tenant.gid) as fd:
                if os.path.samestat(os.fstat(fd), self.before):
                    _change(fd, self.before.st_uid, self.before.st_gid, stat.S_IMODE(self.before.st_mode))


def _change(fd: int, uid: int, gid: int, mode: int) -> None:
    """By the number of what is open as a path: a device is not opened, which systemd may forbid (DevicePolicy).

    The mode is narrow first, so that at no moment somebody can write who could not before.
    """
    path = paths.by_number(fd)
    os.chmod(path, mode & OWN)
    os.chown(path, uid, gid)
    os.chmod(path, mode)


def plan(host: Host, tenant: Tenant, made: str) -> Iterator[Step]:
    """made: the firmware variables that another step makes first, '' for none.

    Raises:  NotFound with all volumes that are missing; NotPermitted, Busy, ConfigError for what is there and cannot be
             used.
    """
    found = disks.disks(tenant.machine, tenant.host)
    every = [disk for disk in (found.code, found.variables, *found.volumes) if disk and disk.kind != Kind.tpm_data]
    missing = [disk.volume for disk in every if disk.volume.path != made and not os.path.exists(disk.volume.path)]
    if missing:
        raise NotFound("\n".join(f"{tenant.name}: volume '{volume.name}': there is no {volume.path}"
                                 for volume in missing), hint="what makes them is up to you, as qemu-img create")
    for disk in every:
        if disk.readonly:
            yield from _readable(host, tenant, disk.volume.path, "folder" if disk.kind == Kind.vvfat_block else "file")
        elif disk.volume.path != made:
            yield from _own(host, tenant, disk.volume)
        if disk.kind in (Kind.qcow2, Kind.qcow2_block):
            _below(host, tenant, disk)


def _own(host: Host, tenant: Tenant, volume: Volume) -> Iterator[Step]:
    path = volume.path
    with paths.opened(path, tenant.uid, tenant.gid) as fd:
        found = os.fstat(fd)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        raise ConfigError(f"{tenant.name}: volume '{volume.name}': {path} is neither a file nor a block device")
    searchable(host, tenant, os.path.dirname(os.path.realpath(path)))
    if _usable(tenant, found):
        return
    if not found.st_mode & 0o222:
        raise NotPermitted(f"{tenant.name}: {path} is write-protected",
                           hint=f"chmod u+w {path}; or, in the host's configuration, \"readonly\": true for its pool")
    if found.st_uid != tenant.uid:
        _may_be_given(host, tenant, path, found)
    yield Give(path, tenant, (found.st_dev, found.st_ino, found.st_uid))


def _usable(tenant: Tenant, found: os.stat_result) -> bool:
    if found.st_uid == tenant.uid:
        return found.st_mode & 0o600 == 0o600
    return tenant.shared and found.st_gid == tenant.gid and found.st_mode & 0o060 == 0o060


def _may_be_given(host: Host, tenant: Tenant, path: str, found: os.stat_result) -> None:
    ours = identity.UID_MIN <= found.st_uid <= identity.UID_MAX
    if found.st_uid != 0 and not ours:
        raise NotPermitted(f"{tenant.name}: {path} belongs to the user {found.st_uid}, and is not taken from him",
                           hint=f"chown root {path}; it is then given to {tenant.user}")
    if ours and host.qemu.lives(found.st_uid):
        raise Busy(f"{tenant.name}: {path} belongs to another machine, which runs (user {found.st_uid})")
    if stat.S_ISBLK(found.st_mode) and host.devices.is_used(f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"):
        raise Busy(f"{tenant.name}: {path} is in use by the host: it is mounted, swap, or a part of something else",
                   hint=f"lsblk {path}")
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        raise NotPermitted(f"{tenant.name}: {path} has {found.st_nlink} names (hard links): it may be something else, "
                           "too", hint="cp it, and put the copy in its place")


def searchable(host: Host, tenant: Tenant, folder: str) -> None:
    """Raises NotPermitted naming the first folder that the machine's user may not pass through."""
    if host.files.allows(folder, tenant.uid, tenant.gid, os.X_OK):
        return
    way = folder.strip("/").split("/")
    for depth in range(1, len(way) + 1):
        one = "/" + "/".join(way[:depth])
        if not host.files.allows(one, tenant.uid, tenant.gid, os.X_OK):
            raise NotPermitted(f"{tenant.name}: the folder {one} is closed to the user {tenant.user} ({tenant.uid})",
                               hint=f"chmod o+x {one}")


def _readable(host: Host, tenant: Tenant, path: str, what: str) -> Iterator[Step]:
    """What root has for itself alone is for this machine: a cloud-init disk has private keys, and is nobody else's."""
    wanted = os.R_OK | (os.X_OK if what == "folder" else 0)
    if host.files.allows(path, tenant.uid, tenant.gid, wanted):
        return
    searchable(host, tenant, os.path.dirname(os.path.realpath(path)))
    with paths.opened(path, tenant.uid, tenant.gid) as fd:
        found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_uid == 0 and not found.st_mode & 0o077 and found.st_nlink == 1:
        yield Give(path, tenant, (found.st_dev, found.st_ino, 0), readonly=True)
        return
    raise NotPermitted(f"{tenant.name}: the {what} {path} is closed to the user {tenant.user} ({tenant.uid})",
                       hint=f"chmod o+r{'x' if what == 'folder' else ''} {path}")


def _below(host: Host, tenant: Tenant, disk: Disk) -> None:
    """What a qcow2 disk stands on must be there and readable. Its head, which the machine can write, is believed in no
    more than that: nothing is changed of what it names, and QEMU opens it as the machine's user."""
    path = disk.volume.path
    for _ in range(DEPTH_MAX):
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
                backing = qcow2.backing(file.read(qcow2.HEAD_BYTES), path)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from error
        if backing is None or ":" in backing.name.partition("/")[0]:
            return
        path = os.path.normpath(os.path.join(os.path.dirname(path), backing.name))
        if not os.path.isfile(path):
            raise NotFound(f"{tenant.name}: volume '{disk.volume.name}' stands on {path}, which is no file here")
        if not host.files.allows(path, tenant.uid, tenant.gid, os.R_OK):
            raise NotPermitted(f"{tenant.name}: volume '{disk.volume.name}' says that it stands on {path}, which is "
                               f"closed to the user {tenant.user} ({tenant.uid})",
                               hint="its own head says so, which the machine can write. If that is right: "
                                    f"chmod o+r {path}")
    raise StoreError(f"{disk.volume.path} stands on more than {DEPTH_MAX} others")
