"""Whether folders can be shared with machines, and those that are shared are served."""

from __future__ import annotations

from collections.abc import Iterator

from cloudme import index
from cloudme.model.check import Level, Result
from cloudme.operations.checks.look import Look, good


def shares(look: Look) -> Iterator[Result]:
    if look.host.qemu.virtiofs():
        yield good("shares", "virtiofsd serves them")
    else:
        what = "there is no virtiofsd" if look.root else "there is no virtiofsd that an ordinary user can start"
        yield Result(check="shares", level=Level.warning, what=what, fix="apt install virtiofsd (Debian 13)",
                     means="--share is 9p, which not all guests know: Debian's cloud kernel does not")
    for machine in index.listing(look.world):
        for share in machine["shares"]:
            if share["served"] is False:
                yield Result(check="shares", level=Level.failed, fix=f"vmrestart {machine['name']}",
                             what=f"what served the share '{share['tag']}' of '{machine['name']}' has ended",
                             means=f"whoever looks into {share['mount_point']} there waits for ever")
