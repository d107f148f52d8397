"""Ports of the host that lead to machines: who has them by the records, and the processes that serve them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from cloudme import index, layout
from cloudme.errors import Busy, HostUnavailable, NotPermitted, UsageError
from cloudme.model import identity
from cloudme.model.machine import Forward, Machine
from cloudme.model.ports import Host, Relay
from cloudme.store import Store


def lock(store: Store, machine: Machine, forward: Forward) -> str:
    return layout.forward(store.run_folder(machine), forward.protocol, forward.address, forward.port)


def state(store: Store, machine: Machine, forward: Forward) -> str:
    """open; waiting: for the machine to start; broken: the machine runs, and nothing serves the port."""
    if not store.is_running(machine):
        return "waiting"
    return "open" if index.held(lock(store, machine, forward)) else "broken"


def target(machine: Machine) -> str:
    """The address in the machine that forwards lead to. Raises HostUnavailable where nobody here knows one."""
    if machine.address is None and machine.definition:
        raise HostUnavailable(f"nobody here knows the address of '{machine.name}'",
                              hint="connections.0.ip in its definition")
    if machine.address is None:
        raise HostUnavailable(f"nobody here knows the address of '{machine.name}': the DHCP of its network is not ours",
                              hint=f"vmupdate {machine.name} --ip ADDRESS" if machine.image else
                              "vminstantiate --ip ADDRESS makes machines whose address is known")
    return machine.address


def check(host: Host, store: Store, machines: Sequence[Machine]) -> None:
    """Whether machines that are to start can have their ports. Those that they have, as before a restart, are theirs.

    Raises:  Busy, NotPermitted, HostUnavailable; each says how to start without the port.
    """
    for machine in machines:
        for forward in machine.forwards:
            target(machine)
            if index.held(lock(store, machine, forward)):
                continue
            hint = f"to start without it: {removal(machine, forward, store.world.realm)}"
            try:
                check_free(host, forward)
            except UsageError as error:
                raise HostUnavailable(error.message, hint=hint) from error
            except (Busy, NotPermitted) as error:
                raise type(error)(error.message, hint=hint) from error


def check_free(host: Host, forward: Forward) -> None:
    """Raises Busy, NotPermitted, UsageError (no such address here)."""
    os.close(host.outside.listen(forward.protocol, forward.address, forward.port))


def removal(machine: Machine, forward: Forward, realm: str = "") -> str:
    """What to type to be rid of a forward."""
    udp = " --udp" if forward.protocol == "udp" else ""
    return f"vmexpose {machine.name} --remove {forward.port}{udp}" + (f" --realm {realm}" if realm else "")


def opening(store: Store, machines: Sequence[Machine], before: Machine | None = None) -> list[Open]:
    """The steps that serve the ports of machines that run; before: see `Open`."""
    return [Open(store, machine, forward, before) for machine in machines for forward in machine.forwards]


def end(host: Host, store: Store, machines: Sequence[Machine]) -> None:
    """Return when nothing of ours serves the ports of these machines: it ends with them, a moment later."""
    for machine in machines:
        for forward in machine.forwards:
            host.relays.end(lock(store, machine, forward))


@dataclass(slots=True)
class Open:
    """Serves one port of the host for a machine that runs, anew where something does already; undone by ending it.

    before: the machine as it was served until now, which the undo serves again.
    """

    store: Store
    machine: Machine
    forward: Forward
    before: Machine | None = None

    def describe(self) -> str:
        return f"lead {self.forward} of the host to port {self.forward.guest_port} of {self.machine.name}"

    def do(self, host: Host) -> None:
        self._serve(host, self.machine)

    def _serve(self, host: Host, machine: Machine) -> None:
        path = lock(self.store, machine, self.forward)
        host.relays.end(path)
        listener = host.outside.listen(self.forward.protocol, self.forward.address, self.forward.port)
        try:
            host.relays.start(Relay(
                name=machine.name, protocol=self.forward.protocol, address=target(machine),
                port=self.forward.guest_port, lock=path, log=f"{path}.log",
                machine=layout.lock(self.store.folder(machine)), uid=identity.uid(f"{machine.uuid}/relay")), listener)
        finally:
            os.close(listener)

    def undo(self, host: Host) -> None:
        host.relays.end(lock(self.store, self.machine, self.forward))
        if self.before:
            self._serve(host, self.before)


@dataclass(slots=True)
class Close:
    """Serves a port no longer. Its undo serves it again, where it was served."""

    store: Store
    machine: Machine
    forward: Forward
    served: bool = False

    def describe(self) -> str:
        return f"close {self.forward} of the host"

    def do(self, host: Host) -> None:
        path = lock(self.store, self.machine, self.forward)
        self.served = index.held(path)
        host.relays.end(path)
        for file in (path, f"{path}.log"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file)

    def undo(self, host: Host) -> None:
        if self.served:
            Open(self.store, self.machine, self.forward).do(host)
