"""What vmdefine does with its options."""

from __future__ import annotations

import os
import sys

from cloudme import cli, index, layout
from cloudme.cli import definitions as shared
from cloudme.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from cloudme.formats.definitions.written import Document, Sections
    from cloudme.model.machine import Machine
    from cloudme.model.ports import Host
    from cloudme.operations.defining import Place, Write

NEW = {"tag": "--tag", "memory": "--memory", "cpus": "--cpus", "description": "--description", "volume": "--volume",
       "connection": "--connection"}
"""Options of a definition that is new."""


def define(args: argparse.Namespace) -> None:
    from cloudme.model.definitions.nouns import DefinitionName
    from cloudme.operations import defining

    name = DefinitionName(args.name)
    host = cli.host(args)
    wanted: Sections = {}
    if args.from_machine is None:
        document = _new(args)
    else:
        document, wanted = _from_machine(args, name)
    place = _place(args, host)
    plan = defining.changes(place, name, document, wanted)
    if args.dry_run and not args.json:
        print("\n".join(write.diff() for write in plan))
    elif not args.dry_run:
        _write(args, host, plan)
    if not plan:
        cli.teller(args)(f"'{name}' is defined so already")
    if args.json:
        cli.print_json({"name": name, "id": document["id"], "file": place.definition(name),
                        "host_config": place.host_file, "written": [write.path for write in plan]})
    elif not args.dry_run:
        print(place.definition(name))


def _write(args: argparse.Namespace, host: Host, plan: Sequence[Write]) -> None:
    """What changes in a file that is there is told."""
    with cli.transaction(args, host) as transaction:
        for write in plan:
            if write.before is not None and not args.quiet:
                print(write.diff(), file=sys.stderr)
            transaction.apply([write])


def _place(args: argparse.Namespace, host: Host) -> Place:
    from cloudme.formats import definitions
    from cloudme.operations.defining import Place

    folder = layout.definitions(args.root)
    host_file = args.host_config or definitions.host_file(folder)
    accelerator = "" if cli.settings(args).accel != "tcg" and host.qemu.kvm_usable() else "tcg"
    return Place(folder=folder, run=layout.machina_run(), accelerator=accelerator,
                 host_file=host_file or os.path.join(folder, f"{layout.HOST_CONFIGURATION}.json"))


def _from_machine(args: argparse.Namespace, name: str) -> tuple[Document, Sections]:
    from cloudme.formats.definitions import written
    from cloudme.operations import defining

    if given := [option for field, option in NEW.items() if getattr(args, field)]:
        raise UsageError(f"{given[0]} is for a definition that is new", hint="change it in the file that is written")
    store = cli.store(args)
    machine = store.machine(cli.one_of(index.names(store.world.machines), args.from_machine or name, "machine"))
    if store.world.private:
        raise UsageError(f"'{machine.name}' lives in a network namespace, and units start in the host's own",
                         hint="machines of root's, without --realm, can be defined")
    _tell(args, machine)
    networks = store.networks_of(cli.settings(args), [machine])
    return (defining.of_machine(store, machine, name),
            written.offers(machine, name, store.world.machines, networks.values()))


def _tell(args: argparse.Namespace, machine: Machine) -> None:
    from cloudme.operations import defining

    if lost := defining.left_out(machine):
        cli.teller(args)(f"no definition says {', '.join(lost)}: left out")


def _new(args: argparse.Namespace) -> Document:
    from cloudme.formats.definitions import written
    from cloudme.model import identity, units
    from cloudme.model.definitions.nouns import Connection, Volume

    if args.cpus is not None and args.cpus < 1:
        raise UsageError(f"{args.cpus} is no number of CPUs")
    volumes = [_parts(text, "volume", 3) for text in args.volume]
    if wrong := [words[2] for words in volumes if words[2:] not in ([], ["bootable"])]:
        raise UsageError(f"a volume is bootable, or nothing is said of it, not '{wrong[0]}'")
    return written.fresh(
        identity.new_uuid(), description=args.description or "", tags=args.tag, cpus=args.cpus or 0,
        ram_mib=units.ram_mib(args.memory) if args.memory else 0,
        volumes=[Volume(name=words[0], storage=words[1], bootable=len(words) > 2) for words in volumes],
        connections=[Connection(name=words[0], network=words[1])
                     for words in (_parts(text, "connection", 2) for text in args.connection)])


def _parts(text: str, what: str, most: int) -> Sequence[str]:
    words = text.split(":")
    if not 2 <= len(words) <= most or not all(words):
        form = {"volume": "NAME:STORAGE or NAME:STORAGE:bootable", "connection": "NAME:NETWORK"}[what]
        raise UsageError(f"'{text}' is no {what}", hint=form)
    return words


def options(parser: argparse.ArgumentParser) -> None:
    """All that vmdefine takes but its name."""
    cli.complete(parser.add_argument("--from-machine", nargs="?", const="", metavar="MACHINE", help="define this "
                                     "machine of ours as it is now (default: the one called NAME)"), "machines")
    parser.add_argument("--tag", action="append", default=[], metavar="TAG", help="a tag; may be given again")
    parser.add_argument("--memory", metavar="SIZE", help="as 2G; a bare number is MiB")
    parser.add_argument("--cpus", type=int, metavar="N", help="processors")
    parser.add_argument("--description", metavar="TEXT", help="what it is, in a line")
    parser.add_argument("--volume", action="append", default=[], metavar="NAME:STORAGE[:bootable]",
                        help="a volume in a storage pool of the host's; may be given again")
    parser.add_argument("--connection", action="append", default=[], metavar="NAME:NETWORK",
                        help="a card in a network of the host's; may be given again")
    shared.where_options(parser)
    cli.json_option(parser)
    cli.dry_run_option(parser)
