"""The host's PCI devices by their IOMMU groups: what a machine could be given, and what would be taken along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloudme import passthrough
from cloudme.errors import HostUnavailable
from cloudme.model.devices import VFIO, Devices, PciDevice
from cloudme.model.network import Link


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """uses: why the host would miss it, in words.   along: the others of its group that are a driver's, and go with it;
    bridges stay: they are the bus itself."""

    device: PciDevice
    uses: tuple[str, ...]
    along: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """One word or two: what giving it to a machine would mean."""
        if self.device.bridge:
            return "stays"
        if self.uses:
            return "in use"
        if self.device.driver == VFIO:
            return "given"
        return "takes along" if self.along else "free"


def found(devices: Devices, links: Mapping[str, Link] | None) -> list[Found]:
    """By group and address. links: None where nobody knows them. Raises HostUnavailable where there are no groups."""
    groups = sorted(devices.groups(), key=lambda number: (len(number), number))
    if not groups:
        raise HostUnavailable("this host has no IOMMU groups: no device can be given to a machine",
                              hint=passthrough.NO_IOMMU)
    return [Found(device=device, uses=tuple(passthrough.uses(device, links)),
                  along=tuple(other.address for other in passthrough.along(group, device)))
            for number in groups for group in [devices.group(number)] for device in group]
