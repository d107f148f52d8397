"""The programs, and what their parsers say: the source of man pages and completions."""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECTIONS = {"bin": 1, "sbin": 8}
"""Sections of the manual: for users, for who runs the host (man(1))."""


@dataclass(frozen=True)
class Argument:
    """An argument of a program.

    options: empty for a positional. metavar: '' where it takes no value. kinds: what the value completes to, by the
    words of `cli.complete`. repeated: a positional that swallows all that follow.
    """

    options: tuple[str, ...]
    metavar: str
    choices: tuple[str, ...]
    kinds: tuple[str, ...]
    repeated: bool
    help: str


@dataclass(frozen=True)
class Command:
    """A subcommand, as `build` of `cmimage`."""

    name: str
    help: str
    positionals: tuple[Argument, ...]
    options: tuple[Argument, ...]


@dataclass(frozen=True)
class Program:
    """A program of ours. `groups` are its options under their headings, `positionals` in their order."""

    name: str
    section: int
    parser: argparse.ArgumentParser
    positionals: tuple[Argument, ...]
    groups: tuple[tuple[str, tuple[Argument, ...]], ...]
    commands: tuple[Command, ...] = ()

    @property
    def options(self) -> tuple[Argument, ...]:
        return tuple(argument for _, arguments in self.groups for argument in arguments)

    @property
    def summary(self) -> str:
        return (self.parser.description or "").strip()


def discover() -> list[Program]:
    """Every program in bin/ and sbin/, sorted by name."""
    paths = [path for folder in SECTIONS for path in (ROOT / folder).iterdir() if path.is_file()]
    return [_program(path) for path in sorted(paths, key=lambda path: path.name)]


def _program(path: Path) -> Program:
    loader = importlib.machinery.SourceFileLoader(path.name, str(path))
    spec = importlib.util.spec_from_loader(path.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return read(path.name, SECTIONS[path.parent.name], module.parser())


def read(name: str, section: int, parser: argparse.ArgumentParser) -> Program:
    """What a parser says. Its actions and groups are private in argparse; there is no public way to walk it."""
    parser.prog = name
    groups = ((group.title or "", _options(group._group_actions)) for group in parser._action_groups)
    return Program(
        name, section, parser, positionals=_positionals(parser._actions),
        groups=tuple((title, arguments) for title, arguments in groups if arguments),
        commands=tuple(command for action in parser._actions if isinstance(action, argparse._SubParsersAction)
                       for command in _commands(action)))


def _commands(action: argparse._SubParsersAction[argparse.ArgumentParser]) -> Iterator[Command]:
    helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
    for name, parser in action.choices.items():
        yield Command(name, helps[name], _positionals(parser._actions), _options(parser._actions))


def _positionals(actions: Iterable[argparse.Action]) -> tuple[Argument, ...]:
    return tuple(_argument(action) for action in actions if not action.option_strings)


def _options(actions: Iterable[argparse.Action]) -> tuple[Argument, ...]:
    return tuple(_argument(action) for action in actions if action.option_strings and action.help != argparse.SUPPRESS)


def _argument(action: argparse.Action) -> Argument:
    metavar = action.metavar or action.dest.upper()
    choices = tuple(str(choice) for choice in action.choices or ())
    if choices and not action.metavar:
        metavar = "|".join(choices)
    kinds = getattr(action, "completes", "")
    formatter = argparse.HelpFormatter("")
    return Argument(
        options=tuple(action.option_strings), metavar="" if action.nargs == 0 else str(metavar), choices=choices,
        kinds=tuple(kinds.split(",")) if kinds else (), repeated=action.nargs in ("*", "+", argparse.REMAINDER),
        help=formatter._expand_help(action) if action.help else "")
