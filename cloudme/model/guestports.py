"""Those of the ports behind which guests are; `ports` has them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

Json = Any
"""What json.loads returns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where ssh goes. `known_hosts_file` pins the host key; where it is missing, the first key met is written to it.

    outside: it is reached from the host's own namespaces only. vsock: its number for vsock(7), to be reached so.
    """

    name: str
    address: str
    user: str
    key_file: str
    known_hosts_file: str
    port: int = 22
    outside: bool = False
    vsock: int | None = None


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

    def stream(self, target: Target, command: str, heard: Callable[[bytes], None]) -> int:
        """Run a command without input, and tell both its outputs as they come; returns its exit status."""

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

    def knock(self, target: Target, *, greeting: bytes = b"", timeout_s: float = 5) -> str:
        """How far a connection to the target's port comes: 'unreachable', 'closed', 'silent' or 'open'.

        greeting: what its server says first; without one, that it takes the connection is enough.
        """


class Agent(Protocol):
    """The QEMU guest agent of one machine."""

    def ping(self, socket: str, *, timeout_s: float) -> bool:
        """True once the agent answers; False at the deadline or when QEMU goes."""

    def execute(
        self, socket: str, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60
    ) -> Ended:
        """Run a program in the guest. Raises TimedOut, PeerError where the agent says no or goes."""

    def line(self, socket: str) -> AbstractContextManager[Line]:
        """Connect to a port that somebody of ours serves in the guest. Raises PeerError where QEMU has gone."""


class Line(Protocol):
    """A connection on which one line of JSON is answered by another."""

    def tell(self, question: Json, *, timeout_s: float) -> Json:
        """Raises TimedOut where nobody answers, PeerError where the connection closes."""


class Streams(Protocol):
    """Our own stdin and stdout, joined to something."""

    def console(self, path: str, *, timeout_s: float | None = None) -> None:
        """Join them to the socket `path` until its other end closes, or Ctrl-] is typed on a terminal.

        timeout_s: leave, too, when stdin has ended and nothing came for so long.
        Raises:    NotFound where nobody listens.
        """

    def relay(self, address: str, port: int, *, outside: bool = False) -> None:
        """Join them to a TCP port, each direction until its own end; outside: as in `Target`.

        Raises:  TimedOut where it does not answer.
        """


class Playbooks(Protocol):
    """Ansible."""

    def run(
        self, playbook: str, inventory: Mapping[str, Json], *, hosts: Sequence[str], say: Callable[[str], None],
    ) -> Mapping[str, HostReport]:
        """Apply one playbook to these of the inventory's hosts and to no other; return a report for each of them."""

    def check(self, playbooks: Sequence[str]) -> None:
        """Raises SpecError, in Ansible's words, a line for each that cannot be read."""

    def cancel(self) -> None:
        """End what runs in other threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """How a playbook ended on one machine: 'ok', 'changed' or 'failed'; `message` is that of the failing task."""

    status: str
    message: str = ""
