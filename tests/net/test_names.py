"""Names of machines, from one network to those that it reaches: the real dnsmasq is asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Interface
from pathlib import Path

import pytest

from tests.net.conftest import AAAA, PTR, A, Realm, answer
from tests.vlans import MACHINES, Site, inside, mac

pytestmark = pytest.mark.timeout(300)

KNOWN, UNKNOWN, REFUSED = 0, 3, 5
"""RFC 1035, 4.1.1. Refused is what would have gone to another server: these realms have none."""
REGISTRY = (KNOWN, ["10.20.20.10"])
NOBODY: tuple[int, list[str]] = (UNKNOWN, [])
LOCALLY = ("registry", "registry.management.cloudme")
"""As guests ask who look for the short name: glibc both, systemd-resolved the second alone."""


@dataclass
class Lab:
    site: Site

    def asked(self, name: str, kind: int = A, *, of: str = "10.20.10.1") -> tuple[int, list[str]]:
        return inside(self.site.namespace, lambda: answer(name, of, kind))

    def dnsmasq(self, network: str) -> str:
        return Path(self.site.world.dnsmasq(network, "pid")).read_text("ascii")

    def create(self, network: str, *words: str) -> str:
        number = {"management": 10, "services": 20}[network]
        return self.site.cmnet("create", network, "--cidr", f"10.20.{number}.0/24", "--ipv6", "none", *words)


@pytest.fixture
def lab(make_realm: Callable[[], Realm]) -> Lab:
    """management reaches services, which comes later; dnsmasq is its own user."""
    realm = make_realm()
    realm.home.chmod(0o755)
    it = Lab(Site(realm.store.world, realm.namespace, vlans=False))
    it.create("management", "--reaches", "services")
    it.create("services", "--reaches", "none")
    assert Path(f"/proc/{it.dnsmasq('management').strip()}").owner() == "dnsmasq"
    return it


def test_machines_of_a_network_that_is_reached_are_found_by_all_their_names(lab: Lab) -> None:
    pids = lab.dnsmasq("management"), lab.dnsmasq("services")
    for name in MACHINES:
        lab.site.publish(name)
    lab.site.cmnet("start", "management")
    for name in (*LOCALLY, "registry.services.cloudme"):
        assert lab.asked(name) == REGISTRY
        assert lab.asked(name, AAAA) == (KNOWN, [])
    assert lab.asked("10.20.20.10.in-addr.arpa", PTR) == (KNOWN, ["registry.services.cloudme"])
    assert lab.asked("jenkins") == lab.asked("jenkins.management.cloudme") == (KNOWN, ["10.20.10.11"])
    assert lab.asked("nobody.services.cloudme") == NOBODY
    assert lab.asked("example.org") == (REFUSED, [])
    assert lab.asked("jenkins", of="10.20.20.1") == lab.asked("jenkins.services.cloudme", of="10.20.20.1") == NOBODY
    assert lab.asked("jenkins.management.cloudme", of="10.20.20.1") == (REFUSED, [])
    assert (lab.dnsmasq("management"), lab.dnsmasq("services")) == pids


def test_a_machine_with_a_card_in_both_is_found_where_it_is_nearest(lab: Lab) -> None:
    lab.site.publish("registry")
    management, services = (lab.site.store.network(name) for name in ("management", "services"))
    assert management and services
    services = dataclasses.replace(services, address6=IPv6Interface("fd00:20::1/64"))
    lab.site.store.reserve(services, "registry", mac("registry"), "10.20.20.10")
    lab.site.store.reserve(management, "registry", mac("worker"), "10.20.10.99")
    lab.site.cmnet("start", "management")
    for name in LOCALLY:
        assert lab.asked(name) == (KNOWN, ["10.20.10.99"])
        assert lab.asked(name, AAAA) == (KNOWN, ["fd00:20::5054:ff:fe00:2"])
    assert lab.asked("registry.services.cloudme") == REGISTRY


def test_names_follow_what_is_reached_and_what_there_is(lab: Lab) -> None:
    lab.site.publish("registry")
    lab.site.cmnet("start", "management", "--reaches", "none")
    assert [lab.asked(name) for name in LOCALLY] == [NOBODY, NOBODY]
    lab.site.cmnet("start", "management", "--reaches", "services")
    pid = lab.dnsmasq("management")
    assert lab.site.cmnet("start", "management", "--dry-run") == ""
    assert [lab.asked(name) for name in LOCALLY] == [REGISTRY, REGISTRY]
    lab.site.call("bin/vmstop", "-d", "-y", "registry")
    assert [lab.asked(name) for name in LOCALLY] == [NOBODY, NOBODY]
    lab.site.cmnet("delete", "services")
    lab.site.publish("jenkins")
    lab.site.cmnet("start", "management")
    assert lab.asked("nobody.services.cloudme") == (REFUSED, [])
    assert lab.asked("jenkins") == (KNOWN, ["10.20.10.11"])
    lab.create("services", "--reaches", "none", "--domain", "s.example")
    lab.site.publish("registry")
    lab.site.cmnet("start", "services")
    assert [lab.asked(name) for name in (*LOCALLY, "registry.s.example")] == [REGISTRY] * 3
    assert lab.asked("nobody.s.example") == NOBODY
    assert lab.dnsmasq("management") == pid
    lab.site.cmnet("status", "management")
