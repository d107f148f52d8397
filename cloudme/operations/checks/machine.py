"""What the host itself has to bring."""

from __future__ import annotations

import os
from collections.abc import Iterator

from cloudme.errors import CommandFailed, HostUnavailable
from cloudme.model.check import Device, Level, Mode, Module, Result, Sysctl
from cloudme.model.units import GIB, human
from cloudme.operations.checks.look import Look, good

QEMU, NEEDED = ("qemu-system-x86_64", "qemu-img"), ("dnsmasq", "nft", "ssh")
OLDEST = 7
"""The first QEMU with all that a machine is started with; Debian 12 has 7.2."""
ROOM_BYTES, LITTLE_BYTES = 2 * GIB, 10 * GIB
"""A Debian image while it is built, and a few machines with what they write."""
INSTANCES, WATCHES, FILES = 128, 8192, 1024
"""Defaults of Linux for years: below these dnsmasq's watches, one folder each, and QEMU's sockets may run out."""
SKEW_S = 60
TUN, TUN_MINOR, MISC_MAJOR = "/dev/net/tun", 200, 10
"""linux/miscdevice.h."""


def qemu(look: Look) -> Iterator[Result]:
    missing = [program for program in QEMU if not look.has(program)]
    if missing:
        yield Result(check="qemu", level=Level.failed, what=f"not installed: {', '.join(missing)}",
                     means="nothing can be started", fix=look.install(*missing))
        return
    try:
        version = look.host.qemu.version()
    except (CommandFailed, HostUnavailable, IndexError) as error:
        yield Result(check="qemu", level=Level.failed, what=f"{QEMU[0]} does not say its version: {error}",
                     means="nothing can be started", fix=f"{QEMU[0]} --version")
        return
    major = version.partition(".")[0]
    if major.isdecimal() and int(major) < OLDEST:
        yield Result(check="qemu", level=Level.failed, what=f"QEMU is {version}, at least {OLDEST}.0 is needed",
                     means="it does not know all that machines are started with", fix=look.install(*QEMU))
    else:
        yield good("qemu", f"version {version}")


def programs(look: Look) -> Iterator[Result]:
    missing = [program for program in NEEDED if not look.has(program)]
    if missing:
        yield Result(check="programs", level=Level.failed, what=f"not installed: {', '.join(missing)}",
                     means="no network is started, and no machine is logged in to", fix=look.install(*missing))
    else:
        yield good("programs", f"{', '.join(NEEDED)} are installed")


def kvm(look: Look) -> Iterator[Result]:
    means = "machines are emulated, about ten times slower"
    if look.emulated:
        yield good("kvm", "not used: accel = \"tcg\" in cloudme.toml")
    elif look.processor != "x86_64":
        yield Result(check="kvm", level=Level.warning, what=f"this host is {look.processor}, machines are x86_64",
                     means=means, fix="use a host with an x86_64 processor")
    elif not {"vmx", "svm"} & look.flags():
        yield Result(check="kvm", level=Level.warning, what="this CPU offers no virtualisation", means=means,
                     fix="switch it on in the firmware's setup, or, in a virtual machine, in its host")
    elif not look.existing("/dev/kvm"):
        module = "kvm_intel" if "vmx" in look.flags() else "kvm_amd"
        yield Result(check="kvm", level=Level.warning, what="there is no /dev/kvm", means=means,
                     fix=f"modprobe {module}")
    elif not look.host.files.openable("/dev/kvm"):
        yield Result(check="kvm", level=Level.warning, what="/dev/kvm cannot be opened", means=means,
                     fix="usermod -aG kvm $USER, and log in again")
    else:
        yield good("kvm", "usable")


def nested(look: Look) -> Iterator[Result]:
    if look.emulated or not look.host.files.openable("/dev/kvm") or not {"vmx", "svm"} & look.flags():
        yield good("nested", "matters only where KVM is used")
        return
    for module in ("kvm_intel", "kvm_amd"):
        value = (look.host.files.read(f"/sys/module/{module}/parameters/nested") or "").strip()
        if value in ("N", "0"):
            yield Result(check="nested", level=Level.warning, what=f"{module} allows no nesting",
                         means="machines cannot run machines of their own",
                         fix=f"echo options {module} nested=1 >/etc/modprobe.d/kvm-nested.conf, and reboot")
            return
    yield good("nested", "nothing forbids machines within machines")


def tun(look: Look) -> Iterator[Result]:
    means = "no machine gets a network card"
    if not look.existing(TUN):
        driven = any(line.split() == [str(TUN_MINOR), "tun"]
                     for line in (look.host.files.read("/proc/misc") or "").splitlines())
        node = Device(path=TUN, major=MISC_MAJOR, minor=TUN_MINOR)
        by_hand = f"mkdir -p {os.path.dirname(TUN)}; mknod -m 666 {TUN} c {MISC_MAJOR} {TUN_MINOR}"
        yield Result(check="tun", level=Level.failed, what=f"there is no {TUN}", means=means,
                     fix=by_hand if driven else "modprobe tun",
                     mends=(node,) if driven else (Module(name="tun"), node))
    elif not look.host.files.openable(TUN):
        yield Result(check="tun", level=Level.failed, what=f"{TUN} cannot be opened by this user", means=means,
                     fix=f"chmod 666 {TUN}", mends=(Mode(path=TUN, bits=0o666),))
    else:
        yield good("tun", f"{TUN} can be opened")


def disk(look: Look) -> Iterator[Result]:
    free = look.host.files.free_bytes(look.world.data)
    what = f"{human(free)} are free below {look.world.data}"
    if free >= LITTLE_BYTES:
        yield good("disk", what)
        return
    yield Result(check="disk", level=Level.failed if free < ROOM_BYTES else Level.warning, what=what,
                 means="machines stop in the middle of a write when their disk cannot grow",
                 fix="make room, or set CLOUDME_HOME to a folder on another disk")


def inotify(look: Look) -> Iterator[Result]:
    low = [Sysctl(name=f"fs.inotify.{name}", value=str(least))
           for name, least in (("max_user_instances", INSTANCES), ("max_user_watches", WATCHES))
           if look.sysctl(f"fs.inotify.{name}") is not None and look.number(f"fs.inotify.{name}") < least]
    if low:
        yield Result(check="inotify", level=Level.warning,
                     what=", ".join(f"{one.name} is {look.number(one.name)}" for one in low),
                     means="dnsmasq may not see new machines: they get no address",
                     fix="; ".join(f"sysctl -w {one.name}={one.value}" for one in low), mends=tuple(low))
    else:
        yield good("inotify", "its limits are high enough")


def open_files(look: Look) -> Iterator[Result]:
    """/proc/self/limits: name, soft limit, hard limit, unit."""
    for line in (look.host.files.read("/proc/self/limits") or "").splitlines():
        if line.startswith("Max open files"):
            hard = line.split()[4]
            if hard.isdecimal() and int(hard) < FILES:
                yield Result(check="open-files", level=Level.warning, what=f"a process may open {hard} files",
                             means="large groups cannot be started at once",
                             fix=f"ulimit -Hn {FILES * 4}, or nofile in /etc/security/limits.conf")
                return
    yield good("open-files", "enough files can be opened")


def apparmor(look: Look) -> Iterator[Result]:
    profiles = (look.host.files.read("/sys/kernel/security/apparmor/profiles") or "").splitlines()
    for profile in profiles:
        name, _, mode = profile.rpartition(" ")
        program = os.path.basename(name)
        if mode == "(enforce)" and (program == "dnsmasq" or program.startswith("qemu-system")):
            own = name.strip("/").replace("/", ".")
            yield Result(check="apparmor", level=Level.warning, what=f"AppArmor confines {name}",
                         means=f"{program} may be kept from the files below {look.world.data} and {look.world.run}",
                         fix=f"echo '{look.world.data}/** rwk, {look.world.run}/** rwk,' "
                             f">>/etc/apparmor.d/local/{own}; systemctl reload apparmor")
            return
    yield good("apparmor", "no profile is in the way")


def time(look: Look) -> Iterator[Result]:
    """What is here already was not made in the future, and somebody keeps the clock right."""
    folders = (look.world.data, look.world.images, look.world.machines, "/etc")
    fix = "rc-update add chronyd; rc-service chronyd start" if look.distribution == "alpine" else \
        "timedatectl set-ntp true"
    ahead_s = max(look.host.files.changed_s(folder) for folder in folders) - look.host.now()
    if ahead_s > SKEW_S:
        yield Result(check="time", level=Level.warning, what=f"the clock is {ahead_s:.0f} s behind files that are here",
                     means="machines start with a wrong clock: certificates and packages are refused", fix=fix)
    elif not look.host.synchronised():
        yield Result(check="time", level=Level.warning, what="nothing keeps the clock right, the kernel says",
                     means="machines take their time from it: in the long run certificates and packages are refused",
                     fix=fix)
    else:
        yield good("time", "the clock is kept right, and is not in the past")
