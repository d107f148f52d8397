"""Starting and stopping machines, and the ports of the host that lead to them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cloudme import forwards, layout, place
from cloudme.errors import Busy, HostUnavailable, StoreError
from cloudme.model.hostconfig import Accelerator, Settings
from cloudme.model.machine import Machine
from cloudme.model.network import DEFAULT_NETWORK, Network
from cloudme.model.ports import Host, Power
from cloudme.model.steps import Parallel, Transaction
from cloudme.qemu import launch
from cloudme.store import Store


def start(transaction: Transaction, store: Store, machines: Sequence[Machine], settings: Settings) -> list[Machine]:
    """Start those of `machines` that do not run, in parallel, and return them: their monitors answer, no more.

    Raises:  HostUnavailable (no QEMU, no bridge), Busy (frozen template), StoreError (disk), PeerError (QEMU ended).
    """
    host = transaction.host
    stopped = [machine for machine in machines if not store.is_running(machine)]
    if not stopped:
        return []
    accel = accelerator(host, settings)
    networks = store.networks_of(settings, stopped)
    check(host, store, stopped, networks.values())
    transaction.apply([Parallel([
        Start(store, machine, place.of(store, machine, accel=accel, networks=networks, settings=settings))
        for machine in stopped
    ]), *forwards.opening(store, stopped)])
    return stopped


def check(host: Host, store: Store, machines: Sequence[Machine], networks: Iterable[Network]) -> None:
    """Everything that can be known before a start of machines on these networks."""
    if host.run.find(launch.BINARY) is None:
        raise HostUnavailable(f"the program '{launch.BINARY}' is not installed", hint="apt install qemu-system-x86")
    for network in networks:
        if network.shared and not host.outside.bridge_exists(network.bridge):
            raise HostUnavailable(f"root's bridge '{network.bridge}' is not there", hint="sudo cmnet start")
        if not network.shared and not host.net.bridge_exists(network.bridge):
            where = f" in realm '{store.world.realm}'" if store.world.realm else ""
            option = f" --realm {store.world.realm}" if store.world.realm else ""
            sudo = "" if store.world.rootless else "sudo "
            name = "" if network.name == DEFAULT_NETWORK else f" {network.name}"
            raise HostUnavailable(f"there is no bridge '{network.bridge}'{where}", hint="cmcheck bridge"
                                  if network.external else f"{sudo}cmnet start{name}{option}")
    for machine in machines:
        host.groups.check(machine.limits, store.folder(machine))
        for disk in machine.disks:
            path = os.path.join(store.folder(machine), disk.file)
            try:
                mode = os.stat(path).st_mode
            except FileNotFoundError:
                raise StoreError(f"'{machine.name}' has lost its disk {path}") from None
            if machine.is_template and not mode & stat.S_IWUSR:
                raise Busy(f"the disk of template '{machine.name}' is frozen: it was cloned",
                           hint=f"vminstantiate -n {machine.name} makes a machine of it")
    forwards.check(host, store, machines)


def accelerator(host: Host, settings: Settings) -> str:
    """kvm or tcg. Raises HostUnavailable where kvm is insisted on and cannot be had."""
    if settings.accel == Accelerator.tcg:
        return "tcg"
    if host.qemu.kvm_usable():
        return "kvm"
    if settings.accel == Accelerator.kvm:
        raise HostUnavailable("KVM cannot run stock kernels here", hint="--accel tcg, or see kvm-ok(1)")
    return "tcg"


def stop(
    host: Host, store: Store, machines: Sequence[Machine], *, timeout_s: float, say: Callable[[str], None]
) -> None:
    """Power all of `machines` down and return when none runs: the power button, `quit`, kill."""
    host.qemu.stop([power(store, machine) for machine in machines], timeout_s=timeout_s, say=say)
    for machine in machines:
        host.qemu.bury(machine.uuid)
    host.groups.sweep()
    forwards.end(host, store, machines)


def power(store: Store, machine: Machine) -> Power:
    return Power(name=machine.name, lock=layout.lock(store.folder(machine)),
                 monitor=layout.socket(store.run_folder(machine), "qmp.1"))


@dataclass(slots=True)
class Start:
    """Starts one machine. Undone by ending it, if it was we who started it: it has lived for moments."""

    store: Store
    machine: Machine
    place: launch.Place
    started: bool = False

    def describe(self) -> str:
        return f"start {self.machine.name} ({self.place.accel})"

    def do(self, host: Host) -> None:
        host.qemu.start(launch.of(self.machine, self.place))
        self.started = True

    def undo(self, host: Host) -> None:
        if self.started:
            host.qemu.kill(layout.lock(self.place.folder))
