"""What `make install` ships: man pages, the list of programs, the scripts around it."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tools import manpage, schema
from tools.programs import discover

PAGES = manpage.pages()
SCRIPTS = [ROOT / ".ci" / "run", ROOT / "tools" / "debian-packages", ROOT / "tools" / "links",
           ROOT / "tools" / "packages",
           ROOT / "tools" / "test-python", ROOT / "completions" / "cloudme.bash"]


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name}")
    return path


def test_setup_cfg_lists_every_program() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    listed = setup["options"]["scripts"].split()
    there = [f"{ {1: 'bin', 8: 'sbin'}[program.section]}/{program.name}" for program in discover()]
    assert sorted(listed) == sorted(there)


@pytest.mark.parametrize("page", PAGES)
def test_the_committed_man_page_is_what_the_parser_says(page: str) -> None:
    assert (manpage.FOLDER / page).read_text("utf-8") == PAGES[page], "run `make man`"


def test_the_committed_schema_and_its_page_are_what_the_tables_say() -> None:
    assert schema.SCHEMA.read_text("utf-8") == schema.schema_text(), "run `make schema`"
    assert schema.PAGE.read_text("utf-8") == schema.page(), "run `make schema`"


def test_there_is_no_man_page_without_a_program() -> None:
    assert {path.name for path in manpage.FOLDER.glob("*.[18]")} == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_man_page_is_right_roff(page: str) -> None:
    ended = subprocess.run([tool("groff"), "-man", "-ww", "-z", "-Tutf8"], input=PAGES[page], capture_output=True,
                           text=True, check=True)
    assert ended.stderr == ""


@pytest.mark.parametrize("page", PAGES)
def test_a_man_page_has_its_sections_and_examples(page: str) -> None:
    sections = re.findall(r"^\.SH (.*)$", PAGES[page], re.MULTILINE)
    assert sections == ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES",
                        "SEE ALSO"]


def test_every_argument_is_explained() -> None:
    assert [f"{program.name}: {' '.join(argument.options) or argument.metavar}" for program in discover()
            for argument in (*program.options, *program.positionals,
                             *(a for command in program.commands for a in (*command.options, *command.positionals)))
            if not argument.help and argument.metavar != "COMMAND"] == []


def test_shellcheck_finds_nothing() -> None:
    ended = subprocess.run([tool("shellcheck"), *map(str, SCRIPTS)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


def test_make_help_lists_the_targets() -> None:
    said = subprocess.run([tool("make"), "-s", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True)
    assert {"install", "uninstall", "demo", "test", "check", "unit", "guest", "bench"} <= set(said.stdout.split())


def test_links_are_made_twice_and_removed_without_a_trace(tmp_path: Path) -> None:
    venv = tmp_path / "lib" / "cloudme" / "venv"
    venv.mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "other").touch()
    links = str(ROOT / "tools" / "links")
    for _ in range(2):
        subprocess.run([links, "make", str(tmp_path)], check=True)
        assert (tmp_path / "bin" / "vmrunning").readlink() == venv / "bin" / "vmrunning"
        assert (tmp_path / "share" / "man" / "man1" / "vmrunning.1").is_symlink()
    subprocess.run([links, "remove", str(tmp_path)], check=True)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"bin", "bin/other", "lib", "lib/cloudme", "lib/cloudme/venv"}


@pytest.mark.parametrize(("os_release", "manager", "wanted"), [
    ("ID=alpine\n", "apk", ["add", "--no-cache", "qemu-system-x86_64", "nftables", "openssh-client-default"]),
    ("ID=arch\n", "pacman", ["-S", "--needed", "--noconfirm", "qemu-base", "nftables", "openssh"]),
    ('ID=endeavouros\nID_LIKE="arch"\n', "pacman",
     ["-S", "--needed", "--noconfirm", "qemu-base", "nftables", "openssh"]),
    ("ID=debian\n", "apt-get", ["--quiet", "--yes", "--no-install-recommends", "install", "qemu-system-x86", "nftables",
                                "openssh-client"]),
    ("ID=ubuntu\nID_LIKE=debian\n", "apt-get", ["--quiet", "--yes", "--no-install-recommends", "install",
                                                "qemu-system-x86", "nftables", "openssh-client"]),
])
def test_install_asks_each_distributions_package_manager_for_its_own_names(
    tmp_path: Path, os_release: str, manager: str, wanted: list[str],
) -> None:
    """The managers are scripts that note what they are asked for; no package is known to be installed."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "os-release").write_text(os_release, encoding="utf-8")
    fakes = tmp_path / "bin"
    fakes.mkdir()
    for name, text in ((manager, f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n'), ("dpkg-query", "#!/bin/sh\nexit 1\n"),
                       ("id", "#!/bin/sh\necho 0\n")):
        (fakes / name).write_text(text, encoding="utf-8")
        (fakes / name).chmod(0o755)
    subprocess.run([ROOT / "tools" / "packages", "qemu-system-x86_64", "nft", "ssh"], check=True,
                   env={**os.environ, "CLOUDME_ROOT": str(tmp_path), "PATH": f"{fakes}:{os.environ['PATH']}"})
    assert (tmp_path / "asked").read_text(encoding="utf-8").splitlines()[-1].split() == wanted
