"""Shows something again at each change."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

T = TypeVar("T")

PERIOD_S = 0.5
REDRAW = "\033[H\033[J"
"""Cursor home, erase to the end of the screen (console_codes(4))."""


def repeat(read: Callable[[], T], show: Callable[[T], None]) -> NoReturn:
    """Until interrupted. No event tells that a lock was let go, so what is shown is read anew each period."""
    changes = select.poll()
    changes.register(sys.stdout.fileno(), select.POLLHUP)
    shown: T | None = None
    while True:
        now = read()
        if now != shown:
            if sys.stdout.isatty():
                sys.stdout.write(REDRAW)
            show(now)
            sys.stdout.flush()
            shown = now
        if changes.poll(PERIOD_S * 1000):
            raise BrokenPipeError
