"""Bringing a host to what a file says: networks, then machines in the order of depends_on, one failure at a time."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from cloudme.errors import AlreadyExists, CloudMeError
from cloudme.homelab import changing, making, notes, settling, site
from cloudme.homelab.notes import Notes
from cloudme.homelab.outcomes import Outcome
from cloudme.homelab.site import Site
from cloudme.model.homelab import planned
from cloudme.model.homelab.nouns import Homelab
from cloudme.model.machine import Machine
from cloudme.model.names import Name
from cloudme.model.network import Network
from cloudme.model.steps import Transaction
from cloudme.operations import networks, power
from cloudme.operations.networks import uplink

SHOWN = {"vlan": "id", "address": "gateway", "uplink": "uplink", "dns": "dns", "reaches": "reaches"}
"""What of a network may change, and the file's word for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What else was asked for. names: machines, or entries, that alone are meant; None: all.

    restart: machines may be stopped and started. cold: nothing is restored from RAM images.
    """

    names: Collection[str] | None = None
    restart: bool = False
    cold: bool = False
    start: bool = True
    configure: bool = True
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """show: results, and what a dry run would do. say: progress. diff: fields, old and new. slow: says once that
    machines will be emulated. keys: the public key's text and the private one's file, for machines on images; it may
    raise. proxy: what connects Ansible's ssh to machines that are reached from outside only (cli.launching)."""

    transaction: Callable[[], Transaction]
    show: Callable[[str], None]
    say: Callable[[str], None]
    diff: Callable[[str], None]
    slow: Callable[[], None]
    keys: Callable[[], tuple[str, str]]
    proxy: Callable[[Sequence[Machine]], AbstractContextManager[Callable[[Machine], Sequence[str]]]]


@dataclass(slots=True, kw_only=True)
class Bringing:
    """One call of cmapply. going: machines that it destroys. broken: networks that could not be had, and why.
    had: VLANs that could. taken: see Site.strangers."""

    site: Site
    homelab: Homelab
    wishes: Wishes
    voice: Voice
    noted: Notes
    going: Collection[str] = ()
    outcomes: list[Outcome] = field(default_factory=list)
    broken: dict[Name, CloudMeError] = field(default_factory=dict)
    had: list[Name] = field(default_factory=list)
    waits: dict[Name, tuple[Name, ...]] = field(default_factory=dict)
    taken: dict[tuple[str, object], str] = field(default_factory=dict)

    def run(self) -> list[Outcome]:
        """Raises HostUnavailable, and what else concerns all of it."""
        every = [Outcome(one) for one in planned.planned(self.homelab, site=self.site.store.site())]
        self.outcomes = [one for one in every if self.wishes.names is None or one.named(self.wishes.names)]
        self.waits = planned.waits(self.homelab)
        self.taken = self.site.strangers([*self.going, *(one.planned.name for one in every)])
        try:
            self._networks()
            self._exchange()
            for wave in planned.starts(self.homelab):
                self._wave([outcome for outcome in self.outcomes if outcome.planned.entry in wave])
        except BaseException:
            power.tell_off(self.site.store, [settling.there(one) for one in self.outcomes if one.restarts],
                           self.voice.say)
            raise
        finally:
            self._note()
        return self.outcomes

    def _wave(self, outcomes: Sequence[Outcome]) -> None:
        """Machines that do not wait for each other."""
        for outcome in outcomes:
            self.together([outcome], self._look)
        self._make([outcome for outcome in outcomes if outcome.fit and not outcome.there])
        for outcome in outcomes:
            if outcome.fit and outcome.there and not outcome.ours:
                self.together([outcome], self._change)
        self._start([outcome for outcome in outcomes if outcome.fit])
        settling.settle(self, [outcome for outcome in outcomes if outcome.fit])
        self._note()

    def _exchange(self) -> None:
        """Who is to have the address that another one leaves, at once with that one; all or none."""
        for outcome in self.outcomes:
            with contextlib.suppress(CloudMeError):  # told when it is its turn
                outcome.record = self.site.record(outcome.planned.name)
        for circle in changing.exchanges(self.outcomes):
            if self.wishes.restart or not any(
                    one.record and self.site.store.is_running(one.record) for one in circle):
                for outcome in circle:
                    self.together([outcome], self._look)
                if all(outcome.fit for outcome in circle):
                    try:
                        changing.exchange(self.site, circle, self.voice.transaction, say=self.voice.say,
                                          diff=self.voice.diff)
                    except CloudMeError as error:
                        for outcome in circle:
                            outcome.error = error

    # networks

    def _networks(self) -> None:
        store, settings = self.site.store, self.site.settings
        used = {planned.network_name(outcome.planned.declared) for outcome in self.outcomes}
        self.site.coming.update(site.networks(self.homelab, store, settings))
        for name in [*self.site.coming, *sorted(used - set(self.site.coming))]:
            if self.wishes.names is not None and name not in used:
                continue
            try:
                wanted = self.site.coming.get(name) or store.network_of(settings, name)
                with self.voice.transaction() as transaction:
                    self._network(transaction, wanted)
                if not self.wishes.dry_run:
                    self.site.coming[name] = store.network_of(settings, name)
                if name in self.homelab.networks.vlans:
                    self.had.append(name)
            except CloudMeError as error:
                self.broken[name] = error
        with self.voice.transaction() as transaction:
            if why_not := uplink.start(transaction, store.world):
                self.voice.say(why_not)

    def _network(self, transaction: Transaction, wanted: Network) -> None:
        """A network of ours that was there before, and not by a file, is not changed. Raises AlreadyExists."""
        if wanted.external or wanted.shared:
            return
        before = self.site.store.network(wanted.name)
        if before and wanted.vlan is None:
            wanted = dataclasses.replace(wanted, users=before.users)
        for what, key in SHOWN.items() if before and wanted.name in self.homelab.networks.vlans else ():
            old, new = (_shown(getattr(network, what)) for network in (before, wanted))
            if old != new:
                self.voice.diff(f"networks.vlans.{wanted.name}.{key}: {old} -> {new}")
        if wanted.name not in self.homelab.networks.vlans or (before and wanted.name in self.noted.vlans):
            networks.start(transaction, self.site.store, wanted)
        else:
            networks.create(transaction, self.site.store, wanted)
        if transaction.begun:
            self.voice.say(f"network {wanted.name}: {'started' if before else 'made'}")

    # machines

    def _look(self, outcomes: Sequence[Outcome]) -> None:
        """Whether they can be tried at all, and which playbooks are theirs."""
        for outcome in outcomes:
            one, waits = outcome.planned, self.waits[outcome.planned.entry]
            failed = [other.planned.name for other in self.outcomes if other.planned.entry in waits and not other.fit]
            outcome.waits_for = failed[0] if failed else ""
            outcome.record = self.site.record(one.name)
            if not outcome.fit:
                continue
            if error := self.broken.get(planned.network_name(one.declared)):
                raise error
            if outcome.record and outcome.record.definition:
                raise AlreadyExists(f"'{one.name}' is a machine that is defined", hint="another name")
            site.check_apart(one, self.taken)
            outcome.playbook = settling.playbook(self, one, outcome.record)

    def together(self, outcomes: Sequence[Outcome], work: Callable[[Sequence[Outcome]], None]) -> None:
        """All at once; where that fails, one by one, so that the others are served."""
        if not outcomes:
            return
        try:
            work(outcomes)
        except CloudMeError as error:
            if len(outcomes) == 1:
                outcomes[0].error = error
            else:
                for outcome in outcomes:
                    self.together([outcome], work)

    def _make(self, outcomes: Sequence[Outcome]) -> None:
        if self.wishes.dry_run:
            for outcome in outcomes:
                self.together([outcome], lambda mine: self.voice.show(making.words(self.site, mine[0].planned)))
            return
        if outcomes:
            self.voice.slow()
        restored = {one.planned.name for one in outcomes if self.wanted_on(one) and not self.wishes.cold}
        maker = making.Maker(self.site, self.voice.transaction, self.voice.say, self.voice.keys,
                             restores=lambda one: one.name in restored)
        self.together([one for one in outcomes if one.planned.declared.template], maker.clones)
        for outcome in outcomes:
            if not outcome.planned.declared.template:
                self.together([outcome], maker.machine)

    def _change(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            changing.change(self.site, outcome, self.voice.transaction, say=self.voice.say, diff=self.voice.diff,
                            restart=self.wishes.restart)

    def wanted_on(self, outcome: Outcome) -> bool:
        """Whether it is to run: by the file, since it is named, or since it ran before."""
        return outcome.restarts or (self.wishes.start and (
            outcome.planned.autostart or outcome.named(self.wishes.names or ())))

    def _start(self, outcomes: Sequence[Outcome]) -> None:
        off = [outcome for outcome in outcomes if self.wanted_on(outcome) and (
            not outcome.record or outcome.restarts or not self.site.store.is_running(outcome.record))]
        if self.wishes.dry_run:  # not all of them are there yet, nor are their networks
            for outcome in off:
                self.voice.show(f"start {outcome.planned.name}")
            return
        if off:
            self.voice.slow()
        self.together(off, self._power)

    def _power(self, outcomes: Sequence[Outcome]) -> None:
        with self.voice.transaction() as transaction:
            power.start(transaction, self.site.store, [settling.there(outcome) for outcome in outcomes],
                        self.site.settings)
        for outcome in outcomes:
            outcome.did.append("started")

    def _note(self) -> None:
        """What was reached so far, however it ends."""
        if self.wishes.dry_run:
            return
        entries = {outcome.planned.entry for outcome in self.outcomes if outcome.ours}
        entries -= {outcome.planned.entry for outcome in self.outcomes if not outcome.settled}
        machines: dict[str, str] = {outcome.planned.name: outcome.record.uuid for outcome in self.outcomes
                                    if outcome.ours and outcome.record}
        self.noted = notes.merged(self.noted, self.homelab, entries, machines, self.had)
        notes.write(self.site.store, self.noted)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        value = ", ".join(map(str, value))
    return str(value or "not set")
