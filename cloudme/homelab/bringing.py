"""Bringing a host to what a file says: networks, then machines in the order of depends_on, one failure at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from cloudme import monitors
from cloudme.errors import AlreadyExists, Busy, CloudMeError
from cloudme.homelab import changing, making, notes, site
from cloudme.homelab.notes import Notes
from cloudme.homelab.outcomes import Outcome
from cloudme.homelab.site import Site
from cloudme.model.homelab import planned
from cloudme.model.homelab.nouns import Homelab
from cloudme.model.homelab.planned import Planned
from cloudme.model.machine import Machine
from cloudme.model.names import Name
from cloudme.model.network import DEFAULT_NETWORK, Network
from cloudme.model.steps import Transaction
from cloudme.operations import clones, networks, playbooks, power, readiness
from cloudme.operations.networks import uplink

AT_ONCE = 64


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
    """One call of cmapply. ours: networks that are as the file has them. broken: that could not be had, and why."""

    site: Site
    homelab: Homelab
    wishes: Wishes
    voice: Voice
    noted: Notes
    outcomes: list[Outcome] = field(default_factory=list)
    broken: dict[Name, CloudMeError] = field(default_factory=dict)
    ours: set[Name] = field(default_factory=set)
    waits: dict[Name, tuple[Name, ...]] = field(default_factory=dict)

    def run(self) -> list[Outcome]:
        """Raises HostUnavailable, and what else concerns all of it."""
        self.outcomes = [Outcome(one) for one in planned.planned(self.homelab, site=self.site.store.site())
                         if self.wishes.names is None or {one.name, one.entry} & set(self.wishes.names)]
        self._networks()
        self._note()
        self.waits = planned.waits(self.homelab)
        for wave in planned.starts(self.homelab):
            mine = [outcome for outcome in self.outcomes if outcome.planned.entry in wave]
            for outcome in mine:
                self._together([outcome], self._look)
            self._make([outcome for outcome in mine if outcome.fit and not outcome.there])
            for outcome in mine:
                if outcome.fit and outcome.there and not outcome.did:
                    self._together([outcome], self._change)
            self._start([outcome for outcome in mine if outcome.fit])
            self._settle([outcome for outcome in mine if outcome.fit])
            self._note()
        return self.outcomes

    # networks

    def _networks(self) -> None:
        store, settings = self.site.store, self.site.settings
        used = {outcome.planned.declared.vlan or outcome.planned.declared.network or DEFAULT_NETWORK
                for outcome in self.outcomes}
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
                    self.ours.add(name)
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
        noted = wanted.name in self.noted.homelab.networks.vlans
        if wanted.name not in self.homelab.networks.vlans or (before and noted):
            users = before.users if before else wanted.users
            wanted = dataclasses.replace(wanted, users=users)
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
            outcome.playbook = self._playbook(one, outcome.record)
            if outcome.fit and (error := self.broken.get(
                    one.declared.vlan or one.declared.network or DEFAULT_NETWORK)):
                raise error
            if outcome.record and outcome.record.definition:
                raise AlreadyExists(f"'{one.name}' is a machine that is defined", hint="another name")

    def _together(self, outcomes: Sequence[Outcome], work: Callable[[Sequence[Outcome]], None]) -> None:
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
                    self._together([outcome], work)

    def _make(self, outcomes: Sequence[Outcome]) -> None:
        if self.wishes.dry_run:
            for outcome in outcomes:
                self.voice.show(making.words(self.site, outcome.planned))
            return
        if outcomes:
            self.voice.slow()
        maker = making.Maker(self.site, self.voice.transaction, self.voice.say, self.voice.keys,
                             restores=lambda one: self._wanted_on(one.name, one.autostart) and not self.wishes.cold)
        self._together([one for one in outcomes if one.planned.declared.template], maker.clones)
        for outcome in outcomes:
            if not outcome.planned.declared.template:
                self._together([outcome], maker.machine)

    def _change(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            changing.change(self.site, outcome, self.voice.transaction, say=self.voice.say, diff=self.voice.diff,
                            restart=self.wishes.restart)

    def _wanted_on(self, name: str, autostart: bool) -> bool:
        return self.wishes.start and (autostart or bool(self.wishes.names and name in self.wishes.names))

    def _start(self, outcomes: Sequence[Outcome]) -> None:
        off = [outcome for outcome in outcomes if outcome.stopped or (
            self._wanted_on(outcome.planned.name, outcome.planned.autostart)
            and not (outcome.record and self.site.store.is_running(outcome.record)))]
        for outcome in [outcome for outcome in off if self.wishes.dry_run and (outcome.stopped or not outcome.there)]:
            self.voice.show(f"start {outcome.planned.name}")
        if off and not self.wishes.dry_run:
            self.voice.slow()
        self._together([outcome for outcome in off if outcome.there], self._power)

    def _power(self, outcomes: Sequence[Outcome]) -> None:
        with self.voice.transaction() as transaction:
            power.start(transaction, self.site.store, [_there(outcome) for outcome in outcomes], self.site.settings)
        for outcome in outcomes:
            outcome.did.append("started")

    # and what becomes of them

    def _settle(self, outcomes: Sequence[Outcome]) -> None:
        """Await those that were started; configure those whose playbook is new."""
        if self.wishes.dry_run:
            for outcome in outcomes:
                if outcome.playbook:
                    self.voice.show(f"apply {outcome.playbook} to {outcome.planned.name}")
            return
        on = [outcome for outcome in outcomes if outcome.record and self.site.store.is_running(outcome.record)
              and ("started" in outcome.did or outcome.playbook)]
        for outcome, error in zip(on, monitors.all_at_once(on, self._await, AT_ONCE), strict=True):
            outcome.error = error
        for book in sorted({outcome.playbook for outcome in on} - {""}):
            self._together([one for one in on if one.fit and one.playbook == book], self._configure)

    def _playbook(self, one: Planned, machine: Machine | None) -> str:
        """The path of that which is to be applied; '' where there is none, or it was applied as it is."""
        if not one.declared.playbook or not self.wishes.configure:
            return ""
        path = self.site.path(one.declared.playbook)
        digest = notes.digest(path, machine.uuid if machine else "")
        return "" if self.noted.configured.get(one.name) == digest else path

    def _await(self, outcome: Outcome) -> CloudMeError | None:
        machine = _there(outcome)
        try:
            readiness.wait(self.site.host, self.site.store, [machine], "ssh" if machine.address else "booted",
                           timeout_s=self.site.settings.boot_timeout_s, say=self.voice.say)
        except CloudMeError as error:
            return error
        return None

    def _configure(self, outcomes: Sequence[Outcome]) -> None:
        """All of one playbook."""
        book = outcomes[0].playbook
        machines = [_there(outcome) for outcome in outcomes]
        with self.voice.proxy(machines) as proxy:
            reports = playbooks.configure(self.site.host, self.site.store, machines,
                                          {machine.type: book for machine in machines}, self.voice.say, proxy)
        for outcome in outcomes:
            report = reports[outcome.planned.name]
            if error := playbooks.failed({outcome.planned.name: report}):
                outcome.error = error
            else:
                self.noted.configured[outcome.planned.name] = notes.digest(book, _there(outcome).uuid)
                outcome.did.append("configured")

    def _note(self) -> None:
        if self.wishes.dry_run:
            return
        entries = {outcome.planned.entry for outcome in self.outcomes}
        for outcome in self.outcomes:
            if not outcome.settled:
                entries.discard(outcome.planned.entry)
        whole = notes.merged(self.noted, self.homelab, self.site.folder, entries, self.ours)
        if whole != notes.read(self.site.store):
            notes.write(self.site.store, whole)


def prune(bringing: Bringing, machines: Sequence[Machine], vlans: Sequence[Name]) -> None:
    """Destroy machines that an earlier file had, and delete its networks. Raises what stands in the way."""
    here = bringing.site
    on = [machine for machine in machines if here.store.is_running(machine)]
    with bringing.voice.transaction() as transaction:
        for machine in on:
            transaction.say(f"stop {machine.name}")
        if on and not transaction.dry_run:
            power.stop(here.host, here.store, on, timeout_s=here.settings.stop_timeout_s, say=bringing.voice.say)
        clones.destroy(transaction, here.store, machines)
    for name in vlans:
        if here.store.network(name):
            with bringing.voice.transaction() as transaction:
                networks.delete(transaction, here.store, name)
    if bringing.wishes.dry_run:
        return
    networks.refresh_names(here.host, here.store)
    bringing.noted = notes.without(bringing.noted, bringing.homelab)
    notes.write(here.store, bringing.noted)


def left_over(here: Site, noted: Notes, homelab: Homelab) -> tuple[list[Machine], list[Name]]:
    """Machines, and VLANs, that an earlier file had, and this one has not: those that --prune takes away."""
    wanted = {one.name for one in planned.planned(homelab)}
    names = [one.name for one in planned.planned(noted.homelab) if one.name not in wanted]
    machines = [machine for name in names if (machine := here.record(name)) and not machine.definition]
    return machines, [name for name in noted.homelab.networks.vlans if name not in homelab.networks.vlans]


def _there(outcome: Outcome) -> Machine:
    if outcome.record is None:
        raise Busy(f"'{outcome.planned.name}' has gone meanwhile")
    return outcome.record
