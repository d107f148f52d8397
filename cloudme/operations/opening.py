"""Which ports of a machine others than its neighbours reach, changed while it runs or not."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from cloudme import between, claim, defined
from cloudme.model import openports
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import Machine, Port
from cloudme.model.ports import Host
from cloudme.store import Store


def changed(store: Store, machine: Machine, ports: tuple[Port, ...] | None, settings: Settings) -> Machine:
    """The machine with these ports. Raises UsageError where no rules of ours would hold."""
    defined.refuse(machine, "its definition does not say which ports are open", "nft, or the guest's own firewall")
    claim.check_ports(ports, list(store.networks_of(settings, [machine]).values()))
    return dataclasses.replace(machine, ports=ports)


@dataclass(frozen=True, slots=True)
class Reopen:
    """Writes the record anew, and the rules. Connections that are there go on."""

    store: Store
    old: Machine
    new: Machine

    def describe(self) -> str:
        return f"open ports of {self.new.name}: {openports.words(self.new.ports)} (was: " \
               f"{openports.words(self.old.ports)})"

    def do(self, host: Host) -> None:
        self._make(host, self.new)

    def undo(self, host: Host) -> None:
        self._make(host, self.old)

    def _make(self, host: Host, machine: Machine) -> None:
        self.store.amend(machine.name, ports=machine.ports)
        between.refresh(host, self.store)
