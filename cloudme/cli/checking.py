"""What cmcheck does with its options."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence

from cloudme import cli, shared
from cloudme.cli import wiring
from cloudme.errors import ConfigError, NotPermitted, UsageError
from cloudme.model.check import Level, Result
from cloudme.model.hostconfig import Accelerator
from cloudme.operations import checks
from cloudme.operations.checks import bridging, mend
from cloudme.operations.checks.look import Look


def run(args: argparse.Namespace) -> int:
    if bool(args.bridge) != bool(args.nic) or (args.bridge and not args.persist):
        raise UsageError("--bridge and --nic go together, with --persist",
                         hint="cmcheck --persist --bridge br0 --nic ens18")
    if args.persist and cli.world(args).realm:
        raise UsageError("a realm is gone after a boot: what is there cannot last", hint="cmcheck --fix --realm NAME")
    if args.persist and cli.world(args).rootless:
        raise NotPermitted("what lasts over a boot is written below /etc, by root", hint="sudo cmcheck --persist")
    look = _look(args)
    results = checks.all_of(look, args.checks)
    if args.fix or args.persist:
        _mend(args, look, results)
        if args.dry_run:
            return os.EX_OK
        results = checks.all_of(dataclasses.replace(look), args.checks)  # a new one has seen nothing yet
    _print(args, results)
    return ConfigError.exit_status if any(result.level == Level.failed for result in results) else os.EX_OK


def _look(args: argparse.Namespace) -> Look:
    store = cli.store(args)
    host = wiring.visiting(store.world)
    if args.root:
        from cloudme.host import files

        if not os.path.isdir(args.root):
            raise UsageError(f"there is no folder '{args.root}'")
        host = dataclasses.replace(host, files=files.Below(args.root))
    return Look(host, store.world, tuple(store.networks()), os.geteuid() == 0,
                emulated=cli.settings(args).accel == Accelerator.tcg, processor=os.uname().machine,
                shared=tuple(shared.networks()) if store.world.rootless else ())


def _mend(args: argparse.Namespace, look: Look, results: Sequence[Result]) -> None:
    steps = mend.steps(results, look, persist=args.persist)
    told = ""
    if args.bridge:
        more, told = bridging.steps(look, args.bridge, args.nic)
        steps += more
    with cli.transaction(args, look.host) as transaction:
        if not args.dry_run:
            transaction.say = cli.teller(args)
        transaction.apply(steps)
    if args.dry_run:
        return
    if told:
        cli.teller(args)(f"the bridge {args.bridge} is there after the next boot; at once by: {told}")
    if args.persist and (enable := mend.to_enable(look)):
        cli.teller(args)(f"what was written is read at boot once this was done: {enable}")


def _print(args: argparse.Namespace, results: Sequence[Result]) -> None:
    if args.json:
        cli.print_json([{"check": one.check, "status": one.level, "what": one.what, "means": one.means, "fix": one.fix,
                         "fixable": bool(one.mends)} for one in results])
        return
    width = max((len(one.check) for one in results), default=0)
    for one in results:
        print(f"{one.check.ljust(width)}  {one.level.ljust(7)}  {one.what}")
        if one.level != Level.ok:
            print(f"{' ' * width}  {'':7}  {one.means}\n{' ' * width}  {'mend:':7}  {one.fix}")
