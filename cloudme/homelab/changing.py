"""Machines of a file that are there, and differ from it: what can change at once, does; the rest wants a restart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from cloudme import claim, monitors
from cloudme.errors import AlreadyExists, HostUnavailable
from cloudme.homelab.outcomes import Outcome
from cloudme.homelab.site import Site
from cloudme.model import identity, limits
from cloudme.model.homelab.intent import SEEDED, Difference, Way, live
from cloudme.model.machine import Machine
from cloudme.model.steps import Step, Transaction
from cloudme.operations import limiting, memory, networks, opening, power, rewriting


def change(
    site: Site, outcome: Outcome, transaction: Callable[[], Transaction], *, say: Callable[[str], None],
    diff: Callable[[str], None], restart: bool,
) -> None:
    """restart: the machine may be stopped for it; else what needs that is left, and noted as pending.

    Raises:  AlreadyExists where it is another machine altogether, and what stands in the way of a change: it is then as
             it was before, and runs if it did.
    """
    machine, one = outcome.record, outcome.planned
    assert machine
    found = site.differences(machine, one)
    for difference in found:
        diff(f"{one.name}.{difference}")
    if anew := [difference for difference in found if difference.way is Way.anew]:
        raise AlreadyExists(f"there is a machine '{one.name}' of another kind: {', '.join(map(str, anew))}",
                            hint=f"vmstop -d {one.name} destroys it with its disk; then it is made anew")
    wanted = site.intended(machine, one, new=False)
    runs = site.store.is_running(machine)
    rest = [difference for difference in found if difference.way is Way.restart]
    stops = runs and bool(rest) and restart
    with transaction() as changes:
        if found and (stops or not runs):
            stop = [power.Stop(site.store, machine, site.settings, say)] if stops else []
            plan, machine = _anew(site, outcome, machine, wanted, found)
            changes.apply([*stop, *plan])
            rest = []
        elif found:
            before, machine = machine, live(machine, wanted)
            changes.apply(_at_once(site, before, machine))
            if [difference.key for difference in rest] == ["mem"] and (steps := _balloon(site, machine, wanted)):
                changes.apply(steps)
                machine, rest = dataclasses.replace(machine, shape=wanted.shape), []
    outcome.record, outcome.pending, outcome.ours, outcome.restarts = machine, rest, True, stops
    outcome.did += [f"changed {difference.key}" for difference in found if difference not in rest]
    if found and not changes.dry_run:
        networks.refresh_names(site.host, site.store)


def _at_once(site: Site, old: Machine, new: Machine) -> list[Step]:
    """What takes effect while it runs."""
    steps: list[Step] = []
    if new.ports != old.ports:
        claim.check_ports(new.ports, list(site.networks_of(new, new).values()))
        steps.append(opening.Reopen(site.store, old, new))
    if new.limits != old.limits:
        limits.check(new.limits, new.shape.ram_mib)
        site.host.groups.check(new.limits, site.store.folder(new))
        steps.append(limiting.Limit(site.store, old, new, site.settings))
    if (new.group, new.type) != (old.group, old.type):
        steps.append(_rewrite(site, old, new, f"group {new.group}, type {new.type}"))
    return steps


def _rewrite(site: Site, old: Machine, new: Machine, what: str) -> Step:
    return rewriting.Rewrite(site.store, old, rewriting.Wanted(
        machine=new, networks=site.networks_of(old, new), what=what))


def _balloon(site: Site, machine: Machine, wanted: Machine) -> Sequence[Step]:
    """The steps that give a machine that runs its new memory; none where it was started with less, or has no balloon.

    Raises UsageError where its guest uses more than that.
    """
    try:
        most = memory.most(site.host, monitors.of(site.store, machine))
        if wanted.shape.ram_mib > most:
            return []
        whole = dataclasses.replace(machine, shape=dataclasses.replace(machine.shape, ram_mib=most))
        resize = memory.checked(site.host, site.store, [whole], wanted.shape.ram_mib)
    except HostUnavailable:
        return []
    new = dataclasses.replace(machine, shape=wanted.shape)
    return [*resize, _rewrite(site, machine, new, f"{wanted.shape.ram_mib} MiB")]


def _anew(
    site: Site, outcome: Outcome, machine: Machine, wanted: Machine, found: Sequence[Difference],
) -> tuple[list[Step], Machine]:
    """The steps that make it all that the file wants, while it does not run; and what it is then."""
    keys = {difference.key for difference in found}
    wanted = site.addressed(wanted, outcome.planned)
    if keys & SEEDED:
        wanted = dataclasses.replace(wanted, seed_id=identity.new_uuid())
    return rewriting.steps(site.host, site.store, machine, rewriting.Wanted(
        machine=wanted, networks=site.networks_of(machine, wanted), what=", ".join(sorted(keys)),
        user_data=site.user_data(outcome.planned) if "user_data" in keys else None,
        boots=site.boots(machine, outcome.planned))), wanted
