"""Networks of root's on which ordinary users may have machines, as these find them in root's records.

Root sets addresses aside for each of them, as reservations of his own: a user writes nothing there. What a user may
join is decided by QEMU's bridge helper alone; nothing that is read here permits anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pwd
import re

from cloudme import layout
from cloudme.errors import Busy, NotPermitted, StoreError
from cloudme.formats import records
from cloudme.model import identity
from cloudme.model.names import Name
from cloudme.model.network import DEFAULT_NETWORK, Network, free_addresses

HOST = Name("host")
"""What users call root's default network: they have a default one of their own."""
PREFIX = "user-"
CARDS = 16
"""How many cards a user may have on one network of root's."""
_OURS = re.compile(rf"{PREFIX}(.+)-[0-9]{{2}}")


def reservation(user: str, number: int) -> Name:
    """The name of a reservation of a user's."""
    return Name(f"{PREFIX}{user}-{number:02}")


def user_of(name: str) -> str | None:
    """Whose reservation it is; None: a machine's."""
    found = _OURS.fullmatch(name)
    return found[1] if found else None


def mac(user: str, network: str, number: int) -> str:
    """Unlike on other networks: a machine may have cards in several, and knows them by it."""
    return identity.mac(f"user/{user}/{network}/{number}")


def me() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""


def network(name: str) -> Network | None:
    """Root's network that users call `name`; None where there is none. Raises NotPermitted where we may not use it."""
    if name == DEFAULT_NETWORK:
        return None
    said = DEFAULT_NETWORK if name == HOST else name
    path = layout.host_world().network_record(said)
    found: Network | None = None
    try:
        with open(path, encoding="utf-8") as file:
            found = records.network(file.read(), path)
    except (OSError, StoreError):
        if not os.path.exists(path):
            return None  # else it is shared with nobody, and root's alone to read
    if found is None or me() not in found.users:
        raise NotPermitted(f"'{name}' is root's network, and not for {me()}",
                           hint=f"an administrator allows it: sudo cmnet start {said} --allow-user {me()}")
    return dataclasses.replace(found, name=Name(name), shared=True)


def networks() -> list[Network]:
    """Those that we may use, by name."""
    found = []
    with contextlib.suppress(OSError):
        for file in sorted(os.listdir(layout.host_world().networks)):
            name, end = os.path.splitext(file)
            if end == ".json" and not name.startswith("."):
                with contextlib.suppress(NotPermitted):
                    found.append(network(HOST if name == DEFAULT_NETWORK else name))
    return [one for one in found if one]


def allotment(network: Network) -> dict[str, str]:
    """What root has set aside for us on a shared network: address -> MAC of the card that is given it."""
    folder = layout.host_world().reservations(DEFAULT_NETWORK if network.name == HOST else network.name)
    found = {}
    for number in range(CARDS):
        with (contextlib.suppress(OSError, ValueError),
              open(os.path.join(folder, reservation(me(), number)), encoding="utf-8") as file):
            mac, address, _ = file.read().strip().split(",")
            found[address] = mac
    return found


def free(network: Network, taken: set[str], count: int) -> list[str]:
    """Addresses for cards of ours, of any network whose DHCP is ours or root's. Raises Busy."""
    if not network.shared:
        return free_addresses(network, taken, count)
    ours = allotment(network)
    found = [address for address in ours if address not in taken][:count]
    if len(found) < count:
        raise Busy(f"{len(found)} of the {len(ours)} cards that {me()} may have on root's network '{network.name}' are "
                   f"free, {count} are wanted", hint="destroy machines, or use a network of your own")
    return found
