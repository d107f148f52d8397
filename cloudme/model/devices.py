"""Devices of the host that machines are given, whole or in part, as the kernel has them in sysfs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

VFIO = "vfio-pci"
"""The driver that hands a device to a program (kernel, Documentation/driver-api/vfio.rst)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PciDevice:
    """A PCI device. driver: '' for none. group: the number of its IOMMU group, '' where there is no IOMMU.

    bridge:  it is part of the bus.
    cards:   the links of its network cards.   disks: those behind it that are mounted, or otherwise in use.
    """

    address: str
    driver: str = ""
    group: str = ""
    bridge: bool = False
    cards: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MediatedType:
    """A type of mediated devices that a device can be divided into. available: how many more of them now."""

    id: str
    name: str
    available: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mediated:
    """A mediated device. parent: the PCI address. placement: where NVIDIA's driver has put it; None: unsaid. group: the
    number of its IOMMU group, by which QEMU opens it: it has one of its own; '': none."""

    uuid: str
    parent: str
    type: str
    placement: int | None = None
    group: str = ""


class Devices(Protocol):
    """Raises NotPermitted, HostUnavailable where the kernel says no."""

    def pci(self, address: str) -> PciDevice | None: ...

    def group(self, number: str) -> Sequence[PciDevice]:
        """All devices of an IOMMU group: they cannot be kept apart."""

    def is_used(self, number: str) -> bool:
        """Whether the host uses the block device, or a part of it: mounted, swap, RAID, LVM. number: as '8:1'."""

    def has_driver(self, driver: str) -> bool:
        """Whether the kernel has loaded this driver of PCI devices."""

    def bind(self, address: str, driver: str) -> None:
        """Give a device to a driver, '' for none, and take it from the one that it has."""

    def owner(self, group: str) -> tuple[int, int] | None:
        """User and group of the file by which programs use an IOMMU group; None where no device of it is VFIO's."""

    def give(self, group: str, uid: int, gid: int) -> None:
        """Make this user the only one who may use an IOMMU group."""

    def types(self, address: str) -> Sequence[MediatedType]: ...

    def mediated(self) -> Sequence[Mediated]:
        """Those that there are, by uuid."""

    def create(self, address: str, type: str, uuid: str) -> None: ...

    def place(self, uuid: str, placement: int) -> None: ...

    def remove(self, uuid: str) -> None: ...

    def alone(self, *, timeout_s: float = 10) -> AbstractContextManager[None]:
        """While a supplier of mediated devices is chosen nobody else chooses one. Raises TimedOut."""
