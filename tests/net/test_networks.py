"""More networks than one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from cloudme.host import arp
from tests.net.conftest import Realm, inside, ip

LAB = ("create", "lab", "--cidr", "10.44.0.0/24", "--dns", "10.44.0.9", "--no-nat")


def listed(realm: Realm) -> dict[str, dict[str, Any]]:
    return {one["network"]: one for one in json.loads(realm.cmnet("list", "--json").stdout)}


def test_two_networks_live_side_by_side_and_go_one_by_one(realm: Realm) -> None:
    realm.cmnet(*LAB)
    realm.cmnet(*LAB)
    found = listed(realm)
    assert {name: (one["bridge"], one["address"], one["started"]) for name, one in found.items()} == {
        "default": ("bridge0", "10.210.0.1/24", True), "lab": ("cm-lab", "10.44.0.1/24", True)}
    assert found["default"]["address6"] != found["lab"]["address6"]
    assert "masquerade" not in realm.run("nft", "list", "table", "ip", "cloudme-cm-lab")
    assert "dhcp-option=option:dns-server,10.44.0.9\n" in Path(realm.store.world.dnsmasq("lab", "conf")).read_text()

    realm.cmnet("stop", "lab")
    assert listed(realm)["lab"]["started"] is False
    realm.cmnet("status", "lab", status=66)
    realm.cmnet("status")
    realm.cmnet("start", "lab")
    realm.cmnet("status", "lab")
    realm.cmnet("delete", "lab")
    assert set(listed(realm)) == {"default"}
    assert "cm-lab" not in realm.run("ip", "-br", "link")
    realm.cmnet("delete", "lab", status=66)


def test_start_and_stop_mean_all_of_them(realm: Realm) -> None:
    realm.cmnet(*LAB)
    realm.cmnet("stop")
    assert not Path(realm.namespace).exists()
    realm.cmnet("start")
    assert all(one["started"] for one in listed(realm).values())
    assert realm.cmnet("start", "--dry-run").stdout == ""


def test_a_network_that_clashes_is_refused_and_nothing_is_made(realm: Realm) -> None:
    realm.cmnet(*LAB)
    for words, status, why in (
        (("lab", "--cidr", "10.45.0.0/24"), 73, "it is another one"),
        (("two", "--cidr", "10.44.0.128/25"), 78, "overlaps with network 'lab'"),
        (("two", "--cidr", "10.210.0.0/16"), 78, "overlaps with network 'default'"),
        (("two", "--cidr", "10.45.0.0/24", "--bridge", "cm-lab"), 73, "is that of network 'lab'"),
        (("two", "--cidr", "10.45.0.0/24", "--gateway", "10.46.0.1"), 64, "is not in"),
        (("two", "--cidr", "10.45.0.0/24", "--dhcp-range", "10.45.0.1-10.45.0.9"), 64, "is in the range"),
        (("two", "--cidr", "10.45.0.5"), 64, "no network for machines"),
        (("two", "--cidr", "10.45.0.0/24", "--dhcp-range", "a"), 64, "is no range"),
        (("two", "--cidr", "10.45.0.0/33"), 64, "--cidr"),
        (("two", "--cidr", "10.45.0.0/24", "--dns", "x"), 64, "--dns"),
        (("two",), 64, "--cidr is wanted"),
        (("two", "--external", "--cidr", "10.45.0.0/24"), 64, "--bridge is wanted"),
        (("two", "--external", "--cidr", "10.45.0.0/24", "--bridge", "br9"), 69, "no bridge 'br9'"),
        (("default", "--cidr", "10.45.0.0/24"), 73, "cloudme.toml"),
    ):
        assert why in realm.cmnet("create", *words, status=status).stderr, words
    assert set(listed(realm)) == {"default", "lab"}
    assert realm.cmnet("start", "--cidr", "10.45.0.0/24", status=64).stderr
    assert realm.cmnet("delete", "default", status=64).stderr


def test_nothing_of_ours_is_started_on_an_external_bridge(realm: Realm) -> None:
    realm.run("ip", "link", "add", "br0", "type", "bridge")
    realm.run("ip", "address", "add", "192.168.86.10/24", "dev", "br0")
    realm.run("ip", "link", "set", "br0", "up")
    before = realm.run("ip", "-4", "-o", "address", "show", "br0"), realm.run("nft", "list", "ruleset")
    realm.cmnet("create", "lan", "--external", "--bridge", "br0", "--cidr", "192.168.86.0/24")
    realm.cmnet("stop", "lan")
    realm.cmnet("start", "lan")
    assert (realm.run("ip", "-4", "-o", "address", "show", "br0"), realm.run("nft", "list", "ruleset")) == before
    assert not Path(realm.store.world.network_run("lan")).exists()
    assert listed(realm)["lan"]["external"] is True
    realm.cmnet("delete", "lan")
    assert "br0" in realm.run("ip", "-br", "link")


def test_who_has_an_address_is_found_out_by_asking(realm: Realm) -> None:
    client = realm.client()
    name = os.path.basename(client.namespace)
    ip("-n", name, "address", "add", "10.210.0.77/24", "dev", "eth0")
    mac = json.loads(ip("-n", name, "-j", "link", "show", "eth0"))[0]["address"]
    found = inside(realm.namespace, lambda: arp.ask("bridge0", ["10.210.0.77", "10.210.0.78"], 0.3))
    assert found == {"10.210.0.77": mac}
