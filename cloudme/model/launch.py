"""How one QEMU is started, as a value: a direct start, a unit file, a clone of a RAM image are renderings of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cloudme.model.groups import Group


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What a card may send and get, whatever its machine tries.

    locked:     it sends from its own MAC and addresses only, and is no router and no DHCP server.
    own_mac:    it sends from its own MAC only, where it is not locked.
    addresses:  its IPv4 addresses; none: nobody here knows them, but they are none of `others`.
    addresses6: its IPv6 addresses; none: nobody here knows them.
    others:     IPv4 addresses that are no machine's: the gateway's, the name servers'.
    apart:      gateways, each with the network of which nobody else is reached nor heard; as '10.210.0.1/24'.
    rate:       bits a second, each way; None: no limit.
    offload:    it may leave checksums and segments to others. Where these do not take them so, the kernel writes such a
                checksum where the machine says, after the guard has looked: over the sender's address, if it says so.
    """

    locked: bool = True
    own_mac: bool = False
    addresses: tuple[str, ...] = ()
    addresses6: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    rate: int | None = None
    offload: bool = True


@dataclass(frozen=True, slots=True)
class TapCard:
    """A card whose tap has to be made before the start; its descriptor is passed as netdev `netdev`.

    bridge:  None for a tap that leads nowhere.
    guard:   None: it may do what it likes.
    outside: the bridge is root's, in the host's own namespace.
    vlan:    the VLAN of the bridge in which it is, its frames without a tag; None: the bridge knows none.
    name:    of the tap; '': one made from the mac.
    """

    netdev: str
    bridge: str | None
    mac: str
    guard: Guard | None = None
    outside: bool = False
    vlan: int | None = None
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder of the host's that the machine has, too.

    role:  of the descriptor that QEMU gets: a socket that virtiofsd serves, or where there is none the folder itself.
    lock:  the file whose OFD lock that virtiofsd inherits. Missing: there is none.
    log:   what it says.
    """

    role: str
    tag: str
    source: str
    readonly: bool
    lock: str
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Everything needed to start one QEMU. Descriptors have roles here and get numbers at the start.

    lock:      the file whose OFD lock QEMU inherits.     run_folder: made before the start, 0700.
    output:    where QEMU's own output goes.              vnc: the socket of the display.
    vnc_port:  the display is at this port of the loopback instead, behind a password that nobody knows yet.
    kernel, initrd: files that are booted, with this `cmdline`; None: what is on the disk.
    pid_file:  a link that leads to its pid, and nowhere when it has ended.
    grounds:   folders, and files, on whose disks its own may stand.
    firmware_log: what the firmware says, written anew at each start.
    incoming:  start with nothing but what a saved state will bring (`migrate-incoming`).
    plugged:   what is plugged in once the machine runs; the netdevs it needs are there from the start.
    group:     None: it stays in the cgroup of who starts it.
    folders:   what it shares with the host, by virtiofs, else by 9p.
    iommu:     the numbers of the IOMMU groups of devices that it opens by itself.
    locked_bytes: what it may lock of its memory; 0: as much as any program.
    copies:    its memory is a copy of the file that it goes on from: others have to see what it writes there.
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
    kernel: str | None = None
    initrd: str | None = None
    cmdline: str = ""
    pid_file: str | None = None
    group: Group | None = None
    grounds: Sequence[str] = ()
    folders: Sequence[Folder] = ()
    virtiofs: bool = True
    copies: bool = False
    iommu: Sequence[str] = ()
    locked_bytes: int = 0
