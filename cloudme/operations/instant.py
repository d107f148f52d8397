"""Machines that go on from a RAM image: restored, given their identity, and only then a card."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass

from cloudme import folders, layout, place, seed
from cloudme.errors import PeerError
from cloudme.formats import seeds
from cloudme.model import identity, warm
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import Machine, Nic
from cloudme.model.ports import Host, Json, Monitor
from cloudme.model.steps import Parallel, Transaction
from cloudme.qemu import launch
from cloudme.store import Store, reported

LOAD_S = 60
ANSWER_S = 60
"""What a clone gets to make its identity true: half a second even under TCG, where it is not one of many."""

ENTROPY_BYTES = 64

PULL_S = 30

FILTER = "NIC_RX_FILTER_CHANGED"
"""Sent once for each time that the filter was asked for (QEMU, qapi/net.json)."""

OPENED_S, QUIET_S, FILTERS_MAX = 3, 0.05, 16
"""How long a guest may leave a new card alone until it is given its link in any case; what is the end of several."""


def start(
    transaction: Transaction, store: Store, machines: Sequence[Machine], settings: Settings, *, accel: str,
    old: tuple[Nic, ...] = (),
) -> None:
    """Restore machines that were made and not published, and publish each once it is itself.

    old:     the cards that are in the saved state; they are pulled before the machines get their own.
    Raises:  PeerError (QEMU, or the guest that could not become another), TimedOut.
    """
    networks = store.networks_of(settings, machines)
    if not transaction.dry_run:
        folders.check(transaction.host, store, machines)
    transaction.apply([Parallel([
        Restore(store, machine, place.of(store, machine, accel=accel, networks=networks, settings=settings,
                                         virtiofs=transaction.host.qemu.virtiofs()),
                networks[machine.nics[0].network].domain, old)
        for machine in machines
    ])])


@dataclass(slots=True)
class Restore:
    """Starts one machine from a RAM image. Undone by ending it."""

    store: Store
    machine: Machine
    place: launch.Place
    domain: str
    old: tuple[Nic, ...] = ()
    started: bool = False

    def describe(self) -> str:
        return f"restore {self.machine.name} from the RAM image {self.machine.bases[-1]}"

    def do(self, host: Host) -> None:
        image = os.path.join(self.store.world.data, self.machine.bases[-1])
        starts = launch.of(self.machine, self.place, launch.Ram(
            path=os.path.join(image, layout.RAM), qemu=host.qemu.version(), use="clone", cards=self.old))
        host.qemu.start(starts)
        self.started = True
        run = self.place.run
        with (host.qemu.monitor(layout.socket(run, "qmp.0")) as monitor,
              host.agent.line(layout.socket(run, "identity")) as line):
            _load(monitor, os.path.join(image, layout.STATE))
            monitor.execute("cont")
            answer = line.tell(self._identity(host), timeout_s=ANSWER_S)
            if "error" in answer:
                raise PeerError(f"'{self.machine.name}' could not become itself: {answer['error']}")
            for index in range(len(self.old)):
                _pull(monitor, f"old{index}")
            for part in starts.plugged:
                monitor.execute("device_add", **part.props)
                if "netdev" in part.props:
                    _connect(monitor, part.props["id"])
        if self.machine.shares:  # it does not boot, so its seed tells it nothing yet
            folders.mount(host, self.store, self.machine)
        self.store.publish(self.machine)

    def _identity(self, host: Host) -> Json:
        """What templates/identity.py in the guest makes true."""
        folder = self.store.folder(self.machine)
        with reported(folder):
            private, public = (_text(os.path.join(folder, name)) for name in (seed.HOST_KEY, f"{seed.HOST_KEY}.pub"))
        return {
            "name": seeds.called(self.machine), "fqdn": f"{seeds.called(self.machine)}.{self.domain}",
            "machine_id": identity.machine_id(self.machine.uuid),
            "host_key_private": private, "host_key_public": public.strip(),
            "entropy": base64.b64encode(os.urandom(ENTROPY_BYTES)).decode(), "time_s": host.now(),
        }

    def undo(self, host: Host) -> None:
        if self.started:
            host.qemu.kill(layout.lock(self.place.folder))


def _pull(monitor: Monitor, card: str) -> None:
    """Unplug a card, with the guest's consent: its driver has to let go first."""
    if not monitor.execute_until("DEVICE_DELETED", "device_del", id=card, timeout_s=PULL_S):
        raise PeerError(f"the guest does not let go of its old card '{card}'")


def _connect(monitor: Monitor, card: str) -> None:
    """Give the card its link when the guest has opened it.

    A link that comes earlier is announced twice, and between the two Linux lets a second pass (net/core/link_watch.c).
    As it opens the card, the guest tells QEMU several times whose packets it wants: it is open when that ends.
    """
    if monitor.execute_until(FILTER, "set_link", name=card, up=False, timeout_s=OPENED_S):
        for _ in range(FILTERS_MAX):
            if not monitor.execute_until(FILTER, "query-rx-filter", name=card, timeout_s=QUIET_S):
                break
    monitor.execute("set_link", name=card, up=True)


def _load(monitor: Monitor, state: str) -> None:
    """A card in the state announces itself to nobody. QEMU 7.2 crashes at its end where `announce-rounds` is 0."""
    monitor.execute("migrate-set-capabilities", capabilities=warm.CAPABILITIES)
    monitor.lend("state", state)
    monitor.execute("migrate-incoming", uri="fd:state")
    monitor.await_migration("completed", timeout_s=LOAD_S)


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()
