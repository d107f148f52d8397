"""What an earlier file had, and this one has not: told, or destroyed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cloudme.errors import CloudMeError
from cloudme.homelab import notes
from cloudme.homelab.bringing import Bringing
from cloudme.homelab.notes import Notes
from cloudme.model.homelab import planned
from cloudme.model.homelab.nouns import Homelab
from cloudme.model.machine import Machine
from cloudme.model.names import Name
from cloudme.operations import clones, networks, power
from cloudme.store import Store


@dataclass(slots=True)
class Left:
    """machines, vlans: those that --prune takes away. failed: what it could not, and why."""

    machines: list[Machine] = field(default_factory=list)
    vlans: list[Name] = field(default_factory=list)
    failed: dict[str, CloudMeError] = field(default_factory=dict)

    def paths(self) -> list[str]:
        """Where a file would have them."""
        return [f"machines.{one.name}" for one in self.machines] + [f"networks.vlans.{name}" for name in self.vlans]


def left_over(store: Store, noted: Notes, homelab: Homelab) -> Left:
    """A machine that was destroyed, and made again by somebody else, is none; nor is one that is defined."""
    wanted = {one.name for one in planned.planned(homelab)}
    left = Left(vlans=[Name(name) for name in noted.vlans if name not in homelab.networks.vlans
                       and store.network(name)])
    for name, uuid in noted.machines.items():
        if name not in wanted:
            with contextlib.suppress(CloudMeError):
                machine = store.machine(name)
                if machine.uuid == uuid and not machine.definition:
                    left.machines.append(machine)
    return left


def machines(work: Bringing, left: Left) -> None:
    """Destroy them, each for itself."""
    here = work.site
    if on := [machine for machine in left.machines if here.store.is_running(machine)]:
        _try(left, [machine.name for machine in on], lambda: _stop(work, on))
    for machine in left.machines:
        if machine.name not in left.failed:
            _try(left, [machine.name], functools.partial(_destroy, work, machine))
    if work.wishes.dry_run or not left.machines:
        return
    networks.refresh_names(here.host, here.store)
    gone = {machine.name for machine in left.machines} - set(left.failed)
    work.noted = notes.without(work.noted, set(work.noted.homelab.machines) - set(work.homelab.machines), gone, ())
    notes.write(here.store, work.noted)


def vlans(work: Bringing, left: Left, *, unused: bool) -> None:
    """Delete them. unused: those that no machine uses, before others are made that may overlap with them."""
    here = work.site
    used = {nic.network for machine in here.store.machines() for nic in machine.nics}
    mine = [name for name in left.vlans if not (unused and name in used)]
    left.vlans = [name for name in left.vlans if name not in mine]
    for name in mine:
        _try(left, [name], functools.partial(_delete, work, name, left.machines))
    if mine and not work.wishes.dry_run:
        work.noted = notes.without(work.noted, (), (), set(mine) - set(left.failed))
        notes.write(here.store, work.noted)


def _try(left: Left, names: Sequence[str], work: Callable[[], None]) -> None:
    try:
        work()
    except CloudMeError as error:
        left.failed |= dict.fromkeys(names, error)


def _stop(work: Bringing, on: Sequence[Machine]) -> None:
    here = work.site
    with work.voice.transaction() as transaction:
        for machine in on:
            transaction.say(f"stop {machine.name}")
        if not transaction.dry_run:
            power.stop(here.host, here.store, on, timeout_s=here.settings.stop_timeout_s, say=work.voice.say)


def _destroy(work: Bringing, machine: Machine) -> None:
    with work.voice.transaction() as transaction:
        clones.destroy(transaction, work.site.store, [machine])


def _delete(work: Bringing, name: Name, destroyed: Sequence[Machine]) -> None:
    here, going = work.site, {machine.name for machine in destroyed} if work.wishes.dry_run else set()
    left = [machine.name for machine in here.store.machines() if any(nic.network == name for nic in machine.nics)]
    with work.voice.transaction() as transaction:
        if going & set(left) and going >= set(left):  # a dry run: they are still there
            transaction.say(f"delete the network {name}")
        else:
            networks.delete(transaction, here.store, name)
