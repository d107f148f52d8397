"""Whether somebody serves a TCP port, without a word of ours."""

from __future__ import annotations

import select
import time

from cloudme.host import sockets
from cloudme.model.ports import Outside, Target

FIRST_S = 0.5
"""A SYN that is lost is repeated by the kernel after a second: a new try is quicker."""


def at(target: Target, greeting: bytes, timeout_s: float, outside: Outside | None) -> str:
    """See `Shell.knock`."""
    deadline, patience_s = time.monotonic() + timeout_s, FIRST_S
    while True:
        left = deadline - time.monotonic()
        try:
            peer = sockets.connected(target.address, target.port, max(min(patience_s, left), 0.1),
                                     outside if target.outside else None)
            break
        except ConnectionRefusedError:
            return "closed"
        except OSError:
            if left <= patience_s:
                return "unreachable"
        patience_s *= 2
    with peer:
        if not greeting:
            return "open"
        try:
            heard = bool(select.select([peer], [], [], max(deadline - time.monotonic(), 0))[0])
            return "open" if heard and peer.recv(len(greeting)) == greeting else "silent"
        except OSError:
            return "silent"
