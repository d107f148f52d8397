"""What the operations ask of QEMU: see `ports`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from cloudme.errors import CloudMeError
from cloudme.model.guestports import Json
from cloudme.model.launch import Folder, Launch


class Monitor(Protocol):
    """A QMP connection. Raises PeerError where QEMU says no."""

    def execute(self, command: str, **arguments: Json) -> Json: ...

    def execute_until(self, event: str, command: str, *, timeout_s: float, **arguments: Json) -> bool:
        """Like `execute`, then wait for an event of that name; False where it did not come."""

    def lend(self, name: str, path: str, *, write: bool = False) -> None:
        """Give QEMU a descriptor of the file `path`, which it then knows as `fd:<name>`; a file to write is new."""

    def give(self, name: str, fd: int) -> None:
        """Likewise a copy of our descriptor `fd`."""

    def join(self, name: str, other: Monitor) -> None:
        """Connect this QEMU with another: both know it as `fd:<name>`."""

    def admit(self, path: str) -> str:
        """Let QEMU read and write the file `path`, and return the name by which it may open it."""

    def retract(self, path: str) -> None:
        """Take the descriptor back by which it may open the disk `path` to write: what it has open stays so.

        A lock belongs to a descriptor and all its copies (fcntl(2), open file description locks): QEMU, which frees a
        disk by closing it, would go on holding it by the one in its list.
        """

    def await_migration(self, status: str, *, timeout_s: float) -> None:
        """Wait until a migration has come to `status` (QEMU, MigrationStatus); it may have while nobody looked.

        The capability `events` must be set. Raises PeerError where it failed, TimedOut.
        """

    def wait_closed(self, timeout_s: float) -> bool:
        """True once QEMU has gone."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a QEMU told by itself. time_s: since 1970. data: what it has to say of it, {} for nothing."""

    machine: str
    time_s: float
    name: str
    data: Mapping[str, Json]


class Events(Protocol):
    """What QEMUs tell by themselves."""

    def follow(
        self, sockets: Mapping[str, str], told: Callable[[Event], None], failed: Callable[[str, CloudMeError], None],
    ) -> None:
        """Listen to several at once, and return when all have gone.

        sockets: the monitor of each machine, by its name; they are taken for as long as this lasts.
        failed:  called for a machine that cannot be listened to, or whose QEMU talks nonsense; the others go on.
        """


class Hypervisor(Protocol):
    """QEMU processes."""

    def start(self, launch: Launch, *, timeout_s: float = 30) -> None:
        """Start QEMU and return when its monitor answers.

        Raises:  Busy where the machine's lock is held, PeerError with QEMU's last words where it ended.
        """

    def monitor(self, path: str, *, timeout_s: float = 5) -> AbstractContextManager[Monitor]:
        """Connect to the monitor socket `path`. Raises NotFound where nobody listens, Busy where it is in use."""

    def stop(self, machines: Sequence[Power], *, timeout_s: float, say: Callable[[str], None]) -> None:
        """Power down all at once: ACPI, at the deadline `quit`, then SIGKILL. Returns when no lock is held."""

    def shut_down(self, machines: Sequence[Power], *, timeout_s: float, say: Callable[[str], None]) -> list[str]:
        """Likewise by their monitors alone, not by their locks, with no kill at the end; events are told as they come.

        Returns the names of those that have not gone. Where nobody listens, one has.
        """

    def bury(self, uuid: str) -> None:
        """End whatever runs as the user of a machine that is off: taken over, it may have let go of its lock.

        Nothing where machines have no users of their own.
        """

    def kill(self, lock: str) -> None:
        """SIGKILL the holder of `lock`, through a pidfd, and return when the lock is free. Nobody there: nothing."""

    def pids(self, locks: Sequence[str]) -> Mapping[str, int]:
        """The process that holds each of these locks; those that nobody holds, or that are hidden, are left out."""

    def version(self) -> str:
        """As '7.2.22'."""

    def lives(self, uid: int) -> bool:
        """Whether anything runs as this user."""

    def virtiofs(self) -> bool:
        """Whether shares of machines that start here are virtiofs, not 9p."""

    def serve(self, folder: Folder) -> AbstractContextManager[int]:
        """Start a virtiofsd for a folder, and return a socket that is connected to it: it ends with the last copy.

        Raises:  NotFound where the folder is missing, PeerError where there is no virtiofsd any more.
        """

    def kvm_usable(self) -> bool:
        """Whether stock kernels run under KVM here: /dev/kvm opens and, on x86, the CPU says vmx or svm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What stopping a machine needs: its name, for messages, its lock, its monitor's socket."""

    name: str
    lock: str
    monitor: str
