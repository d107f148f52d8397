"""What it costs to start QEMUs without rights: empty disks, until the monitor greets; in turn with ones that keep all.

Root is needed, or the user is not changed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time

from bench.ratios import race
from cloudme.host.netlink import Links
from cloudme.host.outside import Here
from cloudme.host.qemu import Qemu
from cloudme.host.run import Programs
from cloudme.model.machine import Access, Disk, Machine, Shape
from cloudme.model.names import Name
from cloudme.qemu import launch

MANY = 20
DEEP = 3
"""Disks below the machine's own."""


def machine() -> Machine:
    return Machine(
        name=Name("bench"), uuid="8b18191a-234f-45ce-b43c-b46e28cd2f70", group="g", type=Name("t"), template=None,
        shape=Shape(vcpus=1, ram_mib=64), disks=(Disk(file="disk.qcow2", size_bytes=1 << 20),), nics=(),
        access=Access(user="root", key_of=Name("t"), seeded=False), created="")


def seconds(folder: str, *, confined: bool) -> float:
    run = Programs()
    qemu = Qemu(run, Links(Here(run), run), confined=confined)
    starts = launch.of(machine(), launch.Place(folder=folder, run=f"{folder}/run", accel="tcg", networks={}))
    spent = 0.0
    for _ in range(MANY):
        began = time.perf_counter()
        try:
            qemu.start(starts)
            spent += time.perf_counter() - began
        finally:
            qemu.kill(starts.lock)
    return spent


def main() -> None:
    with contextlib.ExitStack() as mine:
        folder = mine.enter_context(tempfile.TemporaryDirectory(prefix="cm-bench-"))
        for number in range(DEEP, -1, -1):
            below = [] if number == DEEP else ["-b", f"disk{number + 1}.qcow2", "-F", "qcow2"]
            path = os.path.join(folder, f"disk{number or ''}.qcow2")
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *below, path, "1M"], check=True)
        race(f"{MANY} QEMUs without rights, started one after the other", lambda: seconds(folder, confined=True),
             "with all of ours", lambda: seconds(folder, confined=False), most=1.25, aim=1.1)


if __name__ == "__main__":
    main()
