"""The completion files, in the shells they are for."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudme import cli, layout
from cloudme.cli import completion
from cloudme.formats import records
from tests.conftest import ROOT
from tests.unit.test_vmrunning import machine
from tools import completions
from tools.programs import discover, read

Ask = Callable[[str], list[str]]
FILES = ROOT / "completions"


def with_commands() -> cli.Parser:
    p = cli.Parser("Make and remove.")
    commands = p.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=cli.Command)
    make = commands.add_parser("make", help="make one")
    make.add_argument("name", metavar="NAME")
    cli.complete(make.add_argument("group", metavar="GROUP"), "groups")
    cli.complete(make.add_argument("--image", metavar="NAME"), "images")
    cli.complete(commands.add_parser("remove", help="remove one").add_argument("name", metavar="NAME"), "machines")
    return p


def parser() -> cli.Parser:
    """A made-up program with an argument of every kind."""
    p = cli.Parser("It's a [test]: of \\ quoting.")
    p.add_argument("action", choices=["start", "stop"])
    cli.complete(p.add_argument("names", nargs="*", metavar="NAME"), "machines")
    for short, kind in (("-G", "groups"), ("-Y", "types"), ("-T", "templates"), ("-R", "realms"), ("-F", "files"),
                        ("-D", "folders"), ("-N", "networks"), ("-C", "catalogue"), ("-E", "definitions")):
        cli.complete(p.add_argument(short, f"--{kind}"), kind)
    cli.complete(p.add_argument("--image", metavar="NAME|FILE"), "images,files")
    p.add_argument("--free", metavar="TEXT", help="it's [free]: 100%% \\ text")
    return p


@pytest.fixture
def world(home: Path, monkeypatch: pytest.MonkeyPatch) -> layout.World:
    """web00 and sql00 of pf1 and pf2; old00, debris; far00 in the realm r1; a template, an image, and files."""
    here, there = layout.world(), layout.world("r1")
    for where, name, group, type in ((here, "web00", "pf1", "web"), (here, "sql00", "pf2", "sql"),
                                     (there, "far00", "gr1", "far")):
        os.makedirs(where.machine(name))
        Path(where.machine_record(name)).write_text(records.dump(machine(name, group=group, type=type)), "utf-8")
    os.makedirs(here.machine("old00"))
    os.makedirs(here.machine("$(touch bad)"))
    Path(here.machine_record("$(touch bad)")).touch()
    os.makedirs(here.template("debian"))
    os.makedirs(here.images)
    os.makedirs(here.networks)
    for path in (here.template_record("debian"), here.image_record("bookworm"), here.image_disk("bookworm"),
                 here.network_record("lan"), here.network_lock("lan")):
        Path(path).touch()
    os.makedirs(os.path.join(here.config, "machina", "machine.conf.d"))
    for file in ("office.conf.json", "desk.conf.yaml", "desk.conf.yaml.orig"):
        Path(here.config, "machina", "machine.conf.d", file).touch()
    Path(here.catalogue).write_text('["mine-1.2"]\nurl = "x"\n[xenial]\nalias = "mine-1.2"\n', "utf-8")
    (home / "files").mkdir()
    (home / "files" / "data.iso").touch()
    (home / "files" / "dir").mkdir()
    monkeypatch.chdir(home / "files")
    return here


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Path]:
    """The files for the made-up program, by the shell's name."""
    programs = [read("vmtest", 1, parser()), read("vmsub", 8, with_commands())]
    for name, text in completions.files(programs).items():
        (tmp_path / name).write_text(text, "utf-8")
    return {"bash": tmp_path / "cloudme.bash", "zsh": tmp_path / "_cloudme", "fish": tmp_path / "cloudme.fish"}


def output(argv: list[str]) -> list[str]:
    if not shutil.which(argv[0]):
        pytest.skip(f"no {argv[0]}")
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr == ""
    return ended.stdout.split("\n")[:-1]


def in_bash(file: Path, line: str) -> list[str]:
    """What bash offers after `line`, whose words are split as readline does, at '=' too."""
    script = """
        source "$1"; read -ra COMP_WORDS <<<"${2//=/ = }"
        [[ $2 == *[\\ =] ]] && COMP_WORDS+=("")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        "_cloudme_${COMP_WORDS[0]}" && ((${#COMPREPLY[@]})) && printf '%s\\n' "${COMPREPLY[@]}"; :"""
    return output(["bash", "--norc", "-c", script, "bash", str(file), line])


def in_fish(file: Path, line: str) -> list[str]:
    script = "source $argv[1]; source $argv[1]; complete -C $argv[2]"
    offered = output(["fish", "--no-config", "-c", script, str(file), line])
    return [found.split("\t")[0].rpartition("=")[2] for found in offered]


def in_zsh(file: Path, line: str) -> list[str]:
    """What an interactive zsh makes of `line` and a TAB: the word it inserts. It is typed once the editor listens."""
    if not shutil.which("zsh"):
        pytest.skip("no zsh")
    script = f"""PS1= PS2= RPS1= PROMPT_EOL_MARK=; unsetopt prompt_cr prompt_sp zle_bracketed_paste 2>/dev/null
        fpath=({file.parent} $fpath); autoload -U compinit; compinit -u -D; setopt no_beep no_auto_menu no_auto_list
        vmtest() {{ print -rl -- "<$argv[-1]>"; exit }}; functions[vmsub]=$functions[vmtest]
        zle-line-init() {{ print -n ready }}; zle -N zle-line-init
    """
    home = file.parent / "zdot"
    home.mkdir()
    (home / ".zshrc").write_text(script, "utf-8")
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(ZDOTDIR=str(home), TERM="dumb")
        os.execvp("zsh", ["zsh", "-d", "-i"])
    seen = b""
    typed = False
    try:
        while chunk := os.read(fd, 4096):
            seen += chunk
            if not typed and b"ready" in seen:
                typed = True
                os.write(fd, line.encode() + b"\t")
                while select.select([fd], [], [], QUIET_S)[0]:  # a key that comes while it completes may be lost
                    seen += os.read(fd, 4096)
                os.write(fd, b"\n")
    except OSError:
        pass  # EIO: the other side of the terminal is closed
    os.close(fd)
    os.waitpid(pid, 0)
    return [seen.decode().rpartition("<")[2].partition(">")[0].rpartition("=")[2]]


QUIET_S = 0.5

KINDS = {"machines", "templates", "images", "networks", "catalogue", "definitions", "groups", "types", "realms"}

CASES = [
    ("vmtest sta", ["start"]), ("vmtest start w", ["web00"]), ("vmtest start web00 s", ["sql00"]),
    ("vmtest --groups p1 start w", ["web00"]), ("vmtest start --realm r1 f", ["far00"]),
    ("vmtest start --realm=r1 f", ["far00"]), ("vmtest -G pf1", ["pf1"]), ("vmtest --groups=pf2", ["pf2"]),
    ("vmtest -Y s", ["sql"]), ("vmtest --templates d", ["debian"]), ("vmtest --realms r", ["r1"]),
    ("vmtest --image boo", ["bookworm"]), ("vmtest --image da", ["data.iso"]), ("vmtest --files da", ["data.iso"]),
    ("vmtest --vers", ["--version"]), ("vmtest --fre", ["--free"]), ("vmtest -D d", ["dir"]),
    ("vmtest -C roc", ["rocky-9"]), ("vmtest -C mi", ["mine-1.2"]), ("vmtest -E o", ["office"]),
    ("vmsub m", ["make"]), ("vmsub remove w", ["web00"]), ("vmsub make x pf1", ["pf1"]),
    ("vmsub make --image b", ["bookworm"]), ("vmsub make --im", ["--image"]), ("vmsub --realm r1 remove f", ["far00"]),
]


@pytest.mark.parametrize(("line", "offered"), CASES)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_tab_offers(world: layout.World, made: dict[str, Path], shell: str, line: str, offered: list[str]) -> None:
    ask = {"bash": in_bash, "zsh": in_zsh, "fish": in_fish}[shell]
    assert [found.rstrip("=/") for found in ask(made[shell], line)] == offered


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_debris_and_names_of_other_realms_are_not_offered(
    world: layout.World, made: dict[str, Path], shell: str,
) -> None:
    ask = {"bash": in_bash, "fish": in_fish}[shell]
    assert sorted(ask(made[shell], "vmtest start ")) == ["$(touch bad)", "sql00", "web00"]
    assert sorted(ask(made[shell], "vmtest --groups ")) == ["pf1", "pf2"]
    assert not Path("bad").exists()


@pytest.mark.parametrize("shell", ["bash", "fish"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_shells_and_argcomplete_know_the_same_names(
    world: layout.World, made: dict[str, Path], shell: str, kind: str,
) -> None:
    option = "--image" if kind == "images" else f"--{kind}"
    line = "vmtest start " if kind == "machines" else f"vmtest {option} "
    offered = {"bash": in_bash, "fish": in_fish}[shell](made[shell], line)
    unreadable = {"$(touch bad)"}
    assert set(offered) - unreadable - {"data.iso", "dir", "dir/"} == set(completion.known(kind, None))


def test_completion_of_an_empty_world_is_empty() -> None:
    kinds = ("machines", "groups", "images", "realms", "templates")
    assert [name for kind in kinds for name in completion.known(kind, None)] == []


def test_argcomplete_is_answered(world: layout.World, tmp_path: Path) -> None:
    answers = tmp_path / "answers"
    environ = {**os.environ, "_ARGCOMPLETE": "1", "COMP_LINE": "vmrunning w", "COMP_POINT": "11",
               "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
               "_ARGCOMPLETE_STDOUT_FILENAME": str(answers)}
    subprocess.run([sys.executable, str(ROOT / "bin/vmrunning")], env=environ, check=False, timeout=60)
    assert answers.read_text("utf-8").split() == ["web00"]


@pytest.mark.parametrize("name", sorted(completions.files()))
def test_the_committed_files_are_what_the_parsers_say(name: str) -> None:
    assert (FILES / name).read_text("utf-8") == completions.files()[name], "run `make completions`"


def test_every_argument_that_names_something_completes() -> None:
    bare = [f"{program.name} {option}" for program in discover() for argument in program.options
            for option in argument.options
            if option in ("--group", "--type", "--realm", "--image", "--file", "--name-of") and not argument.kinds]
    assert bare == []


def test_an_unknown_kind_is_a_mistake() -> None:
    known = KINDS | {"files", "folders"}
    used = {kind for program in discover() for argument in (*program.options, *program.positionals)
            for kind in argument.kinds}
    assert used <= known
