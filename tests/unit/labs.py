"""A host of fakes for a whole homelab, and files for it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudme import layout
from cloudme.cli import wiring
from cloudme.layout import World
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import Image, Machine
from cloudme.model.names import ImageName, Name
from cloudme.model.network import Link
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction
from cloudme.operations import clones
from cloudme.qemu import hardware
from cloudme.store import Store
from tests import fakes
from tests.conftest import Ended
from tests.unit.test_clones import request
from tests.unit.test_warm import template

REALM = "lab"
TWO = """\
networks:
  vlans: {lan: {id: 10, cidr: 10.1.0.0/24}, dmz: {id: 20, cidr: 10.2.0.0/24, reaches: lan}}
hosts: {template: debian, vlan: lan}
machines:
  db: {ip: 10.1.0.10, ports: {sql: 5432}, vsock_cid: 100}
  web: {vlan: dmz, depends_on: db, replicas: 2, ip: 10.2.0.20}
"""
SETTINGS = Settings()
ONE = """\
networks: {vlans: {lan: {id: 10, cidr: 10.1.0.0/24}}}
machines:
  db: {template: debian, vlan: lan%s}
"""


def one(more: str = "") -> str:
    """A file with a machine db, which says more of it."""
    return ONE % (f", {more}" if more else "")


class Lab:
    """cmapply and cmdump, with a template `debian` and an image `bookworm`, in a realm of their own."""

    def __init__(self, command: Callable[..., Ended], folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.command, self.folder = command, folder
        self.store = Store(layout.world(REALM))
        self.run, self.net = fakes.FakeNft(), fakes.FakeNet(bridges=set(), known={"eth1": Link(name="eth1")})
        self.qemu, self.playbooks, self.shell = fakes.FakeHypervisor(), fakes.FakePlaybooks(), fakes.FakeShell()
        self.files = fakes.FakeFiles(modes={hardware.VSOCK_DEVICE: 0o20666}, texts={hardware.VSOCK_DEVICE: ""})
        self.groups, self.units, self.iso = fakes.FakeGroups(), fakes.FakeUnits(), fakes.FakeIso()
        self.host = fakes.host(run=self.run, net=self.net, qemu=self.qemu, playbooks=self.playbooks, shell=self.shell,
                               files=self.files, groups=self.groups, units=self.units, iso=self.iso)
        self.kept: list[bool] = []

        @contextlib.contextmanager
        def founded(world: World, *, kept: Callable[[], bool], **more: Any) -> Iterator[Host]:
            try:
                yield self.host
            except BaseException:
                self.kept.append(kept())
                raise

        patch.setattr(wiring, "founded", founded)  # where programs get their host from: only a patch gives them fakes
        patch.setattr(wiring, "visiting", lambda world: self.host)
        template(self.store)
        os.makedirs(self.store.world.images)
        self.store.publish_image(Image(name=ImageName("bookworm"), size_bytes=1 << 30, digest="", source="",
                                       created="now", user="debian"))
        Path(self.store.world.image_disk("bookworm")).write_text("qcow2", encoding="ascii")
        (folder / "key.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGfake me@here\n", encoding="ascii")
        (folder / "key").write_text("x", encoding="ascii")

    def write(self, text: str, name: str = "cloudme.yaml") -> str:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    def apply(self, text: str, *words: str) -> Ended:
        return self.command("cmapply", self.write(text), "--realm", REALM, "--pubkey-path",
                            str(self.folder / "key.pub"), *words)

    def well(self, text: str, *words: str) -> dict[str, str]:
        """Apply it, and return what became of which machine."""
        ended = self.apply(text, *words)
        assert ended.status == 0, ended.stderr
        return self.told(ended)

    @staticmethod
    def told(ended: Ended) -> dict[str, str]:
        rows = [line.split(maxsplit=2) for line in ended.stdout.splitlines()]
        return {row[0]: row[2] for row in rows}

    def dump(self, *words: str) -> Ended:
        return self.command("cmdump", "--realm", REALM, *words)

    def machine(self, name: str) -> Machine:
        return self.store.machine(name)

    def runs(self) -> set[str]:
        return {machine.name for machine in self.store.machines() if self.store.is_running(machine)}

    def stop(self, *names: str) -> None:
        for name in names or self.runs():
            self.qemu.kill(layout.lock(self.store.world.machine(name)))

    def destroy(self, name: str) -> None:
        self.stop(name)
        with Transaction(self.host, lambda line: None) as transaction:
            clones.destroy(transaction, self.store, [self.machine(name)])

    def notes(self) -> dict[str, Any]:
        with open(self.store.world.homelab, encoding="utf-8") as file:
            return dict(json.load(file))

    def everything(self) -> object:
        """What a command that changes nothing leaves as it was."""
        home = Path(self.store.world.data)
        files = {str(path): (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
                 for path in sorted(home.rglob("*"))}
        return (files, dict(self.net.known), dict(self.run.answers), set(self.run.daemons), set(self.qemu.running),
                len(self.qemu.launches), list(self.playbooks.runs), list(self.net.sent), dict(self.groups.held))


@pytest.fixture
def lab(command: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(command, tmp_path, monkeypatch)


def by_hand(lab: Lab, name: str, *networks: str, group: str = "pf1") -> None:
    """Make a machine that no file has."""
    wanted = request(name=Name(name), group=Name(group), type=Name("default"),
                     networks=tuple(Name(network) for network in networks or ("default",)))
    with Transaction(lab.host, lambda line: None) as transaction, clones.making(
            transaction, lab.store, [wanted], SETTINGS):
        pass
