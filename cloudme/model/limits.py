"""Limits of machines: as they are written, as they are told, the host's and a machine's own put together."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from cloudme.errors import UsageError
from cloudme.model.machine import Limits
from cloudme.model.units import MIB, human, ram_mib, size

UNLIMITED = 0
"""What a limit is that was lifted, whatever the host's settings say."""

LEAST_TASKS = 100
"""QEMU has a dozen threads, and up to 64 for its disks (util/thread-pool.c); where it may not make one, it aborts."""
LEAST_OVER_MIB = 128
"""QEMU's own memory beside the guest's, under KVM: 80 MiB (measured)."""

FORM = "cpus=1.5,weight=50,memory=2G,tasks=300,io=50M"


def _cpus(text: str) -> float:
    """The kernel's smallest quota is 1 ms in 100 (kernel/sched/core.c, min_cfs_quota_period)."""
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text) or float(text) < 0.01:
        raise UsageError(f"'{text}' is no share of CPUs", hint="for instance 1.5; 0.01 at least")
    return float(text)


def _whole(what: str, least: int, most: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise UsageError(f"'{text}' is no {what}", hint=f"{least} to {most}")
        return int(text)

    return convert


KINDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "cpus": ("cpus", _cpus),
    "weight": ("cpu_weight", _whole("weight", 1, 10000)),
    "memory": ("memory_mib", ram_mib),
    "tasks": ("tasks", _whole("number of tasks", LEAST_TASKS, 4194304)),
    "io": ("io_bps", lambda text: size(text, bare=1)),
}
"""How people name each limit, its field, and what reads it."""


def one(name: str, text: str) -> dict[str, Any]:
    """The field that a limit sets: 'max' lifts it, 'default' leaves it to the host's settings. Raises UsageError."""
    field, convert = KINDS[name]
    if text == "default":
        return {field: None}
    if text == "max" and name != "weight":
        return {field: UNLIMITED}
    return {field: convert(text)}


def changed(limits: Limits, text: str) -> Limits:
    """`limits`, with those of the list `text` (FORM) in their place. Raises UsageError."""
    fields: dict[str, Any] = {}
    for item in text.split(","):
        name, equals, value = item.strip().partition("=")
        if name not in KINDS or not equals:
            raise UsageError(f"'{item}' is no limit", hint=f"for instance {FORM}; max lifts one, default is the host's")
        new = one(name, value.strip())
        if new.keys() & fields:
            raise UsageError(f"the limit '{name}' stands twice")
        fields |= new
    return dataclasses.replace(limits, **fields)


def check(limits: Limits, guest_mib: int) -> None:
    """Raises UsageError for a limit that would kill a machine with `guest_mib` of memory that does nothing wrong."""
    if limits.memory_mib and limits.memory_mib < guest_mib + LEAST_OVER_MIB:
        raise UsageError(f"a limit of {human(limits.memory_mib * MIB)} would kill a machine of {guest_mib} MiB",
                         hint=f"memory={guest_mib + LEAST_OVER_MIB}M at least; where it is emulated, 1G more")


def over(own: Limits, host: Limits) -> Limits:
    """A machine's own limits, and where it has none, the host's."""
    mine = {field: value for field, value in dataclasses.asdict(own).items() if value is not None}
    return dataclasses.replace(host, **mine)


def words(limits: Limits) -> dict[str, str]:
    """Every limit as people write it, by the name that they give it."""
    def text(name: str, value: Any) -> str:
        if value is None:
            return "default"
        if value == UNLIMITED:
            return "max"
        return human(value * MIB) if name == "memory" else human(value) if name == "io" else f"{value:g}"

    return {name: text(name, getattr(limits, field)) for name, (field, _) in KINDS.items()}
