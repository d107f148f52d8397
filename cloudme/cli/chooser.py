"""Which one machine a command means: a name, the start of one, or a choice from a list."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from cloudme import cli, index, layout
from cloudme.cli import selection
from cloudme.errors import CloudMeError, NotFound, UsageError
from cloudme.model.machine import Machine
from cloudme.model.names import TEMPLATES
from cloudme.store import Store


def machine(args: argparse.Namespace, store: Store, text: str | None) -> Machine:
    """The machine that `text` means, within the group and the type of the options; no text: ask on a terminal.

    With group 'templates' it is a template. Raises UsageError, NotFound.
    """
    world = store.world
    if args.group == TEMPLATES:
        known = [name for name in index.names(world.templates) if os.path.exists(world.template_record(name))]
        name = cli.one_of(known, text, "template") if text is not None else _ask(known, "template", world.template)
        return store.template(name).machine()
    if args.group or getattr(args, "type", None):
        known = [str(machine.name) for machine in store.machines(args.group, getattr(args, "type", None))]
    else:
        known = [name for name in index.names(world.machines) if os.path.exists(world.machine_record(name))]
    return store.machine(selection.named(store, text, known) if text is not None
                         else _ask(known, "machine", world.machine))


def running(args: argparse.Namespace, store: Store, text: str | None) -> Machine:
    """Like `machine`; raises NotFound where it does not run."""
    found = machine(args, store, text)
    if not store.is_running(found):
        group = f" -g {TEMPLATES}" if found.is_template else ""
        raise NotFound(f"'{found.name}' does not run",
                       hint=f"vm{group} {found.name} starts it, vmlogs{group} {found.name} shows what it said last")
    return found


def addressed(args: argparse.Namespace, store: Store, found: Machine) -> Machine:
    """A template gets an address in this realm; a machine has its own."""
    if not found.is_template:
        return found
    return store.boot_template(store.template(found.name), store.network_of(cli.settings(args)))


def _ask(known: Sequence[str], what: str, folder: Callable[[str], str]) -> str:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("a name is wanted", hint="see --help")
    if not known:
        raise NotFound(f"there is no {what} yet", hint="vminstantiate makes one")
    for number, name in enumerate(known, 1):
        state = "running" if index.held(layout.lock(folder(name))) else "stopped"
        sys.stderr.write(f"{number:4}  {name}  {state}\n")
    while True:
        sys.stderr.write(f"number or name of the {what}: ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line.strip():
            raise UsageError("nothing was chosen")
        try:
            return picked(known, line.strip(), what)
        except CloudMeError as error:
            sys.stderr.write(f"{error.message}\n")


def picked(known: Sequence[str], text: str, what: str) -> str:
    """A number of the list, from 1, or the start of a name; a name wins."""
    if text not in known and text.isdecimal() and 1 <= int(text) <= len(known):
        return known[int(text) - 1]
    return cli.one_of(known, text, what)
