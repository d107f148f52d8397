"""Machines of a file that are there, and differ from it: what can change at once, does; the rest wants a restart."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence

from cloudme import claim, monitors
from cloudme.errors import AlreadyExists, Busy, CloudMeError, HostUnavailable
from cloudme.homelab.outcomes import Outcome
from cloudme.homelab.site import Site
from cloudme.model import identity, limits
from cloudme.model.homelab import planned
from cloudme.model.homelab.intent import SEEDED, Difference, Way
from cloudme.model.machine import Machine
from cloudme.model.steps import Step, Transaction
from cloudme.operations import limiting, memory, networks, opening, power, rewriting, sharing


def change(
    site: Site, outcome: Outcome, transaction: Callable[[], Transaction], *, say: Callable[[str], None],
    diff: Callable[[str], None], restart: bool,
) -> None:
    """restart: the machine may be stopped for it; else what needs that is left, and noted as pending.

    Raises:  AlreadyExists where it is another machine altogether, and what stands in the way of a change: it is then as
             it was before, and runs if it did; of changes that are made while it runs, the others are made.
    """
    machine, wanted, found = _compared(site, outcome, diff)
    runs = site.store.is_running(machine)
    rest = [difference for difference in found if difference.way is Way.restart
            and not (difference.key == "shares" and runs and _pluggable(site, machine, wanted))]
    stops = runs and bool(rest) and restart
    if found and (stops or not runs):
        with transaction() as changes:
            stop = [power.Stop(site.store, machine, site.settings, say)] if stops else []
            plan, machine = _anew(site, outcome, machine, wanted, found)
            if stops and not changes.dry_run:
                _check(site, machine)
            changes.apply([*stop, *plan])
        _changed(outcome, machine, found, restarts=stops)
    else:
        _while_it_runs(site, outcome, transaction, wanted, found, rest)
    if found and not transaction().dry_run:
        networks.refresh_names(site.host, site.store)


def _while_it_runs(
    site: Site, outcome: Outcome, transaction: Callable[[], Transaction], wanted: Machine,
    found: Sequence[Difference], rest: list[Difference],
) -> None:
    """Each change by itself. Raises the error of the first that fails, with the words of the others', after all."""
    assert outcome.record
    machine, done, errors = outcome.record, [], list[CloudMeError]()
    resizes = [difference.key for difference in rest] == ["mem"]
    shrinks = wanted.shape.ram_mib < machine.shape.ram_mib  # then memory goes first: a limit may not be below it
    for keys, make in reversed(LIVE.items()) if shrinks else LIVE.items():
        mine = [one for one in found if one.key in keys and (resizes or one not in rest)]
        if mine:
            try:
                with transaction() as changes:
                    before, machine = machine, make(site, changes, machine, wanted)
                done += mine if machine is not before else []
            except CloudMeError as error:
                errors.append(error)
    outcome.record, outcome.pending = machine, [one for one in rest if one not in done]
    outcome.did += [f"changed {one.key}" for one in found if one in done]
    if errors:
        for other in errors[1:]:
            errors[0].message += f"; {other.message}"
        raise errors[0]
    outcome.ours = True


def exchange(
    site: Site, outcomes: Sequence[Outcome], transaction: Callable[[], Transaction], *, say: Callable[[str], None],
    diff: Callable[[str], None],
) -> None:
    """Change machines that take each other's addresses, all or none; those that run are stopped for it.

    Raises as `change` does.
    """
    compared = [_compared(site, outcome, diff) for outcome in outcomes]
    on = [machine for machine, _, _ in compared if site.store.is_running(machine)]
    news = []
    with transaction() as changes:
        for machine, wanted, _ in compared:
            if machine in on and not changes.dry_run:
                _check(site, wanted)
        changes.apply([power.Stop(site.store, machine, site.settings, say) for machine in on])
        bare = [dataclasses.replace(machine, nics=(dataclasses.replace(machine.nics[0], address=None),
                                                   *machine.nics[1:])) for machine, _, _ in compared]
        changes.apply([_rewrite(site, machine, left, f"it leaves {machine.address}")
                       for (machine, _, _), left in zip(compared, bare, strict=True)])
        for outcome, left, (_, wanted, found) in zip(outcomes, bare, compared, strict=True):
            if changes.dry_run:  # nobody has left
                changes.say(f"write the record of {wanted.name} anew: ip {wanted.address}")
                news.append(wanted)
            else:
                plan, new = _anew(site, outcome, left, wanted, found)
                changes.apply(plan)
                news.append(new)
    for outcome, new, (machine, _, found) in zip(outcomes, news, compared, strict=True):
        _changed(outcome, new, found, restarts=machine in on)
    if not changes.dry_run:
        networks.refresh_names(site.host, site.store)


def _compared(
    site: Site, outcome: Outcome, diff: Callable[[str], None],
) -> tuple[Machine, Machine, list[Difference]]:
    """The machine as it is, as it is to be, and what differs. Raises AlreadyExists where it is another one."""
    machine, one = outcome.record, outcome.planned
    assert machine
    wanted, found = site.compared(machine, one)
    for difference in found:
        diff(f"{one.name}.{difference}")
    if anew := [difference for difference in found if difference.way is Way.anew]:
        raise AlreadyExists(f"there is a machine '{one.name}' of another kind: {', '.join(map(str, anew))}",
                            hint=f"vmstop -d {one.name} destroys it with its disk; then it is made anew")
    return machine, wanted, found


def _check(site: Site, wanted: Machine) -> None:
    """Whether it will start again, as far as can be known; folders that are to be made are not there yet."""
    shares = tuple(share for share in wanted.shares if not share.made or os.path.exists(share.source))
    power.check(site.host, site.store, [dataclasses.replace(wanted, shares=shares)],
                site.networks_of(wanted, wanted).values())


def _changed(outcome: Outcome, machine: Machine, found: Sequence[Difference], *, restarts: bool) -> None:
    outcome.record, outcome.ours, outcome.restarts = machine, True, restarts
    outcome.did += [f"changed {difference.key}" for difference in found]


def _rewrite(site: Site, old: Machine, new: Machine, what: str) -> Step:
    return rewriting.Rewrite(site.store, old, rewriting.Wanted(
        machine=new, networks=site.networks_of(old, new), what=what))


def _ports(site: Site, changes: Transaction, old: Machine, wanted: Machine) -> Machine:
    new = dataclasses.replace(old, ports=wanted.ports)
    claim.check_ports(new.ports, list(site.networks_of(new, new).values()))
    changes.apply([opening.Reopen(site.store, old, new)])
    return new


def _limits(site: Site, changes: Transaction, old: Machine, wanted: Machine) -> Machine:
    new = dataclasses.replace(old, limits=wanted.limits)
    limits.check(new.limits, new.shape.ram_mib)
    site.host.groups.check(new.limits, site.store.folder(new))
    changes.apply([limiting.Limit(site.store, old, new, site.settings)])
    return new


def _membership(site: Site, changes: Transaction, old: Machine, wanted: Machine) -> Machine:
    new = dataclasses.replace(old, group=wanted.group, type=wanted.type)
    changes.apply([_rewrite(site, old, new, f"group {new.group}, type {new.type}")])
    return new


def _with_shares(old: Machine, wanted: Machine) -> Machine:
    return dataclasses.replace(old, shares=wanted.shares, seed_id=identity.new_uuid())


def _pluggable(site: Site, old: Machine, wanted: Machine) -> bool:
    """Whether it can have its shares while it runs; else they wait for its next start."""
    return not sharing.why_later(site.host, site.store, old, _with_shares(old, wanted))


def _shares(site: Site, changes: Transaction, old: Machine, wanted: Machine) -> Machine:
    """Raises Busy where it is no longer `_pluggable`: once they are in its record, nobody is told that they wait."""
    new = _with_shares(old, wanted)
    if why := sharing.update(changes, site.store, old, new, site.settings):
        raise Busy(f"'{old.name}' cannot have its shares while it runs: {why}", hint="cmapply --restart")
    return new


def _memory(site: Site, changes: Transaction, old: Machine, wanted: Machine) -> Machine:
    """The same machine where it was started with less, or has no balloon: that waits for its next start.

    Raises UsageError where its guest uses more than that.
    """
    size_mib = wanted.shape.ram_mib
    try:
        most = memory.most(site.host, monitors.of(site.store, old))
        if size_mib > most:
            return old
        whole = dataclasses.replace(old, shape=dataclasses.replace(old.shape, ram_mib=most))
        resize = memory.checked(site.host, site.store, [whole], size_mib)
    except HostUnavailable:
        return old
    new = dataclasses.replace(old, shape=wanted.shape)
    changes.apply([*resize, _rewrite(site, old, new, f"{size_mib} MiB")])
    return new


LIVE: dict[tuple[str, ...], Callable[[Site, Transaction, Machine, Machine], Machine]] = {
    ("ports",): _ports, ("limits",): _limits, ("group", "type"): _membership, ("shares",): _shares, ("mem",): _memory}
"""Keys of the file -> what makes a machine that runs what they say, and returns what it is then."""


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


def exchanges(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Machines of which one is to have the address that another one is to leave: together, and before new ones."""
    owners = {(machine.nics[0].network, machine.nics[0].address): one for one in outcomes
              if (machine := one.record) and machine.nics}
    found: list[list[Outcome]] = []
    for one in outcomes:
        owner = owners.get((planned.network_name(one.planned.declared), str(one.planned.declared.ip)))
        if owner and owner is not one and owner.planned.declared.ip:
            mine = [one, owner] if one.record else [owner]
            for others in [group for group in found if any(member is own for member in group for own in mine)]:
                found.remove(others)
                mine += [member for member in others if not any(member is own for own in mine)]
            found.append(mine)
    return found
