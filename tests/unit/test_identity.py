"""What follows from a machine's uuid."""

from __future__ import annotations

from cloudme.model import identity

UUID = "8b18191a-234f-45ce-b43c-b46e28cd2f70"


def test_the_number_of_a_machines_user_is_always_the_same() -> None:
    """Never another one: files in its own folder belong to it."""
    assert identity.uid(UUID) == 1922412116


def test_it_is_one_that_nobody_else_hands_out() -> None:
    found = {identity.uid(f"{number:032x}") for number in range(1000)}
    assert all(0x70000000 <= uid <= 0x7FFDFFFF for uid in found)
    assert len(found) == 1000
