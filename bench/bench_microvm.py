"""A microvm against a q35 with the same kernel, and that against one with a boot loader: to the agent's answer."""

import os
import subprocess
import time

from bench.ratios import race
from bench.worlds import World, world
from cloudme.host import agent

CACHE = os.environ.get("CLOUDME_CACHE", "/var/cache/cloudme")


def kernel(it: World) -> list[str]:
    """The options that boot what the image has; its files come out of a machine that booted it."""
    it.run("cmimage", "build", "debian", "--cache", f"{CACHE}/images")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{it.home}/key"], check=True)
    make(it, "source", [])
    it.run("vmstart", "source")
    it.run("vmwait", "source")
    for name in ("vmlinuz", "initrd.img"):
        it.run("vm", "source", "--", f"sudo install -m 444 $(ls /boot/{name}-* | head -1) /tmp/{name}")
        it.run("vmcopy", f"source:/tmp/{name}", f"{it.home}/{name}")
    root = it.run("vm", "source", "--", "findmnt -no SOURCE /").strip()
    it.gone("bench")
    return ["--kernel", f"{it.home}/vmlinuz", "--initrd", f"{it.home}/initrd.img",
            "--cmdline", f"root={root} ro console=ttyS0"]


def make(it: World, name: str, options: list[str]) -> None:
    it.run("vmcreate", name, "--machine", "--image", "debian", "--user", "debian", "-g", "bench", "-m", "640",
           "--pubkey-path", f"{it.home}/key.pub", *options)


def until_agent(it: World, options: list[str]) -> float:
    """From the start of a machine that was never started until its agent answers."""
    make(it, "it", options)
    began = time.perf_counter()
    it.run("vmstart", "it")
    if not agent.GuestAgent().ping(f"{it.home}/run/realms.{it.realm}/it/agent", timeout_s=600):
        raise SystemExit("the agent did not answer")
    spent = time.perf_counter() - began
    it.gone("bench")
    return spent


def main() -> None:
    with world() as it:
        boots = kernel(it)
        micro, plain = [*boots, "--machine-type", "microvm"], [*boots, "--machine-type", "q35"]
        race("microvm until the agent answers", lambda: until_agent(it, micro), "q35, same kernel",
             lambda: until_agent(it, plain), most=1, aim=0.8)
        race("q35 with a kernel", lambda: until_agent(it, plain), "q35 with a boot loader",
             lambda: until_agent(it, []), most=1, aim=0.9)


if __name__ == "__main__":
    main()
