"""What the kernel says of a process (proc(5)): text -> numbers, pure."""

from __future__ import annotations

import os
import re

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(stat: str) -> float:
    """The time of processors that it took so far; 0 for no such text. stat: the file of that name."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS if len(fields) > 12 else 0.0


def own_bytes(rollup: str) -> int | None:
    """What it has of the memory; what it shares with others counts in parts. rollup: the file smaps_rollup."""
    found = re.search(r"^Pss:\s+(\d+) kB$", rollup, re.MULTILINE)
    return int(found[1]) << 10 if found else None


def used_bytes(meminfo: str) -> int | None:
    """What a system cannot do without, caches not counted. meminfo: the file of that name."""
    found = {name: int(kib) << 10 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", meminfo, re.MULTILINE)}
    if not {"MemTotal", "MemAvailable"} <= found.keys():
        return None
    return max(found["MemTotal"] - found["MemAvailable"], 0)
