"""The networks of a homelab's file, by cmapply: made, changed, kept from others', pruned, and written back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudme.formats import homelab
from tests.net.conftest import Realm
from tests.vlans import Site

LAB = """\
networks:
  vlan_mode: bridges
  vlans:
    management: {id: 10, cidr: 10.20.10.0/24, reaches: services}
    services: {id: 20, cidr: 10.20.20.0/24}
"""


class Lab:
    """What is said about a file of this text. status: that is awaited."""

    def __init__(self, site: Site, file: Path) -> None:
        self.site = site
        self.file = file

    def apply(self, text: str, *words: str, status: int = 0) -> str:
        self.file.write_text(text, encoding="utf-8")
        return self.site.call("sbin/cmapply", str(self.file), *words, status=status)

    def networks(self) -> dict[str, tuple[str, ...] | None]:
        return {network.name: network.reaches for network in self.site.store.networks()}


@pytest.fixture
def lab(make_realm: Callable[[], Realm], tmp_path: Path) -> Iterator[Lab]:
    realm = make_realm()
    it = Lab(Site(realm.store.world, realm.namespace, vlans=False), tmp_path / "lab.yaml")
    yield it
    for name in it.networks():
        it.site.cmnet("delete", name)


def test_a_file_of_networks_alone_is_applied_changed_written_back_and_pruned(lab: Lab) -> None:
    assert lab.apply(LAB) == "cmapply: network management: made\ncmapply: network services: made\n"
    assert lab.networks() == {"management": ("services",), "services": ()}
    assert lab.apply(LAB) == lab.apply(LAB, "--dry-run") == ""
    dumped = lab.site.call("sbin/cmdump")
    assert homelab.parse(dumped.encode(), "x.yaml").homelab == homelab.parse(LAB.encode(), "x.yaml").homelab
    assert lab.apply(dumped) == ""
    assert lab.apply(LAB.replace(", reaches: services", "")) == "cmapply: network management: started\n"
    assert lab.networks() == {"management": (), "services": ()}
    one = "\n".join(LAB.splitlines()[:-1]).replace(", reaches: services", "")
    for _ in range(2):
        assert lab.apply(one) == "cmapply: no longer in the file: VLAN services (--prune destroys)\n"
    lab.apply(one, "--prune")
    assert lab.networks() == {"management": ()}


def test_a_network_that_is_somebody_elses_is_left_alone_however_often_it_is_tried(lab: Lab) -> None:
    lab.site.cmnet("create", "management", "--cidr", "10.20.30.0/24")
    for _ in range(2):
        assert "there is a network 'management', and it is another one" in lab.apply(LAB, status=73)
    assert lab.networks() == {"management": None, "services": ()}
    lab.apply("", "--prune")
    assert lab.networks() == {"management": None}
    (found,) = json.loads(lab.site.cmnet("list", "--json"))[1:]
    assert found["address"] == "10.20.30.1/24"
