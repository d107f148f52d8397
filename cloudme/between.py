"""The rules between networks of ours: what they are to be, what there is of them, and made so when machines change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cloudme.errors import CommandFailed, HostUnavailable
from cloudme.formats import between, dhcp
from cloudme.model.machine import Machine
from cloudme.model.network import Network
from cloudme.model.ports import Host
from cloudme.store import Store


def wanted(store: Store, network: Network | None = None, coming: Iterable[Machine] = ()) -> str:
    """The text that nft is to be given, '' for none.

    network:  one as it is about to be, whatever its record says.
    coming:   machines that are as good as there, whatever their records say.
    """
    networks = {one.name: one for one in (*store.networks(), *([network] if network else []))}
    machines = {machine.name: machine for machine in (*store.machines(), *coming)}
    return between.text(between.table(store.world), (networks[name] for name in sorted(networks)),
                        (machines[name] for name in sorted(machines)))


def found(host: Host, store: Store) -> tuple[str, ...]:
    """The comments of the rules that are there."""
    try:
        return dhcp.marks(host.run(["nft", "list", "table", "inet", between.table(store.world)]))
    except CommandFailed:  # there is none
        return ()


def refresh(host: Host, store: Store, coming: Sequence[Machine] = ()) -> None:
    """Make the rules those that networks and machines want. Somebody else's change waits for ours."""
    if not any(not network.external and host.net.bridge_exists(network.bridge) for network in store.networks()):
        return
    with store.locked():
        text = wanted(store, coming=coming)
        with contextlib.suppress(*(() if text else (HostUnavailable,))):  # without nft there is nothing to remove
            before = found(host, store)
            if before != dhcp.marks(text):
                Between(store, text, before).do(host)


@dataclass(frozen=True, slots=True)
class Between:
    """Makes the rules anew, in one go; '' removes them. before: the marks of those that were there."""

    store: Store
    text: str
    before: tuple[str, ...] = ()

    def describe(self) -> str:
        name = between.table(self.store.world)
        return f"keep networks apart (nft table {name})" if self.text else f"remove the nft table {name}"

    def do(self, host: Host) -> None:
        self._load(host, self.text)

    def undo(self, host: Host) -> None:
        """As the records have it, which are as they were."""
        self._load(host, wanted(self.store) if self.before else "")

    def _load(self, host: Host, text: str) -> None:
        host.run(["nft", "-f", "-"], stdin=(text or between.none(between.table(self.store.world))).encode())
