"""One small function per device of a definition: what it is -> parts. Names and order of properties are the seed's."""

from __future__ import annotations

from typing import Any

from cloudme.model.launch import Part
from cloudme.qemu.definitions.places import Place

Parts = list[Part]
Props = dict[str, Any]

IOTHREAD = "iothread.0"
QUEUES = 4
SCSI, SERIAL, USB = "scsi.0", "serial.0", "usb.0"
"""The buses of the controllers, of which there is one each."""


def _on(place: Place) -> Props:
    """Where a device is that stands on the root complex."""
    multifunction = {"multifunction": True} if place.function == 0 else {}
    return {"bus": "pcie.0", "addr": place.address, **multifunction}


def root_port(place: Place) -> Part:
    return Part("device", {"driver": "ioh3420", "id": f"pcie.{place.name}", "chassis": place.number, **_on(place)})


def behind(place: Place, driver: str, name: str, props: Props) -> Parts:
    """A root port and the device in it. name: '' for none."""
    named = {"id": name} if name else {}
    return [root_port(place), Part("device", {"driver": driver, **named, "bus": f"pcie.{place.name}", **props})]


def serial_controller(place: Place) -> Parts:
    return behind(place, "virtio-serial-pci", "serial", {})


def serial_port(index: int, chardev: str, name: str) -> Part:
    """A port by which guest and host talk; number 0 is reserved for consoles."""
    return Part("device", {"driver": "virtserialport", "id": f"{SERIAL}.{index}", "bus": SERIAL, "nr": index + 1,
                           "chardev": chardev, "name": name})


def display(place: Place, index: int) -> Parts:
    """A QXL card; the first one is the VGA card, too."""
    return [Part("device", {"driver": "qxl" if index else "qxl-vga", "id": f"qxl.{index}", **_on(place)})]


def usb_controller(place: Place, devices: int) -> Parts:
    """Ports for USB 2 and 3: four at least."""
    ports = max(4, devices)
    return behind(place, "qemu-xhci", "usb", {"p2": ports, "p3": ports})


def usb_device(driver: str, port: int, props: Props) -> Part:
    """port: from 1."""
    return Part("device", {"driver": driver, "id": f"{USB}.{port}", "bus": USB, "port": port, **props})


def scsi_controller(place: Place) -> Parts:
    return behind(place, "virtio-scsi-pci", "scsi", {"iothread": IOTHREAD, "num_queues": QUEUES})


def scsi_device(driver: str, lun: int, props: Props) -> Part:
    """driver: scsi-hd or scsi-cd."""
    return Part("device", {"driver": driver, "id": f"{SCSI}.{lun}", "bus": SCSI, "channel": 0, "scsi-id": 0, "lun": lun,
                           **props})


def block_disk(place: Place, index: int, props: Props) -> Parts:
    return behind(place, "virtio-blk-pci", f"block.{index}", {"num-queues": QUEUES, **props})


def sata_medium(index: int, props: Props) -> Part:
    """A drive on one of q35's six SATA ports: the seed begins with port 1, and so port 0 comes last."""
    return Part("device", {"driver": "ide-cd", "id": f"sata.{index}", "bus": f"ide.{(index + 1) % 6}", **props})


def card(place: Place, index: int, mac: str) -> Parts:
    return behind(place, "virtio-net-pci", "", {"mac": mac, "netdev": f"net.{index}"})


def tap(index: int, link: str) -> Part:
    """A tap that is there already, and belongs to the user who QEMU is: it needs no right to make one."""
    return Part("netdev", {"type": "tap", "id": f"net.{index}", "ifname": link, "script": "no", "downscript": "no"})


def mediated(place: Place, index: int, uuid: str) -> Parts:
    return behind(place, "vfio-pci", f"vfio.{index}", {"sysfsdev": f"/sys/bus/mdev/devices/{uuid}"})


def whole(place: Place, index: int, address: str) -> Parts:
    return behind(place, "vfio-pci", f"vfio.{index}", {"host": address})


def file_node(name: str, path: str, *, readonly: bool) -> Part:
    return Part("blockdev", {"driver": "file", "node-name": name, **({"read-only": True} if readonly else {}),
                             "filename": path})


def disk_nodes(name: str, path: str, driver: str, *, readonly: bool) -> Parts:
    """A file and the disk that is in it. driver: raw or qcow2."""
    file = f"{name}-file"
    return [file_node(file, path, readonly=readonly),
            Part("blockdev", {"driver": driver, "node-name": name, **({"read-only": True} if readonly else {}),
                              "file": file})]


def folder_node(name: str, path: str) -> Part:
    """A folder as a disk that cannot be written to."""
    return Part("blockdev", {"driver": "vvfat", "node-name": name, "read-only": True, "dir": path})


def socket(name: str, path: str) -> Part:
    """A socket on which QEMU listens."""
    return Part("chardev", {"backend": "socket", "id": name, "server": True, "wait": False, "path": path})


def local_port(name: str, port: int) -> Part:
    """A port of the loopback on which QEMU listens."""
    return Part("chardev", {"backend": "socket", "id": name, "host": "127.0.0.1", "port": port, "server": True,
                            "wait": False, "nodelay": True})


def spice_channel(name: str, what: str) -> Part:
    """A channel to the viewer. what: vdagent, usbredir."""
    return Part("chardev", {"backend": "spicevmc", "id": name, "debug": 0, "name": what})
