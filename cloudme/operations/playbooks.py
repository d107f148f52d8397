"""Configuring machines: which playbook is whose, and what became of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cloudme.errors import CommandFailed, NotFound
from cloudme.formats import inventory
from cloudme.model.machine import Machine
from cloudme.model.ports import Host, HostReport
from cloudme.store import Store

NOTHING = HostReport(status="ok")
"""What a machine reports to which no playbook applies."""


def find(types: Iterable[str], folders: Sequence[str]) -> dict[str, str]:
    """Type -> its playbook: TYPE.yml in the first of `folders` that has it. A type without one is left out."""
    found = {}
    for kind in sorted(set(types)):
        paths = [os.path.join(folder, f"{kind}.yml") for folder in folders]
        if path := next((path for path in paths if os.path.isfile(path)), None):
            found[kind] = os.path.abspath(path)
    return found


def readable(path: str) -> str:
    """The absolute path of a playbook that somebody named. Raises NotFound."""
    if not os.path.isfile(path):
        raise NotFound(f"there is no playbook '{path}'")
    return os.path.abspath(path)


def configure(
    host: Host, store: Store, machines: Sequence[Machine], whose: Mapping[str, str], say: Callable[[str], None],
    proxy: Callable[[Machine], Sequence[str]] = lambda machine: (),
) -> dict[str, HostReport]:
    """Apply to each machine the playbook of its type, and return name -> report.

    whose:  type -> playbook. Playbooks run side by side, each over all machines of its types; every one sees the whole
            group in its inventory, so that one type can be told the addresses of another.
    proxy:  the command line that connects ssh to a machine that is reached from outside only.
    """
    work: dict[str, list[str]] = {}
    for machine in machines:
        if machine.type in whose:
            work.setdefault(whose[machine.type], []).append(machine.name)
    reports = {str(machine.name): NOTHING for machine in machines}
    if not work:
        return reports
    everybody = _inventory(store, machines, proxy)

    def one(playbook: str) -> Mapping[str, HostReport]:
        file = os.path.basename(playbook)
        say(f"{file} for {', '.join(work[playbook])}")
        return host.playbooks.run(
            playbook, everybody, hosts=work[playbook], say=lambda task: say(f"{file}: {task}"))

    with ThreadPoolExecutor(max_workers=len(work)) as pool:
        futures = [pool.submit(one, playbook) for playbook in work]
        try:
            for future in futures:
                reports |= future.result()
        except BaseException:
            host.playbooks.cancel()
            raise
    return reports


def _inventory(
    store: Store, machines: Sequence[Machine], proxy: Callable[[Machine], Sequence[str]],
) -> dict[str, Any]:
    """`machines` and all others of their groups that have an address."""
    others = [machine for group in {machine.group for machine in machines} for machine in store.machines(group)]
    known = {machine.name: machine for machine in others if machine.address} | {m.name: m for m in machines}
    targets = {machine: store.target(machine) for _, machine in sorted(known.items())}
    return inventory.static({
        machine: inventory.variables(machine, target, proxy(machine) if target.outside else ())
        for machine, target in targets.items()
    })


def failed(reports: Mapping[str, HostReport]) -> CommandFailed | None:
    """The error that names every machine on which a playbook failed, with the failing task's message."""
    lines = [f"{name}: {report.message}" for name, report in sorted(reports.items()) if report.status == "failed"]
    return CommandFailed("\n".join(lines)) if lines else None
