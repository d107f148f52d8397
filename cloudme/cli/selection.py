"""Which machines a command means: names (or the start of names), a group, a type."""

from __future__ import annotations

import argparse

from cloudme import cli, index
from cloudme.errors import UsageError
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
        chosen = dict.fromkeys(cli.one_of(known, name, "machine") for name in args.names
                               if name not in {template.name for template in installing})
        if installing and getattr(args, "destroy", False):
            raise UsageError("templates are not machines", hint="vmcreate --remove removes one")
        return [store.machine(name) for name in chosen] + [template.machine() for template in installing]
    if not args.group:
        raise UsageError("names or a group are wanted", hint="see --help")
    return store.group(args.group, args.type)
