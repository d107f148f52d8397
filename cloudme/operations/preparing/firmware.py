"""The firmware's variables: a copy of their template, made once, for this machine alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from cloudme.disk import reported
from cloudme.errors import AlreadyExists, ConfigError, NotFound
from cloudme.formats import firmware
from cloudme.model.definitions.nouns import Merged
from cloudme.model.ports import Host
from cloudme.model.steps import Step
from cloudme.operations.preparing import paths, volumes
from cloudme.operations.preparing.tenant import Tenant

DESCRIPTORS = ("/etc/qemu/firmware", "/usr/share/qemu/firmware")
"""The first is the host's own word (docs/interop/firmware.json, its introduction)."""


@dataclass(slots=True)
class MakeVariables:
    """A link makes it: whole, or not at all, and never over another file.

    Root reads the template, and gives the machine what is in it: nobody else may have led to it.
    """

    template: str
    path: str
    tenant: Tenant
    made: tuple[int, int] | None = None

    def describe(self) -> str:
        return f"make {self.path} from {self.template}"

    def do(self, host: Host) -> None:
        folder, name = os.path.split(self.path)
        temporary = f".{name}.{os.getpid()}.tmp"
        with reported(self.path), paths.opened(folder, self.tenant.uid, self.tenant.gid, into=True) as at:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(temporary, flags, volumes.OWN, dir_fd=at)
            try:
                with os.fdopen(fd, "wb") as target, _opened(self.tenant, self.template) as source:
                    shutil.copyfileobj(source, target)
                    target.flush()
                    os.fchmod(target.fileno(), volumes.OWN)
                    os.fchown(target.fileno(), self.tenant.uid, self.tenant.gid)
                    os.fsync(target.fileno())
                    found = os.fstat(target.fileno())
                try:
                    os.link(temporary, name, src_dir_fd=at, dst_dir_fd=at)
                except FileExistsError:
                    raise AlreadyExists(f"{self.path} has just been made by somebody else") from None
                self.made = found.st_dev, found.st_ino
            finally:
                os.unlink(temporary, dir_fd=at)

    def undo(self, host: Host) -> None:
        folder, name = os.path.split(self.path)
        with contextlib.suppress(FileNotFoundError), paths.opened(folder, self.tenant.uid, self.tenant.gid) as at:
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            if (found.st_dev, found.st_ino) == self.made:
                os.unlink(name, dir_fd=at)


def plan(host: Host, tenant: Tenant) -> Iterator[Step]:
    """Raises NotFound where there is nothing to make them from, ConfigError where they do not belong to the code."""
    attributes = tenant.machine.attributes
    code, variables = attributes.firmware_code, attributes.firmware_variables
    if not code or not variables or tenant.host.storage[variables.storage].readonly:
        return
    described = firmware.described(code.path, _descriptors(host))
    if os.path.exists(variables.path):
        _same_size(tenant, variables.path, described)
        return
    given = attributes.firmware_template
    sibling = firmware.sibling(code.path)
    template = given.path if given else next(
        (path for path in (sibling, described) if path and path != code.path and os.path.exists(path)), None)
    if template is None or not os.path.isfile(template):
        raise NotFound(f"{tenant.name}: there is no {variables.path}, and no template for it: "
                       f"{template or sibling or code.path} is missing" if template or sibling else
                       f"{tenant.name}: there is no {variables.path}, and nothing to make it from",
                       hint="attrs.firmware.template names what variables are copied from")
    with _opened(tenant, template):
        _same_size(tenant, template, described)
    folder = os.path.dirname(variables.path)
    with paths.opened(folder, tenant.uid, tenant.gid, into=True):
        pass
    volumes.searchable(host, tenant, os.path.realpath(folder))
    yield MakeVariables(template, variables.path, tenant)


def doubts(host: Host, machine: Merged) -> Iterator[str]:
    """Where the definition says of the firmware's code what its descriptor does not."""
    code = machine.attributes.firmware_code
    smm = firmware.requires_smm(code.path, _descriptors(host)) if code else None
    if code and smm is False and code.secure:
        yield (f"{machine.name}: {code.path} does not use SMM, so its variables are lost when QEMU ends: "
               'say "secure": false at attrs.firmware.code')
    if code and smm and not code.secure:
        yield (f'{machine.name}: {code.path} uses SMM, and "secure" is false at attrs.firmware.code: the guest can '
               "change the keys of secure boot")


@contextlib.contextmanager
def _opened(tenant: Tenant, template: str) -> Iterator[BinaryIO]:
    """Raises NotFound, NotPermitted; ConfigError where it is no file."""
    with paths.opened(template, tenant.uid, tenant.gid) as fd:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ConfigError(f"{tenant.name}: {template}, from which variables are to be made, is no file")
        with reported(template), open(paths.by_number(fd), "rb") as source:
            yield source


def _descriptors(host: Host) -> Iterator[str]:
    """In the order in which they count: by name, and of two of a name the host's own."""
    found = {name: folder for folder in reversed(DESCRIPTORS) for name in host.files.names(folder)
             if name.endswith(".json")}
    for name, folder in sorted(found.items()):
        if text := host.files.read(os.path.join(folder, name)):
            yield text


def _same_size(tenant: Tenant, path: str, described: str | None) -> None:
    if described and os.path.exists(described) and os.path.getsize(path) != os.path.getsize(described):
        raise ConfigError(f"{tenant.name}: {path} has {os.path.getsize(path)} bytes, and the variables of its firmware "
                          f"have {os.path.getsize(described)}: they do not belong together",
                          hint=f"variables of this firmware are as {described}")
