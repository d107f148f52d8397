"""Devices of the host that machines are given, whole or in part, as the kernel has them in sysfs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from cloudme.errors import UsageError

VFIO = "vfio-pci"
"""The driver that hands a device to a program (kernel, Documentation/driver-api/vfio.rst)."""


_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
"""domain:bus:slot.function."""


def pci_address(text: str) -> str:
    """As sysfs has it; the domain may be left out. Raises UsageError."""
    plain = text.lower() if text.count(":") == 2 else f"0000:{text.lower()}"
    if not _ADDRESS.fullmatch(plain):
        raise UsageError(f"'{text[:40]}' is no PCI address", hint="as 0000:c1:00.0; cmcheck --vfio lists them")
    return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class PciDevice:
    """A PCI device. driver: '' for none. group: the number of its IOMMU group, '' where there is no IOMMU.

    bridge:  it is part of the bus.
    kind:    its class, as '0300'; model: vendor and device, as '10de:1b80' (pci.ids); '' for what is not told.
    cards:   the links of network cards behind it.   disks: those behind it that are mounted, or otherwise in use.
    parts:   how many virtual functions (SR-IOV) it is divided into now: they go when its driver does.
    """

    address: str
    driver: str = ""
    group: str = ""
    bridge: bool = False
    kind: str = ""
    model: str = ""
    cards: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()
    parts: int = 0


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

    def groups(self) -> Sequence[str]:
        """The numbers of all IOMMU groups."""

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

    def usable(self, group: str) -> bool:
        """Whether this process's user may use an IOMMU group; it need not be free."""

    def lockable(self, size_bytes: int) -> bool:
        """Whether programs of this process's may lock that much memory, as devices want it that write there."""

    def types(self, address: str) -> Sequence[MediatedType]: ...

    def mediated(self) -> Sequence[Mediated]:
        """Those that there are, by uuid."""

    def create(self, address: str, type: str, uuid: str) -> None: ...

    def place(self, uuid: str, placement: int) -> None: ...

    def remove(self, uuid: str) -> None: ...

    def alone(self, *, timeout_s: float = 10) -> AbstractContextManager[None]:
        """While a supplier of mediated devices is chosen nobody else chooses one. Raises TimedOut."""
