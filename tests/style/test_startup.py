"""What the fast commands may import. Times are not asserted: `make bench` prints them."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cloudme import layout, store
from cloudme.formats import records
from tests.conftest import ROOT
from tests.unit.test_vmrunning import machine
from tools.programs import discover

PROGRAMS = {program.name: ROOT / {1: "bin", 8: "sbin"}[program.section] / program.name for program in discover()}
DEAR = {"dataclasses", "typing", "pathlib", "subprocess", "socket", "logging", "uuid", "asyncio", "inspect", "shutil",
        "ipaddress", "tempfile"}
DEARER = DEAR | {"argparse", "json", "re", "enum", "signal", "functools", "collections"}
"""What a plain vmrunning does without: together it would cost more than the listing."""


def imported(*argv: str) -> set[str]:
    """The modules that Python imports for `argv`, beyond those that it imports for nothing."""
    said = subprocess.run([sys.executable, "-X", "importtime", *argv], capture_output=True, text=True, check=False,
                          timeout=60, env={**os.environ, "PYTHONPATH": ""}).stderr
    return {line.rsplit("|", 1)[1].strip() for line in said.splitlines()
            if line.startswith("import time:") and "imported package" not in line}


@functools.cache
def by_nothing() -> set[str]:
    return imported("-c", "pass")


def third_party(modules: set[str]) -> set[str]:
    roots = {module.partition(".")[0] for module in modules}
    return roots - set(sys.stdlib_module_names) - {"cloudme"}


@pytest.mark.parametrize("option", ["--help", "--version"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_help_and_version_import_little(name: str, option: str) -> None:
    modules = imported(str(PROGRAMS[name]), option) - by_nothing()
    assert "argparse" in modules
    assert third_party(modules) == set()
    assert modules & DEAR == set()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_wrong_option_imports_little_and_ends_with_64(name: str) -> None:
    path = str(PROGRAMS[name])
    assert third_party(imported(path, "--no-such-option") - by_nothing()) == set()
    assert subprocess.run([sys.executable, path, "--no-such-option"], capture_output=True, check=False).returncode == 64


def test_vmrunning_imports_next_to_nothing(home: Path) -> None:
    world = layout.world()
    os.makedirs(world.machine("web00"))
    Path(world.machine_record("web00")).write_text(records.dump(machine("web00")), "utf-8")
    fd = store.take_lock(layout.lock(world.machine("web00")))
    modules = imported(str(PROGRAMS["vmrunning"])) - by_nothing()
    os.close(fd)
    assert "cloudme.index" in modules
    assert modules & DEARER == set()
    assert third_party(modules) == set()


def test_a_python_that_lacks_a_package_is_told_as_such(home: Path) -> None:
    """As ssh's ProxyCommand may be one's, in a checkout."""
    world = layout.world()
    os.makedirs(world.machine("web00"))
    Path(world.machine_record("web00")).write_text(records.dump(machine("web00")), "utf-8")
    fd = store.take_lock(layout.lock(world.machine("web00")))
    ended = subprocess.run([sys.executable, "-I", "-S", str(PROGRAMS["vm"]), "--proxy", "web00"], capture_output=True,
                           text=True, check=False, timeout=60)
    os.close(fd)
    assert ended.returncode == 69 and ended.stderr.startswith(f"vm: {sys.executable}: No module named ")
    assert len(ended.stderr.splitlines()) == 2


@pytest.mark.parametrize("words", [["-a"], ["--json"], ["-g", "pf1"], ["--realm", "r1"]])
def test_vmrunning_with_options_imports_the_standard_library_only(words: list[str]) -> None:
    modules = imported(str(PROGRAMS["vmrunning"]), *words) - by_nothing()
    assert third_party(modules) == set()
    assert modules & DEAR == set()


def test_names_are_completed_by_the_standard_library() -> None:
    modules = imported("-c", "from cloudme.cli import completion; completion.known('groups', None)") - by_nothing()
    assert third_party(modules) == set()
