"""Run in a guest, as root, beside the package: what real processes may do in our cgroups. Prints what it saw as JSON.

Argument: `scopes`, to ask the guest's systemd; `folders`, for an ordinary user to whom a cgroup was delegated.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cloudme.host.cgroup import Groups
from cloudme.host.run import Programs
from cloudme.model.groups import Group
from cloudme.model.machine import Limits

NOBODY = 65534
FILES = ("cpu.max", "cpu.weight", "memory.max", "pids.max", "io.max")
THREADS = """\
import sys, threading
stop = threading.Event()
def grow():
    count = 0
    try:
        while count < 300:
            threading.Thread(target=stop.wait, daemon=True).start()
            count += 1
    except RuntimeError:
        pass
    return count
for line in sys.stdin:
    print(grow(), flush=True)
"""
HOG = "import sys\nsys.stdin.readline()\nwhole = b'x' * (300 << 20)\nprint(len(whole), flush=True)\n"
SPIN = "import sys\nsys.stdin.readline()\nwhile True: pass\n"
SPIN_S = 4


@contextmanager
def process(code: str) -> Iterator[subprocess.Popen[str]]:
    """One that begins at a line on its stdin."""
    one = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield one
    finally:
        one.kill()
        one.communicate()


def told(one: subprocess.Popen[str]) -> str:
    assert one.stdin and one.stdout
    one.stdin.write("\n")
    one.stdin.flush()
    return one.stdout.readline().strip()


def folder_of(pid: int, name: str) -> str:
    """Its cgroup, once it is the one that is meant: systemd answers before it has done."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with open(f"/proc/{pid}/cgroup", encoding="ascii") as file:
            path = file.read().strip().removeprefix("0::")
        if name in path:
            return f"/sys/fs/cgroup{path}"
    raise SystemExit(f"{pid} is in {path}")


def read(folder: str, file: str) -> str:
    with open(f"{folder}/{file}", encoding="ascii") as text:
        return text.read().strip()


def seen(groups: Groups) -> dict[str, Any]:
    found: dict[str, Any] = {"folders": []}

    def hold(one: subprocess.Popen[str], name: str, limits: Limits) -> str:
        groups.check(limits, "/root")
        groups.hold(Group(name=name, limits=limits, own=limits, folder="/root"), one.pid)
        folder = folder_of(one.pid, name)
        found["folders"].append(folder)
        return folder

    with process(THREADS) as one:
        everything = Limits(cpus=1.5, cpu_weight=50, memory_mib=256, tasks=20, io_bps=50 << 20)
        folder = hold(one, "web00:0a", everything)
        found["files"] = {file: read(folder, file) for file in FILES}
        found["threads"] = int(told(one))
        more = Group(name="web00:0a", limits=Limits(tasks=0), own=Limits(), folder="/root")
        found["changed"] = groups.change(more)
        found["files_after"] = {file: read(folder, file) for file in FILES}
        found["threads_after"] = int(told(one))
    with process(HOG) as one:
        hold(one, "r_hog", Limits(memory_mib=64))
        found["hog_said"] = told(one)
        found["hog_ended"] = one.wait(60)
    with process(SPIN) as one:
        folder = hold(one, "spin", Limits(cpus=0.2))
        assert one.stdin
        one.stdin.write("\n")
        one.stdin.flush()
        began = time.monotonic()
        time.sleep(SPIN_S)
        usage = re.search(r"usage_usec (\d+)", read(folder, "cpu.stat"))
        assert usage
        found["cpus"] = int(usage[1]) / 1e6 / (time.monotonic() - began)
    groups.sweep()
    found["nobody"] = groups.change(Group(name="spin", limits=Limits(tasks=200), own=Limits(), folder="/root"))
    deadline = time.monotonic() + 30
    while any(map(os.path.exists, found["folders"])) and time.monotonic() < deadline:
        pass
    found["left"] = [folder for folder in found["folders"] if os.path.exists(folder)]
    return found


def delegated() -> Groups:
    """A cgroup of systemd's that is delegated, and a user in it; a root folder that shows nothing else of the host."""
    with open("/proc/self/cgroup", encoding="ascii") as file:
        top = "/sys/fs/cgroup" + file.read().strip().removeprefix("0::")
    os.mkdir(f"{top}/session")
    with open(f"{top}/session/cgroup.procs", "w", encoding="ascii") as file:
        file.write(str(os.getpid()))
    for path in (top, f"{top}/session"):
        for name in ("", "/cgroup.procs", "/cgroup.subtree_control"):
            os.chown(path + name, NOBODY, NOBODY)
    root = "/run/limits"
    os.makedirs(f"{root}/proc/self")
    with open(f"{root}/proc/self/mountinfo", "w", encoding="ascii") as file:
        file.write("31 23 0:28 / /sys rw - tmpfs tmpfs rw\n32 31 0:26 / /top rw - cgroup2 cgroup2 rw\n")
    with open(f"{root}/proc/self/cgroup", "w", encoding="ascii") as file:
        file.write("0::/session\n")
    os.symlink(top, f"{root}/top")
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    return Groups(Programs(), root)


if __name__ == "__main__":
    json.dump(seen(delegated() if sys.argv[1] == "folders" else Groups(Programs())), sys.stdout)
