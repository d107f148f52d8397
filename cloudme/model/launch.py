"""How one QEMU is started, as a value: a direct start, a unit file, a clone of a RAM image are renderings of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of hardware: the same properties serve argv (JSON since QEMU 6.0) and hot-plug over QMP."""

    option: Literal["object", "blockdev", "chardev", "netdev", "device"]
    props: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that is listening before QEMU starts: nobody has to wait for it. `log` gets a copy of the output."""

    role: str
    path: str
    log: str | None = None


@dataclass(frozen=True, slots=True)
class TapCard:
    """A card whose tap has to be made before the start; its descriptor is passed as netdev `netdev`.

    bridge:  None for a tap that leads nowhere.
    """

    netdev: str
    bridge: str | None
    mac: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Everything needed to start one QEMU. Descriptors have roles here and get numbers at the start.

    lock:      the file whose OFD lock QEMU inherits.     run_folder: made before the start, 0700.
    output:    where QEMU's own output goes.              vnc: the socket of the display.
    vnc_port:  the display is at this port of the loopback instead, behind a password that nobody knows yet.
    pid_file:  written by QEMU, and removed when it ends.
    firmware_log: what the firmware says, written anew at each start.
    incoming:  start with nothing but what a saved state will bring (`migrate-incoming`).
    plugged:   what is plugged in once the machine runs; the netdevs it needs are there from the start.
    """

    name: str
    uuid: str
    binary: str
    machine: str
    accel: str
    cpu: str
    vcpus: int
    ram_mib: int
    parts: Sequence[Part]
    monitors: Sequence[Listener]
    chardevs: Sequence[Listener]
    taps: Sequence[TapCard]
    vnc: str
    lock: str
    run_folder: str
    output: str
    firmware_log: str
    incoming: bool = False
    plugged: Sequence[Part] = ()
    vnc_port: int | None = None
    pid_file: str | None = None
