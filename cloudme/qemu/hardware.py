"""One small function per device: noun -> parts. Properties are those of QEMU's QAPI schema and `-device X,help`."""

from __future__ import annotations

from typing import Any

from cloudme.model.launch import Part

Parts = list[Part]

ROOT_PORTS = ("rp0", "rp1", "rp2", "rp3")
"""PCIe slots that stand empty at the start, for cards that are plugged in later."""


def memory(ram_mib: int) -> Parts:
    """Plain private memory as the machine's backend `ram0`."""
    return [Part("object", {"qom-type": "memory-backend-ram", "id": "ram0", "size": ram_mib << 20})]


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


def agent() -> Parts:
    """The virtio-serial port on which qemu-guest-agent listens in the guest; chardev `agent`."""
    return [
        Part("device", {"driver": "virtio-serial-pci", "id": "serial", "bus": "pcie.0", "addr": "0x8"}),
        Part("device", {"driver": "virtserialport", "bus": "serial.0", "chardev": "agent",
                        "name": "org.qemu.guest_agent.0", "id": "agent-port"}),
    ]


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


def nic(mac: str, index: int) -> Parts:
    """A virtio card in root port `index`; its netdev `net<index>` is a tap that arrives as a descriptor.

    romfile is empty: nothing boots from the network.
    """
    return [Part("device", {"driver": "virtio-net-pci", "id": f"nic{index}", "netdev": f"net{index}", "mac": mac,
                            "bus": ROOT_PORTS[index], "romfile": ""})]
