"""What root does for a machine that is defined before its QEMU starts as a user without rights, and undoes afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence

from cloudme import index, layout, notes, passthrough
from cloudme.errors import Busy, CloudMeError
from cloudme.layout import World
from cloudme.model.definitions.nouns import HostConfiguration, Merged
from cloudme.model.ports import Host
from cloudme.model.steps import Step
from cloudme.operations.preparing import firmware, links, mediated, tenant, tpm, volumes
from cloudme.operations.preparing.firmware import MakeVariables
from cloudme.operations.preparing.teardown import steps


def plan(host: Host, world: World, machines: Iterable[Merged], configuration: HostConfiguration) -> list[Step]:
    """The steps that are left to do for these machines, everything checked; none where all is as it should be."""
    known = host.net.links()
    found: list[Step] = []
    for machine in machines:
        one = tenant.of(machine, configuration, notes.read(world.prepared(machine.name)))
        made = list(firmware.plan(host, one))
        variables = next((step.path for step in made if isinstance(step, MakeVariables)), "")
        found += [*made, *tpm.plan(host, one), *volumes.plan(host, one, variables), *links.plan(host, one, known),
                  *mediated.plan(host, one), *passthrough.plan(host, one.borrower, one.whole, known)]
    return found


def plan_tpms(host: Host, world: World, machines: Iterable[Merged], configuration: HostConfiguration) -> list[Step]:
    """Of these steps those that a TPM's unit needs, which starts before its machine's."""
    return [step for machine in machines
            for step in tpm.plan(host, tenant.of(machine, configuration, notes.read(world.prepared(machine.name))))]


def doubts(host: Host, machines: Sequence[Merged], configuration: HostConfiguration) -> list[str]:
    """What will run, and not as one expects."""
    slow = machines and configuration.accelerator == "kvm" and not host.qemu.kvm_usable()
    return [*['KVM cannot run stock kernels here: "accelerator": "tcg" in the host\'s configuration'] * bool(slow),
            *(doubt for machine in machines for doubt in firmware.doubts(host, machine))]


def tear_down(
    host: Host, world: World, names: Sequence[str], *, say: Callable[[str], None], dry_run: bool,
) -> None:
    """Undo what was prepared for machines, by the notes of it alone: no definition is needed, nor the same one.

    names:   none for all of which there are notes.
    Raises:  Busy where one runs: then nothing was undone, if it is among those that are named, else all of the others.
             Where something cannot be undone all else is, and the first failure is raised, with the words of all.
    """
    chosen = list(dict.fromkeys(names)) or notes.names(world.preparations)
    with contextlib.nullcontext() if dry_run else notes.alone(map(world.prepared, chosen)):
        problems: list[CloudMeError] = []
        if alive := [name for name in chosen if index.held(layout.machina_lock(name))]:
            problems.append(Busy(f"{', '.join(alive)}: QEMU lives", hint=f"vmstop {' '.join(alive)}"))
            chosen = [] if names else [name for name in chosen if name not in alive]
        _tear_down(host, world, chosen, problems, say=say, dry_run=dry_run)


def _tear_down(
    host: Host, world: World, chosen: Sequence[str], problems: list[CloudMeError], *, say: Callable[[str], None],
    dry_run: bool,
) -> None:
    for name in chosen:
        try:
            for step in steps(notes.read(world.prepared(name))):
                say(step.describe())
                if not dry_run:
                    _attempt(host, step, problems)
        except CloudMeError as error:
            problems.append(error)
    if problems:
        problems[0].message = "\n".join(error.message for error in problems)
        raise problems[0]


def _attempt(host: Host, step: Step, problems: list[CloudMeError]) -> None:
    try:
        step.do(host)
    except CloudMeError as error:
        problems.append(error)
