"""Machine + where it lives -> Launch, and Launch -> argv."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cloudme import layout
from cloudme.model import limits
from cloudme.model.groups import Group
from cloudme.model.launch import Folder, Launch, Listener, Part, TapCard
from cloudme.model.machine import INITRD, KERNEL, Limits, Machine, Nic
from cloudme.model.names import Name
from cloudme.model.network import Network
from cloudme.qemu import files, hardware, taps

BINARY = "qemu-system-x86_64"
MICROVM = "microvm"
OPTIONS = {MICROVM: "acpi=on,pcie=on,rtc=on,isa-serial=off,usb=off"}
PLAIN = "vmport=off,hpet=off"
"""Options of types of machines. A microvm has its virtio devices on PCI, which kernels of distributions know at once;
without ACPI nobody could press its power button (QEMU, docs/system/i386/microvm.rst)."""
CLONES_CODE_MIB = 96
CODE_MIB = 1024
"""What an emulated machine's translated code takes at most (QEMU, tcg/region.c)."""
BESIDES_BYTES = 1 << 30
"""What is locked beside the guest's memory, at most: ROMs, memory of displays. libvirt allows as much."""
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
"""The system calls that QEMU takes from itself (qemu(1), -sandbox)."""
VNC_PORTS = 5900
"""RFC 6143, 1: the port of display 0."""
SERIAL_LOG = "console.log"
FIRMWARE_LOG = "firmware.log"
OUTPUT = "qemu.log"
SEED = "seed.iso"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a machine lives: its folder, its run folder, the accelerator to use, the networks of its cards.

    grounds:  folders, and files, on whose disks its own may stand, beside those in `folder`.
    limits, overhead_mib: the host's, for machines that have none of their own (Settings). None: it gets no cgroup.
    virtiofs: the host has a virtiofsd for its shares; else they are 9p's.
    iommu:    the numbers of the groups in which its PCI devices are.
    """

    folder: str
    run: str
    accel: str
    networks: Mapping[Name, Network]
    grounds: tuple[str, ...] = ()
    limits: Limits | None = None
    overhead_mib: int | None = None
    virtiofs: bool = True
    iommu: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ram:
    """Memory that is the file `path`: made by a machine that boots, received from one that runs, or cloned.

    qemu:   the version of QEMU, as '7.2.22': both sides have the hardware of that one.
    cards:  those that were plugged in when the memory was saved. They are connected to nothing.
    """

    path: str
    qemu: str
    use: Literal["boot", "receive", "clone"]
    cards: tuple[Nic, ...] = ()

    @property
    def machine(self) -> str:
        """The versioned type: `q35` is another one in another QEMU (`-machine help`)."""
        return "pc-q35-" + ".".join(self.qemu.split(".")[:2])


def of(machine: Machine, place: Place, ram: Ram | None = None) -> Launch:
    """Return how `machine` starts at `place`: it boots, or goes on from a `ram`; then its cards come later."""
    folders = _folders(machine, place)
    seen = bool(folders) and place.virtiofs  # its memory, by virtiofsd
    parts = _memory(machine, ram, seen=seen) + hardware.entropy()
    if machine.board != MICROVM:
        parts += hardware.generation() + hardware.root_ports() + hardware.display()
    parts += hardware.console() + hardware.firmware_log() + hardware.agent() + hardware.identity()
    parts += _disks(machine, place, receives=ram is not None and ram.use == "receive")
    cards = _pluggable(machine, ram)
    old = ram.cards if ram else ()
    parts += [part for index, nic in enumerate(old) for part in hardware.nic(nic.mac, index, old=True)]
    if ram is None:
        parts += [part for index, address in enumerate(machine.devices) for part in hardware.device(address, index)]
    incoming = ram is not None and ram.use != "boot"
    shares = [part for index, folder in enumerate(folders) for part in hardware.share(
        folder.role, folder.tag, index, virtiofs=place.virtiofs, plugged=incoming)]
    return Launch(
        name=machine.name, uuid=machine.uuid, binary=BINARY, machine=ram.machine if ram else machine.board,
        accel=place.accel, cpu="host" if place.accel == "kvm" else "max", vcpus=machine.shape.vcpus,
        ram_mib=machine.shape.ram_mib, incoming=incoming,
        parts=parts if incoming else parts + cards + shares, plugged=shares[::-1] + cards if incoming else (),
        folders=folders, virtiofs=place.virtiofs, copies=seen and ram is not None and ram.use == "clone",
        monitors=[Listener(role, layout.socket(place.run, role)) for role in ("qmp.0", "qmp.1", "qmp.2")],
        chardevs=[
            Listener("console", layout.socket(place.run, "console"), os.path.join(place.folder, SERIAL_LOG)),
            Listener("agent", layout.socket(place.run, "agent")),
            Listener("identity", layout.socket(place.run, "identity")),
        ],
        taps=[*taps.of(machine, place.networks),
              *(TapCard(f"oldnet{index}", None, nic.mac) for index, nic in enumerate(old))],
        vnc=layout.socket(place.run, "vnc"), lock=layout.lock(place.folder), run_folder=place.run,
        vnc_port=machine.vnc_port, pid_file=os.path.join(place.folder, layout.PID) if machine.image else None,
        output=os.path.join(place.run, OUTPUT), firmware_log=os.path.join(place.folder, FIRMWARE_LOG),
        kernel=os.path.join(place.folder, KERNEL) if machine.kernel else None,
        initrd=os.path.join(place.folder, INITRD) if machine.kernel and machine.kernel.initrd else None,
        cmdline=machine.kernel.cmdline if machine.kernel else "",
        group=group(machine, place),
        grounds=(place.folder, *place.grounds), iommu=place.iommu, locked_bytes=locked_bytes(machine),
    )


def locked_bytes(machine: Machine) -> int:
    """What of its memory stays where it is: devices of the host's write there by themselves, at any moment."""
    return (machine.shape.ram_mib << 20) + BESIDES_BYTES if machine.devices else 0


def _memory(machine: Machine, ram: Ram | None, *, seen: bool) -> list[Part]:
    """seen: by another program, too."""
    if ram:
        return hardware.file_memory(ram.path, machine.shape.ram_mib, shared=ram.use != "clone" or seen)
    return (hardware.shared_memory if seen else hardware.memory)(machine.shape.ram_mib)


def _disks(machine: Machine, place: Place, *, receives: bool) -> list[Part]:
    """receives: it only keeps another's memory, and looks as if it had them."""
    parts: list[Part] = []
    for index, disk in enumerate(machine.disks):
        path = os.path.join(place.folder, disk.file)
        parts += (hardware.no_disk(disk.size_bytes, index, boot=index == 0) if receives
                  else hardware.disk(path, index, boot=index == 0))
    if machine.access.seeded:
        parts += hardware.no_seed() if receives else hardware.seed(os.path.join(place.folder, SEED))
    if machine.cdrom:
        parts += hardware.cdrom(machine.cdrom, "install", 0, boot=True)
    return parts


def _pluggable(machine: Machine, ram: Ram | None) -> list[Part]:
    """Cards, vsock, balloon.

    On a `ram` there is no balloon: what a guest gives back, QEMU punches out of the file that its memory is, even where
    others have it too (softmmu/physmem.c, ram_block_discard_range; docs/system/vm-templating.rst).
    Nor with devices of the host's: of what they may write to nothing can be given back (hw/vfio/common.c).
    """
    small = machine.board == MICROVM
    card = hardware.small_nic if small else hardware.nic
    parts = [part for index, nic in enumerate(machine.nics) for part in card(nic.mac, index)]
    if ram is None and machine.vsock_cid is not None:
        parts += hardware.vsock(machine.vsock_cid)
    if ram is None and not machine.devices and len(machine.nics) < len(hardware.ROOT_PORTS):
        parts += hardware.small_balloon() if small else hardware.balloon()
    return parts


def _folders(machine: Machine, place: Place) -> list[Folder]:
    return [Folder(role=f"fs{index}", tag=share.tag, source=share.source, readonly=share.readonly,
                   lock=layout.share(place.run, share.tag), log=f"{layout.share(place.folder, share.tag)}.log")
            for index, share in enumerate(machine.shares)]


def group(machine: Machine, place: Place) -> Group | None:
    """The cgroup that the machine is to live in."""
    if place.limits is None:
        return None
    host = place.limits
    if place.overhead_mib is not None:
        code_mib = CODE_MIB if place.accel == "tcg" else 0
        host = dataclasses.replace(host, memory_mib=machine.shape.ram_mib + place.overhead_mib + code_mib)
    return Group(name=layout.group(place.run), folder=place.folder, own=machine.limits,
                 limits=limits.over(machine.limits, host))


def argv(launch: Launch, fds: Mapping[str, int]) -> list[str]:
    """Return QEMU's command line (qemu-system-x86_64(1)).

    fds:  the number of each descriptor, by role; `roles` has them all.
    """
    names = files.sets(launch)
    line = [
        launch.binary,
        "-name", _escaped(launch.name),
        "-uuid", launch.uuid,
        "-nodefaults", "-no-user-config",
        "-machine", f"{launch.machine},memory-backend=ram0,{OPTIONS.get(launch.machine, PLAIN)},dump-guest-core=off",
        "-accel", launch.accel + _translation(launch),
        "-cpu", launch.cpu,
        "-smp", str(launch.vcpus),
        "-m", f"{launch.ram_mib}M",
        "-rtc", "base=utc,clock=host",
        "-display", "none",
        "-vnc", _display(launch, fds),
        "-sandbox", SANDBOX,
    ]
    line += _booted(launch, fds)
    for number, file in enumerate(files.of(launch), 1):
        for role, flags in zip(file.descriptors, file.flags, strict=True):
            line += ["-add-fd", f"fd={fds[role]},set={number},opaque={_escaped(files.mark(file.path, flags))}"]
    for monitor in launch.monitors:
        line += ["-chardev", _socket(monitor, fds, names), "-mon", f"chardev={monitor.role},mode=control"]
    for chardev in launch.chardevs:
        line += ["-chardev", _socket(chardev, fds, names)]
    line += ["-chardev", f"file,id=firmware,path={names['firmware.log']}"]
    for folder in launch.folders:
        line += _shared(folder, fds, virtiofs=launch.virtiofs)
    for tap in launch.taps:
        line += option(Part("netdev", {"type": "tap", "id": tap.netdev, "fd": str(fds[tap.netdev])}))
    for part in launch.parts:
        line += option(files.passed(part, names, fds))
    if launch.incoming:
        line += ["-S", "-incoming", "defer"]
    return line


def roles(launch: Launch) -> list[str]:
    """The role of each descriptor that QEMU inherits: sockets, taps, files, the memory, the folder of the display."""
    return [*(listener.role for listener in (*launch.monitors, *launch.chardevs)), *(tap.netdev for tap in launch.taps),
            *(role for file in files.of(launch) for role in file.descriptors),
            *([files.RAM] if files.ram(launch) else []), *files.booted(launch), *files.devices(launch),
            *(folder.role for folder in launch.folders), files.OWN]


def fingerprint(launch: Launch) -> str:
    """A digest of the hardware that the guest sees: equal where a state saved in one can be restored in the other."""
    own = ("filename", "mem-path", "share")
    parts = [[part.option, {key: value for key, value in part.props.items() if key not in own}]
             for part in launch.parts]
    seen = [launch.machine, launch.accel, launch.cpu, launch.vcpus, launch.ram_mib, parts]
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


def _booted(launch: Launch, fds: Mapping[str, int]) -> list[str]:
    options = [word for name in files.booted(launch) for word in (f"-{name}", f"/proc/self/fd/{fds[name]}")]
    return [*options, *(["-append", launch.cmdline] if launch.kernel else [])]


def _display(launch: Launch, fds: Mapping[str, int]) -> str:
    """A socket is made through the folder's descriptor: the folders above it may be closed to QEMU's user."""
    if launch.vnc_port is None:
        return f"unix:/proc/self/fd/{fds[files.OWN]}/{os.path.basename(launch.vnc)}"
    return f"127.0.0.1:{launch.vnc_port - VNC_PORTS},password=on"


def _translation(launch: Launch) -> str:
    """QEMU caches 1 GiB of translated code, if it may; an idle clone keeps what its first second took."""
    if launch.accel != "tcg":
        return ""
    return ",thread=multi" + (f",tb-size={CLONES_CODE_MIB}" if launch.incoming else "")


def option(part: Part) -> list[str]:
    """One part on the command line, as JSON: no character of a file name can be taken for an option."""
    return [f"-{part.option}", json.dumps(part.props, separators=(",", ":"))]


def _socket(listener: Listener, fds: Mapping[str, int], names: Mapping[str, str]) -> str:
    log = f",logfile={names[f'{listener.role}.log']},logappend=on" if listener.log else ""
    return f"socket,id={listener.role},fd={fds[listener.role]},server=on,wait=off{log}"


def _shared(folder: Folder, fds: Mapping[str, int], *, virtiofs: bool) -> list[str]:
    """The socket to virtiofsd, connected already; or the folder, which QEMU opens anew by its descriptor.

    none: of what a guest's root gives to others, only the mode is kept (qemu(1), -fsdev). multidevs: other disks that
    are mounted in the folder have files of the same numbers.
    """
    if virtiofs:
        return ["-chardev", f"socket,id={folder.role},fd={fds[folder.role]}"]
    readonly = ",readonly=on" if folder.readonly else ""
    return ["-fsdev", f"local,id={folder.role},path=/proc/self/fd/{fds[folder.role]},security_model=none,"
                      f"multidevs=remap{readonly}"]


def _escaped(value: str) -> str:
    """A comma is doubled in QEMU's key=value options (qemu(1), 'Device URL Syntax')."""
    return value.replace(",", ",,")
