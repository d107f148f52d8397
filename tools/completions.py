"""Writes completions/ from the parsers: `python3 -m tools.completions`.

The files are static. Names, groups and types are read from the folders by the shell itself, in a millisecond; they
repeat what layout.py says of the folders, and a test holds the two together.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator

from tools.programs import ROOT, Argument, Command, Program, discover

FOLDER = ROOT / "completions"
TEXTS = ROOT / "tools" / "completions"
"""What does not depend on the programs, one file a shell."""


def kinds(argument: Argument) -> str:
    """What an argument completes to, in one word: '=auto=kvm' for fixed words, 'images,files', 'none'."""
    return "".join(f"={choice}" for choice in argument.choices) or ",".join(argument.kinds) or "none"


def bash(programs: list[Program]) -> str:
    """One function a program, with its options, the options that take a value, and its positionals."""
    lines = []
    for program in programs:
        lines += ["", f"_cloudme_{program.name}() {{"]
        if program.commands:
            lines.append(f"    case $(_cloudme_command {' '.join(command.name for command in program.commands)}) in")
            for command in program.commands:
                lines += [f"    {command.name})", *_bash_answer(*_of(program, command)), "        ;;"]
            lines += ["    *)", *_bash_answer(program.positionals, program.options), "        ;;", "    esac"]
        else:
            lines += _bash_answer(program.positionals, program.options)
        lines += ["}", f"complete -F _cloudme_{program.name} {program.name}"]
    return _text("bash") + "\n".join(lines) + "\n"


def _of(program: Program, command: Command) -> tuple[tuple[Argument, ...], tuple[Argument, ...]]:
    """Positionals and options where the command was typed: the program's own and the command's."""
    known = {option for argument in command.options for option in argument.options}
    return ((*program.positionals, *command.positionals),
            (*command.options, *(argument for argument in program.options if not known & set(argument.options))))


def _bash_answer(positionals: Iterable[Argument], options: Iterable[Argument]) -> Iterator[str]:
    every = [option for argument in options for option in argument.options]
    valued = [f"{option}:{kinds(argument)}" for argument in options if argument.metavar for option in argument.options]
    places = [kinds(argument) + ("*" if argument.repeated else "") for argument in positionals]
    yield f"    _cloudme_answer '{' '.join(every)}' \\"
    yield f"        '{' '.join(valued)}' \\"
    yield f"        '{' '.join(places)}'"


def zsh(programs: list[Program]) -> str:
    """One `_arguments` call a program (zshcompsys(1)), or one for each of its commands."""
    lines = [f"#compdef {' '.join(program.name for program in programs)}", _text("zsh"), "case $service in"]
    for program in programs:
        lines.append(f"{program.name})")
        if program.commands:
            lines.append(f"    case ${{words[(r)({'|'.join(command.name for command in program.commands)})]}} in")
            for command in program.commands:
                lines += [f"    {command.name})", *_zsh_arguments(*_of(program, command)), "        ;;"]
            lines += ["    *)", *_zsh_arguments(program.positionals, program.options), "        ;;", "    esac"]
        else:
            lines += _zsh_arguments(program.positionals, program.options)
        lines.append("    ;;")
    return "\n".join([*lines, "esac"]) + "\n"


def _zsh_arguments(positionals: Iterable[Argument], options: Iterable[Argument]) -> Iterator[str]:
    yield "    _arguments -s -S \\"
    specs = [_zsh_option(argument) for argument in options]
    specs += [f"'{'*' if argument.repeated else ''}:{_zsh_value(argument)}'" for argument in positionals]
    yield " \\\n".join(f"        {spec}" for spec in specs)


def _zsh_option(argument: Argument) -> str:
    value = ":" + _zsh_value(argument) if argument.metavar else ""
    said = f"'[{_zsh_quote(argument.help)}]{value}'"
    names = [option + ("" if not value else "=" if option.startswith("--") else "+") for option in argument.options]
    if len(names) == 1:
        return f"'{names[0]}'{said}"
    return f"'({' '.join(argument.options)})'{{{','.join(names)}}}{said}"


def _zsh_value(argument: Argument) -> str:
    """'MESSAGE:ACTION' of a spec."""
    message = _zsh_quote(argument.metavar)
    if argument.choices:
        return f"{message}:({' '.join(argument.choices)})"
    return f"{message}: _cloudme_values {' '.join(argument.kinds)}" if argument.kinds else f"{message}:()"


def _zsh_quote(text: str) -> str:
    for character in "\\:[]":
        text = text.replace(character, "\\" + character)
    return text.replace("'", "'\\''")


def fish(programs: list[Program]) -> str:
    """`complete` statements (complete(1) of fish)."""
    lines = [_text("fish")]
    for program in programs:
        lines.append(f"complete -c {program.name} -f")
        lines += _fish_arguments(program.name, "", program.positionals, program.options, 1)
        for command in program.commands:
            seen = f"__fish_seen_subcommand_from {command.name}; and "
            every, first = _of(program, command)[1], len(program.positionals) + 1
            lines += _fish_arguments(program.name, seen, command.positionals, command.options, first, every)
    return "\n".join(lines) + "\n"


def _fish_arguments(
    name: str, when: str, positionals: Iterable[Argument], options: Iterable[Argument], first: int,
    every: Iterable[Argument] | None = None,
) -> Iterator[str]:
    """`when` is a condition before each; `every` are all options that may stand there, if not only `options`."""
    valued = " ".join(option for argument in every or options if argument.metavar for option in argument.options)
    for place, argument in enumerate(positionals, start=first):
        if value := _fish_value(argument):
            at = f"{place}{'+' if argument.repeated else ''}"
            yield f"complete -c {name} -n '{when}__cloudme_at {at} {valued}' {value}"
    condition = f"-n '{when.removesuffix('; and ')}' " if when else ""
    for argument in options:
        yield f"complete -c {name} {condition}{_fish_option(argument)}"


def _fish_option(argument: Argument) -> str:
    names = [f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}" for option in argument.options]
    value = (_fish_value(argument) or "-x") if argument.metavar else ""
    return " ".join(word for word in (*names, value, f"-d {_fish_quote(argument.help)}") if word)


def _fish_value(argument: Argument) -> str:
    if argument.choices:
        return f"-x -a '{' '.join(argument.choices)}'"
    words = [kind for kind in argument.kinds if kind != "files"]
    given = f"-a '(__cloudme_values {' '.join(words)})'" if words else ""
    how = "-r -F" if "files" in argument.kinds else "-x" if words else ""
    return f"{how} {given}".strip()


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _text(shell: str) -> str:
    """The common part. No shell knows where our catalogue is installed: its names are in the text."""
    ours = tomllib.loads((ROOT / "templates" / "catalogue.toml").read_text(encoding="utf-8"))
    return (TEXTS / f"common.{shell}").read_text(encoding="utf-8").replace("@CATALOGUE@", " ".join(sorted(ours)))


def files(programs: Iterable[Program] | None = None) -> dict[str, str]:
    """File name in completions/ -> text."""
    found = list(discover() if programs is None else programs)
    return {"cloudme.bash": bash(found), "_cloudme": zsh(found), "cloudme.fish": fish(found)}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
