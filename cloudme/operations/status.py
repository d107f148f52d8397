"""How machines are: what their guests and their QEMUs say, and what they cost their host."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cloudme import balloon, folders, index, layout, monitors
from cloudme.errors import CloudMeError
from cloudme.formats import evidence, processes
from cloudme.model import readiness
from cloudme.model.machine import Machine
from cloudme.model.ports import Host
from cloudme.model.readiness import Evidence
from cloudme.model.share import Share
from cloudme.qemu import launch
from cloudme.store import Store

TAIL_BYTES = 64 << 10
"""How much of a log's end is read."""

AT_ONCE = 64
AGENT_S = 5

FULL = "io-error"
TROUBLES = {FULL: "QEMU stopped it: a disk could not be read or written (df -h)",
            "internal-error": "QEMU stopped it: KVM could not go on", "guest-panicked": "the guest's kernel panicked"}
"""States in which QEMU keeps a machine that does not run (qapi/run-state.json)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """None: not known, or not there.

    state:       of index.state; of a machine that runs, what QEMU calls it where it does not go on: paused, io-error.
    since:       when it was started, in seconds since 1970.
    cpu_percent: of one of the host's processors.
    left_bytes:  what its balloon leaves of its ram_bytes; used_bytes: what the guest uses of that, caches not counted.
    host_bytes:  what QEMU's process has of the host's memory; what it shares with others counts in parts.
    disk_bytes:  the size that the guest sees; allocated_bytes: what its own files take.
    error:       the last thing that went wrong, in words; '' for none.
    """

    name: str
    group: str
    type: str
    state: str
    address: str | None
    since: float | None
    cpu_percent: float | None = None
    used_bytes: int | None = None
    left_bytes: int | None = None
    ram_bytes: int
    host_bytes: int | None = None
    allocated_bytes: int | None = None
    disk_bytes: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """What a machine's QEMU said of it."""

    state: str
    memory: balloon.Memory | None


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a machine from outside. process: its pid; None where it does not run, or is hidden."""

    state: str
    process: int | None = None
    cpu_percent: float | None = None
    said: Said | None = None


def of(
    host: Host, store: Store, machines: Sequence[Machine], *, interval_s: float, agent: bool = False,
) -> list[Status]:
    """All at once; the CPU's part is that of `interval_s`. agent: ask the guest agent where there is no balloon."""
    seen = _seen(host, store, machines, interval_s)
    return monitors.all_at_once(
        machines, lambda machine: _status(host, store, machine, seen[machine.name], agent=agent), AT_ONCE)


def _seen(host: Host, store: Store, machines: Sequence[Machine], interval_s: float) -> dict[str, Seen]:
    """Of each machine, by name."""
    found = {str(machine.name): Seen(index.state(store.folder(machine), _record(machine))) for machine in machines}
    alive = [machine for machine in machines if found[machine.name].state == "running"]
    pids = host.qemu.pids([layout.lock(store.folder(machine)) for machine in alive])
    began, before = time.monotonic(), _spent(host, pids.values())
    until = began + interval_s if alive else began
    speakers = [monitors.of(store, machine) for machine in alive]
    answers = monitors.each(speakers, lambda one: _said(host, one, until), at_once=AT_ONCE)
    time.sleep(max(until - time.monotonic(), 0))
    after, passed = _spent(host, pids.values()), time.monotonic() - began
    for machine, answer in zip(alive, answers, strict=True):
        pid = pids.get(layout.lock(store.folder(machine)))
        percent = 100 * (after[pid] - before[pid]) / passed if pid else None
        found[machine.name] = Seen("running", pid, percent, None if isinstance(answer, CloudMeError) else answer)
    return found


def _record(machine: Machine) -> str:
    return layout.TEMPLATE_RECORD if machine.is_template else layout.MACHINE_RECORD


def _spent(host: Host, pids: Iterable[int]) -> dict[int, float]:
    return {pid: processes.cpu_s(host.files.read(f"/proc/{pid}/stat") or "") for pid in pids}


def _said(host: Host, speaker: monitors.Speaker, until: float) -> Said:
    """The guest has until then to say how much memory it uses."""
    with monitors.monitor(host, speaker) as monitor:
        state = str(monitor.execute("query-status").get("status", "running"))
        memory = None
        with contextlib.suppress(CloudMeError):  # without a balloon, or with somebody else's
            if balloon.there(monitor):
                with balloon.polled(monitor) as since:
                    memory = balloon.memory(monitor, since, patience_s=max(until - time.monotonic(), 0))
        return Said(state, memory)


def _status(host: Host, store: Store, machine: Machine, seen: Seen, *, agent: bool) -> Status:
    folder, said, runs = store.folder(machine), seen.said, seen.state == "running"
    memory = said.memory if said else None
    used = memory.used_bytes if memory else None
    if agent and runs and used is None:
        used = _asked(host, store, machine)
    rollup = host.files.read(f"/proc/{seen.process}/smaps_rollup") if seen.process else None
    return Status(
        name=machine.name, group=machine.group, type=machine.type, address=machine.address,
        state=said.state if said and said.state != "running" else seen.state,
        since=index.started(layout.lock(folder)) if runs else None, cpu_percent=seen.cpu_percent, used_bytes=used,
        left_bytes=memory.left_bytes if memory else None, ram_bytes=machine.shape.ram_mib << 20,
        host_bytes=processes.own_bytes(rollup or ""), allocated_bytes=_allocated(folder, machine),
        disk_bytes=sum(disk.size_bytes for disk in machine.disks),
        error=_error(folder, store.run_folder(machine), said, folders.down(store, machine), alive=runs),
    )


def _asked(host: Host, store: Store, machine: Machine) -> int | None:
    with contextlib.suppress(CloudMeError, OSError):
        socket = layout.socket(store.run_folder(machine), "agent")
        ended = host.agent.execute(socket, ["/bin/cat", "/proc/meminfo"], timeout_s=AGENT_S)
        return processes.used_bytes(ended.stdout.decode(errors="replace"))
    return None


def _allocated(folder: str, machine: Machine) -> int | None:
    """None where a disk of it is missing."""
    try:
        return sum(os.stat(os.path.join(folder, disk.file)).st_blocks * 512 for disk in machine.disks)
    except OSError:
        return None


def _error(folder: str, run: str, said: Said | None, down: Sequence[Share], *, alive: bool) -> str:
    """What QEMU says, its shares, and its logs, of this life or the end of the last one. down: shares that are."""
    if said and said.state in TROUBLES:
        return TROUBLES[said.state]
    serial = evidence.serial(_tail(os.path.join(folder, launch.SERIAL_LOG)))
    seen = Evidence(alive=True, serial=serial, firmware=evidence.firmware(
        _tail(os.path.join(folder, launch.FIRMWARE_LOG))))
    cause = readiness.diagnose(seen, "booted")
    if cause.hopeless and not readiness.reached(seen, "booted"):
        return _plain(cause.why)
    if down and alive:
        return f"the share '{down[0].tag}' is down: vmrestart brings it back"
    words = "" if alive else evidence.last_words(_tail(os.path.join(run, launch.OUTPUT)))
    return _plain(words if "warning:" not in words else "") or _plain(serial.complaint)


def _tail(path: str) -> str:
    """The end of a log; '' where there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - TAIL_BYTES, 0))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _plain(text: str) -> str:
    """A guest's words do nothing to a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
