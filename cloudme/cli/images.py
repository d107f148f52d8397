"""What cmimage does, once its options are known."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import glob
import os

from cloudme import cli
from cloudme.cli import bar, wiring
from cloudme.errors import NotFound, UsageError
from cloudme.formats import aptsources
from cloudme.model import recipe
from cloudme.model.machine import Image
from cloudme.model.names import ImageName
from cloudme.model.steps import Transaction
from cloudme.model.units import human
from cloudme.operations import images


def build(args: argparse.Namespace) -> None:
    name = ImageName(args.name)
    include = [word for words in args.include or [] for word in words.split(",") if word]
    wanted = recipe.debian(args.suite, include)
    with _transaction(args) as transaction:
        images.build(transaction, cli.store(args), name, wanted,
                     sources=args.mirror or host_sources(args.suite), cache=args.cache)


def add(args: argparse.Namespace) -> None:
    with _transaction(args) as transaction:
        images.add(transaction, cli.store(args), ImageName(args.name), args.file, user=args.user)


def pull(args: argparse.Namespace) -> None:
    if args.list == bool(args.name):
        raise UsageError("a name is wanted, or --list")
    if args.list:
        _offered(args)
        return
    image = pulled(args, ImageName(args.name))
    if args.json and not args.dry_run:
        cli.print_json(dataclasses.asdict(image))


def pulled(args: argparse.Namespace, name: ImageName) -> Image:
    """The image of that name in the catalogue, downloaded if need be. Raises NotFound."""
    store = cli.store(args)
    if not (entry := wiring.catalogue(store.world).get(name)):
        raise NotFound(f"no '{name}' in the catalogue", hint="cmimage pull --list")
    with _transaction(args) as transaction, bar.shown(quiet=args.quiet) as progress:
        return images.pull(transaction, store, entry, say=cli.teller(args), progress=progress)


def _offered(args: argparse.Namespace) -> None:
    store = cli.store(args)
    here = {image.name for image in store.images()}
    entries = sorted(wiring.catalogue(store.world).values(), key=lambda entry: entry.name)
    if args.json:
        cli.print_json([{**dataclasses.asdict(entry), "here": entry.name in here} for entry in entries])
        return
    cli.print_table(
        ([entry.name, entry.user, entry.description, "here" if entry.name in here else "-"] for entry in entries),
        heads=("NAME", "USER", "DESCRIPTION", "HERE"))


def listed(args: argparse.Namespace) -> None:
    found = images.listed(cli.store(args))
    if args.json:
        cli.print_json([{**dataclasses.asdict(image), "templates": templates} for image, templates in found])
        return
    cli.print_table(
        ([image.name, human(image.size_bytes), image.created, image.source, ", ".join(templates) or "-"]
         for image, templates in found),
        heads=("IMAGE", "SIZE", "CREATED", "SOURCE", "TEMPLATES"))


def remove(args: argparse.Namespace) -> None:
    with _transaction(args) as transaction:
        images.remove(transaction, cli.store(args), ImageName(args.name))


def _transaction(args: argparse.Namespace) -> Transaction:
    """One that says its steps without being asked: they take long."""
    transaction = cli.transaction(args, cli.host_outside(args))
    if not args.dry_run:
        transaction.say = cli.teller(args)
    return transaction


def host_sources(suite: str, folder: str = "/etc") -> list[str]:
    """Lines of sources.list for `suite`, from the archives of this host; none where this host is no Debian."""
    files: dict[str, str] = {}
    for pattern in ("apt/sources.list", "apt/sources.list.d/*.list", "apt/sources.list.d/*.sources"):
        for path in glob.glob(os.path.join(folder, pattern)):
            with contextlib.suppress(OSError), open(path, encoding="utf-8") as text:
                files[path] = text.read()
    codename = ""
    with contextlib.suppress(OSError), open(os.path.join(folder, "os-release"), encoding="utf-8") as text:
        for line in text:
            codename = line.partition("=")[2].strip().strip('"') if line.startswith("VERSION_CODENAME=") else codename
    return aptsources.lines(files, codename, suite)
