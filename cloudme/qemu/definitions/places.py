"""Places on the root complex of q35, one after the other: what comes first is where it is, whatever comes later."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from cloudme.errors import UsageError

Kind = Literal["port", "integrated", "sata"]
"""Behind a root port of its own; on the root complex itself; on q35's own SATA controller, which needs no place."""

FUNCTIONS = 8
PLACES = 30 * FUNCTIONS
"""Slots 1 to 30: 0 is the host bridge, 31 the chipset (hw/i386/pc_q35.c)."""


@dataclass(frozen=True, slots=True)
class Place:
    """A function of a slot of pcie.0. number: from 0."""

    number: int

    @property
    def function(self) -> int:
        return self.number % FUNCTIONS

    @property
    def name(self) -> str:
        return f"{self.number // FUNCTIONS + 1}.{self.function}"

    @property
    def address(self) -> str:
        """As `addr=` wants it: QEMU reads the slot as hexadecimal (hw/core/qdev-properties-system.c, set_pci_devfn)."""
        return f"{self.number // FUNCTIONS + 1:x}.{self.function}"


def allot(kinds: Iterable[Kind]) -> list[Place]:
    """Return a place for each top-level device, in their order.

    A SATA device counts as the seed counts it, and leaves its place empty; but never function 0 of a slot, without
    which a guest does not look for the others. There it is given the place that the next device has, too.

    Raises:  UsageError where there are more than PLACES.
    """
    places, number = [], 0
    for kind in kinds:
        if number >= PLACES:
            raise UsageError(f"more than {PLACES} devices have no place on the PCI Express bus")
        places.append(Place(number))
        number += 0 if kind == "sata" and number % FUNCTIONS == 0 else 1
    return places
