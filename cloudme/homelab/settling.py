"""What comes after machines are made and changed: they are awaited, and their playbooks applied."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cloudme.errors import Busy, CommandFailed
from cloudme.homelab import notes
from cloudme.homelab.outcomes import Outcome
from cloudme.model.homelab.planned import Planned
from cloudme.model.machine import Machine
from cloudme.operations import playbooks, readiness

if TYPE_CHECKING:
    from cloudme.homelab.bringing import Bringing


def settle(work: Bringing, outcomes: Sequence[Outcome]) -> None:
    """Await those that were started, or that others are about to wait for: a call before this one may have been
    interrupted. Configure those whose playbook is new."""
    site = work.site
    if work.wishes.dry_run:
        for outcome in outcomes:
            if outcome.playbook and (work.wanted_on(outcome) or (outcome.record and site.store.is_running(
                    outcome.record))):
                work.voice.show(f"apply {outcome.playbook} to {outcome.planned.name}")
        return
    on = [outcome for outcome in outcomes if outcome.record and site.store.is_running(outcome.record)
          and ("started" in outcome.did or outcome.playbook or _needed(work, outcome))]
    machines = [there(outcome) for outcome in on]
    errors = readiness.each(
        site.host, site.store, [(machine, "ssh" if machine.address else "booted") for machine in machines],
        timeout_s=site.settings.boot_timeout_s, say=work.voice.say)
    for outcome, error in zip(on, errors, strict=True):
        outcome.error = error
    for book in sorted({outcome.playbook for outcome in on} - {""}):
        work.together([one for one in on if one.fit and one.playbook == book],
                      lambda mine: _configure(work, mine))


def _needed(work: Bringing, outcome: Outcome) -> bool:
    """Whether one that depends on it is about to start."""
    return any(outcome.planned.entry in work.waits[other.planned.entry] and work.wanted_on(other)
               and not (other.record and work.site.store.is_running(other.record)) for other in work.outcomes)


def playbook(work: Bringing, one: Planned, record: Machine | None) -> str:
    """The path of that which is to be applied; '' where there is none, or it was applied as it is."""
    path = one.declared.playbook
    if not path or not work.wishes.configure:
        return ""
    return "" if record and work.noted.configured.get(record.uuid) == notes.digest(path) else path


def _configure(work: Bringing, outcomes: Sequence[Outcome]) -> None:
    """All of one playbook."""
    book, site = outcomes[0].playbook, work.site
    digest = notes.digest(book)
    machines = [there(outcome) for outcome in outcomes]
    with work.voice.proxy(machines) as proxy:
        reports = playbooks.configure(site.host, site.store, machines, {machine.type: book for machine in machines},
                                      work.voice.say, proxy)
    for outcome, machine in zip(outcomes, machines, strict=True):
        if (report := reports[machine.name]).status == "failed":
            outcome.error = CommandFailed(report.message)
        else:
            work.noted = dataclasses.replace(
                work.noted, configured={**work.noted.configured, machine.uuid: digest})
            outcome.did.append("configured")


def there(outcome: Outcome) -> Machine:
    if outcome.record is None:
        raise Busy(f"'{outcome.planned.name}' has gone meanwhile")
    return outcome.record
