"""Machines that go on from memory, against machines that boot: real Debian guests, built or from CLOUDME_CACHE."""

import os
import subprocess
import time

from bench.ratios import race
from bench.worlds import World, world
from cloudme.host import agent
from cloudme.host.holders import open_by

CACHE = os.environ.get("CLOUDME_CACHE", "/var/cache/cloudme")
MANY = 20
IDLE_S = 20
MORE = 4


def templates(it: World) -> None:
    """`two` has the usual two CPUs; `one` has one: 20 times two, on two cores, would wait for each other."""
    it.run("cmimage", "build", "debian", "--include", "nginx-light,postgresql", "--cache", f"{CACHE}/images")
    for name, cpus in (("two", "2"), ("one", "1")):
        it.run("vmcreate", "-n", name, "--image", "debian", "-m", "640", "-c", cpus)
        it.run("vmwarm", name)


def until_ssh(it: World, how: str) -> float:
    """From the command until the first command over ssh has been answered under the machine's own name."""
    began = time.perf_counter()
    (name,) = it.run("vminstantiate", how, "-n", "two", "-g", "one").split()
    if how == "--cold":
        it.run("vmwait", name)
    if it.run("vm", name, "--", "hostname").strip() != name:
        raise subprocess.CalledProcessError(1, "hostname")
    spent = time.perf_counter() - began
    it.gone("one")
    return spent


def until_agent(it: World, how: str) -> float:
    """From the command until the guest agent has answered."""
    socket = f"{it.home}/run/realms.{it.realm}/agent00/agent"
    began = time.perf_counter()
    with it.popen("vminstantiate", how, "-n", "two", "-g", "agent", "--name", "agent") as call:
        while not agent.GuestAgent().ping(socket, timeout_s=300):
            time.sleep(0.002)  # the socket is not there yet
        spent = time.perf_counter() - began
        call.wait()
    it.gone("agent")
    return spent


def many(it: World, count: int, *, ssh: bool) -> float:
    began = time.perf_counter()
    it.run("vminstantiate", "--instant", "-n", "one", "-C", str(count), "-g", "many")
    if ssh:
        it.run("vmwait", "-g", "many")
    spent = time.perf_counter() - began
    it.gone("many")
    return spent


def memory(it: World, how: str) -> float:
    """MiB of PSS that an idle machine adds to one that is there (proc(5), smaps_rollup)."""
    totals = []
    for count in (1, MORE):
        it.run("vminstantiate", how, "-n", "two", "-C", str(count), "-g", "memory", "--name", "memory")
        it.run("vmwait", "-g", "memory")
        time.sleep(IDLE_S)
        totals.append(sum(_pss(it, name) for name in it.run("vmrunning", "-g", "memory").split() if "memory0" in name))
    it.gone("memory")
    return (totals[1] - totals[0]) / MORE


def _pss(it: World, name: str) -> float:
    pid = open_by(f"{it.home}/realms/{it.realm}/machines/{name}/lock")
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1024


def main() -> None:
    with world() as it:
        templates(it)
        race("instant until ssh answers", lambda: until_ssh(it, "--instant"), "cold", lambda: until_ssh(it, "--cold"),
             least=10, aim=30)
        race("instant until the agent answers", lambda: until_agent(it, "--instant"), "cold",
             lambda: until_agent(it, "--cold"), least=100, aim=300)
        race(f"{MANY} instant clones", lambda: many(it, MANY, ssh=False), "1", lambda: many(it, 1, ssh=False),
             most=14, aim=11)
        print(f"\nuntil ssh answers on all: {many(it, MANY, ssh=True):.1f} s : {many(it, 1, ssh=True):.1f} s")
        instant, cold = memory(it, "--instant"), memory(it, "--cold")
        print(f"\nPSS that an idle instant clone adds : a cold one\n  {instant:.0f} MiB : {cold:.0f} MiB; ratio "
              f"{instant / cold:.2f} (wanted at most 0.3, aim 0.15)")


if __name__ == "__main__":
    main()
