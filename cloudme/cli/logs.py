"""What vmlogs prints: a console's log, or a guest's journal; of one machine as it came, of several with their names."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue

from cloudme import cli, defined, layout
from cloudme.cli import chooser, selection, sharing
from cloudme.errors import CloudMeError, NotFound, PeerError, UsageError
from cloudme.host import streams
from cloudme.model.machine import Machine
from cloudme.model.names import TEMPLATES
from cloudme.model.ports import Host
from cloudme.qemu import launch
from cloudme.store import Store

CHUNK = 1 << 16
JOURNAL_S = 60
Heard = Callable[[bytes], None]


def run(args: argparse.Namespace, store: Store, host: Callable[[], Host]) -> int:
    """Returns the exit status: of the first that could not be read. host: made where a guest is to be asked."""
    if args.journal and args.qemu:
        raise UsageError("--journal and --qemu exclude each other")
    if args.tail is not None and args.tail < 1:
        raise UsageError(f"{args.tail} is no number of lines")
    machines = chosen(args, store)
    world = host() if args.journal else None
    return _each(machines, lambda machine, heard: _journal(args, store, world, machine, heard) if world
                 else _log(args, store, machine, heard))


def chosen(args: argparse.Namespace, store: Store) -> list[Machine]:
    """Those that are named; else those of the group; else one that is asked for. Raises NotFound, UsageError."""
    names = [*([args.named] if args.named else []), *args.names]
    if not names and args.group not in (None, TEMPLATES):
        return selection.machines(args, store)
    return list({machine.name: machine for machine in (
        chooser.machine(args, store, name) for name in dict.fromkeys(names or [None]))}.values())


def _each(machines: Sequence[Machine], read: Callable[[Machine, Heard], None]) -> int:
    """All at once. Threads that wait for words that may never come are left behind when we are interrupted, or when one
    fails as no log does: nobody reads what we print, say."""
    if len(machines) == 1:
        read(machines[0], _say)
        return 0
    width = max(len(machine.name) for machine in machines)
    lock, ended = threading.Lock(), SimpleQueue[Exception | None]()

    def one(machine: Machine) -> None:
        lines = Lines(machine.name.ljust(width) + "  ", lock)
        failure: Exception | None = None
        try:
            try:
                read(machine, lines.heard)
            finally:
                lines.end()
        except CloudMeError as error:
            failure = error
            with lock:
                print(f"{os.path.basename(sys.argv[0])}: {machine.name}: {error.message}", file=sys.stderr, flush=True)
        except Exception as error:
            failure = error
        ended.put(failure)

    for machine in machines:
        threading.Thread(target=one, args=(machine,), daemon=True).start()
    failed: list[CloudMeError] = []
    for _ in machines:
        if isinstance(error := ended.get(), CloudMeError):
            failed.append(error)
        elif error:
            raise error
    return failed[0].exit_status if failed else 0


class Lines:
    """Prints whole lines, each with a head; several of them share a lock."""

    def __init__(self, head: str, lock: threading.Lock) -> None:
        self._head, self._lock, self._rest = head.encode(), lock, b""

    def heard(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if lines:
            with self._lock:
                _say(b"".join(self._head + line.rstrip(b"\r") + b"\n" for line in lines))

    def end(self) -> None:
        if self._rest:
            self.heard(b"\n")


def _say(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _log(args: argparse.Namespace, store: Store, machine: Machine, heard: Heard) -> None:
    """What QEMU wrote down. Raises NotFound, UsageError."""
    if machine.definition:
        defined.refuse(machine, "it has no serial console, and what QEMU says is in the journal",
                       f"journalctl --unit {layout.unit(machine.definition)}")
    sharing.tell(args, store, machine)
    path = (os.path.join(store.run_folder(machine), launch.OUTPUT) if args.qemu
            else os.path.join(store.folder(machine), launch.SERIAL_LOG))
    if not os.path.exists(path):
        raise NotFound(f"'{machine.name}' has said nothing yet: there is no {path}", hint=f"vm {machine.name}")
    start = _start(path, args.tail) if args.tail else 0
    for data in (streams.follow(path, lambda: store.is_running(machine), start) if args.follow else _read(path, start)):
        heard(data)


def _read(path: str, start: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(start)
        while data := file.read(CHUNK):
            yield data


def _start(path: str, lines: int) -> int:
    """Where the last `lines` lines of a file begin."""
    with open(path, "rb") as file:
        at, left = file.seek(0, os.SEEK_END), lines
        file.seek(max(at - 1, 0))
        left += file.read(1) == b"\n"  # that of the last line ends nothing else
        while at > 0:
            step = min(at, CHUNK)
            file.seek(at - step)
            block = file.read(step)
            while (found := block.rfind(b"\n")) >= 0:
                left -= 1
                if not left:
                    return at - step + found + 1
                block = block[:found]
            at -= step
    return 0


def _journal(args: argparse.Namespace, store: Store, host: Host, machine: Machine, heard: Heard) -> None:
    """What systemd's journal in the guest has of this boot: by ssh; where that fails by the agent, which cannot follow.

    Raises:  NotFound, TimedOut, PeerError.
    """
    if not store.is_running(machine):
        raise NotFound(f"'{machine.name}' does not run: its journal is on its disk", hint=f"vm {machine.name}")
    words = ["journalctl", "--no-pager", "--boot", *([f"--lines={args.tail}"] if args.tail else []),
             *(["--follow"] + ([] if args.tail else ["--no-tail"]) if args.follow else [])]
    root = 'test "$(id -u)" = 0 || sudo="sudo -n"; exec $sudo '
    try:
        status = host.shell.stream(store.target(machine), root + " ".join(words), heard)
    except CloudMeError as refused:
        if args.follow:
            raise
        cli.teller(args, verbose=True)(f"{machine.name}: {refused.message}: asking its agent")
        ended = host.agent.execute(layout.socket(store.run_folder(machine), "agent"), words, timeout_s=JOURNAL_S)
        status = ended.status
        heard(ended.stdout)
    if status:
        raise PeerError(f"'{machine.name}' has no journal that can be read (exit status {status})",
                        hint=f"vmlogs {machine.name} prints its console")
