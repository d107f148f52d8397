"""Machines of a file that are not there yet: clones of templates, restored where that can be, or machines on images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cloudme import folders, warm
from cloudme.homelab.outcomes import Outcome
from cloudme.homelab.site import Site
from cloudme.model.homelab import intent
from cloudme.model.homelab.planned import Planned
from cloudme.model.machine import CMDLINE, INITRD, KERNEL, CloneRequest, Kernel, Machine
from cloudme.model.names import Name
from cloudme.model.steps import Transaction
from cloudme.model.units import MIB, human
from cloudme.operations import clones, instant, machines, networks, power


def words(site: Site, one: Planned) -> str:
    """What making it would be, in a line. Raises NotFound for a folder that it shares."""
    declared = one.declared
    base = f"a clone of {declared.template}" if declared.template else f"on image {declared.image}"
    shape = intent.shape(one, site.shape(declared))
    where = f"{site.network(declared).name}{f' at {declared.ip}' if declared.ip else ''}"
    lines = [step.describe() for step in folders.making(site.store.world, intent.shares(one))]
    return "\n".join([*lines, f"make {one.name}: {base}, group {one.group}, type {one.type}, {shape.vcpus} CPUs, "
                      f"{human(shape.ram_mib * MIB)}, on {where}"])


@dataclass(slots=True)
class Maker:
    """restores: whether a machine may be restored from a RAM image, which starts it at once."""

    site: Site
    transaction: Callable[[], Transaction]
    say: Callable[[str], None]
    keys: Callable[[], tuple[str, str]]
    restores: Callable[[Planned], bool]
    plans: dict[str, Planned] = field(default_factory=dict)
    reasons: dict[Name, str] = field(default_factory=dict)

    def clones(self, outcomes: Sequence[Outcome]) -> None:
        """All or none; those that go on from a RAM image run then."""
        site = self.site
        self.plans = {one.planned.name: one.planned for one in outcomes}
        accel = power.accelerator(site.host, site.settings)
        with networks.announcing(site.host, site.store) as announce, self.transaction() as transaction, clones.making(
                transaction, site.store, [self._request(one.planned) for one in outcomes], site.settings,
                lambda machine: self._based(machine, accel)) as made:
            announce(made)
            instant.start(transaction, site.store, [machine for machine in made if machine.bases], site.settings,
                          accel=accel)
        for template, why in self.reasons.items():
            self.say(f"clones of {template} boot, its RAM image cannot be used: {why}")
        self.reasons.clear()
        for outcome, machine in zip(outcomes, made, strict=True):
            outcome.record, outcome.ours = machine, True
            outcome.did += ["made", *(["started"] if machine.bases else [])]

    def machine(self, outcomes: Sequence[Outcome]) -> None:
        """One on an image; it does not run yet."""
        (outcome,) = outcomes
        one, declared, site = outcome.planned, outcome.planned.declared, self.site
        assert declared.image
        public, private = self.keys()
        files = {name: path for name, path in ((KERNEL, declared.kernel), (INITRD, declared.initrd)) if path}
        kernel = Kernel(cmdline=declared.cmdline or CMDLINE, initrd=INITRD in files) if KERNEL in files else None
        wanted = machines.Wanted(
            name=one.name, image=declared.image, group=one.group, type=one.type, user=declared.user,
            public_key=public, key_file=private, networks=(site.network(declared).name,),
            address=str(declared.ip) if declared.ip else None, user_data=site.user_data(one),
            shape=intent.shape(one, site.shape(declared)), disk_bytes=site.settings.disk_bytes, vnc_port=None,
            isolate=declared.isolate, net_rate=declared.net_rate, limits=declared.limits, ports=intent.ports(one),
            board=str(one.board), kernel=kernel, vsock_cid=declared.vsock_cid if site.vsock() else None, files=files,
            shares=intent.shares(one), like=lambda machine: site.intended(machine, one, new=True))
        with self.transaction() as transaction:
            outcome.record = machines.make(transaction, site.store, wanted, site.settings)
            networks.refresh_names(site.host, site.store)
        outcome.ours = True
        outcome.did.append("made")

    def _request(self, one: Planned) -> CloneRequest:
        declared = one.declared
        assert declared.template
        shape = intent.shape(one, self.site.shape(declared))
        return CloneRequest(
            template=declared.template, count=1, group=one.group, type=one.type, prefix=one.name, name=one.name,
            ram_mib=shape.ram_mib, vcpus=shape.vcpus, networks=(self.site.network(declared).name,),
            addresses=(str(declared.ip),) if declared.ip else (), limits=declared.limits, isolate=declared.isolate,
            net_rate=declared.net_rate, ports=intent.ports(one), shares=intent.shares(one),
            user_data=self.site.user_data(one))

    def _based(self, machine: Machine, accel: str) -> Machine:
        one = self.plans[machine.name]
        machine = self.site.intended(machine, one, new=True)
        assert machine.template
        if not self.restores(one) or one.declared.user_data \
                or not warm.manifest(self.site.store.world.warm(machine.template)):
            return machine
        machine, why = warm.based(self.site.host, self.site.store, machine, accel)
        if why:
            self.reasons[machine.template or one.name] = why
        return machine
