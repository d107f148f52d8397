"""Where the machines of a store are, as they are started there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from cloudme.errors import NotFound
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import WARMING, Machine
from cloudme.model.names import Name
from cloudme.model.network import Network
from cloudme.qemu.launch import Place
from cloudme.store import Store


def of(
    store: Store, machine: Machine, *, accel: str, networks: Mapping[Name, Network], settings: Settings | None = None,
    virtiofs: bool = True, iommu: tuple[str, ...] = (),
) -> Place:
    """networks: those of its cards. virtiofs, iommu: see `Place`. settings: None for what is no machine of a user's,
    and is held to no limits."""
    return Place(folder=store.folder(machine), run=store.run_folder(machine), accel=accel, networks=networks,
                 grounds=grounds(store, machine), limits=settings.limits if settings else None,
                 overhead_mib=settings.overhead_mib if settings else None, virtiofs=virtiofs,
                 iommu=iommu)


def grounds(store: Store, machine: Machine) -> tuple[str, ...]:
    """On what disks its own may stand, as its record says: what the disks say themselves, it can write."""
    found = [os.path.join(store.world.data, base) for base in machine.bases]
    image = machine.image
    template = machine.name if machine.is_template or machine.group == WARMING else machine.template
    if template:
        found.append(store.world.template(template))
        with contextlib.suppress(NotFound):
            image = store.template(template).image
    if image:
        found.append(store.world.image_disk(image))
    return tuple(found)
