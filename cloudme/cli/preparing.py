"""What vmprepare, vmteardown and vmrun share, and the part of vmrun that is not output."""

from __future__ import annotations

import contextlib
import os

from cloudme import cli
from cloudme.errors import CloudMeError, NotPermitted, UsageError
from cloudme.model.steps import uninterrupted
from cloudme.operations import preparing
from cloudme.operations.preparing import foreground, notes, tenant

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from cloudme.layout import World


def root_only() -> None:
    """Raises NotPermitted. Even what would be done cannot be told without looking as the machines' users."""
    if os.geteuid() != 0:
        raise NotPermitted("only root can prepare a host for machines", hint="run it with sudo")


def prepare(args: argparse.Namespace) -> None:
    from cloudme.cli import definitions

    root_only()
    _named(args)
    site = definitions.site(args)
    machines = site.pick(args.names)
    host, world = cli.host(args), cli.world(args)
    plan = preparing.plan_tpms if args.tpm else preparing.plan
    with _alone(args, world, [machine.name for machine in machines]), cli.transaction(args, host) as transaction:
        steps = plan(host, world, machines, site.host)
        for doubt in [] if args.tpm else preparing.doubts(host, machines):
            cli.teller(args)(doubt)
        transaction.apply(steps)
    if args.tpm or args.root is not None or args.dry_run:
        return
    try:
        definitions.publish(args, host, machines, site)
    except CloudMeError as error:  # it can run all the same
        cli.teller(args)(f"{error.message}: vmrunning does not know of it")


def _alone(args: argparse.Namespace, world: World, machines: Sequence[str]) -> AbstractContextManager[None]:
    """Nobody else prepares these machines, or tears them down; a dry run changes nothing, and waits for nobody."""
    return contextlib.nullcontext() if args.dry_run else notes.alone(world, machines)


def _named(args: argparse.Namespace) -> None:
    if bool(args.names) == args.all:
        raise UsageError("either names or --all are wanted", hint="see --help")


def tear_down(args: argparse.Namespace) -> None:
    from cloudme.model.definitions.nouns import DefinitionName

    root_only()
    _named(args)
    names = [DefinitionName(name) for name in args.names]
    preparing.tear_down(cli.host(args), cli.world(args), names, dry_run=args.dry_run,
                        say=print if args.dry_run else cli.teller(args, verbose=True))


def run(args: argparse.Namespace) -> int:
    """Prepare, run, tear down; the exit status is QEMU's."""
    import shlex

    from cloudme.cli import definitions
    from cloudme.qemu.definitions import command

    root_only()
    site = definitions.site(args)
    (machine,) = site.pick([args.name])
    host, world = cli.host(args), cli.world(args)
    one = tenant.of(machine, site.host, notes.read(world, machine.name))
    foreground.check(one)
    argv = command.argv(command.options(machine, site.host, definitions.ground()))
    folder = foreground.MakeFolder(one)
    for doubt in preparing.doubts(host, [machine]):
        cli.teller(args)(doubt)
    with cli.transaction(args, host) as transaction:
        with _alone(args, world, [machine.name]):
            transaction.apply([*preparing.plan(host, world, [machine], site.host), folder])
        if args.dry_run:
            print(shlex.join(argv))
            return 0
        status = foreground.attend(host, one, argv, say=cli.teller(args))
        with uninterrupted():
            transaction.keep()  # volumes stay the machine's
            host.qemu.bury(machine.uuid)  # what a QEMU that was taken over may have left behind
            folder.undo(host)
            preparing.tear_down(host, world, [machine.name], dry_run=False,
                                say=cli.teller(args, verbose=True))
        return status
