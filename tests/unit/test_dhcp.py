"""What dnsmasq and nft are told, and what dnsmasq notes."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from cloudme.errors import ConfigError
from cloudme.formats import blocks, dhcp
from cloudme.layout import World
from cloudme.model.hostconfig import Settings
from cloudme.model.names import Name

DATA = Path(__file__).resolve().parents[1] / "data" / "network"
WORLD = World(data="/data", run="/run/cm", config="/nowhere")
NETWORK = Settings().network()
REACHING = dataclasses.replace(NETWORK, reaches=(Name("services"), NETWORK.name, Name("lan"), Name("not-yet")))


@pytest.mark.parametrize(("file", "text"), [
    ("host.conf", dhcp.configuration(NETWORK, WORLD, user="dnsmasq", resolv_file="/etc/resolv.conf")),
    ("realm.conf", dhcp.configuration(
        NETWORK, World(data="/data", run="/run/cm", config="/nowhere", realm="demo"), user="", resolv_file=None)),
    ("reaching.conf", dhcp.configuration(REACHING, WORLD, user="", resolv_file=None)),
    ("nat.nft", dhcp.rules(NETWORK, WORLD)),
    ("routed.nft", dhcp.rules(dataclasses.replace(NETWORK, nat=False), WORLD)),
])
def test_what_is_written_is_as_the_golden_file(file: str, text: str) -> None:
    assert text == (DATA / file).read_text()


def test_nobody_is_asked_about_the_domains_of_the_networks_that_are_reached() -> None:
    services = dataclasses.replace(NETWORK, name=Name("services"), domain="s.example")
    lan = dataclasses.replace(NETWORK, name=Name("lan"), domain="home", external=True, dhcp_first=None, dhcp_last=None)
    other = dataclasses.replace(NETWORK, name=Name("other"), domain="o.example")
    assert dhcp.reached_domains(REACHING, (services, lan, other)) == "server=/s.example/\n"
    assert dhcp.reached_domains(NETWORK, (services, lan, other)) == ""


def test_a_large_network_raises_dnsmasqs_limit_of_leases() -> None:
    large = dataclasses.replace(Settings(), address=NETWORK.address.__class__("10.0.0.1/16"),
                                dhcp_first=IPv4Address("10.0.0.2"), dhcp_last=IPv4Address("10.0.255.254")).network()
    assert "dhcp-lease-max=65533\n" in dhcp.configuration(large, WORLD, user="", resolv_file=None)


def test_the_rules_are_known_by_their_marks_and_any_change_changes_them() -> None:
    marks = dhcp.marks(dhcp.rules(NETWORK, WORLD))
    assert len(marks) == 3
    assert len(set(marks)) == 1
    other = dataclasses.replace(NETWORK, nat=False)
    assert not set(marks) & set(dhcp.marks(dhcp.rules(other, WORLD)))


def test_a_copy_in_the_configuration_wins_and_a_hole_in_it_is_named(tmp_path: Path) -> None:
    world = World(data="/data", run="/run/cm", config=str(tmp_path))
    (tmp_path / "templates").mkdir()
    mine = tmp_path / "templates" / "dnsmasq.conf.j2"
    mine.write_text("domain={{ domain }}\n")
    assert dhcp.configuration(NETWORK, world, user="", resolv_file=None) == "domain=cloudme\n"
    mine.write_text("{{ domian }}\n")
    with pytest.raises(ConfigError, match=r"dnsmasq\.conf\.j2.*domian"):
        dhcp.configuration(NETWORK, world, user="", resolv_file=None)


def test_leases_are_read_and_other_lines_are_not() -> None:
    text = "1795215552 52:54:00:00:00:07 10.210.0.7 web00 *\nduid 00:01\n\n"
    assert dhcp.leases(text) == [("52:54:00:00:00:07", "10.210.0.7")]


def test_a_release_is_as_the_rfc_has_it() -> None:
    packet = dhcp.release(IPv4Address("10.210.0.1"), "52:54:00:00:00:07", "10.210.0.7")
    assert packet[:4] == bytes((1, 1, 6, 0))
    assert packet[12:16] == bytes((10, 210, 0, 7))
    assert packet[28:34].hex(":") == "52:54:00:00:00:07"
    assert packet[236:] == bytes.fromhex("63825363 350107 3604 0ad20001 ff")


@pytest.mark.parametrize("text", ["", "127.0.0.1 localhost\n", "a\nb", "# end cloudme b\n"])
def test_a_block_goes_in_and_out_and_nothing_else_changes(text: str) -> None:
    once = blocks.replace(text, "cloudme b", ["x", "y"])
    assert blocks.read(once, "cloudme b") == ("x", "y")
    assert blocks.read(once, "cloudme c") == ()
    assert blocks.replace(once, "cloudme b", ["x", "y"]) == once
    assert blocks.replace(once, "cloudme b", []).split() == text.split()


def test_a_block_is_changed_where_it_stands() -> None:
    text = blocks.replace("first\n", "m", ["x"]) + "last\n"
    changed = blocks.replace(text, "m", ["y", "z"])
    assert changed.splitlines()[0] == "first"
    assert changed.splitlines()[-1] == "last"
    assert blocks.read(changed, "m") == ("y", "z")
