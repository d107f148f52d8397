"""A host of fakes on which machines are prepared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cloudme.errors import (
    CloudMeError,
)
from cloudme.layout import World
from cloudme.model.network import Link
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction
from cloudme.operations import preparing
from tests import fakes
from tests.unit.test_definitions import Machina

RAM = {"memory": {"ram": 64}}
A, B, C = "0000:01:00.0", "0000:02:00.0", "0000:02:00.1"
GPU = {"name": "g", "class": "small"}
UUID = "3e2cee4d-1002-4989-af98-3e03b8ad3197"
SMALL = {"nvidia-256": ("GRID RTX8000-1Q", 2), "nvidia-259": ("GRID RTX8000-6Q", 1)}


class Site:
    """A host of fakes, and the machine 'vm' on it."""

    def __init__(self, folder: Path) -> None:
        self.machina = Machina(folder)
        self.sysfs = fakes.FakeSysfs(str(folder / "root"))
        (folder / "root/run").mkdir(parents=True)
        self.net = fakes.FakeNet(known={"br0": Link(name="br0", kind="bridge", mtu=9000)})
        self.run = fakes.FakeRun()
        self.qemu = fakes.FakeHypervisor()
        self.host: Host = fakes.host(net=self.net, devices=self.sysfs, run=self.run, qemu=self.qemu)
        self.world = World(data=str(folder), run=str(folder / "run"), config=str(folder))
        self.said: list[str] = []

    def define(self, host: dict[str, Any], **more: Any) -> None:
        self.machina.host(host)
        self.machina.machine("vm", {"attrs": RAM, **more})

    def prepare(self) -> list[str]:
        site = self.machina.read()
        steps = preparing.plan(self.host, self.world, site.pick(["vm"]), site.host)
        with Transaction(self.host, self.said.append) as transaction:
            transaction.apply(steps)
        return [step.describe() for step in steps]

    def tear_down(self) -> None:
        preparing.tear_down(self.host, self.world, ["vm"], say=self.said.append, dry_run=False)

    @property
    def notes(self) -> dict[str, Any]:
        path = Path(self.world.prepared("vm"))
        return dict(json.loads(path.read_text())) if path.exists() else {}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """That of the machine."""
    monkeypatch.setenv("CLOUDME_MACHINA_RUN", str(tmp_path / "machina"))
    (tmp_path / "machina/vm").mkdir(parents=True)
    return str(tmp_path / "machina/vm/lock")


def refused(site: Site, kind: type[CloudMeError]) -> str:
    with pytest.raises(kind) as told:
        site.prepare()
    assert site.notes == {}
    return told.value.message
