"""What argcomplete answers, where a shell uses it instead of the files in completions/. Reads names only."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator

from cloudme import index, layout


def answer(parser: argparse.ArgumentParser) -> None:
    """Print what completes the words in the environment, and end the process (argcomplete's protocol)."""
    try:
        import argcomplete
        from argcomplete.completers import DirectoriesCompleter, FilesCompleter
    except ImportError:
        raise SystemExit(1) from None

    files = {"files": FilesCompleter(), "folders": DirectoriesCompleter()}
    for action in parser._actions:  # no public way to walk a parser
        for kind in getattr(action, "completes", "").split(","):
            if kind:
                action.completer = files.get(kind) or _completer(kind)  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)


def _completer(kind: str) -> Callable[..., list[str]]:
    def complete(parsed_args: argparse.Namespace, **_: object) -> list[str]:
        return known(kind, getattr(parsed_args, "realm", None))

    return complete


def known(kind: str, realm: str | None) -> list[str]:
    """The names of a kind (see `cli.complete`), sorted. Raises nothing: a TAB is no place for an error."""
    with contextlib.suppress(OSError):
        return sorted(set(_names(kind, layout.world(realm))))
    return []


def _names(kind: str, world: layout.World) -> Iterator[str]:
    if kind in ("images", "networks"):
        for file in os.listdir(world.images if kind == "images" else world.networks):
            if file.endswith(".json") and not file.startswith("."):
                yield file.removesuffix(".json")
    elif kind == "catalogue":
        yield from _catalogue(os.path.join(layout.text_templates(), layout.CATALOGUE))
        yield from _catalogue(world.catalogue)
    elif kind == "definitions":
        yield from index.definitions(os.path.join(layout.definitions(None), layout.MACHINE_FOLDER))
    elif kind == "realms":
        yield from index.names(os.path.join(world.data, "realms"))
    elif kind == "templates":
        yield from (name for name in index.names(world.templates) if os.path.exists(world.template_record(name)))
    else:
        for name in index.names(world.machines):
            if raw := index.record(world.machine_record(name)):
                yield name if kind == "machines" else raw.get(kind.removesuffix("s"), "")


def _catalogue(path: str) -> Iterator[str]:
    import tomllib

    with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
        yield from tomllib.load(file)
