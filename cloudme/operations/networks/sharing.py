"""Sharing a network of root's with users: addresses set aside for them, and the lists of QEMU's bridge helper.

The helper reads /etc/qemu/bridge.conf as the user who calls it, and passes over included files that he may not read
(qemu-bridge-helper.c): a file for each user, which only he can read, says which bridges are his.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from cloudme import shared
from cloudme.errors import NotFound, UsageError
from cloudme.model.names import Name
from cloudme.model.network import Network, free_addresses
from cloudme.model.ports import Host
from cloudme.model.steps import Step
from cloudme.operations.networks.changes import Reversed
from cloudme.store import Store, reported

Reservations = Mapping[Name, tuple[str, str]]


def check(users: Iterable[str]) -> None:
    """Whether a network can be shared with them. Raises UsageError, NotFound."""
    for user in users:
        try:
            found = pwd.getpwnam(user)
        except KeyError:
            raise NotFound(f"this host has no user '{user}'", hint="getent passwd lists them") from None
        Name(user, "name of a user whose machines can have names")
        Name(shared.reservation(user, 0), "name of a user whose machines can have names")
        if found.pw_uid == 0:
            raise UsageError(f"'{user}' is root, who needs no permission")
        if others := _fellows(found):
            raise UsageError(f"{others[0]} is in the group of '{user}', and would be allowed with him",
                             hint=f"a group of his own: groupadd {user}; usermod -g {user} {user}")


def _fellows(user: pwd.struct_passwd) -> list[str]:
    """Who else is in a user's primary group."""
    members = {one.pw_name for one in pwd.getpwall() if one.pw_gid == user.pw_gid}
    with contextlib.suppress(KeyError):
        members.update(grp.getgrgid(user.pw_gid).gr_mem)
    return sorted(members - {user.pw_name, "root"})


def group(user: str) -> str:
    """Who may read the list of a user's bridges: his primary group; nobody where he has gone."""
    try:
        return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
    except KeyError:
        return "root"


@dataclass(frozen=True, slots=True)
class Allot:
    """Sets addresses aside for a user. before: those of these reservations that were there."""

    store: Store
    network: Network
    user: str
    pairs: Reservations
    before: Reservations

    def describe(self) -> str:
        addresses = [address for _, address in self.pairs.values()]
        return f"set {len(addresses)} addresses aside for machines of {self.user}: {addresses[0]} to {addresses[-1]}"

    def do(self, host: Host) -> None:
        self._open()
        for name, (mac, address) in self.pairs.items():
            self.store.reserve(self.network, name, mac, address)

    def undo(self, host: Host) -> None:
        for name in self.pairs:
            if name in self.before:
                self.store.reserve(self.network, name, *self.before[name])
            else:
                self.store.release(self.network.name, name)

    def _open(self) -> None:
        """Users read the network's record and their reservations, whatever root's umask was."""
        world = self.store.world
        reserved = world.reservations(self.network.name)
        for folder, bits in ((world.data, 0o011), (world.networks, 0o055), (reserved, 0o055)):
            with reported(folder):
                os.makedirs(folder, exist_ok=True)
                os.chmod(folder, stat.S_IMODE(os.stat(folder).st_mode) | bits)


def steps(store: Store, network: Network, reserved: Reservations) -> list[Step]:
    """What makes the allotments those of the network's users. Raises Busy where the range has no room."""
    found: list[Step] = []
    taken = {address for name, (_, address) in reserved.items()}
    for user in {user: None for name in reserved if (user := shared.user_of(name)) and user not in network.users}:
        old = {name: pair for name, pair in reserved.items() if shared.user_of(name) == user}
        found.append(Reversed(Allot(store, network, user, old, {}), f"give the addresses back that {user} had"))
        taken -= {address for _, address in old.values()}
    for user in network.users if not network.external else ():
        before = {name: pair for name, pair in reserved.items() if shared.user_of(name) == user}
        taken -= {address for _, address in before.values()}
        wanted = _pairs(network, user, before, taken)
        taken |= {address for _, address in wanted.values()}
        if wanted != before:
            found.append(Allot(store, network, user, wanted, before))
    return found


def _pairs(network: Network, user: str, before: Reservations, taken: set[str]) -> dict[Name, tuple[str, str]]:
    """One that was set aside before keeps its address, if that is still the network's to give."""
    names = [shared.reservation(user, number) for number in range(shared.CARDS)]
    kept = {name: before[name][1] for name in names if name in before and _given(network, before[name][1])}
    fresh = iter(free_addresses(network, taken | set(kept.values()), len(names) - len(kept)))
    return {name: (shared.mac(user, network.name, number), kept.get(name) or next(fresh))
            for number, name in enumerate(names)}


def _given(network: Network, address: str) -> bool:
    first, last = network.dhcp_first, network.dhcp_last
    return first is not None and last is not None and first <= IPv4Address(address) <= last


def unreadable(network: Network, paths: Mapping[str, Sequence[str]]) -> list[str]:
    """What keeps the helper from helping the users of a network. paths: the lists that each has to be able to read."""
    found = []
    for user in network.users:
        for path in paths.get(user, ()):
            if (closed := _closed(path, user)) is not None:
                found.append(f"{user} may not read {path}: his machines cannot join {network.bridge}; {closed}")
    return found


def _closed(path: str, user: str) -> str | None:
    """The command that opens a file to a user; None where nothing keeps him from it, or there is no such file."""
    try:
        account = pwd.getpwnam(user)
        groups = os.getgrouplist(user, account.pw_gid)
        for part, shift in ((os.path.dirname(path), stat.S_IXOTH), (path, stat.S_IROTH)):
            found = os.stat(part)
            bits = found.st_mode >> (6 if found.st_uid == account.pw_uid else 3 if found.st_gid in groups else 0)
            if not bits & shift:
                return f"chmod o+{'x' if shift == stat.S_IXOTH else 'r'} {part}"
    except (KeyError, OSError):
        return None
    return None
