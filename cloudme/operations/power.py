"""Starting and stopping machines, and the ports of the host that lead to them."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cloudme import defined, folders, forwards, layout, passthrough, place
from cloudme.errors import (
    Busy,
    HostUnavailable,
    NotFound,
    NotPermitted,
    PeerError,
    StoreError,
    Terminated,
    TimedOut,
    UsageError,
)
from cloudme.model.definitions.nouns import qmp_socket
from cloudme.model.hostconfig import Accelerator, Settings
from cloudme.model.machine import Machine
from cloudme.model.network import DEFAULT_NETWORK, Network
from cloudme.model.ports import Host, Power
from cloudme.model.steps import Parallel, Step, Transaction
from cloudme.qemu import hardware, launch
from cloudme.store import Store

SOCKET = "command.1"
"""The QMP socket of a machine that is defined for commands that are in a hurry; the other one's may take their time."""

RUNS_S, LOOK_S = 30, 0.05
"""What QEMU gets to lock its file once systemd has started it, and the pace of looking: the file is another user's."""


def start(transaction: Transaction, store: Store, machines: Sequence[Machine], settings: Settings) -> list[Machine]:
    """Start those of `machines` that do not run, in parallel, and return them: their monitors answer, no more.

    Raises:  HostUnavailable (no QEMU, no bridge), Busy (frozen template), StoreError (disk), PeerError (QEMU ended).
    """
    host = transaction.host
    stopped = [machine for machine in machines if not store.is_running(machine)]
    own = [machine for machine in stopped if not machine.definition]
    if not stopped:
        return []
    accel = accelerator(host, settings) if own else ""
    networks = store.networks_of(settings, own)
    if not transaction.dry_run:
        passthrough.sweep(host, store.world, besides=own, own=())  # what fails stays noted, and the next stop tells
    with contextlib.nullcontext() if transaction.dry_run else passthrough.alone(store, own):
        check(host, store, stopped, networks.values())
        steps: list[Step] = [
            Start(store, machine, place.of(store, machine, accel=accel, networks=networks, settings=settings,
                                           virtiofs=host.qemu.virtiofs(), iommu=passthrough.groups(host, machine)))
            for machine in own]
        steps += [StartUnit(store, machine) for machine in stopped if machine.definition]
        transaction.apply([*passthrough.lent(host, store, own), Parallel(steps), *forwards.opening(store, stopped)])
    return stopped


def check(host: Host, store: Store, machines: Sequence[Machine], networks: Iterable[Network]) -> None:
    """Everything that can be known before a start of machines on these networks."""
    defined.check_apart(machines)
    if host.run.find(launch.BINARY) is None:
        raise HostUnavailable(f"the program '{launch.BINARY}' is not installed", hint="apt install qemu-system-x86")
    for network in networks:
        if network.shared and not host.outside.bridge_exists(network.bridge):
            raise HostUnavailable(f"root's bridge '{network.bridge}' is not there", hint="sudo cmnet start")
        if not network.shared and not (host.net.bridge_exists(network.bridge) and host.net.link_exists(network.link)):
            where = f" in realm '{store.world.realm}'" if store.world.realm else ""
            option = f" --realm {store.world.realm}" if store.world.realm else ""
            sudo = "" if store.world.rootless else "sudo "
            name = "" if network.name == DEFAULT_NETWORK else f" {network.name}"
            raise HostUnavailable(f"there is no bridge '{network.link}'{where}", hint="cmcheck bridge"
                                  if network.external else f"{sudo}cmnet start{name}{option}")
    _check_units(host, store, [machine for machine in machines if machine.definition])
    for machine in [machine for machine in machines if not machine.definition]:
        if machine.vsock_cid is not None:
            _check_vsock(host, machine)
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
    folders.check(host, store, machines)
    passthrough.check(host, store, [machine for machine in machines if not machine.definition])


def _check_vsock(host: Host, machine: Machine) -> None:
    """Raises HostUnavailable, NotPermitted."""
    if host.files.mode(hardware.VSOCK_DEVICE) is None:
        raise HostUnavailable(f"'{machine.name}' has a vsock, and this host has no {hardware.VSOCK_DEVICE}",
                              hint="sudo modprobe vhost_vsock")
    if not host.files.openable(hardware.VSOCK_DEVICE):
        raise NotPermitted(f"'{machine.name}' has a vsock, and this user may not open {hardware.VSOCK_DEVICE}",
                           hint=f"sudo chmod 666 {hardware.VSOCK_DEVICE}")


def _check_units(host: Host, store: Store, machines: Sequence[Machine]) -> None:
    """Raises HostUnavailable, NotFound where systemd cannot start machines that are defined; UsageError for those that
    run, and not by it: who does would tear down what it has prepared."""
    if not machines:
        return
    there = host.units.running()
    states = host.units.states(_units(machines)) if there else [None] * len(machines)
    for machine, unit in zip(machines, states, strict=True):
        if store.is_running(machine) and (unit is None or unit.active in ("inactive", "failed")):
            raise UsageError(f"vmrun runs '{machine.name}', and ends with it",
                             hint=f"vmstop {machine.name}; vmrun {machine.definition}")
    if not there:
        raise HostUnavailable(f"'{machines[0].name}' is systemd's to start, and this host does not run it",
                              hint=f"vmrun {machines[0].definition}")
    for machine, unit in zip(machines, states, strict=True):
        if unit and unit.load == "not-found":
            raise NotFound(f"'{machine.name}' is defined, and has no unit", hint=f"sudo vmunit generate "
                           f"{machine.definition}")


def _units(machines: Iterable[Machine]) -> list[str]:
    return [layout.unit(machine.definition) for machine in machines if machine.definition]


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
    host: Host, store: Store, machines: Sequence[Machine], *, timeout_s: float, say: Callable[[str], None],
    again: bool = False,
) -> None:
    """Power all of `machines` down and return when none runs: the power button, `quit`, kill.

    again:  they are about to start again, and keep the host's devices that they have.
    """
    own = [machine for machine in machines if not machine.definition]
    defined.check_apart(own)
    with ThreadPoolExecutor(max_workers=1) as pool:
        others = pool.submit(_stop_units, host, [machine for machine in machines if machine.definition], timeout_s, say)
        host.qemu.stop([power(store, machine) for machine in own], timeout_s=timeout_s, say=say)
        others.result()
    for machine in own:
        host.qemu.bury(machine.uuid)
    host.groups.sweep()
    forwards.end(host, store, machines)
    passthrough.sweep(host, store.world, besides=own if again else (), own=own, tell=say)


@contextlib.contextmanager
def restarting(store: Store, machines: Iterable[Machine], say: Callable[[str], None]) -> Iterator[None]:
    """Around a stop of `machines` that are to start again: an interrupt cannot take the power button back, and may come
    before it was pressed. That is said of who still runs."""
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        for name in [machine.name for machine in machines if store.is_running(machine)]:
            say(f"{name} may be powering down: when it is off, vmstart {name}")
        raise


def tell_off(store: Store, machines: Iterable[Machine], say: Callable[[str], None]) -> None:
    """Say which of `machines`, which were to start again, are off."""
    for name in [machine.name for machine in machines if not store.is_running(machine)]:
        say(f"{name} is off: vmstart {name}")


def _stop_units(host: Host, machines: Sequence[Machine], timeout_s: float, say: Callable[[str], None]) -> None:
    """Power down in our time, not in the units'; then systemd ends what is left, and knows that it is to stay off."""
    if not machines:
        return
    deaf = host.qemu.shut_down([defined_power(str(machine.definition), SOCKET) for machine in machines],
                               timeout_s=timeout_s, say=say)
    if host.units.running():
        names = _units(machines)
        host.units.stop([unit.name for unit in host.units.states(names) if unit.load != "not-found"])
    elif deaf:
        raise TimedOut(f"{', '.join(deaf)} could not be powered down")


def defined_power(name: str, socket: str) -> Power:
    """What stopping a machine needs by the name of its definition, which nobody has to have any more. socket: its QMP
    socket's name."""
    return Power(name=name, lock=layout.machina_lock(name), monitor=qmp_socket(layout.machina_run(), name, socket))


def power(store: Store, machine: Machine) -> Power:
    return Power(name=machine.name, lock=layout.lock(store.folder(machine)),
                 monitor=layout.socket(store.run_folder(machine), "qmp.1"))


@dataclass(slots=True)
class Start:
    """Starts one machine. Undone by ending it, if it was we who started it: it has lived for moments.

    Its devices may have been changed since its record was read: from when it runs, nobody changes them.
    """

    store: Store
    machine: Machine
    place: launch.Place
    started: bool = False

    def describe(self) -> str:
        return f"start {self.machine.name} ({self.place.accel})"

    def do(self, host: Host) -> None:
        host.qemu.start(launch.of(self.machine, self.place))
        self.started = True
        with self.store.locked(), contextlib.suppress(NotFound):  # it may be a template, or not be published yet
            now = self.store.machine(self.machine.name)
            if now.uuid == self.machine.uuid and now.devices != self.machine.devices:
                raise Busy(f"somebody else has changed the devices of '{now.name}'", hint="try again")

    def undo(self, host: Host) -> None:
        if self.started:
            host.qemu.kill(layout.lock(self.place.folder))


@dataclass(slots=True)
class Stop:
    """Powers a machine down, that something about it may change. Undone by starting it, as it is then."""

    store: Store
    machine: Machine
    settings: Settings
    say: Callable[[str], None]

    def describe(self) -> str:
        return f"stop {self.machine.name}"

    def do(self, host: Host) -> None:
        with restarting(self.store, [self.machine], self.say):
            stop(host, self.store, [self.machine], timeout_s=self.settings.stop_timeout_s, say=self.say)

    def undo(self, host: Host) -> None:
        start(Transaction(host, self.say), self.store, [self.store.machine(self.machine.name)], self.settings)


@dataclass(slots=True)
class StartUnit:
    """Has systemd start a machine that is defined. Undone by stopping it, if it was we who started it."""

    store: Store
    machine: Machine
    started: bool = False

    @property
    def unit(self) -> str:
        return layout.unit(str(self.machine.definition))

    def describe(self) -> str:
        return f"start {self.machine.name} (systemd: {self.unit})"

    def do(self, host: Host) -> None:
        host.units.start([self.unit])
        self.started = True
        deadline = time.monotonic() + RUNS_S
        while not self.store.is_running(self.machine):
            (state,) = host.units.states([self.unit])
            if state.active not in ("active", "activating", "reloading"):
                raise PeerError(f"'{self.machine.name}' ended at once", hint=host.units.last_words(self.unit))
            if time.monotonic() >= deadline:
                raise TimedOut(f"'{self.machine.name}' does not run yet", hint=f"journalctl --unit {self.unit}")
            time.sleep(LOOK_S)

    def undo(self, host: Host) -> None:
        """What could not be started is not tried again by systemd, either."""
        (state,) = host.units.states([self.unit])
        if self.started or state.active == "activating":
            host.units.stop([self.unit])
