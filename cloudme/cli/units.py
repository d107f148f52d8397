"""What `vmunit` does, beyond its options."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping, Sequence

from cloudme import cli, layout
from cloudme.cli import definitions
from cloudme.errors import CloudMeError, NotPermitted, UsageError
from cloudme.formats.definitions import Site
from cloudme.formats.definitions import units as texts
from cloudme.model.definitions.nouns import DefinitionName, Merged
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction
from cloudme.operations import units
from cloudme.operations.preparing import tenant

STALE = 1
COLOURS = {"active": 32, "failed": 31, "activating": 33, "deactivating": 33, "reloading": 33}
PLAIN = 39
"""Colours of states, on a terminal (ECMA-48, SGR); systemctl's. Each has two digits: columns stay straight."""


def run(args: argparse.Namespace) -> int | None:
    actions = {"generate": generate, "enable": enable, "disable": enable, "status": status, "remove": remove}
    return actions[args.command](args)


def folders(args: argparse.Namespace) -> units.Folders:
    """Raises NotPermitted where a link below a root leads to files of this host's."""
    root = os.path.abspath(args.root) if args.root is not None else None
    found = units.Folders(layout.units(root), layout.sysusers(root), root)
    whole = os.path.realpath(root or "/")
    for folder in (found.units, found.users):
        if root and os.path.commonpath([whole, os.path.realpath(folder)]) != whole:
            raise NotPermitted(f"{folder} leads out of {args.root}", hint="nothing was written")
    return found


def generate(args: argparse.Namespace) -> int | None:
    if not args.names and not args.all:
        raise UsageError("the name of a machine is wanted", hint=f"vmunit {args.command} NAME, or --all")
    if args.host_config and args.root is None and not (args.preview or args.check or args.dry_run):
        raise UsageError("a unit of this host prepares it by its own configuration", hint="--root DIR, or --preview")
    site = definitions.site(args)
    machines = site.pick(args.names)
    wanted = _texts(args, site, machines)
    if args.preview:
        made = {file: text for files in wanted.values() for file, text in files.items() if file.endswith(".service")}
        for file, text in made.items():
            print(f"----{file}----\n{text}" if len(made) > 1 else text, end="")
        return None
    where, host = folders(args), cli.host_outside(args)
    changes = units.changes(host, where, wanted)
    if args.check:
        for change in changes:
            print(change.path)
        return STALE if changes else None
    _permitted(args, where)
    for machine in machines if where.root is None else ():
        tenant.check_group(machine, site.host)
    for change in changes:
        _tell_difference(args, change)
    with cli.transaction(args, host) as transaction:
        units.write(transaction, where, changes)
        _publish(args, transaction, where, machines, site)
    _tell(args, machines, changes, units.running(host, where, [machine.name for machine in machines]))
    return None


def _publish(args: argparse.Namespace, transaction: Transaction, where: units.Folders, machines: Sequence[Merged],
             site: Site) -> None:
    """On this host they are machines as all others are."""
    if where.root is None and not transaction.dry_run:
        definitions.publish(args, transaction.host, machines, site)


def _withdraw(args: argparse.Namespace, transaction: Transaction, where: units.Folders, names: Sequence[str]) -> None:
    if where.root is None and not transaction.dry_run:
        from cloudme import defined, notes
        from cloudme.operations import networks

        store = cli.store(args)
        for name in names:
            defined.withdraw(store, name)
            notes.forget(store.world.prepared(name))
        networks.refresh_names(transaction.host, store)


def _texts(args: argparse.Namespace, site: Site, machines: Sequence[Merged]) -> dict[str, dict[str, str]]:
    """Machine -> file -> text."""
    from cloudme.qemu.definitions import command
    from cloudme.qemu.launch import BINARY

    ground = definitions.ground()
    config = cli.world(args).config if args.root is None else os.path.join(args.root, "etc/cloudme")
    return {machine.name: texts.texts(machine, site.host, [(BINARY,), *command.options(machine, site.host, ground)],
                                      run=ground.run, config=config) for machine in machines}


def _tell_difference(args: argparse.Namespace, change: units.Write) -> None:
    """What changes in a file that is there: on stdout where nothing is changed, else on stderr."""
    if change.was is None or (args.quiet and not args.dry_run):
        return
    from difflib import unified_diff

    lines = unified_diff(change.was.splitlines(), (change.text or "").splitlines(), change.path,
                         change.path if change.text is not None else os.devnull, lineterm="")
    print("\n".join(lines), file=sys.stdout if args.dry_run else sys.stderr)


def _tell(args: argparse.Namespace, machines: Sequence[Merged], changes: Sequence[units.Write],
          running: Sequence[str]) -> None:
    """What people may want to know of what was written."""
    say = cli.teller(args)
    changed = {os.path.basename(change.path) for change in changes}
    for machine in machines:
        if changed & {texts.unit(machine.name), texts.swtpm_unit(machine.name)}:
            if not machine.attributes.qmp:
                say(f"{machine.name}: attrs.qmp is not enabled: a stop of its unit cuts its power")
            if machine.name in running:
                say(f"{machine.name} runs on as it is: it has the new unit from its next start on")


def _permitted(args: argparse.Namespace, where: units.Folders) -> None:
    """Raises NotPermitted where the files may not be written; a folder that is missing is made."""
    if args.dry_run:
        return
    for folder in (where.units, where.users):
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        if not os.access(folder, os.W_OK):
            raise NotPermitted(f"you may not write into {folder}", hint=f"sudo vmunit {args.command} ...")


def enable(args: argparse.Namespace) -> None:
    names = _names(args)
    where, host = folders(args), cli.host_outside(args)
    _permitted(args, where)
    with cli.transaction(args, host) as transaction:
        units.enable(transaction, where, names or units.known(host, where), on=args.command == "enable")


def remove(args: argparse.Namespace) -> None:
    names = _names(args)
    where, host = folders(args), cli.host_outside(args)
    names = names or units.known(host, where)
    _permitted(args, where)
    bare = _without_unit(args, where, host, names)
    with cli.transaction(args, host) as transaction:
        if whole := [name for name in names if name not in bare]:
            units.remove(transaction, where, whole)
        _withdraw(args, transaction, where, names)


def _without_unit(args: argparse.Namespace, where: units.Folders, host: Host, names: Sequence[str]) -> list[str]:
    """Those that vmprepare alone has put into the store: they have a record there, and no file of ours."""
    from cloudme import defined

    bare = [name for name in names if all(host.files.mode(path) is None for path in where.of(name))]
    if where.root is not None or not bare:
        return []
    store = cli.store(args)
    return [name for name in bare if defined.find(store, name)]


def status(args: argparse.Namespace) -> None:
    if args.root is not None:
        raise UsageError("--root does not go with status: a host that is off has no states")
    where, host = folders(args), cli.host_outside(args)
    described = _described(args)
    names = _names(args, wanted=False) or sorted({*described, *units.known(host, where)})
    rows = [dataclasses.asdict(state) | {"machine": name, "description": described.get(name)}
            for name, state in zip(names, units.states(host, names), strict=True)]
    if args.json:
        keys = ("machine", "name", "enabled", "load", "active", "sub", "result", "main_pid", "since", "description")
        cli.print_json([{key: row[key] or None for key in keys} for row in rows])
        return
    cli.print_table([list(_row(row)) for row in rows],
                    ("machine", "enabled", "load", "active", "since", "description"))


def _row(row: Mapping[str, object]) -> Iterator[str]:
    import time

    active = str(row["active"])
    colour = COLOURS.get(active, PLAIN) if sys.stdout.isatty() and "NO_COLOR" not in os.environ else None
    since = row["since"]
    yield str(row["machine"])
    yield str(row["enabled"] or "-")
    yield str(row["load"])
    yield f"\033[{colour}m{active}/{row['sub']}\033[0m" if colour else f"{active}/{row['sub']}"
    yield time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since)) if isinstance(since, float) else "-"
    yield str(row["description"] or "-")


def _names(args: argparse.Namespace, *, wanted: bool = True) -> list[str]:
    """The names of the machines that are asked for; none where it is all. A definition may be gone, or broken.

    Raises UsageError where there are none and `wanted`.
    """
    if wanted and not args.names and not args.all:
        raise UsageError("the name of a machine is wanted", hint=f"vmunit {args.command} NAME, or --all")
    own = {stem: machine.name for stem, machine in _machines(args).items()}
    return [DefinitionName(own.get(name, name)) for name in dict.fromkeys(args.names)]


def _described(args: argparse.Namespace) -> dict[str, str]:
    return {machine.name: machine.definition.description for machine in _machines(args).values()}


def _machines(args: argparse.Namespace) -> Mapping[str, Merged]:
    """Those whose definitions can be read, by the names of their files."""
    try:
        return definitions.site(args, host_wanted=False, quiet=True).machines
    except CloudMeError:
        return {}
