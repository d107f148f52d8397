"""One small function per device: noun -> parts. Properties are those of QEMU's QAPI schema and `-device X,help`."""

from __future__ import annotations

from typing import Any

from cloudme.model.launch import Part

Parts = list[Part]

ROOT_PORTS = ("rp0", "rp1", "rp2", "rp3")
"""PCIe slots that stand empty at the start, for cards that are plugged in later."""

DEVICE_SLOT = "0x11"
"""Of the root ports of the host's devices, one for each: what is in a port of its own can be reset by itself."""

BALLOON, BALLOON_PORT = "balloon", ROOT_PORTS[-1]
"""It can be pulled out from there. A machine with a card in that slot has none."""
VSOCK, VSOCK_DEVICE = "vsock", "/dev/vhost-vsock"

IDENTITY_PORT = "org.cloudme.identity.0"


def memory(ram_mib: int) -> Parts:
    """Plain private memory as the machine's backend `ram0`."""
    return [Part("object", {"qom-type": "memory-backend-ram", "id": "ram0", "size": ram_mib << 20})]


def shared_memory(ram_mib: int) -> Parts:
    """Likewise memory that another program can be given, as virtiofsd is; nothing but its descriptor leads to it."""
    return [Part("object", {"qom-type": "memory-backend-memfd", "id": "ram0", "size": ram_mib << 20, "share": True})]


def file_memory(path: str, ram_mib: int, *, shared: bool) -> Parts:
    """Memory that is a file. shared: what the guest writes is written to it; else it keeps its own copy of that page.

    No `readonly`: in QEMU 7.2 it makes ROM of it (docs/system/vm-templating.rst has it from 8.2 on).
    """
    return [Part("object", {"qom-type": "memory-backend-file", "id": "ram0", "size": ram_mib << 20, "mem-path": path,
                            "share": shared})]


def entropy() -> Parts:
    """A random number device fed from the host's getrandom."""
    return [
        Part("object", {"qom-type": "rng-random", "id": "rng0", "filename": "/dev/urandom"}),
        Part("device", {"driver": "virtio-rng-pci", "id": "entropy", "rng": "rng0", "bus": "pcie.0", "addr": "0x5"}),
    ]


def generation() -> Parts:
    """A fresh VM generation id: tells the guest's kernel that it may be a copy (docs/specs/vmgenid.rst)."""
    return [Part("device", {"driver": "vmgenid", "id": "vmgenid", "guid": "auto"})]


def root_ports() -> Parts:
    """Empty PCIe root ports at 0x10.0 to 0x10.3, one multifunction slot."""
    return [
        Part("device", {"driver": "pcie-root-port", "id": name, "bus": "pcie.0", "chassis": index + 1,
                        "addr": f"0x10.{index}", **({"multifunction": True} if index == 0 else {})})
        for index, name in enumerate(ROOT_PORTS)
    ]


def disk(path: str, index: int, *, boot: bool) -> Parts:
    """A qcow2 file as virtio disk number `index` (0 to 7: vda, vdb ...), discarded blocks given back.

    cache.direct is off: clones share their base through the host's page cache.
    """
    node = f"disk{index}"
    device: dict[str, Any] = {
        "driver": "virtio-blk-pci", "id": f"vd{index}", "drive": node, "bus": "pcie.0", "addr": f"0x6.{index}",
        "multifunction": index == 0, "serial": node,
    }
    if boot:
        device["bootindex"] = 1
    return [
        Part("blockdev", {"driver": "file", "node-name": f"{node}-file", "filename": path, "discard": "unmap"}),
        Part("blockdev", {"driver": "qcow2", "node-name": node, "file": f"{node}-file", "discard": "unmap",
                          "detect-zeroes": "unmap"}),
        Part("device", device),
    ]


def no_disk(size_bytes: int, index: int, *, boot: bool) -> Parts:
    """What looks like disk number `index`, and holds nothing: for a machine that only keeps another's memory."""
    *_, device = disk("", index, boot=boot)
    return [Part("blockdev", {"driver": "null-co", "node-name": f"disk{index}", "size": size_bytes}), device]


def cdrom(path: str, name: str, port: int, *, boot: bool) -> Parts:
    """An ISO file in a drive on port `port` (0 to 5) of q35's own SATA controller."""
    device: dict[str, Any] = {"driver": "ide-cd", "id": name, "drive": f"{name}-iso", "bus": f"ide.{port}"}
    if boot:
        device["bootindex"] = 2
    return [
        Part("blockdev", {"driver": "file", "node-name": f"{name}-iso", "filename": path, "read-only": True}),
        Part("device", device),
    ]


def seed(path: str) -> Parts:
    """The cloud-init disk: a read-only virtio disk, since small kernels lack SATA."""
    return [
        Part("blockdev", {"driver": "file", "node-name": "seed-iso", "filename": path, "read-only": True}),
        Part("device", {"driver": "virtio-blk-pci", "id": "seed", "drive": "seed-iso", "bus": "pcie.0", "addr": "0x7",
                        "serial": "seed"}),
    ]


def no_seed() -> Parts:
    """Likewise the cloud-init disk."""
    *_, device = seed("")
    nothing = {"driver": "null-co", "node-name": "seed-iso", "size": 1 << 20, "read-only": True}
    return [Part("blockdev", nothing), device]


def agent() -> Parts:
    """The virtio-serial port on which qemu-guest-agent listens in the guest; chardev `agent`."""
    return [
        Part("device", {"driver": "virtio-serial-pci", "id": "serial", "bus": "pcie.0", "addr": "0x8"}),
        Part("device", {"driver": "virtserialport", "bus": "serial.0", "nr": 1, "chardev": "agent",
                        "name": "org.qemu.guest_agent.0", "id": "agent-port"}),
    ]


def identity() -> Parts:
    """The second port of it, on which a machine that was restored is told who it is; chardev `identity`."""
    return [Part("device", {"driver": "virtserialport", "bus": "serial.0", "nr": 2, "chardev": "identity",
                            "name": IDENTITY_PORT, "id": "identity-port"})]


def console() -> Parts:
    """The first serial port (ttyS0); chardev `console`."""
    return [Part("device", {"driver": "isa-serial", "id": "com1", "chardev": "console"})]


def firmware_log() -> Parts:
    """The port at which SeaBIOS tells how it looks for a disk (its CONFIG_DEBUG_IO); chardev `firmware`."""
    return [Part("device", {"driver": "isa-debugcon", "id": "debugcon", "iobase": 0x402, "chardev": "firmware"})]


def display() -> Parts:
    """A VGA card and a tablet, so that the pointer of a viewer and the guest's agree."""
    return [
        Part("device", {"driver": "VGA", "id": "vga", "bus": "pcie.0", "addr": "0x2"}),
        Part("device", {"driver": "virtio-tablet-pci", "id": "tablet", "bus": "pcie.0", "addr": "0x3"}),
    ]


def balloon() -> Parts:
    """What gives the host back the memory that the guest does not use, by itself, and more of it if it is told to.

    deflate-on-oom: the guest takes back what it has to, before it kills a process.
    """
    return [Part("device", {"driver": "virtio-balloon-pci", "id": BALLOON, "bus": BALLOON_PORT,
                            "free-page-reporting": True, "deflate-on-oom": True})]


def small_nic(mac: str, index: int) -> Parts:
    """Likewise on a board that has no root ports."""
    (card,) = nic(mac, index)
    return [Part("device", {**card.props, "bus": "pcie.0", "addr": f"0x10.{index}", "multifunction": index == 0})]


def small_balloon() -> Parts:
    """Likewise what gives memory back."""
    (device,) = balloon()
    return [Part("device", {**device.props, "bus": "pcie.0", "addr": "0x9"})]


def vsock(cid: int) -> Parts:
    """A way from the host that is no network; the kernel's end of it arrives as a descriptor."""
    return [Part("device", {"driver": "vhost-vsock-pci", "id": VSOCK, "guest-cid": cid, "bus": "pcie.0",
                            "addr": "0xa"})]


def nic(mac: str, index: int, *, old: bool = False) -> Parts:
    """A virtio card in root port `index`; its netdev `net<index>` is a tap that arrives as a descriptor.

    romfile is empty: nothing boots from the network. old: the one that another takes the place of: old<index>.
    """
    name, netdev = ("old", "oldnet") if old else ("nic", "net")
    return [Part("device", {"driver": "virtio-net-pci", "id": f"{name}{index}", "netdev": f"{netdev}{index}",
                            "mac": mac, "bus": ROOT_PORTS[index], "romfile": ""})]


def device(address: str, index: int) -> Parts:
    """A PCI device of the host's, number `index` (0 to 7), in a root port of its own."""
    port = f"dp{index}"
    return [
        Part("device", {"driver": "pcie-root-port", "id": port, "bus": "pcie.0", "chassis": len(ROOT_PORTS) + 1 + index,
                        "addr": f"{DEVICE_SLOT}.{index}", **({"multifunction": True} if index == 0 else {})}),
        Part("device", {"driver": "vfio-pci", "id": f"device{index}", "host": address, "bus": port}),
    ]


def share(role: str, tag: str, index: int, *, virtiofs: bool, plugged: bool) -> Parts:
    """A folder of the host's, number `index` (0 to 7): chardev, or fsdev, `role`.

    plugged:  it comes later, with all the others in one slot, where the first one has to come last (docs/pcie.txt).
    """
    place = {"bus": ROOT_PORTS[-1], "addr": f"0x0.{index}"} if plugged else {"bus": "pcie.0", "addr": f"0xb.{index}"}
    device = ({"driver": "vhost-user-fs-pci", "chardev": role, "tag": tag} if virtiofs
              else {"driver": "virtio-9p-pci", "fsdev": role, "mount_tag": tag})
    return [Part("device", {**device, "id": f"share{index}", **place, "multifunction": index == 0})]
