"""What the commands of definitions share: where these are, what was read, how several are shown."""

from __future__ import annotations

import os

from cloudme import cli, layout
from cloudme.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from typing import Any

    from cloudme.formats.definitions import Site
    from cloudme.model.definitions.nouns import Merged
    from cloudme.model.machine import Machine
    from cloudme.model.ports import Host
    from cloudme.qemu.definitions.command import Ground


def options(parser: argparse.ArgumentParser, names: str = "names of definitions", **more: Any) -> None:
    """The names of machines, --host-config and --root."""
    cli.complete(parser.add_argument("names", **{"nargs": "*", "metavar": "MACHINE", "help": names, **more}),
                 "definitions")
    where_options(parser)


def where_options(parser: argparse.ArgumentParser) -> None:
    cli.complete(parser.add_argument("--host-config", metavar="FILE", help="the configuration of the host for which it "
                                     "is (default: machina.conf.json beside the definitions)"), "files")
    cli.complete(parser.add_argument("--root", metavar="DIR", help="read DIR/etc/machina instead of /etc/machina"),
                 "folders")


def site(args: argparse.Namespace, *, host_wanted: bool = True, quiet: bool = False, here: bool = False) -> Site:
    """Read what the options choose.

    quiet:   not a word of a host configuration that is missing, and not wanted.
    here:    the current folder will do where there is none: for programs that change nothing.
    Raises:  NotFound where there is no host configuration and it is wanted, or one of the options is off.
    """
    from cloudme.formats import definitions

    folder = layout.definitions(args.root, here=here)
    if not os.path.isdir(folder):
        raise NotFound(f"there is no folder '{folder}'", hint="docs/definitions.md says what belongs there")
    host_file = args.host_config or definitions.host_file(folder)
    if args.host_config and not os.path.exists(args.host_config):
        raise NotFound(f"there is no file '{args.host_config}'")
    if host_file is None:
        missing = f"there is no {os.path.join(folder, layout.HOST_CONFIGURATION)}.json"
        if host_wanted:
            raise NotFound(missing, hint="--host-config FILE names another")
        if not quiet:
            cli.teller(args)(f"{missing}: machines are shown as their own files have them")
    machines = os.path.join(folder, layout.MACHINE_FOLDER)
    if here and args.root is None and not os.path.isdir(machines):
        machines = layout.MACHINE_FOLDER
    return definitions.read(host_file, machines, run=layout.machina_run())


def publish(args: argparse.Namespace, host: Host, machines: Sequence[Merged], site: Site) -> list[Machine]:
    """Make them machines of the store. Raises as `defined.publish` does."""
    from cloudme import defined
    from cloudme.operations import networks

    store = cli.store(args)
    published = defined.publish(host, store, machines, site.host)
    networks.refresh_names(host, store)
    return published


def ground() -> Ground:
    """What command lines stand on here."""
    from cloudme.qemu.definitions.command import Ground

    return Ground(run=layout.machina_run())


def print_each(machines: Sequence[Merged], text: Callable[[Merged], str]) -> None:
    """The text of each, with its name above it where there are several."""
    for machine in machines:
        head = f"----{machine.name}----\n" if len(machines) > 1 else ""
        print(f"{head}{text(machine)}", end="")


def explain(args: argparse.Namespace, machines: Sequence[Merged]) -> None:
    """Print where the values at args.explain come from: machine where there are several, key, value, tag, place."""
    from cloudme.formats.definitions import shown

    rows = [(machine, *row) for machine in machines for row in shown.explained(machine, args.explain)]
    if machines and not rows:
        raise NotFound(f"no key '{args.explain}'", hint="keys are as attrs.spice.port, vars.NAME, volumes.NAME.wwn")
    if args.json:
        cli.print_json([{
            "machine": machine.name, "key": key, "value": value, "tag": source.tag or None if source else None,
            "file": source.file if source else None, "path": source.path if source else None,
            "made_from": source.derived or None if source else None} for machine, key, value, source in rows])
        return
    table = []
    for machine, key, value, source in rows:
        place = f"{source.file}: {source.path}" + (f" ({source.derived})" if source.derived else "") if source else "-"
        said = ",".join(value) if isinstance(value, list) else "-" if value is None else str(value)
        table.append([*[machine.name] * (len(machines) > 1), key, said, source.tag or "-" if source else "-", place])
    cli.print_table(table, heads=[*["machine"] * (len(machines) > 1), "key", "value", "tag", "from"])
