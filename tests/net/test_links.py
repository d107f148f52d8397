"""The adapter of links, in a namespace that ends with the thread that made it."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path

import pytest

from cloudme.errors import HostUnavailable, NotPermitted
from cloudme.host import netlink, outside, run
from cloudme.layout import BRIDGE_HELPERS
from cloudme.model.launch import Guard, TapCard
from tests.net.conftest import Apart

ADDRESS = IPv4Interface("10.210.0.1/24")
ADDRESS6 = IPv6Interface("fd12:3456:789a:1::1/64")


@pytest.fixture
def links() -> netlink.Links:
    return netlink.Links(outside.Here(run.Programs()), run.Programs())


def bridge(links: netlink.Links, name: str = "bridge0") -> None:
    links.add_bridge(name, "52:54:00:00:00:01")
    links.set_bridge(name, "cloudme default", ADDRESS, ADDRESS6)


def card(number: int) -> TapCard:
    mac = f"52:54:00:00:01:{number:02x}"
    return TapCard("net0", "bridge0", mac, Guard(addresses=(f"10.210.0.{number}",)))


def test_a_bridge_is_as_it_was_asked_for(apart: Apart, links: netlink.Links) -> None:
    def look() -> None:
        assert not links.bridge_exists("bridge0")
        bridge(links)
        found = links.links()["bridge0"]
        assert (found.kind, found.up, found.alias, found.addresses) == ("bridge", True, "cloudme default", (ADDRESS,))
        assert [str(route) for route in found.routes] == ["10.210.0.0/24"]
        assert links.bridge_exists("bridge0")
        assert not links.bridge_exists("lo")
        assert found.addresses6 == (ADDRESS6,)
        links.set_bridge("bridge0", "cloudme default", IPv4Interface("10.9.0.1/16"), None)
        assert links.links()["bridge0"].addresses == (IPv4Interface("10.9.0.1/16"),)
        assert links.links()["bridge0"].addresses6 == ()
        links.remove_link("bridge0")
        links.remove_link("bridge0")
        assert set(links.links()) == {"lo"}

    apart(look)


def test_taps_are_made_by_many_threads_at_once_and_end_with_their_descriptor(
    apart: Apart, links: netlink.Links,
) -> None:
    def look() -> None:
        bridge(links)
        with ThreadPoolExecutor(max_workers=8) as pool:
            fds = list(pool.map(lambda number: links.taps([card(number)])[0], range(40)))
        taps = [link for link in links.links().values() if link.kind == "tun"]
        assert len(taps) == 40
        assert all(tap.master == "bridge0" and tap.up for tap in taps)
        for fd in fds:
            assert not os.get_inheritable(fd)
            os.close(fd)
        assert set(links.links()) == {"lo", "bridge0"}

    apart(look)


def test_a_link_is_put_into_a_bridge_and_taken_out_as_often_as_one_likes(apart: Apart, links: netlink.Links) -> None:
    runner = run.Programs()

    def look() -> None:
        bridge(links)
        runner(["ip", "tuntap", "add", "vm.0", "mode", "tap"])
        for _ in range(2):
            links.plug("vm.0", "bridge0")
            assert (links.links()["vm.0"].master, links.links()["vm.0"].up) == ("bridge0", True)
        for _ in range(2):
            links.unplug("vm.0")
            assert (links.links()["vm.0"].master, links.links()["vm.0"].up) == ("", False)
        with pytest.raises(HostUnavailable, match="no link 'vm1'"):
            links.plug("vm1", "bridge0")
        with pytest.raises(HostUnavailable, match="no link 'vm1'"):
            links.unplug("vm1")
        for none in ("lo", "bridge1"):
            with pytest.raises(HostUnavailable, match=f"'{none}' is no bridge"):
                links.plug("vm.0", none)
        assert links.links()["vm.0"].master == ""

    apart(look)


def test_a_tap_without_a_bridge_says_what_to_type(
    apart: Apart, links: netlink.Links,
) -> None:
    def look() -> None:
        with pytest.raises(HostUnavailable, match="no bridge 'bridge0'") as told:
            links.taps([card(2)])
        assert told.value.hint == "cmnet start"

    apart(look)


def test_neighbours_are_known_by_their_answer(apart: Apart, links: netlink.Links) -> None:
    runner = run.Programs()

    def look() -> None:
        bridge(links)
        assert links.neighbour("10.210.0.7") == ""
        runner(["ip", "neighbour", "add", "10.210.0.7", "lladdr", "52:54:00:00:00:07", "dev", "bridge0"])
        assert links.neighbour("10.210.0.7") == "reachable"
        links.datagram("10.210.0.8", 9, b"who has")
        assert links.neighbour("10.210.0.8") == "failed"

    apart(look)


def test_forwarding_is_switched_on_for_this_namespace_alone(
    apart: Apart, links: netlink.Links,
) -> None:
    outside = links.forwarding()

    def look() -> bool:
        links.forward()
        return links.forwarding()

    assert apart(look)
    assert links.forwarding() == outside


def test_qemus_helper_makes_the_tap_for_who_may_not(apart: Apart, links: netlink.Links) -> None:
    if not os.path.exists(BRIDGE_HELPERS[0]):
        pytest.skip("needs qemu-bridge-helper")
    acl = Path("/etc/qemu/bridge.conf")
    if acl.exists():
        pytest.skip("needs a host without /etc/qemu/bridge.conf")

    def refused() -> None:
        bridge(links)
        with pytest.raises(NotPermitted, match="does not allow 'bridge0'") as told:
            links.taps([TapCard("net0", "bridge0", "52:54:00:00:00:02", outside=True)])
        assert "cmnet start --allow-user" in str(told.value.hint)

    def helped() -> None:
        (fd,) = links.taps([TapCard("net0", "bridge0", "52:54:00:00:00:02", outside=True)])
        assert [link.master for link in links.links().values() if link.kind == "tun"] == ["bridge0"]
        assert not os.get_inheritable(fd)
        os.close(fd)

    apart(refused)
    folder_was_there = acl.parent.exists()
    acl.parent.mkdir(exist_ok=True)
    try:
        acl.write_text("allow bridge0\n")
        apart(helped)
    finally:
        acl.unlink()
        if not folder_was_there:
            shutil.rmtree(acl.parent)
