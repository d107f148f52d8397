"""Which machines a command means: names (or the start of names), a group, a type."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cloudme import cli, defined, index
from cloudme.errors import NotFound, UsageError
from cloudme.model.machine import Machine
from cloudme.model.names import TEMPLATES
from cloudme.store import Store


def machines(args: argparse.Namespace, store: Store) -> list[Machine]:
    """A template that runs, as one that is being installed, may be named in full.

    Raises:  UsageError where nothing is named, or templates are meant as a group or to be destroyed; NotFound.
    """
    if args.group == TEMPLATES:
        raise UsageError("templates are not machines", hint="vmcreate --remove removes one")
    if args.names:
        if args.group or args.type:
            raise UsageError("either names or a group")
        known = index.names(store.world.machines)
        installing = [template for template in store.templates() if store.is_running(template.machine())
                      and template.name in args.names and template.name not in known]
        chosen = dict.fromkeys(named(store, name, known) for name in args.names
                               if name not in {template.name for template in installing})
        if installing and getattr(args, "destroy", False):
            raise UsageError("templates are not machines", hint="vmcreate --remove removes one")
        found = [store.machine(name) for name in chosen] + [template.machine() for template in installing]
    elif not args.group:
        raise UsageError("names or a group are wanted", hint="see --help")
    else:
        found = store.group(args.group, args.type)
    for machine in found if getattr(args, "destroy", False) else []:
        defined.refuse(machine, "its disks are its definition's", "vmdestroy NAME")
    return found


def either(args: argparse.Namespace, store: Store) -> list[Machine]:
    """The machines that words and options choose, each once; a word is a machine's name, a group's, or the start of a
    machine's. Without any all machines. Raises NotFound, UsageError."""
    if args.group or not args.names:
        return machines(args, store) if args.names or args.group else store.machines(type=args.type)
    everything = store.machines()
    groups = {machine.group for machine in everything}
    known = {str(machine.name): machine for machine in everything}
    found: dict[str, Machine] = {}
    for word in args.names:
        if word in groups and word not in known:
            found |= {machine.name: machine for machine in everything if machine.group == word}
        else:
            name = named(store, word)
            found[name] = known.get(name) or store.machine(name)
    return [machine for machine in found.values() if args.type in (None, machine.type)]


def named(store: Store, text: str, known: Sequence[str] | None = None) -> str:
    """The name of the machine that `text` is, or begins, or that is defined by that name.

    known:   the names to choose from; None: of all machines.
    Raises:  NotFound, UsageError.
    """
    names = index.names(store.world.machines) if known is None else known
    try:
        return cli.one_of(names, text, "machine")
    except NotFound:
        if machine := defined.find(store, text):
            return cli.one_of(names, machine.name, "machine")
        if not store.world.realm and text in index.definitions(store.world.definitions):
            raise NotFound(f"'{text}' is defined, and has no unit yet", hint=f"sudo vmunit generate {text}") from None
        raise
