"""What machines may take of the host, changed while they run or not."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from cloudme import defined, place
from cloudme.model import limits
from cloudme.model.groups import Group
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import Limits, Machine
from cloudme.model.ports import Host
from cloudme.qemu import launch
from cloudme.store import Store

EVEN = 100
"""The weight of who has none (cgroup-v2.rst, cpu.weight)."""


def changed(host: Host, store: Store, machine: Machine, text: str) -> Machine:
    """The machine with the limits of the list `text` (model.limits.FORM).

    Raises:  UsageError, HostUnavailable and NotPermitted where this host cannot hold it to them.
    """
    defined.refuse(machine, "attrs.limits of its definition says what it may take",
                   "edit that, then: sudo vmunit generate NAME")
    new = dataclasses.replace(machine, limits=limits.changed(machine.limits, text))
    limits.check(new.limits, machine.shape.ram_mib)
    host.groups.check(new.limits, store.folder(machine))
    return new


@dataclass(slots=True)
class Limit:
    """Writes the record anew, and makes it true of a machine that runs.

    held:  whether the machine that runs is held to it; it is not, where it was started without a cgroup.
    """

    store: Store
    old: Machine
    new: Machine
    settings: Settings
    held: bool = False

    def describe(self) -> str:
        old, new = limits.words(self.old.limits), limits.words(self.new.limits)
        changes = [f"{name} {new[name]} (was: {old[name]})" for name in new if new[name] != old[name]]
        return f"limit {self.new.name}: {', '.join(changes)}"

    def do(self, host: Host) -> None:
        self._make(host, self.old, self.new)

    def undo(self, host: Host) -> None:
        self._make(host, self.new, self.old)

    def _make(self, host: Host, old: Machine, new: Machine) -> None:
        self.store.amend(new.name, limits=new.limits)
        self.held = self.store.is_running(new) and host.groups.change(self._difference(old, new))

    def _difference(self, old: Machine, new: Machine) -> Group:
        """The limits that differ; of those that are the host's again, what the host has: emulated ones need most."""
        group = launch.group(new, place.of(self.store, new, accel="tcg", networks={}, settings=self.settings))
        assert group
        fields = {}
        for field in (one.name for one in dataclasses.fields(Limits)):
            if getattr(old.limits, field) != getattr(new.limits, field):
                value = getattr(group.limits, field)
                fields[field] = value if value is not None else EVEN if field == "cpu_weight" else limits.UNLIMITED
        return dataclasses.replace(group, limits=Limits(**fields))
