"""The rules that machines can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

LIMITS = {"program": 80, "module": 400, "function": 50, "class": 200}
"""Lines, at most."""

LAYOUT = {
    ".ci", ".gitignore", "CONTRIBUTING.md", "LICENSE", "Makefile", "NEWS.md", "README.rst", "bench", "bin", "cloudme",
    "completions", "docs", "examples", "pyproject.toml", "sbin", "setup.cfg", "templates", "tests", "tools",
}

REGISTRIES = (
    ("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("crates", "io"), ("rubygems", "org"),
    ("docker", "io"), ("quay", "io"), ("ghcr", "io"), ("golang", "org"), ("deb", "debian", "org"),
    ("security", "debian", "org"), ("snapshot", "debian", "org"),
)
"""Hosts that a committed file does not name: where packages come from is the machine's configuration."""


def tracked() -> list[Path]:
    """The files of the project: those in git, and those that are not ignored."""
    listed = subprocess.run(["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others",
                             "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    paths = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return [path for path in paths if path.is_file()]


def programs() -> list[Path]:
    return [path for path in tracked() if path.parent in (ROOT / "bin", ROOT / "sbin")]


def sources() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py"] + programs()


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def passes(*argv: str) -> None:
    ended = subprocess.run([sys.executable, "-m", *argv], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_ruff_finds_nothing() -> None:
    passes("ruff", "check", "--no-cache")


@pytest.mark.timeout(600)
def test_types_are_right_in_programs_too() -> None:
    # no cache: one that knows a module as missing keeps saying so after it was added
    passes("mypy", "--cache-dir=/dev/null", "cloudme", "tests", "tools", "bench", *(name(path) for path in programs()))


def test_imports_point_down_only() -> None:
    ended = subprocess.run([str(Path(sys.executable).parent / "lint-imports"), "--config", "setup.cfg", "--no-cache"],
                           cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


def too_long(path: Path) -> Iterator[str]:
    text = path.read_text("utf-8")
    lines = len(text.splitlines())
    limit = LIMITS["program" if path.parent.name in ("bin", "sbin") else "module"]
    if lines > limit:
        yield f"{name(path)} has {lines} lines, {limit} are allowed"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            limit = LIMITS["class" if isinstance(node, ast.ClassDef) else "function"]
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > limit:
                yield f"{name(path)}:{node.lineno}: {node.name} has {lines} lines, {limit} are allowed"


def test_everything_fits_on_a_screen_or_a_few() -> None:
    assert [complaint for path in sources() for complaint in too_long(path)] == []


def test_every_module_and_program_says_what_it_is() -> None:
    assert [name(path) for path in sources() if path.read_text("utf-8").strip() and not
            ast.get_docstring(ast.parse(path.read_text("utf-8")))] == []


@pytest.mark.parametrize("path", programs(), ids=name)
def test_a_program_has_the_common_head_and_can_be_executed(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.startswith("#!/usr/bin/env python3\n# PYTHON_ARGCOMPLETE_OK\n")
    assert "sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))\n" in text
    assert path.stat().st_mode & 0o111 == 0o111


def test_the_folders_are_the_architecture() -> None:
    found = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert found <= LAYOUT, f"new at the top: {found - LAYOUT}"
    assert {"NEWS.md", "CONTRIBUTING.md", "LICENSE"} <= found


def test_no_file_names_a_package_registry() -> None:
    hosts = [".".join(labels).encode() for labels in REGISTRIES]
    assert [f"{name(path)}: {host.decode()}" for path in tracked() for host in hosts if host in path.read_bytes()] == []


def test_every_text_file_ends_in_a_newline_and_has_no_blanks_at_line_ends() -> None:
    bad = []
    for path in tracked():
        content = path.read_bytes()
        if path.is_relative_to(ROOT / "tests" / "data") or b"\0" in content or not content:
            continue
        if not content.endswith(b"\n") or any(line != line.rstrip(b" \t\r") for line in content.split(b"\n")):
            bad.append(name(path))
    assert bad == []


def test_the_limits_see_what_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    path = tmp_path / "long.py"
    path.write_text("def f():\n" + "    x = 1\n" * 400, "utf-8")
    assert list(too_long(path)) == ["long.py has 401 lines, 400 are allowed",
                                    "long.py:1: f has 401 lines, 50 are allowed"]
