"""What the host itself has to bring."""

from __future__ import annotations

import os
from collections.abc import Iterator

from cloudme.model.check import Level, Mode, Result, Sysctl
from cloudme.model.units import GIB, human
from cloudme.operations.checks.look import Look, good

NEEDED = ("qemu-system-x86_64", "qemu-img", "dnsmasq", "nft", "ssh")
ROOM_BYTES, LITTLE_BYTES = 2 * GIB, 10 * GIB
"""A Debian image while it is built, and a few machines with what they write."""
INSTANCES, WATCHES, FILES = 128, 8192, 1024
"""Defaults of Linux for years: below these dnsmasq's watches, one folder each, and QEMU's sockets may run out."""
SKEW_S = 60


def programs(look: Look) -> Iterator[Result]:
    missing = [program for program in NEEDED if not look.has(program)]
    if missing:
        yield Result(check="programs", level=Level.failed, what=f"not installed: {', '.join(missing)}",
                     means="nothing can be started", fix=look.install(*missing))
    else:
        yield good("programs", "all that is needed is installed")


def kvm(look: Look) -> Iterator[Result]:
    means = "machines are emulated, about ten times slower"
    if look.emulated:
        yield good("kvm", "not used: accel = \"tcg\" in cloudme.toml")
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
    for module in ("kvm_intel", "kvm_amd"):
        value = (look.host.files.read(f"/sys/module/{module}/parameters/nested") or "").strip()
        if value in ("N", "0"):
            yield Result(check="nested", level=Level.warning, what=f"{module} allows no nesting",
                         means="machines cannot run machines of their own",
                         fix=f"echo options {module} nested=1 >/etc/modprobe.d/kvm-nested.conf, and reboot")
            return
    yield good("nested", "nothing forbids machines within machines")


def tun(look: Look) -> Iterator[Result]:
    device = "/dev/net/tun"
    means = "no machine gets a network card"
    if not look.existing(device):
        yield Result(check="tun", level=Level.failed, what=f"there is no {device}", means=means, fix="modprobe tun")
    elif not look.host.files.openable(device):
        yield Result(check="tun", level=Level.failed, what=f"{device} cannot be opened by this user", means=means,
                     fix=f"chmod 666 {device}", mends=(Mode(path=device, bits=0o666),))
    else:
        yield good("tun", f"{device} can be opened")


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
           if look.number(f"fs.inotify.{name}") < least]
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
    """What is here already was not made in the future."""
    folders = (look.world.data, look.world.images, look.world.machines, "/etc")
    ahead_s = max(look.host.files.changed_s(folder) for folder in folders) - look.host.now()
    if ahead_s > SKEW_S:
        yield Result(check="time", level=Level.failed, what=f"the clock is {ahead_s:.0f} s behind files that are here",
                     means="machines start with a wrong clock: certificates and packages are refused",
                     fix="timedatectl set-ntp true, or chronyc makestep")
    else:
        yield good("time", "the clock is not in the past")
