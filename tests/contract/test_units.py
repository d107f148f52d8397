"""Units of definitions: systemd's own parser takes them, and reads the command line that we meant."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings

from cloudme.formats.definitions import units
from tests.conftest import ROOT
from tests.unit.test_definitions import SEED, Machina
from tests.unit.test_units import RAM, documents, from_documents

pytestmark = [pytest.mark.contract,
              pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is missing")]

EXPOSURE = 20
"""Tenths: what `systemd-analyze security` may say, 30 is what was asked for."""
NOBODY = 65534


@pytest.fixture
def machina() -> Iterator[Machina]:
    """In a folder that everybody may read."""
    folder = tempfile.mkdtemp(prefix="cm-")
    os.chmod(folder, 0o755)
    yield Machina(Path(folder))
    shutil.rmtree(folder)


def written(folder: Path, texts: dict[str, str]) -> list[str]:
    """The paths of the units, which are written."""
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    return [str(folder / name) for name in texts if name.endswith(".service")]


def verified(paths: list[str]) -> str:
    """What systemd understood of units of which it has nothing to complain."""
    analyze = ["systemd-analyze", "verify", "--man=no", *paths]
    quiet = subprocess.run(analyze, capture_output=True, text=True, check=False)
    assert (quiet.returncode, quiet.stderr) == (0, "")
    return subprocess.run(analyze, capture_output=True, text=True, check=True,
                          env=os.environ | {"SYSTEMD_LOG_LEVEL": "debug"}).stdout


def commands(dump: str) -> dict[str, list[list[str]]]:
    """The command lines of each unit in a dump of systemd's, specifiers expanded, '$$' not yet."""
    found: dict[str, list[list[str]]] = {}
    unit = ""
    for line in dump.split("\n"):
        if name := re.match(r"\t?-> Unit (\S+):", line):
            unit = name[1]
        elif line.strip().startswith("Command Line: "):
            # a shell knows more escapes in double quotes than shlex does
            shown = re.sub(r'\\([\\"`$])', lambda pair: pair[1] if pair[1] in "`$" else pair[0], line)
            words = shlex.split(shown.partition("Command Line: ")[2])
            found.setdefault(unit, []).append([word.replace("$$", "$") for word in words])
    return found


def seed(machina: Machina) -> None:
    shutil.copytree(SEED, machina.folder, dirs_exist_ok=True)


def with_tpm(machina: Machina) -> None:
    machina.host({"storage": {"tpm": {"path": "/home/tpm", "pattern": "${machine-name}", "type": "tpm-data"}}})
    machina.machine("vm", {"attrs": RAM | {"tpm": {"enabled": True, "data": {"name": "t", "storage": "tpm"}}}})


@pytest.mark.parametrize(("prepare", "count"), [(seed, 1), (with_tpm, 2)])
def test_systemd_finds_nothing_amiss_and_little_exposed(
    machina: Machina, prepare: Callable[[Machina], None], count: int,
) -> None:
    prepare(machina)
    root = machina.folder.parents[1]
    subprocess.run([ROOT / "sbin/vmunit", "generate", "--all", "--root", root], check=True)
    paths = [str(path) for path in (root / "etc/systemd/system").iterdir()]
    assert len(paths) == count
    verified(paths)
    for path in paths:
        rated = subprocess.run(["systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE}", "--no-pager",
                                path], capture_output=True, text=True, check=False)
        assert rated.returncode == 0, rated.stdout[-200:]


def test_systemd_reads_the_command_lines_that_were_meant(machina: Machina, tmp_path: Path) -> None:
    """Of whatever definitions hypothesis thinks of, in one call: systemd takes its time to begin."""
    wanted: dict[str, list[str]] = {}
    paths: list[str] = []

    @settings(max_examples=150, database=None)
    @given(documents())
    def collect(given_documents: tuple[dict[str, object], dict[str, object]]) -> None:
        name = f"fuzz{len(wanted)}"
        (machina.machines / f"{name}.conf.json").unlink(missing_ok=True)
        found = from_documents(machina, *given_documents, name=name)
        (machina.machines / f"{name}.conf.json").unlink()
        if not isinstance(found, str):
            texts, argv, _ = found
            paths.extend(written(tmp_path, texts))
            wanted[units.unit(name)] = argv

    collect()
    read = commands(verified(paths))
    assert len(wanted) > 20 and {name: [line for line in read[name] if line[0] == argv[0]]
                                 for name, argv in wanted.items()} == {name: [argv] for name, argv in wanted.items()}


def test_an_ordinary_user_is_told_what_would_permit_it(machina: Machina) -> None:
    machina.machine("vm", {"attrs": RAM})
    root = machina.folder.parents[1]
    user = None if os.geteuid() else NOBODY
    (root / "etc").chmod(0o555)
    for words, status in ((["--check"], 1), (["--preview"], 0), ([], 77)):
        ended = subprocess.run([ROOT / "sbin/vmunit", "generate", "vm", *words, "--root", root], capture_output=True,
                               text=True, check=False, user=user, cwd="/",
                               env={"PATH": os.environ["PATH"], "CLOUDME_HOME": f"{root}/home"})
        assert ended.returncode == status, ended.stderr
    assert "(sudo vmunit generate ...)" in ended.stderr
