"""The links of machines that run: each card's in QEMU, and on the host the port of its bridge."""

from __future__ import annotations

from dataclasses import dataclass

from cloudme import monitors
from cloudme.model.definitions.nouns import Attachment
from cloudme.model.ports import Host
from cloudme.model.steps import Step, Transaction
from cloudme.monitors import Speaker


@dataclass(frozen=True, slots=True)
class Card:
    """A card of a machine that may run.

    name:    what its link is called. netdev: QEMU's name of its other end, which set_link takes for both of them.
    tap:     the link on the host, where it has a name that we know: that of a machine that is defined.
    network: where the tap belongs.
    """

    name: str
    speaker: Speaker
    netdev: str
    tap: str = ""
    network: Attachment | None = None


def change(transaction: Transaction, card: Card, *, on: bool) -> None:
    """Connect a card, or disconnect it. A guest that sees its link come asks for an address at once: the host is ready.

    Raises:  Busy where the machine does not run, HostUnavailable where the tap or its bridge is missing.
    """
    with monitors.monitor(transaction.host, card.speaker):
        pass
    steps: list[Step] = [*([Port(card, on)] if card.tap and card.network else []), Carrier(card, on)]
    transaction.apply(steps if on else steps[::-1])


@dataclass(slots=True)
class Carrier:
    """Tells QEMU, which tells the guest, and drops what comes from either side while there is no link."""

    card: Card
    on: bool
    done: bool = False

    def describe(self) -> str:
        return f"set the link of {self.card.name} {'up' if self.on else 'down'} in QEMU"

    def do(self, host: Host) -> None:
        self._set(host, self.on)
        self.done = True

    def undo(self, host: Host) -> None:
        if self.done:
            self._set(host, not self.on)

    def _set(self, host: Host, up: bool) -> None:
        """QEMU has no event of this. It tells once after each query-rx-filter that a guest changed what its card
        listens to, as most do when a link goes or comes (NIC_RX_FILTER_CHANGED): who listens sees that."""
        with monitors.monitor(host, self.card.speaker) as monitor:
            monitor.execute("query-rx-filter")
            monitor.execute("set_link", name=self.card.netdev, up=up)


@dataclass(slots=True)
class Port:
    """Puts the tap into its bridge, or takes it out, by the network's own programs where it has some."""

    card: Card
    on: bool
    changed: bool = False

    def describe(self) -> str:
        if program := self._program(self.on):
            return f"run {program} {self.card.tap}"
        assert self.card.network
        return (f"put {self.card.tap} into the bridge {self.card.network.device}, and set it up" if self.on
                else f"set {self.card.tap} down, and take it out of its bridge")

    def do(self, host: Host) -> None:
        before = host.net.links().get(self.card.tap)
        self.changed = before is None or self.on != (before.up and bool(before.master))
        self._set(host, self.on)

    def undo(self, host: Host) -> None:
        if self.changed:
            self._set(host, not self.on)

    def _program(self, on: bool) -> str:
        assert self.card.network
        return self.card.network.up if on else self.card.network.down

    def _set(self, host: Host, on: bool) -> None:
        assert self.card.network
        if program := self._program(on):
            host.run([program, self.card.tap])
        elif on and self.card.network.device:
            host.net.plug(self.card.tap, self.card.network.device)
        elif not on:
            host.net.unplug(self.card.tap)
