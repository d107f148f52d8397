"""Networks kept apart, each on a bridge of its own: what passes between them, and to which ports."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest

from cloudme.formats import between
from tests.net.conftest import Realm
from tests.vlans import ALL, LISTED, WANTED, Box, Site, boxes, inside, matrix, reached

pytestmark = pytest.mark.timeout(300)


@dataclass
class Lab:
    site: Site
    boxes: Mapping[str, Box]

    def reached(self, source: str, target: str) -> list[str]:
        return sorted(reached(self.site, self.boxes, source, target))

    def table(self) -> str:
        return between.table(self.site.world)


@pytest.fixture
def lab(make_realm: Callable[[], Realm]) -> Iterator[Lab]:
    realm = make_realm()
    site = Site(realm.store.world, realm.namespace, vlans=False)
    site.create()
    for name in ("jenkins", "registry", "worker"):
        site.publish(name)
    site.cmnet("start", "management")
    with boxes(site, f"cmt{os.getpid()}") as found:
        yield Lab(site, found)


def nft(site: Site, *words: str) -> str:
    from cloudme.host.run import Programs

    return inside(site.namespace, lambda: Programs()(["nft", *words]))


def test_what_passes_is_what_is_said_and_a_flush_is_told_and_mended(lab: Lab) -> None:
    assert matrix(lab.site, lab.boxes) == WANTED
    assert lab.site.cmnet("start", "management", "--dry-run") == ""
    nft(lab.site, "flush", "ruleset")
    assert lab.reached("registry", "jenkins") == ALL
    amiss = json.loads(lab.site.cmnet("status", "services", "--json", status=78))["amiss"]
    assert f"keep networks apart (nft table {lab.table()})" in amiss
    lab.site.cmnet("start", "services")
    lab.site.cmnet("start", "management")
    lab.site.cmnet("status", "services")
    assert matrix(lab.site, lab.boxes) == WANTED


def test_reaches_and_ports_change_while_machines_run(lab: Lab) -> None:
    lab.site.cmnet("start", "services", "--reaches", "management")
    assert lab.reached("registry", "jenkins") == ["icmp", "tcp/22", "tcp/80"]
    lab.site.cmnet("start", "management", "--reaches", "none")
    assert lab.reached("jenkins", "registry") == []
    assert lab.reached("registry", "jenkins") == ["icmp", "tcp/22", "tcp/80"]
    lab.site.call("bin/vmupdate", "jenkins", "--ports", "debug=81,name=54/udp")
    assert lab.reached("registry", "jenkins") == ["icmp", "tcp/81", "udp/54"]
    assert lab.reached("host", "jenkins") == ["icmp", "tcp/22", "tcp/81", "udp/54"]
    assert "so already" in lab.site.call("bin/vmupdate", "jenkins", "--ports", "debug=81,name=54/udp")
    lab.site.call("bin/vmupdate", "jenkins", "--ports", "all")
    assert lab.reached("registry", "jenkins") == ALL
    lab.site.call("bin/vmupdate", "jenkins", "--ports", "none")
    assert lab.reached("registry", "jenkins") == ["icmp"]


def test_rules_follow_a_machine_to_its_next_address_and_go_with_it(lab: Lab) -> None:
    lab.site.publish("registry", address="10.20.20.99")
    lab.boxes["registry"].set_address("10.20.20.99")
    lab.site.cmnet("start", "services")
    assert lab.reached("jenkins", "registry") == LISTED
    lab.boxes["worker"].set_address("10.20.20.10")
    assert lab.reached("jenkins", "worker") == ALL
    lab.site.call("bin/vmstop", "-d", "-y", "registry")
    assert lab.reached("jenkins", "registry") == ALL


def test_an_open_network_and_one_that_nothing_reaches(lab: Lab) -> None:
    lab.site.cmnet("start")
    lab.site.cmnet("create", "plain", "--cidr", "10.44.0.0/24")
    rules = nft(lab.site, "list", "set", "inet", lab.table(), "may")
    assert '"bridge0" . "cm-plain"' in rules and '"cm-plain" . "bridge0"' in rules
    assert '"cm-management" . "cm-services"' in rules and '"cm-services"' not in rules.replace(
        '"cm-management" . "cm-services"', "")
    lab.site.cmnet("delete", "plain")
    assert "cm-plain" not in nft(lab.site, "list", "ruleset")


def test_without_vlans_in_the_kernel_the_hint_names_what_works(make_realm: Callable[[], Realm]) -> None:
    realm = make_realm()
    realm.cmnet("start")
    with contextlib.suppress(subprocess.CalledProcessError):
        realm.run("ip", "link", "set", "bridge0", "type", "bridge", "vlan_filtering", "1")
        pytest.skip("this kernel's bridges keep VLANs apart: tests/guest/test_vlans.py is for those")
    before = realm.run("ip", "-br", "link"), realm.run("nft", "list", "ruleset")
    for more in (["--dry-run"], []):
        ended = realm.cmnet("create", "services", "--vlan", "20", "--bridge", "vmbr0", "--cidr", "10.20.20.0/24", *more,
                            status=69)
        assert "CONFIG_BRIDGE_VLAN_FILTERING" in ended.stderr and "vlan_mode: bridges" in ended.stderr
    assert (realm.run("ip", "-br", "link"), realm.run("nft", "list", "ruleset")) == before
    assert [one["network"] for one in json.loads(realm.cmnet("list", "--json").stdout)] == ["default"]
