"""Whether machines can be reached, each way that leads to them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloudme import forwards, layout, monitors
from cloudme.errors import CloudMeError
from cloudme.model.machine import Machine
from cloudme.model.ports import Host
from cloudme.store import Store

GREETING = b"SSH-"
"""RFC 4253, 4.2."""

AGENT_S = 10
"""An agent whose answer nobody waits for spins: it is asked only where the guest has opened its port, and patiently."""

AT_ONCE = 64
OK = ("ok", "open")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How one machine answered. None: that way leads to no machine of its kind, or may not be gone.

    arp:    'ok', 'silent', or the MAC of who answers in its place.   ssh: a word of `Shell.knock`.
    agent:  'ok', 'closed' (the guest has not opened its port), 'silent'.
    ports:  of the machine, each as 'tcp/80', with a word of `Shell.knock`, or 'broken' where its forward is.
    """

    name: str
    address: str | None
    runs: bool
    arp: str | None = None
    ssh: str | None = None
    agent: str | None = None
    ports: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.runs and all(word in OK for word in (self.arp, self.ssh, self.agent, *self.ports.values())
                                 if word is not None)


def ask(host: Host, store: Store, machines: Sequence[Machine], *, timeout_s: float) -> list[Answer]:
    """All at once. timeout_s: what a port gets to answer."""
    alive = [machine for machine in machines if store.is_running(machine)]
    macs = _macs(host, store, alive)
    return monitors.all_at_once(machines, lambda machine: _one(host, store, machine, macs, timeout_s)
                                if machine in alive else _off(machine), AT_ONCE)


def _off(machine: Machine) -> Answer:
    return Answer(name=machine.name, address=machine.address, runs=False)


def _macs(host: Host, store: Store, machines: Sequence[Machine]) -> dict[str, str | None]:
    """Who has the address of each machine: name -> MAC, None for nobody. Those that nobody may ask for are left out."""
    links: dict[str, list[Machine]] = {}
    for machine in machines:
        if machine.nics and machine.nics[0].address and not store.is_outside(machine):
            network = store.network(machine.nics[0].network)
            links.setdefault(network.link if network else "", []).append(machine)
    found: dict[str, str | None] = {}
    for link, those in links.items():
        with contextlib.suppress(CloudMeError):
            answers = host.net.arp(link, [str(machine.nics[0].address) for machine in those])
            found |= {machine.name: answers.get(str(machine.nics[0].address)) for machine in those}
    return found


def _one(host: Host, store: Store, machine: Machine, macs: Mapping[str, str | None], timeout_s: float) -> Answer:
    return Answer(
        name=machine.name, address=machine.address, runs=True, arp=_arp(machine, macs),
        ssh=_knock(host, store, machine, 22, timeout_s, GREETING) if machine.address else None,
        agent=_agent(host, store, machine), ports=_ports(host, store, machine, timeout_s))


def _arp(machine: Machine, macs: Mapping[str, str | None]) -> str | None:
    if machine.name not in macs:
        return None
    found = macs[machine.name]
    return "silent" if found is None else "ok" if found == machine.nics[0].mac else found


def _knock(host: Host, store: Store, machine: Machine, port: int, timeout_s: float, greeting: bytes = b"") -> str:
    target = dataclasses.replace(store.target(machine), port=port)
    return host.shell.knock(target, greeting=greeting, timeout_s=timeout_s)


def _agent(host: Host, store: Store, machine: Machine) -> str | None:
    """QEMU knows whether the guest has opened the port; None for a machine that has none of ours."""
    try:
        with monitors.monitor(host, monitors.of(store, machine)) as monitor:
            there = {port["label"]: port["frontend-open"] for port in monitor.execute("query-chardev")}.get("agent")
    except CloudMeError:
        return "silent"
    socket = layout.socket(store.run_folder(machine), "agent")
    if there is None or not os.path.exists(socket):
        return None
    if not there:
        return "closed"
    return "ok" if host.agent.ping(socket, timeout_s=AGENT_S) else "silent"


def _ports(host: Host, store: Store, machine: Machine, timeout_s: float) -> dict[str, str]:
    """Those of the machine to which one of the host's leads: nobody sees from outside whether UDP is served; and those
    that it says are open, one by one: of a range any may be served, or none."""
    found: dict[str, str] = {}
    for forward in machine.forwards:
        name = f"{forward.protocol}/{forward.guest_port}"
        if forwards.state(store, machine, forward) != "open":
            found[name] = "broken"
        elif name not in found:
            found[name] = (_knock(host, store, machine, forward.guest_port, timeout_s)
                           if forward.protocol == "tcp" and machine.address else "open")
    for port in machine.ports or ():
        name = f"{port.protocol}/{port.first}"
        if port.protocol == "tcp" and port.first == port.last and machine.address and name not in found:
            found[name] = _knock(host, store, machine, port.first, timeout_s)
    return found
