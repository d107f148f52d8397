"""A progress bar on stderr: on a terminal, and for work that takes more than a second."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

    from cloudme.model.ports import Progress

PATIENCE_S = 1.0


@contextlib.contextmanager
def shown(*, quiet: bool) -> Iterator[Progress]:
    """Yields what a copy calls as it goes on."""
    if quiet or not sys.stderr.isatty():
        yield lambda name, done, total: None
        return
    bar = Bar()
    try:
        yield bar
    finally:
        bar.close()


class Bar:
    """Implements `Progress`. rich is imported when the bar appears, if it ever does."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._rich: RichProgress | None = None

    def __call__(self, name: str, done: int, total: int) -> None:
        if self._rich is None and time.monotonic() - self._begun > PATIENCE_S:
            self._rich = _started()
            self._rich.add_task("", total=None)
        if self._rich is not None:
            self._rich.update(self._rich.task_ids[0], description=os.path.basename(name), completed=done,
                              total=total or None)

    def close(self) -> None:
        if self._rich is not None:
            self._rich.stop()


def _started() -> RichProgress:
    from rich import progress
    from rich.console import Console

    bar = progress.Progress(
        progress.TextColumn("{task.description}", markup=False), progress.BarColumn(), progress.DownloadColumn(),
        progress.TransferSpeedColumn(), progress.TimeRemainingColumn(), console=Console(stderr=True),
    )
    bar.start()
    return bar
