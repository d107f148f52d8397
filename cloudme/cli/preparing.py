"""What vmprepare, vmteardown and vmrun share, and the part of vmrun that is not output."""

from __future__ import annotations

import contextlib
import os

from cloudme import cli, defined, layout, notes
from cloudme.errors import CloudMeError, NotFound, NotPermitted, StoreError, UsageError
from cloudme.model.steps import uninterrupted
from cloudme.operations import preparing
from cloudme.operations.preparing import foreground, tenant

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from cloudme.formats.definitions import Site
    from cloudme.layout import World
    from cloudme.model.definitions.nouns import Merged
    from cloudme.model.machine import Machine
    from cloudme.model.ports import Host


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
    _check(args, machines)
    with _alone(args, world, [machine.name for machine in machines]), cli.transaction(args, host) as transaction:
        steps = plan(host, world, machines, site.host)
        for doubt in [] if args.tpm else preparing.doubts(host, machines, site.host):
            cli.teller(args)(doubt)
        transaction.apply(steps)
    if not args.tpm:
        _publish(args, host, machines, site, cli.teller(args))


def _check(args: argparse.Namespace, machines: Sequence[Merged]) -> None:
    """Raises Busy. Where a store cannot be read no machine of its own is known, and the rest goes on."""
    with contextlib.suppress(StoreError):
        defined.check(cli.store(args), machines)


def _publish(
    args: argparse.Namespace, host: Host, machines: Sequence[Merged], site: Site, say: Callable[[str], None],
) -> list[Machine]:
    """Make them machines of the store, unless they are another root's; where that fails they can run all the same."""
    from cloudme.cli import definitions

    if args.root is not None or args.dry_run:
        return []
    try:
        return definitions.publish(args, host, machines, site)
    except CloudMeError as error:
        say(f"{error.message}: vmrunning does not know of it")
        return []


def _alone(args: argparse.Namespace, world: World, machines: Sequence[str]) -> AbstractContextManager[None]:
    """Nobody else prepares these machines, or tears them down; a dry run changes nothing, and waits for nobody."""
    return contextlib.nullcontext() if args.dry_run else notes.alone(map(world.prepared, machines))


def _named(args: argparse.Namespace) -> None:
    if bool(args.names) == args.all:
        raise UsageError("either names or --all are wanted", hint="see --help")


def tear_down(args: argparse.Namespace) -> None:
    from cloudme.model.definitions.nouns import DefinitionName

    root_only()
    _named(args)
    names = [DefinitionName(name) for name in args.names]
    world = cli.world(args)
    if strangers := [name for name in names if not _known(world, name)]:
        raise NotFound(f"nothing was prepared for '{strangers[0]}'", hint="vmteardown --all undoes all that was")
    preparing.tear_down(cli.host(args), world, names, dry_run=args.dry_run,
                        say=print if args.dry_run else cli.teller(args, verbose=True))


def _known(world: World, name: str) -> bool:
    """Whether it was prepared since this host has started, even if nothing of that is left; or may yet be: the end of
    a unit that could not be prepared is no failure of its own."""
    from cloudme.formats import documents

    if notes.met(world.prepared(name)):
        return True
    definition = os.path.join(layout.definitions(None), layout.MACHINE_FOLDER, f"{name}{layout.MACHINE_SUFFIX}")
    return any(map(os.path.exists, (
        os.path.join(layout.units(None), layout.unit(name)), world.machine_record(name),
        *(definition + suffix for suffix in documents.SUFFIXES))))


def run(args: argparse.Namespace) -> int:
    """Prepare, run, tear down; the exit status is QEMU's."""
    import shlex

    from cloudme.cli import definitions
    from cloudme.qemu.definitions import command

    root_only()
    site = definitions.site(args)
    (machine,) = site.pick([args.name])
    host, world = cli.host(args), cli.world(args)
    one = tenant.of(machine, site.host, notes.read(world.prepared(machine.name)))
    foreground.check(host, one)
    _check(args, [machine])
    argv = command.argv(command.options(machine, site.host, definitions.ground()))
    folder = foreground.MakeFolder(one)
    say = _patient(cli.teller(args))
    for doubt in preparing.doubts(host, [machine], site.host):
        say(doubt)
    _heed_hangups()
    with cli.transaction(args, host) as transaction:
        with _alone(args, world, [machine.name]):
            transaction.apply([*preparing.plan(host, world, [machine], site.host), folder])
        if args.dry_run:
            print(shlex.join(argv))
            return 0
        address = next((found.address for found in _publish(args, host, [machine], site, say)), None)
        say(foreground.greeting(one, address))
        status = foreground.attend(host, one, argv, say=say)
        with uninterrupted():
            transaction.keep()  # volumes stay the machine's
            host.qemu.bury(machine.uuid)  # what a QEMU that was taken over may have left behind
            folder.undo(host)
            preparing.tear_down(host, world, [machine.name], dry_run=False,
                                say=_patient(cli.teller(args, verbose=True)))
        return status


def _patient(say: Callable[[str], None]) -> Callable[[str], None]:
    """Nobody hears what is said to a terminal that is gone, and what is to be undone is undone all the same."""
    def tell(line: str) -> None:
        with contextlib.suppress(OSError):
            say(line)
    return tell


def _heed_hangups() -> None:
    """A terminal that goes ends us as SIGTERM does: what was prepared is undone. With nohup(1) it is nothing."""
    import signal

    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
