"""PCI devices: a sysfs that acts."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from cloudme.host import vfio
from cloudme.model.devices import VFIO


class FakeSysfs(vfio.Sysfs):
    """Files below a folder, and a kernel that acts on what is written to them, as its documentation has it
    (vfio.rst, vfio-mediated-device.rst, ABI/testing/sysfs-bus-pci). claimed: disks that are in use. stubborn: what the
    kernel says no to. given: who got which group. foreign: groups that we may not use. most: what we may lock."""

    def __init__(self, root: str = "/nonexistent") -> None:
        super().__init__(root)
        self.top = Path(root)
        self.claimed: set[str] = set()
        self.stubborn: set[str] = set()
        self.given: dict[str, tuple[int, int]] = {}
        self.foreign: set[str] = set()
        self.most = 1 << 62

    def driver(self, name: str) -> None:
        (self.top / "sys/bus/pci/drivers" / name).mkdir(parents=True, exist_ok=True)

    def device(
        self, address: str, *, driver: str = "", group: str = "", kind: str = "0x030000",
        types: Mapping[str, tuple[str, int]] | None = None, cards: Sequence[str] = (), disks: Sequence[str] = (),
    ) -> None:
        """types: id -> name, available instances."""
        folder = self.top / "sys/devices/pci0000:00" / address
        folder.mkdir(parents=True)
        (folder / "class").write_text(f"{kind}\n")
        (folder / "driver_override").write_text("(null)\n")
        self._linked(self.top / "sys/bus/pci/devices" / address, folder)
        (self.top / "sys/bus/pci/drivers_probe").touch()
        if group:
            number = self.top / "sys/kernel/iommu_groups" / group
            (number / "devices").mkdir(parents=True, exist_ok=True)
            self._linked(number / "devices" / address, folder)
            self._linked(folder / "iommu_group", number)
        for id, (name, available) in (types or {}).items():
            type = folder / "mdev_supported_types" / id
            type.mkdir(parents=True)
            (type / "available_instances").write_text(f"{available}\n")
            (type / "create").touch()
            if name:
                (type / "name").write_text(f"{name}\n")
        for card in cards:
            (folder / "net" / card).mkdir(parents=True)
        for disk in disks:
            (folder / "ata1" / disk).mkdir(parents=True)
            self._linked(self.top / "sys/block" / disk, folder / "ata1" / disk)
        if driver:
            self._drive(folder, driver)

    def deep_card(self, address: str, within: str, name: str) -> None:
        """A card that is not in the device's own folder, as virtio's."""
        folder = self.top / "sys/devices/pci0000:00" / address / within / "net" / name
        folder.mkdir(parents=True)
        self._linked(self.top / "sys/class/net" / name, folder)

    def owner(self, group: str) -> tuple[int, int] | None:
        return None if super().owner(group) is None else self.given.get(group, (0, 0))

    def give(self, group: str, uid: int, gid: int) -> None:
        assert super().owner(group) is not None
        self.given[group] = uid, gid

    def usable(self, group: str) -> bool:
        return super().owner(group) is not None and group not in self.foreign

    def lockable(self, size_bytes: int) -> bool:
        return size_bytes <= self.most

    def _linked(self, link: Path, target: Path) -> None:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(target, link.parent.resolve()))

    def _drive(self, folder: Path, driver: str) -> None:
        self.driver(driver)
        self._linked(folder / "driver", self.top / "sys/bus/pci/drivers" / driver)
        self._linked(self.top / "sys/bus/pci/drivers" / driver / folder.name, folder)
        if driver == VFIO and (folder / "iommu_group").exists():
            file = self.top / "dev/vfio" / (folder / "iommu_group").resolve().name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()

    def _claimed(self, disk: str) -> bool:
        return disk in self.claimed

    def _write(self, text: str, *path: str) -> None:
        """A file that is not there cannot be written to; the others hold nothing but do something."""
        where = Path(os.path.join(*path))
        with vfio._told(str(where)):
            if not where.is_file() and where.name not in ("bind", "unbind"):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            if text.strip() in self.stubborn:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            getattr(self, f"_{where.name}")(where, text.strip())

    def _driver_override(self, where: Path, text: str) -> None:
        where.write_text(f"{text or '(null)'}\n")

    def _unbind(self, where: Path, address: str) -> None:
        folder = self.top / "sys/devices/pci0000:00" / address
        driver = (folder / "driver").resolve()
        (driver / address).unlink()
        (folder / "driver").unlink()
        group = (folder / "iommu_group").resolve().name
        if driver.name == VFIO and all(device.driver != VFIO for device in self.group(group)):
            self.given.pop(group, None)
            (self.top / "dev/vfio" / group).unlink()

    def _drivers_probe(self, where: Path, address: str) -> None:
        folder = self.top / "sys/devices/pci0000:00" / address
        driver = (folder / "driver_override").read_text().strip()
        if driver != "(null)" and self.has_driver(driver):
            self._drive(folder, driver)

    def _bind(self, where: Path, address: str) -> None:
        folder = self.top / "sys/devices/pci0000:00" / address
        if (folder / "driver_override").read_text().strip() not in ("(null)", where.parent.name):
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        self._drive(folder, where.parent.name)

    def _create(self, where: Path, uuid: str) -> None:
        type, instances = where.parent, where.parent / "available_instances"
        if (self.top / vfio.MDEV / uuid).exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if int(instances.read_text()) == 0:
            raise OSError(errno.EUSERS, os.strerror(errno.EUSERS))
        instances.write_text(f"{int(instances.read_text()) - 1}\n")
        folder = type.parent.parent.resolve() / uuid
        (folder / "nvidia").mkdir(parents=True)
        (folder / "nvidia/placement_id").write_text("")
        (folder / "remove").touch()
        self._linked(folder / "mdev_type", type)
        number = self.top / "sys/kernel/iommu_groups" / uuid
        (number / "devices").mkdir(parents=True, exist_ok=True)
        self._linked(folder / "iommu_group", number)
        file = self.top / "dev/vfio" / uuid
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        self._linked(self.top / vfio.MDEV / uuid, folder)

    def _placement_id(self, where: Path, text: str) -> None:
        where.write_text(f"{text}\n")

    def _remove(self, where: Path, text: str) -> None:
        assert text == "1"
        folder = where.parent.resolve()
        instances = (folder / "mdev_type").resolve() / "available_instances"
        instances.write_text(f"{int(instances.read_text()) + 1}\n")
        (self.top / vfio.MDEV / folder.name).unlink()
        self.given.pop(folder.name, None)
        (self.top / "dev/vfio" / folder.name).unlink()
        shutil.rmtree(folder)
