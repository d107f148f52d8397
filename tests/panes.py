"""A real terminal for programs: tmux draws what they say, and tells what is on the screen."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

DEADLINE_S = 60
ENDED = "It ended with"


class Pane:
    """A program in a tmux of its own, which ends with it."""

    def __init__(self, folder: Path, argv: Sequence[str], env: Mapping[str, str], *, columns: int, rows: int) -> None:
        if not (tmux := shutil.which("tmux")):
            pytest.skip("tmux is missing")
        self._tmux = [tmux, "-S", str(folder / "tmux"), "-f", os.devnull]
        self._env = {**env, "TERM": "xterm-256color"}
        # tmux may miss the status of a program whose terminal was closed first: a shell says it, and Ctrl-C spares it
        command = f"trap : INT; {shlex.join(argv)}; echo {ENDED} $?; exec cat"
        self._run("new-session", "-d", "-x", str(columns), "-y", str(rows), command)

    def __enter__(self) -> Pane:
        return self

    def __exit__(self, *_: object) -> None:
        self._run("kill-server")

    def _run(self, *words: str) -> str:
        return subprocess.run([*self._tmux, *words], env=self._env, capture_output=True, text=True, check=True,
                              timeout=DEADLINE_S).stdout

    def screen(self, *, colours: bool = False) -> str:
        """What is seen now; with its colours, as a terminal is told them."""
        return self._run("capture-pane", "-p", *(["-e"] if colours else []))

    def keys(self, *names: str) -> None:
        """Type these, as tmux names them: C-c, Enter."""
        self._run("send-keys", *names)

    def resize(self, columns: int, rows: int) -> None:
        self._run("resize-window", "-x", str(columns), "-y", str(rows))

    def expect(self, there: Callable[[str], object]) -> str:
        """Look on until that is true of the screen, and return the screen."""
        deadline = time.monotonic() + DEADLINE_S
        while not there(screen := self.screen()):
            assert time.monotonic() < deadline, f"it did not come:\n{screen}"
            time.sleep(0.1)
        return screen

    def ended(self) -> int:
        """Wait for the end of the program; how it ended."""
        return int(self.expect(lambda screen: ENDED in screen).rpartition(ENDED)[2])
