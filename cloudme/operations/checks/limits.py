"""Whether machines can be held to limits."""

from __future__ import annotations

from collections.abc import Iterator

from cloudme.errors import HostUnavailable, NotPermitted
from cloudme.model.check import Level, Result
from cloudme.model.limits import KINDS
from cloudme.model.machine import Limits
from cloudme.operations.checks.look import Look, good


def limits(look: Look) -> Iterator[Result]:
    """Each kind by itself; what several lack for the same reason is told once."""
    lacking: dict[tuple[str, str], list[str]] = {}
    for name, (field, _) in KINDS.items():
        try:
            look.host.groups.check(Limits(**{field: 1}), look.world.data)
        except (HostUnavailable, NotPermitted) as error:
            lacking.setdefault((error.message, error.hint or ""), []).append(name)
    for (what, fix), names in lacking.items():
        yield Result(check="limits", level=Level.warning, what=what, fix=fix,
                     means=f"machines take of this host what they can get ({', '.join(names)}); --limit is refused")
    if not lacking:
        yield good("limits", "machines are held to them")
