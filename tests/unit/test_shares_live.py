"""Shares that come to machines that run, and go."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from cloudme import folders, layout
from cloudme.errors import CommandFailed, PeerError
from cloudme.model.machine import Machine
from cloudme.model.ports import Ended, Host
from cloudme.model.share import Share
from cloudme.model.steps import Transaction
from cloudme.operations import sharing
from cloudme.qemu import launch
from cloudme.store import Store
from tests import fakes
from tests.unit.test_shares import SETTINGS, hosted, start
from tests.unit.test_shares import web00 as web00


class Ports(fakes.FakeMonitor):
    """A monitor of a QEMU whose root ports are empty but for a card and the balloon.

    fails: the tag of what it cannot plug in.
    """

    def __init__(self, *, shared: bool = True, fails: str = "") -> None:
        super().__init__()
        self.ports = {"rp0": ["nic0"], "rp1": [], "rp2": [], "rp3": ["balloon"]}
        self.root, self.tags, self.chardevs = ["share0"], {"share0": "srv-data"}, {"fs0"}
        self.shared, self.fails = shared, fails

    def execute(self, command: str, **arguments: Any) -> Any:
        if command == "query-memdev":
            return [{"id": "ram0", "share": self.shared}]
        if command == "query-pci":
            ports = [{"qdev_id": name, "pci_bridge": {"devices": [{"qdev_id": one} for one in there]}}
                     for name, there in self.ports.items()]
            return [{"devices": [*({"qdev_id": name} for name in self.root), *ports]}]
        if command == "qom-get" and arguments["property"] in ("tag", "chardev"):
            tag = self.tags[arguments["path"].rpartition("/")[2]]
            return tag if arguments["property"] == "tag" else f"fs-{tag}"
        if command == "device_add":
            if arguments["tag"] == self.fails:
                raise PeerError("QEMU refused 'device_add'")
            self.ports[arguments["bus"]].append(arguments["id"])
            self.tags[arguments["id"]] = arguments["tag"]
        if command == "chardev-add":
            self.chardevs.add(arguments["id"])
        if command == "chardev-remove":
            self.chardevs.remove(arguments["id"])
        return super().execute(command, **arguments)

    def execute_until(self, event: str, command: str, *, timeout_s: float, **arguments: Any) -> bool:
        if command == "device_del":
            (port,) = [name for name, there in self.ports.items() if arguments["id"] in there]
            self.ports[port] = []
        return super().execute_until(event, command, timeout_s=timeout_s, **arguments)


def live(store: Store, web00: Machine, monitor: Ports) -> Host:
    """The machine runs; what serves its first share is played by its lock."""
    host = hosted(qemu=fakes.FakeHypervisor(told=monitor))
    os.makedirs(store.world.template("debian"), exist_ok=True)
    Path(store.world.template("debian"), "ssh_key.pub").write_text("ssh-ed25519 K\n")
    start(store, host, web00)
    run = store.run_folder(web00)
    os.makedirs(run, exist_ok=True)
    with host.qemu.serve(launch.folder(web00.shares[0], "fs0", store.folder(web00), run)):
        return host


def update(store: Store, host: Host, old: Machine, more: list[Share], without: list[str]) -> tuple[Machine, str]:
    new = sharing.changed(old, more, without)
    with Transaction(host, print) as transaction:
        why = sharing.update(transaction, store, old, new, SETTINGS)
    return new, why


def of(web00: Machine, tag: str) -> Share:
    return Share(source=web00.shares[0].source, mount_point=f"/{tag}", tag=tag)


def agent(host: Host) -> list[list[str]]:
    """What mount.sh was told, without the time."""
    assert isinstance(host.agent, fakes.FakeAgent)
    return [list(words[4:]) for words in host.agent.ran]


def test_shares_come_and_go_while_the_machine_runs(store: Store, web00: Machine) -> None:
    host = live(store, web00, monitor := Ports())
    new, why = update(store, host, web00, [of(web00, "one"), of(web00, "two")], [])
    assert (why, monitor.ports["rp1"], store.machine("web00")) == ("", ["share-two", "share-one"], new)
    assert agent(host) == [["one", "/one", "rw", "srv-data", "/srv/data", "rw", "two", "/two", "rw"]]
    assert folders.down(store, new) == folders.awaited(store, new) == []
    newer, why = update(store, host, new, [of(web00, "three")], ["one", "two"])
    assert (why, monitor.ports["rp1"], monitor.chardevs) == ("", ["share-three"], {"fs0", "fs-three"})
    assert agent(host)[1:] == [["srv-data", "/srv/data", "rw"],
                               ["srv-data", "/srv/data", "rw", "three", "/three", "rw"]]
    assert folders.down(store, newer) == folders.awaited(store, newer) == []


@pytest.mark.parametrize(("more", "without", "shared", "why"), [
    ("one", "", False, "nobody else sees its memory"),
    ("one", "srv-data", True, "what it was started with"),
])
def test_what_cannot_be_at_once_waits_for_the_next_start(
    store: Store, web00: Machine, more: str, without: str, shared: bool, why: str,
) -> None:
    host = live(store, web00, Ports(shared=shared))
    new, said = update(store, host, web00, [of(web00, more)], [without] if without else [])
    assert why in said and store.machine("web00") == new and agent(host) == []
    assert folders.awaited(store, new) == [of(web00, more)]


def test_owner_and_mode_are_no_reason_to_unmount(store: Store, web00: Machine) -> None:
    host = live(store, web00, Ports())
    new, why = update(store, host, web00, [dataclasses.replace(web00.shares[0], mode=0o700)], [])
    assert (why, agent(host), store.machine("web00")) == ("", [], new)


def test_no_third_slot_nor_a_part_of_one_and_nothing_while_one_is_down(store: Store, web00: Machine) -> None:
    host = live(store, web00, Ports())
    new, _ = update(store, host, web00, [of(web00, "a"), of(web00, "b")], [])
    assert "in the same slot" in update(store, host, new, [], ["a"])[1]
    new, _ = update(store, host, new, [of(web00, "c")], [])
    new, why = update(store, host, new, [of(web00, "d")], [])
    assert why == "it has no slot left"
    host.qemu.kill(layout.share(store.run_folder(new), "a"))
    assert update(store, host, new, [], ["c"])[1] == "its share 'a' is down"


@pytest.mark.parametrize("fails", ["QEMU", "guest"])
def test_a_share_that_does_not_come_leaves_all_as_it_was(store: Store, web00: Machine, fails: str) -> None:
    monitor = Ports(fails="one" if fails == "QEMU" else "")
    host = live(store, web00, monitor)
    assert isinstance(host.agent, fakes.FakeAgent)
    if fails == "guest":
        host.agent.ended["nofail"] = Ended(status=4, stdout=b"", stderr=b"no\n")
    with pytest.raises((PeerError, CommandFailed)):
        update(store, host, web00, [of(web00, "one"), of(web00, "two")], [])
    assert monitor.ports["rp1"] == [] and monitor.chardevs == {"fs0"} and store.machine("web00") == web00
    assert agent(host)[-1] == ["srv-data", "/srv/data", "rw"]
