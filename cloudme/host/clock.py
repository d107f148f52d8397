"""Whether somebody keeps the kernel's clock right."""

from __future__ import annotations

import ctypes

TIMEX_BYTES = 256
TIME_ERROR = 5
"""adjtimex(2): struct timex is 208 bytes where a long has 64 bits; all zero, it changes nothing. The answer of a clock
that nothing synchronises."""


def synchronised() -> bool:
    """What the kernel says; True where it says nothing."""
    answer: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    return answer != TIME_ERROR
