"""Help, version and complaints, which every command has."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cloudme import __version__
from cloudme.cli.parser import Help
from tests.conftest import Ended

Command = Callable[..., Ended]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_help_keeps_to_the_width_of_the_terminal(
    command: Command, monkeypatch: pytest.MonkeyPatch, columns: int,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    options = command("vmrunning", "--help").stdout.partition("options:")[2].partition("Prints a machine")[0]
    assert "what does not run too" in " ".join(options.split())
    assert max(len(line) for line in options.splitlines()) <= columns


def test_a_word_that_is_too_long_has_a_line_of_its_own() -> None:
    assert Help("x")._split_lines("a bb  ccccccc d", 4) == ["a bb", "ccccccc", "d"]


def test_version_names_the_program(command: Command) -> None:
    assert command("vmrunning", "--version") == Ended(0, f"vmrunning (cloudMe) {__version__}\n", "")


def test_a_wrong_option_shows_the_usage_and_ends_with_64(command: Command) -> None:
    ended = command("vmrunning", "--alll")
    assert (ended.status, ended.stdout) == (64, "")
    assert ended.stderr.startswith("usage: vmrunning")
    assert ended.stderr.endswith("\nvmrunning: unrecognized arguments: --alll\n")
