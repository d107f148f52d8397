"""The memory of machines that run, as their balloons tell it; what several operations ask of a monitor."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from cloudme.errors import CloudMeError, HostUnavailable, PeerError
from cloudme.model.ports import Json, Monitor
from cloudme.qemu import hardware

PATH = f"/machine/peripheral/{hardware.BALLOON}"
POLL_S = 1
"""How often QEMU asks the guest while somebody wants to know; at other times it does not."""

LOOK_S = 0.02
"""No event tells that the guest has answered: the pace of looking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """ram_bytes: what the machine has. left_bytes: what its balloon leaves of it.
    used_bytes: what the guest cannot do without, caches not counted; None where it does not say."""

    ram_bytes: int
    left_bytes: int
    used_bytes: int | None


def there(monitor: Monitor) -> bool:
    """Whether the machine has a balloon."""
    try:
        return bool(monitor.execute("query-balloon"))
    except PeerError:
        return False


def left(monitor: Monitor) -> int:
    """What the balloon leaves, in bytes. Raises HostUnavailable where there is none."""
    if not there(monitor):
        raise HostUnavailable("it has no balloon: it goes on from a RAM image, was started by an older cloudMe, has a "
                              "card in each slot, or devices of the host's", hint="vmrestart NAME boots it")
    return int(monitor.execute("query-balloon")["actual"])


@contextlib.contextmanager
def polled(monitor: Monitor) -> Iterator[float]:
    """QEMU asks the guest meanwhile. Gives the host's time since when, in seconds since 1970, as QEMU has it."""
    since = int(time.time())
    monitor.execute("qom-set", path=PATH, property="guest-stats-polling-interval", value=POLL_S)
    try:
        yield since
    finally:
        with contextlib.suppress(CloudMeError):
            monitor.execute("qom-set", path=PATH, property="guest-stats-polling-interval", value=0)


def memory(monitor: Monitor, since: float, *, patience_s: float = 0) -> Memory:
    """As the guest has answered since `polled` began; patience_s: what it gets for that."""
    deadline = time.monotonic() + patience_s
    while True:
        said = monitor.execute("qom-get", path=PATH, property="guest-stats")
        if said.get("last-update", 0) >= since or time.monotonic() >= deadline:
            break
        time.sleep(LOOK_S)
    ram = int(monitor.execute("query-memory-size-summary")["base-memory"])
    return read(ram, left(monitor), said if said.get("last-update", 0) >= since else {})


def read(ram_bytes: int, left_bytes: int, said: Json) -> Memory:
    """said: the property guest-stats of virtio-balloon (QEMU, docs/interop/virtio-balloon-stats.rst); what the guest
    does not tell is -1, which QEMU has in 64 bits.

    A guest that may deflate its balloon counts it as memory in use (Linux, drivers/virtio/virtio_balloon.c).
    """
    stats = {name: int(value) for name, value in said.get("stats", {}).items() if 0 <= int(value) < 1 << 63}
    total, free = stats.get("stat-total-memory"), stats.get("stat-available-memory", stats.get("stat-free-memory"))
    if total is None or free is None:
        return Memory(ram_bytes=ram_bytes, left_bytes=left_bytes, used_bytes=None)
    used = ram_bytes - free - (ram_bytes - left_bytes)
    return Memory(ram_bytes=ram_bytes, left_bytes=left_bytes, used_bytes=min(max(used, 0), left_bytes))
