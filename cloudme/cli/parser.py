"""The parser of every command. Imported when options are parsed, and not before."""

from __future__ import annotations

import argparse
import os
import sys

from cloudme import cli, errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

argparse._ = str  # type: ignore[attr-defined]
"""argparse looks for translations, which we have none of, in several files for each word, and imports `locale`."""


class Help(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal. argparse would import `shutil` to learn the width, and `textwrap` to keep to it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)

    def _split_lines(self, text: str, width: int) -> list[str]:
        lines = [""]
        for word in text.split():
            if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
                lines.append("")
            lines[-1] = f"{lines[-1]} {word}".lstrip()
        return lines


def _columns() -> int:
    try:
        return int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors exit with 64, and that knows the options of every command.

    summary: one line; details: paragraphs for the man page, examples last.
    """

    takes_command = False
    """Whether what follows '--' is a command, in `args.command`; argparse would take it for a name left out."""
    mixed = False
    """Whether names may follow an option that follows others: FILE --restart NAME."""

    def __init__(self, summary: str, details: str = "") -> None:
        super().__init__(description=summary, epilog=details, add_help=False, allow_abbrev=False,
                         formatter_class=Help)
        common = self.add_argument_group("common options")
        common.add_argument("-h", "--help", action="help", help="show this help and exit")
        common.add_argument("--version", action=Version, help="show the version and exit")
        common.add_argument("-v", "--verbose", action="store_true", help="say each step on stderr")
        common.add_argument("-q", "--quiet", action="store_true", help="say nothing but results and errors")
        realm = common.add_argument(
            "--realm", metavar="NAME", help="the network namespace to act in (default: CLOUDME_REALM, else the host's)")
        cli.complete(realm, "realms")

    def parse_known_args(  # type: ignore[override]  # its overloads say no more
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        words = list(sys.argv[1:] if args is None else args)
        if self.mixed:
            self.mixed = False  # it comes back here
            try:
                return self.parse_known_intermixed_args(words, namespace)
            finally:
                self.mixed = True
        if not self.takes_command:
            return super().parse_known_args(words, namespace)
        end = words.index("--") if "--" in words else len(words)
        found, unknown = super().parse_known_args(words[:end], namespace)
        found.command = words[end + 1:]
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Python 3.11 looks for 'none given' among the choices of a positional that may be left out."""
        if value != []:
            super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        sys.stderr.write(f"{self.prog}: {message}\n")
        raise SystemExit(errors.UsageError.exit_status)


class Command(Parser):
    """A subcommand (`add_subparsers(parser_class=cli.Command)`); it understands -v and -q too."""

    def __init__(self, **options: Any) -> None:
        argparse.ArgumentParser.__init__(self, **options, allow_abbrev=False, formatter_class=Help)
        for short, long in (("-v", "--verbose"), ("-q", "--quiet")):
            self.add_argument(short, long, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


class Version(argparse.Action):
    """Prints 'NAME (cloudMe) VERSION'."""

    def __init__(self, option_strings: list[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from cloudme import __version__

        print(f"{parser.prog} (cloudMe) {__version__}")
        parser.exit()
