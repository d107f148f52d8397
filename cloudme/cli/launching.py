"""What vmlaunch does with its options: gather, check, start, await, configure, print."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

from cloudme import cli
from cloudme.errors import NotFound, UsageError
from cloudme.formats import inventory
from cloudme.layout import World
from cloudme.model.machine import Machine
from cloudme.model.names import TEMPLATES
from cloudme.model.ports import Host, HostReport
from cloudme.operations import playbooks, power, readiness
from cloudme.store import Store


def launch(args: argparse.Namespace, store: Store, host: Host) -> None:
    """Raises what failed; the rows of the machines are printed before a failing playbook is reported."""
    settings, say = cli.settings(args), cli.teller(args)
    if bool(args.name) == bool(args.group):
        raise UsageError("a group is wanted", hint="vmlaunch GROUP")
    if (group := args.name or args.group) == TEMPLATES:
        raise UsageError("templates are not launched", hint="vminstantiate makes machines of them")
    machines = store.group(group, args.type)
    whose = _whose(args, store.world, machines)
    if not args.no_configure and (bare := sorted({machine.type for machine in machines} - set(whose))):
        cli.teller(args, verbose=True)(f"no playbook for type {', '.join(bare)}")
    host.playbooks.check(sorted(set(whose.values())))
    power.check(host, store, machines, store.networks_of(settings, machines).values())
    with cli.transaction(args, host) as transaction:
        if any(not (machine.definition or store.is_running(machine)) for machine in machines):
            cli.tell_accelerator(args, host, settings)
        power.start(transaction, store, machines, settings)
        for machine in machines if transaction.dry_run else []:
            if machine.type in whose:
                transaction.say(f"apply {whose[machine.type]} to {machine.name}")
        if transaction.dry_run:
            return
        transaction.keep()
    readiness.wait(host, store, machines, "ssh", timeout_s=settings.boot_timeout_s, say=say)
    with proxied(store, host, machines) as proxy:
        reports = playbooks.configure(host, store, machines, whose, say, proxy)
    _print(args, machines, reports)
    if failure := playbooks.failed(reports):
        raise failure


@contextlib.contextmanager
def proxied(
    store: Store, host: Host, machines: Sequence[Machine],
) -> Iterator[Callable[[Machine], Sequence[str]]]:
    """What connects ssh, which Ansible starts inside the realm, to machines on a bridge of root's."""
    if not any(store.target(machine).outside for machine in machines):
        yield lambda machine: ()
        return
    program = os.path.join(os.path.dirname(os.path.realpath(sys.argv[0])), "vm")
    with tempfile.TemporaryDirectory(prefix="cm-") as folder:  # which nobody else may enter
        door = os.path.join(folder, "outside")
        host.outside.door(door)
        yield lambda machine: inventory.proxy(program, machine, store.world, home=os.environ.get("CLOUDME_HOME"),
                                              door=door)


def _whose(args: argparse.Namespace, world: World, machines: Sequence[Machine]) -> dict[str, str]:
    """Type -> playbook."""
    types = {str(machine.type) for machine in machines}
    if args.no_configure:
        return {}
    if args.playbook:
        return dict.fromkeys(types, playbooks.readable(args.playbook))
    if args.playbooks and not os.path.isdir(args.playbooks):
        raise NotFound(f"there is no folder '{args.playbooks}'")
    folders = [args.playbooks] if args.playbooks else ["playbooks", world.playbooks]
    return playbooks.find(types, folders)


def _print(args: argparse.Namespace, machines: Sequence[Machine], reports: Mapping[str, HostReport]) -> None:
    if args.json:
        cli.print_json([{
            "name": m.name, "type": m.type, "address": m.address, "result": reports[m.name].status,
            "message": reports[m.name].message,
        } for m in machines])
    else:
        cli.print_table([[m.name, m.type, m.address or "-", reports[m.name].status] for m in machines],
                        ["name", "type", "address", "result"])
