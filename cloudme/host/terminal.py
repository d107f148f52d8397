"""Our own terminal: raw and restored, its size, the keys that leave a session."""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import threading
import tty
from collections.abc import Iterator


@contextlib.contextmanager
def raw(fd: int) -> Iterator[None]:
    """Every key goes to the other side, Ctrl-C too; the terminal is as before afterwards. Not a terminal: nothing."""
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def size(fd: int) -> tuple[int, int]:
    """Columns and rows; 80 by 24 where nobody knows."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        columns = rows = 0
    return columns or 80, rows or 24


@contextlib.contextmanager
def wakeups(*numbers: signal.Signals) -> Iterator[tuple[int, int]]:
    """A pipe: readable after a signal of `numbers`, or when somebody writes to its other end.

    A handler may do no more than that: it can come while a lock is held that it would want. Signals are only watched
    in the main thread, as Python has it.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def wake(*_: object) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(writer, b"s")

    watched = numbers if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, wake) for number in watched}
    try:
        yield reader, writer
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


class Left(Exception):
    """The user typed the keys that leave a session; never seen outside host/."""


class Tilde:
    """`~.` at the start of a line leaves, as in ssh(1): the way out of a guest that hangs."""

    def __init__(self) -> None:
        self._line_starts = True
        self._tilde = False

    def __call__(self, typed: bytes) -> bytes:
        """Return what is to be sent. A '~' that starts a line is held back until the next key. Raises Left."""
        sent = bytearray()
        for key in typed:
            if self._tilde:
                self._tilde = False
                if key == ord("."):
                    raise Left
                if key != ord("~"):
                    sent += b"~"
            elif key == ord("~") and self._line_starts:
                self._tilde = True
                continue
            sent.append(key)
            self._line_starts = key in b"\r\n"
        return bytes(sent)


def bracket(typed: bytes) -> bytes:
    """Ctrl-] leaves, as in telnet(1). Raises Left."""
    if b"\x1d" in typed:
        raise Left
    return typed
