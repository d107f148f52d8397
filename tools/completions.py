"""Writes completions/ from the parsers: `python3 -m tools.completions`.

The files are static. Names, groups and types are read from the folders by the shell itself, in a millisecond; they
repeat what layout.py says of the folders, and a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tools.programs import ROOT, Argument, Program, discover

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
        every = [option for argument in program.options for option in argument.options]
        valued = [f"{option}:{kinds(argument)}" for argument in program.options if argument.metavar
                  for option in argument.options]
        lines += [
            "", f"_cloudme_{program.name}() {{",
            f"    _cloudme_answer '{' '.join(every)}' \\",
            f"        '{' '.join(valued)}' \\",
            f"        '{' '.join(_positions(program))}'", "}",
            f"complete -F _cloudme_{program.name} {program.name}",
        ]
    return _text("bash") + "\n".join(lines) + "\n"


def _positions(program: Program) -> Iterator[str]:
    for argument in program.positionals:
        yield kinds(argument) + ("*" if argument.repeated else "")


def zsh(programs: list[Program]) -> str:
    """One `_arguments` call a program (zshcompsys(1))."""
    lines = [f"#compdef {' '.join(program.name for program in programs)}", _text("zsh"), "case $service in"]
    for program in programs:
        specs = [_zsh_option(argument) for argument in program.options]
        specs += [f"'{'*' if argument.repeated else ''}:{_zsh_value(argument)}'" for argument in program.positionals]
        lines += [f"{program.name})", "    _arguments -s -S \\", *(f"        {spec} \\" for spec in specs[:-1]),
                  f"        {specs[-1]} ;;"]
    return "\n".join([*lines, "esac"]) + "\n"


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
    return f"{message}: _cloudme_values {' '.join(argument.kinds)}" if argument.kinds else f"{message}: "


def _zsh_quote(text: str) -> str:
    for character in "\\:[]":
        text = text.replace(character, "\\" + character)
    return text.replace("'", "'\\''")


def fish(programs: list[Program]) -> str:
    """`complete` statements (complete(1) of fish)."""
    lines = [_text("fish")]
    for program in programs:
        valued = " ".join(option for argument in program.options if argument.metavar for option in argument.options)
        lines.append(f"complete -c {program.name} -f")
        for place, argument in enumerate(program.positionals, start=1):
            if value := _fish_value(argument):
                at = f"{place}{'+' if argument.repeated else ''}"
                lines.append(f"complete -c {program.name} -n '__cloudme_at {at} {valued}' {value}")
        lines += [f"complete -c {program.name} {_fish_option(argument)}" for argument in program.options]
    return "\n".join(lines) + "\n"


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
    return (TEXTS / f"common.{shell}").read_text(encoding="utf-8")


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
