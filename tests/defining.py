"""A place in which machines are defined: a store, definitions, and a systemd that holds the locks of what it runs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from cloudme import defined, layout
from cloudme.layout import World
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import Machine
from cloudme.model.names import Name
from cloudme.model.network import Network
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction
from cloudme.operations import power
from cloudme.store import Store, take_lock
from tests import fakes
from tests.unit.test_clones import instantiate, request, template
from tests.unit.test_definitions import ID, Machina

SETTINGS = Settings()
LAB = Network(name=Name("lab"), bridge="cmlab", address=IPv4Interface("10.9.0.1/24"), domain="lab.test",
              dhcp_first=IPv4Address("10.9.0.10"), dhcp_last=IPv4Address("10.9.0.20"))
HOST: dict[str, Any] = {"network": {"ours": {"device": "cmlab"}, "kvm": {"device": "kvmbr0"}}}
OURS: dict[str, Any] = {"connections": [{"name": "0", "network": "ours"}]}
ELSEWHERE: dict[str, Any] = {"connections": [{"name": "0", "network": "kvm", "ip": "192.0.2.7/24"}]}


class Systemd(fakes.FakeUnits):
    """Whose units hold the locks of their machines, as QEMU does. `deaf`: those that end at once."""

    def __init__(self) -> None:
        super().__init__()
        self.locks: dict[str, int] = {}
        self.deaf: set[str] = set()

    def start(self, names: Any, *, timeout_s: float = 120) -> None:
        super().start(names)
        for name in names:
            if name in self.deaf:
                self.active.discard(name)
                continue
            lock = layout.machina_lock(name.removeprefix("machina-").removesuffix(".service"))
            os.makedirs(os.path.dirname(lock), exist_ok=True)
            self.locks[name] = take_lock(lock)

    def stop(self, names: Any, *, timeout_s: float = 120) -> None:
        super().stop(names)
        for name in names:
            if name in self.locks:
                os.close(self.locks.pop(name))
                os.unlink(layout.machina_lock(name.removeprefix("machina-").removesuffix(".service")))


@dataclasses.dataclass
class Site:
    """A store with a network, a folder of definitions, and a host on which systemd runs."""

    store: Store
    machina: Machina
    units: Systemd
    host: Host

    def define(self, name: str = "vm", **more: Any) -> Machine:
        """Write a definition, and publish it, with a unit."""
        attrs = {"memory": {"ram": 1024}, "qmp": {"enabled": True}} | more.pop("attrs", {})
        self.machina.machine(name, {"id": ID, "attrs": attrs} | more)
        return self.publish(name)

    def publish(self, name: str = "vm") -> Machine:
        site = self.machina.read()
        merged, = site.pick([name])
        self.units.files[layout.unit(merged.name)] = True
        return defined.publish(self.host, self.store, [merged], site.host)[0]

    def start(self, *machines: Machine) -> list[Machine]:
        with Transaction(self.host, lambda line: None) as transaction:
            return power.start(transaction, self.store, machines, SETTINGS)

    def stop(self, *machines: Machine) -> None:
        power.stop(self.host, self.store, machines, timeout_s=1, say=lambda line: None)

    @property
    def qemu(self) -> fakes.FakeHypervisor:
        assert isinstance(self.host.qemu, fakes.FakeHypervisor)
        return self.host.qemu

    def clone(self, name: str = "web") -> Machine:
        """A machine of ours that runs."""
        template(self.store, self.host)
        made, = instantiate(self.store, self.host, request(1, name))
        return made


@pytest.fixture
def site(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("CLOUDME_MACHINA_RUN", str(home / "machina"))
    machina = Machina(home)
    machina.host(HOST)
    (home / "config").mkdir()
    (home / "config/machina").symlink_to(machina.folder)
    units = Systemd()
    store = Store(World(data=str(home), run=f"{home}/run", config=f"{home}/config"))
    store.publish_network(LAB)
    yield Site(store, machina, units, fakes.host(units=units))
    for lock in units.locks.values():
        os.close(lock)
