"""QEMU of a machine that is defined, on our own terminal, where no systemd starts it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cloudme import index, kvm, layout
from cloudme.disk import reported
from cloudme.errors import Busy, CloudMeError, HostUnavailable
from cloudme.model.confinement import Confinement
from cloudme.model.definitions import tpm
from cloudme.model.ports import Host
from cloudme.operations.preparing.tenant import Tenant

ANSWER_S = 2


@dataclass(frozen=True, slots=True)
class MakeFolder:
    """The machine's own folder, where its sockets will be; what another run left in it goes."""

    tenant: Tenant

    def describe(self) -> str:
        return f"make the folder {self._path} for the user {self.tenant.user} ({self.tenant.uid})"

    def do(self, host: Host) -> None:
        with reported(self._path):
            os.makedirs(layout.machina_run(), 0o755, exist_ok=True)
            shutil.rmtree(self._path, ignore_errors=True)
            os.mkdir(self._path, 0o700)
            os.chown(self._path, self.tenant.uid, self.tenant.gid)

    def undo(self, host: Host) -> None:
        shutil.rmtree(self._path, ignore_errors=True)

    @property
    def _path(self) -> str:
        return os.path.join(layout.machina_run(), self.tenant.name)


def check(host: Host, tenant: Tenant) -> None:
    """Raises Busy where the machine runs, HostUnavailable without KVM where its host is said to have it."""
    if index.held(layout.machina_lock(tenant.name)):
        raise Busy(f"'{tenant.name}' runs", hint=f"vmstop {tenant.name}")
    if tenant.host.accelerator == "kvm" and not host.qemu.kvm_usable():
        raise HostUnavailable("KVM cannot run stock kernels here", hint='"accelerator": "tcg" in the host\'s '
                                                                        'configuration')


def greeting(tenant: Tenant, address: str | None) -> str:
    """What one has to know while it runs."""
    machine = tenant.machine
    end = ("Ctrl-C presses its power button, once more ends it" if machine.attributes.qmp_sockets
           else "Ctrl-C ends it")
    places = [f"address {address}"] * bool(address) + [f"SPICE port {machine.attributes.spice_port}"] * bool(
        machine.attributes.spice_port)
    return ", ".join([f"{tenant.name}: {end}", *places])


def attend(host: Host, tenant: Tenant, argv: Sequence[str], *, say: Callable[[str], None]) -> int:
    """Run QEMU as the machine's user until it ends, and return its exit status.

    The first SIGINT, SIGTERM or SIGHUP is the machine's power button, the next one ends it.
    """
    def heed(count: int) -> bool:
        if not tenant.machine.attributes.qmp_sockets:
            say(f"{tenant.name} has no monitor (attrs.qmp): ending it")
            return False
        say(f"{tenant.name}: the power button is pressed; once more ends it" if count == 1 else f"ending {tenant.name}")
        return _told(host, tenant, "system_powerdown" if count == 1 else "quit", say)

    groups = kvm.groups() if tenant.host.accelerator == "kvm" else ()
    confinement = Confinement(uid=tenant.uid, gid=tenant.gid, groups=groups)
    its = tpm.of(tenant.machine, layout.machina_run())
    with host.companions.tpm(its, tenant.uid) if its else contextlib.nullcontext():
        return host.run.attend(argv, confinement=confinement, pins=bool(tenant.machine.devices), heed=heed)


def _told(host: Host, tenant: Tenant, command: str, say: Callable[[str], None]) -> bool:
    """False where a signal has to tell QEMU to end, since it did not hear that it shall."""
    try:
        with host.qemu.monitor(tenant.machine.attributes.qmp_sockets[0], timeout_s=ANSWER_S) as monitor:
            monitor.execute(command)
    except CloudMeError as error:
        say(f"{tenant.name}: {error.message}")
        return command != "quit"
    return True
