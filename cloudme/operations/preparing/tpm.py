"""The folder in which a machine's TPM is kept: its user's own, and empty until swtpm makes one."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from cloudme import layout
from cloudme.disk import reported
from cloudme.errors import ConfigError, NotPermitted
from cloudme.model.definitions import tpm
from cloudme.model.ports import Host
from cloudme.model.steps import Step
from cloudme.operations.preparing import paths, volumes
from cloudme.operations.preparing.tenant import Tenant

OWN = 0o700
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class GiveFolder:
    """there: root has made it already, and put nothing into it."""

    path: str
    tenant: Tenant
    there: bool

    def describe(self) -> str:
        return f"{'give' if self.there else 'make'} the folder {self.path} for the user {self.tenant.user}"

    def do(self, host: Host) -> None:
        self._as(self.tenant.uid, self.tenant.gid)

    def undo(self, host: Host) -> None:
        if self.there:
            self._as(0, 0)
            return
        with contextlib.suppress(OSError), self._within() as (at, name):
            os.rmdir(name, dir_fd=at)

    def _as(self, uid: int, gid: int) -> None:
        with reported(self.path), self._within() as (at, name):
            if not self.there:
                os.mkdir(name, OWN, dir_fd=at)
            fd = os.open(name, FOLDER, dir_fd=at)
            try:
                os.fchmod(fd, OWN)
                os.fchown(fd, uid, gid)
            finally:
                os.close(fd)

    @contextlib.contextmanager
    def _within(self) -> Iterator[tuple[int, str]]:
        folder, name = os.path.split(self.path)
        with paths.opened(folder, self.tenant.uid, self.tenant.gid, into=True) as at:
            yield at, name


def plan(host: Host, tenant: Tenant) -> Iterator[Step]:
    """Raises NotFound where there is no folder to make it in; ConfigError, NotPermitted for what is there instead."""
    its = tpm.of(tenant.machine, layout.machina_run())
    if its is None:
        return
    folder = os.path.dirname(its.folder)
    with paths.opened(folder, tenant.uid, tenant.gid, into=True) as at:
        try:
            found = os.stat(os.path.basename(its.folder), dir_fd=at, follow_symlinks=False)
        except FileNotFoundError:
            found = None
    volumes.searchable(host, tenant, os.path.realpath(folder))
    if found and not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{tenant.name}: {its.folder} is no folder, and the TPM is kept in one")
    if found and found.st_uid == tenant.uid:
        return
    if found and (found.st_uid != 0 or os.listdir(its.folder)):
        raise NotPermitted(f"{tenant.name}: the TPM's folder {its.folder} is the user {found.st_uid}'s, or not empty",
                           hint=f"if it is this machine's: chown -R {tenant.uid} {its.folder}")
    yield GiveFolder(its.folder, tenant, found is not None)
