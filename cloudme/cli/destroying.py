"""What vmdestroy asks, and for what it has the name typed again."""

from __future__ import annotations

import os
import sys

from cloudme import cli, layout
from cloudme.cli import definitions
from cloudme.errors import Busy, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from cloudme.operations.destroying import Place, Plan


def destroy(args: argparse.Namespace) -> None:
    from cloudme.operations import destroying

    site = definitions.site(args)
    site.pick()  # whatever is wrong with others: who shares a volume could not be said
    (machine,) = site.pick([args.name])
    if args.yes_destroy not in (None, machine.name):
        raise UsageError(f"--yes-destroy says '{args.yes_destroy}', and the machine is '{machine.name}'")
    host, place = cli.host(args), _place(args)
    plan = destroying.plan(host, site, machine, place, keep_readonly=args.keep_readonly)
    if not args.dry_run:
        _name(plan)
        if args.yes_destroy is None:
            _confirmed(machine.name)
            if destroying.plan(host, site, machine, place, keep_readonly=args.keep_readonly) != plan:
                raise Busy(f"'{machine.name}' has changed meanwhile", hint="nothing was destroyed; look again")
    with cli.transaction(args, host) as transaction:
        transaction.apply(plan.steps)
        if transaction.dry_run:
            print("".join(f"{line}\n" for line in plan.left), end="")


def _place(args: argparse.Namespace) -> Place:
    from cloudme.operations.destroying import Place
    from cloudme.store import Store

    if args.root is None:
        return Place(root="", store=cli.store(args))
    root = os.path.abspath(args.root)
    data = os.path.join(root, layout.ROOT_DATA.lstrip("/"))
    return Place(root=root, store=Store(layout.World(data=data, run="", config="")))


def _name(plan: Plan) -> None:
    """Tell what goes and what stays, with -q, too."""
    sys.stderr.write("".join(f"{line}\n" for line in (*(step.describe() for step in plan.steps), *plan.left)))


def _confirmed(name: str) -> None:
    """Raises UsageError where the name is not typed again, or there is nobody to ask."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("nobody can be asked here", hint=f"--yes-destroy {name}")
    sys.stderr.write("This cannot be undone. Type the name of the machine to destroy it: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip() != name:
        raise UsageError("not confirmed: nothing was changed")
