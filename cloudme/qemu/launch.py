"""Machine + where it lives -> Launch, and Launch -> argv."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from cloudme import layout
from cloudme.model.launch import Launch, Listener, Part, TapCard
from cloudme.model.machine import Machine
from cloudme.qemu import hardware

BINARY = "qemu-system-x86_64"
MACHINE = "q35"
SERIAL_LOG = "console.log"
FIRMWARE_LOG = "firmware.log"
OUTPUT = "qemu.log"
SEED = "seed.iso"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a machine lives: its folder, its run folder, the accelerator to use, the bridge of each network."""

    folder: str
    run: str
    accel: str
    bridges: Mapping[str, str]


def of(machine: Machine, place: Place) -> Launch:
    """Return how `machine` starts at `place`."""
    parts = hardware.memory(machine.shape.ram_mib)
    parts += hardware.entropy() + hardware.generation() + hardware.root_ports() + hardware.display()
    parts += hardware.console() + hardware.firmware_log() + hardware.agent()
    for index, disk in enumerate(machine.disks):
        parts += hardware.disk(os.path.join(place.folder, disk.file), index, boot=index == 0)
    if machine.access.seeded:
        parts += hardware.seed(os.path.join(place.folder, SEED))
    if machine.cdrom:
        parts += hardware.cdrom(machine.cdrom, "install", 0, boot=True)
    for index, nic in enumerate(machine.nics):
        parts += hardware.nic(nic.mac, index)
    return Launch(
        name=machine.name, uuid=machine.uuid, binary=BINARY, machine=MACHINE, accel=place.accel,
        cpu="host" if place.accel == "kvm" else "max", vcpus=machine.shape.vcpus, ram_mib=machine.shape.ram_mib,
        parts=parts,
        monitors=[Listener(role, layout.socket(place.run, role)) for role in ("qmp.0", "qmp.1")],
        chardevs=[
            Listener("console", layout.socket(place.run, "console"), os.path.join(place.folder, SERIAL_LOG)),
            Listener("agent", layout.socket(place.run, "agent")),
        ],
        taps=[TapCard(f"net{index}", place.bridges[nic.network], nic.mac) for index, nic in enumerate(machine.nics)],
        vnc=layout.socket(place.run, "vnc"), lock=layout.lock(place.folder), run_folder=place.run,
        output=os.path.join(place.run, OUTPUT), firmware_log=os.path.join(place.run, FIRMWARE_LOG),
    )


def argv(launch: Launch, fds: Mapping[str, int]) -> list[str]:
    """Return QEMU's command line (qemu-system-x86_64(1)).

    fds:  the number of each descriptor, by role: the roles of the monitors and chardevs, the names of the netdevs.
    """
    line = [
        launch.binary,
        "-name", _escaped(launch.name),
        "-uuid", launch.uuid,
        "-nodefaults", "-no-user-config",
        "-machine", f"{launch.machine},memory-backend=ram0,vmport=off,hpet=off,dump-guest-core=off",
        "-accel", launch.accel + (",thread=multi" if launch.accel == "tcg" else ""),
        "-cpu", launch.cpu,
        "-smp", str(launch.vcpus),
        "-m", f"{launch.ram_mib}M",
        "-rtc", "base=utc,clock=host",
        "-display", "none",
        "-vnc", f"unix:{_escaped(launch.vnc)}",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]
    for monitor in launch.monitors:
        line += ["-chardev", _socket(monitor, fds), "-mon", f"chardev={monitor.role},mode=control"]
    for chardev in launch.chardevs:
        line += ["-chardev", _socket(chardev, fds)]
    line += ["-chardev", f"file,id=firmware,path={_escaped(launch.firmware_log)}"]
    for tap in launch.taps:
        line += option(Part("netdev", {"type": "tap", "id": tap.netdev, "fd": str(fds[tap.netdev])}))
    for part in launch.parts:
        line += option(part)
    return line


def option(part: Part) -> list[str]:
    """One part on the command line, as JSON: no character of a file name can be taken for an option."""
    return [f"-{part.option}", json.dumps(part.props, separators=(",", ":"))]


def _socket(listener: Listener, fds: Mapping[str, int]) -> str:
    log = f",logfile={_escaped(listener.log)},logappend=on" if listener.log else ""
    return f"socket,id={listener.role},fd={fds[listener.role]},server=on,wait=off{log}"


def _escaped(value: str) -> str:
    """A comma is doubled in QEMU's key=value options (qemu(1), 'Device URL Syntax')."""
    return value.replace(",", ",,")
