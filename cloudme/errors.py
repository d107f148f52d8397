"""What can go wrong, as seen by a person or a script.

One class is one meaning and one exit status (sysexits.h). Libraries raise; only `cli.main` exits.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class CloudMeError(Exception):
    """Anything that is told to the user in one line, with one line of what to do next below it."""

    exit_status = os.EX_SOFTWARE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(CloudMeError):
    """The options are off."""

    exit_status = os.EX_USAGE


class SpecError(CloudMeError):
    """A user's file is malformed. `lines` holds every complaint, each as 'file:line: what'."""

    exit_status = os.EX_DATAERR

    def __init__(self, lines: Sequence[str], *, hint: str | None = None) -> None:
        super().__init__("\n".join(lines), hint=hint)
        self.lines = tuple(lines)


class NotFound(CloudMeError):
    """There is no such template, machine, group, image, network."""

    exit_status = os.EX_NOINPUT


class HostUnavailable(CloudMeError):
    """The host lacks a program or a feature."""

    exit_status = os.EX_UNAVAILABLE


class MissingProgram(HostUnavailable):
    """A program is not installed."""

    def __init__(self, program: str, *, package: str | None = None) -> None:
        super().__init__(f"the program '{program}' is not installed",
                         hint=f"apt install {package or program}")


class CommandFailed(CloudMeError):
    """A program that was run failed. `output` is all that it said on stderr."""

    exit_status = os.EX_OSERR

    def __init__(self, message: str, *, hint: str | None = None, output: str = "") -> None:
        super().__init__(message, hint=hint)
        self.output = output


class AlreadyExists(CloudMeError):
    """The name is taken."""

    exit_status = os.EX_CANTCREAT


class StoreError(CloudMeError):
    """The disk is full, or a record cannot be read or written."""

    exit_status = os.EX_IOERR


class Busy(CloudMeError):
    """Somebody else is at it, or it did not happen in time: again may help."""

    exit_status = os.EX_TEMPFAIL


class TimedOut(Busy):
    """A wait ran out. The message names the stage that was not reached and why."""


class PeerError(CloudMeError):
    """QEMU, an agent or another peer said no, or nonsense."""

    exit_status = os.EX_PROTOCOL


class NotPermitted(CloudMeError):
    """This user may not; the hint says what would permit it."""

    exit_status = os.EX_NOPERM


class ConfigError(CloudMeError):
    """The host's configuration is broken."""

    exit_status = os.EX_CONFIG


class Terminated(BaseException):
    """SIGTERM arrived: undo, then leave with 143. Not an error, so no handler of errors stops it."""
