"""Machines, against the tools that people use: made, listed, stopped; bridge ports.

Root is needed, and libvirt (libvirt-daemon-system, libvirt-clients) for two rows.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.ratios import race
from bench.worlds import ROOT, World, seconds, world

MANY = 20
LISTED = 200
TAPS = 200
OFF_BY_BUTTON = bytes.fromhex("ba0206b80001effbf4ba0006edf6c40174f4ba0406b80020efebec")
"""Real mode: enable the power button (PM1_EN of q35, 0x602), wait for it (PM1_STS, 0x600), power off (PM1_CNT, 0x604;
ACPI 6.4, 4.8.3)."""


def tiny(it: World) -> None:
    """A template whose machines do nothing but heed the power button."""
    disk = Path(it.home, "tiny.raw")
    disk.write_bytes(OFF_BY_BUTTON.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    it.run("vmcreate", "-n", "tiny", "--image", str(disk), "--no-prepare", "-m", "64", "-c", "1")


def cold_start(it: World) -> float:
    spent = seconds(it, "vminstantiate", "-n", "tiny", "-C", str(MANY), "-g", "cold", "--cold")
    it.gone("cold")
    return spent


def shell_start(it: World) -> float:
    """The same QEMU and the same taps, as a shell would start them."""
    (name,) = it.run("vminstantiate", "-n", "tiny", "-g", "model", "--cold").split()
    pid = _pid(it, name)
    argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    it.gone("model")
    folder = Path(it.home, "shell")
    folder.mkdir(exist_ok=True)
    line = _without_descriptors(argv, str(folder))
    base = f"{it.home}/templates/tiny/disk.qcow2"
    script = "\n".join(
        f"mkdir {folder}/{n}; ip tuntap add dev sh{n} mode tap; ip link set sh{n} master bridge0 up\n"
        f"qemu-img create -q -f qcow2 -b {base} -F qcow2 {folder}/{n}/disk.qcow2\n"
        f"truncate -s 64K {folder}/{n}/seed.iso\n"
        f"{line.replace('@', str(n))} >/dev/null 2>&1 &\necho $! >>{folder}/pids" for n in range(MANY))
    began = time.perf_counter()
    try:
        it.outside(script + f"\nwhile [ $(ls {folder}/*/qmp 2>/dev/null | wc -l) -lt {MANY} ]; do sleep 0.01; done")
        for n in range(MANY):
            _greeted(f"{folder}/{n}/qmp")
        return time.perf_counter() - began
    finally:
        it.outside(f"kill -9 $(cat {folder}/pids); sleep 0.5; " +
                   "\n".join(f"ip link del sh{n}" for n in range(MANY)))
        shutil.rmtree(folder)


def _pid(it: World, name: str) -> int:
    """Of the machine's QEMU: the one that has its lock open."""
    from cloudme.host.holders import open_by

    return open_by(f"{it.home}/realms/{it.realm}/machines/{name}/lock")


OURS = ("-add-fd", "-chardev", "-mon", "-netdev", "-vnc", "-blockdev")


def _without_descriptors(argv: list[str], folder: str) -> str:
    """The command line of one of ours, with sockets and taps that QEMU makes itself, in the folder '@'."""
    line: list[str] = []
    passed = [value for option, value in itertools.pairwise(argv) if option == "-add-fd"]
    files = {f"/dev/fdset/{part.split('set=')[1].split(',')[0]}": part.split("opaque=")[1] for part in passed}
    words = iter(argv)
    for word in words:
        line += _own(word, next(words), folder, files) if word in OURS else [word]
    return " ".join(shlex.quote(word) for word in line)


def _own(option: str, value: str, folder: str, files: Mapping[str, str]) -> list[str]:
    """files: the path of each set of descriptors."""
    role = value.partition("id=")[2].partition(",")[0]
    if option == "-netdev":
        return [option, "tap,id=net0,ifname=sh@,script=no,downscript=no"]
    if option == "-vnc":
        return [option, f"unix:{folder}/@/vnc"]
    if option == "-blockdev":
        props = json.loads(value)
        if "filename" in props:
            path = files[props["filename"]]
            props["filename"] = path if "-base" in props["node-name"] else f"{folder}/@/{os.path.basename(path)}"
        return [option, json.dumps(props)]
    if option in ("-add-fd", "-mon") or role == "qmp.1":
        return []
    if role == "qmp.0":
        return ["-qmp", f"unix:{folder}/@/qmp,server=on,wait=off"]
    kind = f"socket,id={role},path={folder}/@/{role},server=on,wait=off"
    return [option, kind if value.startswith("socket") else f"file,id={role},path={folder}/@/{role}"]


def _greeted(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        if not client.recv(1):
            raise SystemExit(f"{path} did not greet")


@contextlib.contextmanager
def libvirt() -> Iterator[bool]:
    """Its daemons, in a network of their own; False where it is not installed."""
    if not shutil.which("virsh") or not shutil.which("libvirtd"):
        yield False
        return
    daemons = [subprocess.Popen(["unshare", "-n", daemon], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
               for daemon in ("virtlogd", "libvirtd")]
    try:
        for _ in range(100):
            if subprocess.run(["virsh", "-q", "version"], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        yield True
    finally:
        for daemon in daemons:
            daemon.terminate()
            daemon.wait()


def _domain(it: World, name: str) -> str:
    """A file that defines a domain like a machine of ours; its disk is made beforehand."""
    path = Path(it.home, f"{name}.xml")
    path.write_text(f"""<domain type="qemu"><name>{name}</name><memory unit="MiB">64</memory><vcpu>1</vcpu>
<os><type arch="x86_64" machine="q35">hvm</type></os><cpu mode="maximum"/><devices>
<emulator>/usr/bin/qemu-system-x86_64</emulator><disk type="file" device="disk"><driver name="qemu" type="qcow2"/>
<source file="{it.home}/tiny.qcow2"/><target dev="vda" bus="virtio"/><readonly/></disk>
<serial type="pty"/><channel type="unix"><target type="virtio" name="org.qemu.guest_agent.0"/></channel>
<rng model="virtio"><backend model="random">/dev/urandom</backend></rng><video><model type="vga"/></video>
<graphics type="vnc" autoport="yes"/></devices></domain>""", encoding="ascii")
    return str(path)


def virsh_start(it: World) -> float:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", f"{it.home}/tiny.qcow2", "1M"], check=True)
    files = [_domain(it, f"bench{n}") for n in range(MANY)]
    began = time.perf_counter()
    try:
        for n, file in enumerate(files):
            virsh("define", file)
            virsh("start", f"bench{n}")
        return time.perf_counter() - began
    finally:
        for n in range(MANY):
            for verb in ("destroy", "undefine"):
                virsh(verb, f"bench{n}", check=False)


def virsh(*words: str, check: bool = True) -> None:
    subprocess.run(["virsh", "-q", *words], check=check, capture_output=True)


def virsh_list(it: World) -> float:
    began = time.perf_counter()
    virsh("list", "--all")
    return time.perf_counter() - began


def our_list(it: World) -> float:
    return seconds(it, "vmrunning", "-a")


def stop(it: World, count: int) -> float:
    it.run("vminstantiate", "-n", "tiny", "-C", str(count), "-g", "stop", "--cold")
    time.sleep(count / 10 + 1)  # until each looks at its power button
    spent = seconds(it, "vmstop", "-g", "stop")
    it.gone("stop")
    return spent


TAPS_OF_OURS = """
import sys, time
sys.path.insert(0, sys.argv[1])
from cloudme.host.netlink import Links
from cloudme.host.outside import Here
from cloudme.host.run import Programs
from cloudme.model.launch import TapCard
links = Links(Here(Programs()), Programs())
began = time.perf_counter()
fds = [links.taps([TapCard("net0", "bridge0", "52:54:00:00:00:02")]) for _ in range(int(sys.argv[2]))]
print(time.perf_counter() - began)
"""


def our_taps(it: World) -> float:
    return float(it.outside(f"{sys.executable} -c '{TAPS_OF_OURS}' {ROOT} {TAPS}"))


def ip_taps(it: World) -> float:
    batch = Path(it.home, "taps")
    batch.write_text("".join(f"tuntap add dev ip{n} mode tap\nlink set ip{n} master bridge0 up\n" for n in range(TAPS)),
                     encoding="ascii")
    began = time.perf_counter()
    it.outside(f"ip -batch {batch}")
    spent = time.perf_counter() - began
    batch.write_text("".join(f"link del ip{n}\n" for n in range(TAPS)), encoding="ascii")
    it.outside(f"ip -batch {batch}")
    return spent


def main() -> None:
    with world() as it, libvirt() as have:
        tiny(it)
        race(f"bridge ports: {TAPS} taps", lambda: our_taps(it), "ip -batch", lambda: ip_taps(it), most=2, aim=1)
        race(f"vmstop of {MANY}", lambda: stop(it, MANY), "of 1", lambda: stop(it, 1), most=2, aim=1.5)
        race(f"vminstantiate -C {MANY} --cold, until QMP answers on all", lambda: cold_start(it), "a shell loop",
             lambda: shell_start(it), most=1.3, aim=1)
        if not have:
            print("\nnot measured: libvirt is missing (apt install libvirt-daemon-system libvirt-clients)")
            return
        race(f"vminstantiate -C {MANY} --cold, until QMP answers on all", lambda: cold_start(it),
             "virsh define + start", lambda: virsh_start(it), most=1 / 3, aim=1 / 5)
        it.run("vminstantiate", "-n", "tiny", "-C", str(LISTED), "-g", "list", "--no-start")
        for n in range(LISTED):
            virsh("define", _domain(it, f"list{n}"))
        race(f"vmrunning -a, {LISTED} machines", lambda: our_list(it), f"virsh list --all, {LISTED} domains",
             lambda: virsh_list(it), most=2, aim=1)
        for n in range(LISTED):
            virsh("undefine", f"list{n}")


if __name__ == "__main__":
    main()
