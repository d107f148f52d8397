"""Whether machines will work on this host: each check is a small function of what there is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from cloudme.errors import UsageError
from cloudme.model.check import Result
from cloudme.operations.checks import helper, limits, machine, network, shares, users
from cloudme.operations.checks.look import Look

CHECKS: dict[str, Callable[[Look], Iterable[Result]]] = {
    "qemu": machine.qemu, "programs": machine.programs, "kvm": machine.kvm, "nested": machine.nested,
    "tun": machine.tun, "bridge": network.bridge, "nic": network.nic, "bridge-nf": network.bridge_nf,
    "firewall": network.firewall, "forwarding": network.forwarding, "bridge-helper": helper.bridge_helper,
    "ports": network.ports, "disk": machine.disk, "inotify": machine.inotify, "open-files": machine.open_files,
    "rootless": users.rootless, "limits": limits.limits, "shares": shares.shares,
    "apparmor": machine.apparmor, "time": machine.time,
}
"""By name, in the order in which they are told."""


def all_of(look: Look, names: Sequence[str]) -> list[Result]:
    """The results of the named checks, of all where none is named. Raises UsageError."""
    if unknown := set(names) - set(CHECKS):
        raise UsageError(f"no check '{sorted(unknown)[0]}'", hint=f"there is: {', '.join(CHECKS)}")
    return [result for name, check in CHECKS.items() if not names or name in names for result in check(look)]
