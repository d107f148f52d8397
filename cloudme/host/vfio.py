"""Devices by sysfs: mediated and whole ones (kernel, driver-api/vfio-mediated-device.rst and driver-api/vfio.rst)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import resource
import signal
from collections.abc import Iterator, Sequence

from cloudme import index
from cloudme.errors import HostUnavailable, NotPermitted, TimedOut
from cloudme.model.devices import VFIO, Mediated, MediatedType, PciDevice

PCI, MDEV, GROUPS = "sys/bus/pci", "sys/bus/mdev/devices", "sys/kernel/iommu_groups"
BLOCK, NET = "sys/block", "sys/class/net"
NUMBERS = "sys/dev/block"
LOCK = "run/machina-mdev.lock"
SYS_RESOURCE = 24
"""linux/capability.h."""
MULTIPATH = re.compile(r"^(nvme\d+)c\d+(n\d+)$")
"""One of several ways to a disk, which nobody opens (drivers/nvme/host/multipath.c)."""
BRIDGE = "0x06"
"""The class of bridges, which a device's class begins with (linux/pci_ids.h)."""


class Sysfs:
    """Implements `Devices`. root: a folder that stands for '/'."""

    def __init__(self, root: str = "/") -> None:
        self._root = root

    # what there is

    def pci(self, address: str) -> PciDevice | None:
        folder = self._at(PCI, "devices", address)
        if not os.path.isdir(folder):
            return None
        return PciDevice(
            address=address, driver=_link(folder, "driver"), group=_link(folder, "iommu_group"),
            bridge=_read(folder, "class").startswith(BRIDGE), kind=_read(folder, "class").removeprefix("0x")[:4],
            model=":".join(filter(None, (_read(folder, file).removeprefix("0x") for file in ("vendor", "device")))),
            cards=tuple(self._cards(folder)), parts=int(_read(folder, "sriov_numvfs") or 0),
            disks=tuple(self._disks(folder)))

    def group(self, number: str) -> Sequence[PciDevice]:
        found = [self.pci(address) for address in _names(self._at(GROUPS, number, "devices"))]
        return [device for device in found if device]

    def groups(self) -> Sequence[str]:
        return _names(self._at(GROUPS))

    def has_driver(self, driver: str) -> bool:
        return os.path.isdir(self._at(PCI, "drivers", driver))

    def owner(self, group: str) -> tuple[int, int] | None:
        try:
            state = os.stat(self._at("dev/vfio", group))
        except FileNotFoundError:
            return None
        return state.st_uid, state.st_gid

    def usable(self, group: str) -> bool:
        return os.access(self._at("dev/vfio", group), os.R_OK | os.W_OK)

    def lockable(self, size_bytes: int) -> bool:
        """Who has CAP_SYS_RESOURCE raises the limit that he has (setrlimit(2)); root in a container often has not."""
        most = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        if most == resource.RLIM_INFINITY or most >= size_bytes:
            return True
        held = re.search(r"^CapEff:\s*(\w+)$", _read("/proc/self/status"), re.MULTILINE)
        return bool(held and int(held[1], 16) >> SYS_RESOURCE & 1)

    def is_used(self, number: str) -> bool:
        folder = os.path.realpath(self._at(NUMBERS, number))
        disk = os.path.basename(folder)
        return os.path.isdir(folder) and (self._claimed(disk) or self._mounted(disk, folder))

    def types(self, address: str) -> Sequence[MediatedType]:
        """A driver need not give its types names: then they have their ids only."""
        folder = self._at(PCI, "devices", address, "mdev_supported_types")
        return [MediatedType(id=id, name=_read(folder, id, "name"),
                             available=int(_read(folder, id, "available_instances") or 0)) for id in _names(folder)]

    def mediated(self) -> Sequence[Mediated]:
        found = []
        for uuid in _names(self._at(MDEV)):
            folder = os.path.realpath(self._at(MDEV, uuid))
            placement = _read(folder, "nvidia", "placement_id")
            found.append(Mediated(uuid=uuid, parent=os.path.basename(os.path.dirname(folder)),
                                  type=_link(folder, "mdev_type"), group=_link(folder, "iommu_group"),
                                  placement=int(placement, 0) if placement.isalnum() else None))
        return found

    # what changes

    def bind(self, address: str, driver: str) -> None:
        """driver_override keeps other drivers off; it is empty where the device goes back to its own."""
        folder = self._at(PCI, "devices", address)
        before = _link(folder, "driver")
        self._write(f"{driver if driver == VFIO else ''}\n", folder, "driver_override")
        if before and before != driver:
            self._write(address, folder, "driver", "unbind")
        if driver and before != driver:
            self._write(address, self._at(PCI), *(["drivers_probe"] if driver == VFIO else ["drivers", driver, "bind"]))
        if (now := _link(folder, "driver")) != driver:
            raise HostUnavailable(f"the kernel gave the device {address} to {now or 'no driver'}, "
                                  f"not to {driver or 'none'}", hint="dmesg may say why")

    def give(self, group: str, uid: int, gid: int) -> None:
        path = self._at("dev/vfio", group)
        with _told(path):
            os.chown(path, uid, gid, follow_symlinks=False)

    def create(self, address: str, type: str, uuid: str) -> None:
        self._write(uuid, self._at(PCI, "devices", address, "mdev_supported_types", type, "create"))

    def place(self, uuid: str, placement: int) -> None:
        self._write(str(placement), self._at(MDEV, uuid, "nvidia", "placement_id"))

    def remove(self, uuid: str) -> None:
        self._write("1", self._at(MDEV, uuid, "remove"))

    @contextlib.contextmanager
    def alone(self, *, timeout_s: float = 10) -> Iterator[None]:
        def late(*_: object) -> None:
            raise TimedOut(f"somebody has held /{LOCK} for {timeout_s:g} s", hint=f"fuser -v /{LOCK}")

        with _told(self._at(LOCK)):
            fd = os.open(self._at(LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            before = signal.signal(signal.SIGALRM, late)
            signal.setitimer(signal.ITIMER_REAL, timeout_s)
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, index.WRITE_LOCK)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
            yield
        finally:
            os.close(fd)

    def _at(self, *parts: str) -> str:
        return os.path.join(self._root, *parts)

    def _write(self, text: str, *path: str) -> None:
        where = os.path.join(*path)
        with _told(where):
            fd = os.open(where, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)

    def _cards(self, device: str) -> list[str]:
        """virtio's are not in the PCI device's own folder, nor are those behind USB."""
        below = os.path.realpath(device) + os.sep
        return sorted({*_names(device, "net"), *(name for name in _names(self._at(NET)) if os.path.realpath(
            self._at(NET, name)).startswith(below))})

    def _disks(self, device: str) -> Iterator[str]:
        """The disks behind a device that are in use."""
        below = os.path.realpath(device) + os.sep
        for path in _names(self._at(BLOCK)):
            name = MULTIPATH.sub(r"\1\2", path)
            if os.path.realpath(self._at(BLOCK, path)).startswith(below) and (
                    self._claimed(name) or self._mounted(name)):
                yield name

    def _claimed(self, disk: str) -> bool:
        """Mounts, RAID, LVM and ZFS claim a disk, or a part of it (open(2), O_EXCL)."""
        try:
            os.close(os.open(self._at("dev", disk.replace("!", "/")), os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK))
        except OSError as error:
            return error.errno == errno.EBUSY
        return False

    def _mounted(self, disk: str, folder: str = "") -> bool:
        """The same without opening it, which systemd forbids in a unit (DevicePolicy): ZFS is not seen then."""
        top = folder or self._at(BLOCK, disk)
        parts = [disk, *(name for name in _names(top) if name.startswith(disk))]
        folders = [top, *(os.path.join(top, part) for part in parts[1:])]
        mounts = [line.split() for line in _read(self._at("proc/self/mountinfo")).splitlines()]
        used = {mount[2] for mount in mounts} | {mount[mount.index("-") + 2] for mount in mounts}
        used |= {line.split()[0] for line in _read(self._at("proc/swaps")).splitlines()}
        return any(_names(folder, "holders") for folder in folders) or not used.isdisjoint(
            {_read(folder, "dev") for folder in folders} | {f"/dev/{part.replace('!', '/')}" for part in parts})


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise NotPermitted(f"{path}: {error.strerror}", hint="run it with sudo") from error
    except OSError as error:
        raise HostUnavailable(f"{path}: {error.strerror}", hint="dmesg may say why") from error


def _names(*path: str) -> list[str]:
    try:
        return sorted(os.listdir(os.path.join(*path)))
    except OSError:
        return []


def _read(*path: str) -> str:
    try:
        with open(os.path.join(*path), encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _link(*path: str) -> str:
    """The last part of what a link leads to; '' where there is none."""
    try:
        return os.path.basename(os.readlink(os.path.join(*path)))
    except OSError:
        return ""
