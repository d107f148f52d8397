"""What the operations ask of ssh: one of the ports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where ssh goes. `known_hosts_file` pins the host key; where it is missing, the first key met is written to it."""

    name: str
    address: str
    user: str
    key_file: str
    known_hosts_file: str
    port: int = 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command in a guest ended."""

    status: int
    stdout: bytes
    stderr: bytes


Progress = Callable[[str, int, int], None]
"""Called as a copy goes on: the name of the file, bytes done, bytes in all (0: nobody knows); both counts are of the
whole copy."""


class Shell(Protocol):
    """ssh.

    Raises:  TimedOut where no session came to be (the guest may still be booting), PeerError where the guest or its
             host key said no, or the connection was lost in the middle; NotFound for files.
    """

    def run(self, target: Target, command: str, *, stdin: bytes = b"", timeout_s: float = 60) -> Ended:
        """Run a command; a signal ended it: 255. Raises TimedOut, too, where it has not ended within `timeout_s`."""

    def interactive(self, target: Target, command: str | None = None, *, tty: bool = False) -> int:
        """Run a command, or a login shell, on our own stdin, stdout and stderr; returns its exit status.

        A shell gets a terminal where stdin is one, a command where `tty` says so.
        """

    def put(
        self, target: Target, sources: Sequence[str], destination: str, *, recursive: bool, progress: Progress,
    ) -> list[str]:
        """Copy files, and with `recursive` folders, into the guest, with mode and time; no file is ever half there.

        destination: a folder that is there, or, for one source, the name of the copy; relative to the login's home.
        Returns:     what was left out: neither file nor folder, or a link to a folder within a folder.
        Raises:      UsageError, NotFound, NotPermitted, StoreError; before the first byte is copied, if it can.
        """

    def get(
        self, target: Target, sources: Sequence[str], destination: str, *, recursive: bool, progress: Progress,
    ) -> list[str]:
        """The other way; see `put`."""

    def probe(self, target: Target, *, timeout_s: float = 5) -> str:
        """How far one try comes: 'unreachable', 'closed', 'silent', 'host-key', 'refused' or 'ready'."""
