"""Machines of a file that are there, and differ from it: what can change at once, does; the rest wants a restart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from cloudme import claim, monitors
from cloudme.errors import AlreadyExists, CloudMeError
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

    Raises:  AlreadyExists where it is another machine altogether, and what stands in the way of a change.
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
    with transaction() as changes:
        outcome.record = machine = _at_once(site, changes, machine, live(machine, wanted))
        if runs and [difference.key for difference in rest] == ["mem"] and (steps := _balloon(site, machine, wanted)):
            changes.apply(steps)
            outcome.record, rest = dataclasses.replace(machine, shape=wanted.shape), []
        elif rest and (not runs or restart):
            outcome.record, steps = _rewritten(site, outcome, machine, wanted, rest)
            outcome.stopped = runs
            if runs:
                changes.say(f"stop {machine.name}")
                if not changes.dry_run:
                    power.stop(site.host, site.store, [machine], timeout_s=site.settings.stop_timeout_s, say=say)
            changes.apply(steps)
            rest = []
    outcome.pending, outcome.changed = rest, True
    outcome.did += [f"changed {difference.key}" for difference in found if difference not in rest]
    if found and not changes.dry_run:
        networks.refresh_names(site.host, site.store)


def _at_once(site: Site, transaction: Transaction, old: Machine, new: Machine) -> Machine:
    """What takes effect while it runs, and is no more than noted where it does not."""
    steps: list[Step] = []
    if new.ports != old.ports:
        claim.check_ports(new.ports, list(site.store.networks_of(site.settings, [new]).values()))
        steps.append(opening.Reopen(site.store, old, new))
    if new.limits != old.limits:
        limits.check(new.limits, new.shape.ram_mib)
        site.host.groups.check(new.limits, site.store.folder(new))
        steps.append(limiting.Limit(site.store, old, new, site.settings))
    if (new.group, new.type) != (old.group, old.type):
        steps.append(rewriting.Rewrite(site.store, old, new, site.settings))
    transaction.apply(steps)
    return new


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
    except CloudMeError as error:
        if error.exit_status == 69:
            return []
        raise
    new = dataclasses.replace(machine, shape=wanted.shape)
    return [*resize, rewriting.Rewrite(site.store, machine, new, site.settings)]


def _rewritten(
    site: Site, outcome: Outcome, machine: Machine, wanted: Machine, rest: Sequence[Difference],
) -> tuple[Machine, Sequence[Step]]:
    """The machine, with all that the file wants of it, and the steps to it. Raises what stands in their way."""
    if wanted.nics and wanted.nics[0].address is None:
        network = site.network(outcome.planned.declared)
        if not network.external:
            given = dataclasses.replace(wanted.nics[0], address=claim.addresses(site.store, network, 1)[0])
            wanted = dataclasses.replace(wanted, nics=(given, *wanted.nics[1:]))
    keys = {difference.key for difference in rest}
    if keys & SEEDED:
        wanted = dataclasses.replace(wanted, seed_id=identity.new_uuid())
    user_data = site.user_data(outcome.planned) if "user_data" in keys else None
    return wanted, rewriting.steps(site.host, site.store, machine, wanted, site.settings, user_data)
