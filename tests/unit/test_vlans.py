"""Networks that share a bridge, networks apart from each other, and the ports of machines, over a host of fakes."""

from __future__ import annotations

import dataclasses
import os
import signal
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Any

import pytest

from cloudme import between
from cloudme.errors import AlreadyExists, Busy, ConfigError, HostUnavailable, UsageError
from cloudme.formats import between as rules
from cloudme.model import openports
from cloudme.model.hostconfig import Resolve, Settings
from cloudme.model.launch import TapCard
from cloudme.model.machine import Access, Forward, Machine, Nic, Port, Shape
from cloudme.model.names import Name
from cloudme.model.network import Link, Network
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction
from cloudme.operations import networks, opening, power
from cloudme.operations.networks import trunks
from cloudme.operations.networks.truth import HostFiles
from cloudme.qemu import taps
from cloudme.store import Store
from tests import fakes
from tests.unit.test_networks import go

DATA = Path(__file__).parents[1] / "data/network"
DEFAULT = dataclasses.replace(Settings().network(), resolve=Resolve.none)


def vlan(number: int, name: str, *reaches: str, **more: Any) -> Network:
    return dataclasses.replace(DEFAULT, **{
        "name": Name(name), "bridge": "vmbr0", "vlan": number, "address": IPv4Interface(f"10.20.{number}.1/24"),
        "dhcp_first": IPv4Address(f"10.20.{number}.2"), "dhcp_last": IPv4Address(f"10.20.{number}.254"),
        "domain": f"{name}.lab", "reaches": tuple(Name(one) for one in reaches), **more})


MANAGEMENT, SERVICES = vlan(10, "management", "services", uplink="eth1"), vlan(20, "services")


def machine(name: str, network: Network, address: str, ports: str, **more: Any) -> Machine:
    nic = Nic(network=network.name, mac="52:54:00:00:00:01", address=address, address6="fd00::5")
    return Machine(
        name=Name(name), uuid=name, group="g", type=Name("t"), template=Name("debian"),
        shape=Shape(vcpus=1, ram_mib=512), disks=(), nics=(nic,), created="2026-11-21T12:00:00Z",
        access=Access(user="root", key_of=Name("debian"), seeded=True), ports=openports.read(ports), **more)


VAULT = machine("vault", MANAGEMENT, "10.20.10.10", "ssh=22,api=8200",
                forwards=(Forward(protocol="tcp", address="127.0.0.1", port=8080, guest_port=80),))
WORKER = machine("worker", SERVICES, "10.20.20.21", "nodes=30000-32767,more=32000-32900,dns=53/udp")


@pytest.fixture
def files(tmp_path: Path) -> HostFiles:
    return HostFiles(bridge_acl=str(tmp_path / "acl"), hosts=str(tmp_path / "hosts"), networkmanager=str(tmp_path))


@pytest.fixture
def host() -> Host:
    return fakes.host(run=fakes.FakeNft(), net=fakes.FakeNet(known={"eth1": Link(name="eth1")}, bridges=set()))


def between_rules(host: Host, store: Store) -> str:
    assert isinstance(host.run, fakes.FakeNft)
    return host.run.answers.get(rules.table(store.world), "")


def publish(store: Store, one: Machine) -> None:
    os.makedirs(store.folder(one), exist_ok=True)
    store.publish(one)


# bridges that keep VLANs apart

def test_two_networks_make_one_bridge_and_the_last_takes_it_away(store: Store, host: Host, files: HostFiles) -> None:
    said = go(networks.create, host, store, MANAGEMENT, files)
    assert said[:3] == ["make the bridge vmbr0, which keeps VLANs apart",
                        "make vmbr0.10: VLAN 10 of vmbr0, with 10.20.10.1/24",
                        "tag VLAN 10 on eth1, a port of vmbr0"]
    assert go(networks.create, host, store, SERVICES, files)[0].startswith("make vmbr0.20: VLAN 20 of vmbr0")
    links = host.net.links()
    assert (links["vmbr0"].vids, links["vmbr0"].filtering, links["eth1"].vids) == ((10, 20), True, (10,))
    assert links["vmbr0"].addresses == () and links["vmbr0.20"].addresses == (SERVICES.address,)
    for network in (MANAGEMENT, SERVICES):
        assert go(networks.start, host, store, network, files) == []
        assert networks.status(host, store, network, files).amiss == ()
    said = go(networks.stop, host, store, MANAGEMENT, files)
    assert said[2:4] == ["take VLAN 10 off eth1", "remove vmbr0.10"]
    assert set(host.net.links()) == {"vmbr0", "vmbr0.20", "eth1"} and host.net.links()["eth1"].master == ""
    said = go(networks.stop, host, store, SERVICES, files)
    assert said[-2:] == ["remove vmbr0.20", "remove the bridge vmbr0"]
    assert set(host.net.links()) == {"eth1"}


def test_dnsmasq_is_told_of_what_is_reached_when_that_comes_and_goes(
    store: Store, host: Host, files: HostFiles,
) -> None:
    go(networks.create, host, store, MANAGEMENT, files)
    told = Path(store.world.reached_domains("management"))
    assert told.read_text() == ""
    go(networks.create, host, store, SERVICES, files)
    assert told.read_text() == "server=/services.lab/\n"
    assert isinstance(host.run, fakes.FakeNft)
    signals = host.run.daemons[store.world.dnsmasq("management", "conf")]
    signals.clear()
    go(networks.delete, host, store, "services", files)
    assert told.read_text() == "" and signal.SIGHUP in signals
    assert networks.status(host, store, MANAGEMENT, files).amiss == ()
    assert not os.path.exists(store.world.reached_domains("services"))
    go(networks.delete, host, store, "management", files)
    assert os.listdir(store.world.networks) == ["vmbr0.lock"]


RIGHT = {
    "vmbr0": Link(name="vmbr0", kind="bridge", alias=trunks.ALIAS, filtering=True, vids=(10,)),
    "vmbr0.10": Link(name="vmbr0.10", kind="vlan", vlan=10, parent="vmbr0", alias="cloudme management",
                     addresses=(MANAGEMENT.address,)),
    "eth1": Link(name="eth1", master="vmbr0", vids=(10,)),
}


@pytest.mark.parametrize(("link", "broken", "words"), [
    ("vmbr0", None, ["make the bridge", "make vmbr0.10", "tag VLAN 10"]),
    ("vmbr0", {"filtering": False}, ["make the bridge"]),
    ("vmbr0", {"up": False}, ["make the bridge"]),
    ("vmbr0", {"vids": (20,)}, ["make vmbr0.10"]),
    ("vmbr0.10", None, ["make vmbr0.10"]),
    ("vmbr0.10", {"up": False}, ["set vmbr0.10 up"]),
    ("vmbr0.10", {"addresses": ()}, ["set vmbr0.10 up"]),
    ("eth1", {"master": ""}, ["tag VLAN 10"]),
    ("eth1", {"vids": ()}, ["tag VLAN 10"]),
    ("eth1", {"vids": (10,), "pvid": 10}, ["tag VLAN 10"]),
    ("eth1", {"vids": (1, 10), "pvid": 1}, []),
    ("vmbr0", {}, []),
])
def test_each_thing_that_is_amiss_has_its_step(link: str, broken: dict[str, Any] | None, words: list[str]) -> None:
    links = {**RIGHT, link: dataclasses.replace(RIGHT[link], **broken)} if broken is not None else {
        name: one for name, one in RIGHT.items() if name != link and one.parent != link}
    steps = trunks.steps(MANAGEMENT, links)
    assert len(steps) == len(words)
    assert all(step.describe().startswith(word) for step, word in zip(steps, words, strict=True))


@pytest.mark.parametrize(("link", "error", "words"), [
    (Link(name="vmbr0", kind="veth"), AlreadyExists, "no bridge of cloudMe's for VLANs"),
    (Link(name="vmbr0", kind="bridge", addresses=(IPv4Interface("10.0.0.1/8"),)), AlreadyExists, "for VLANs"),
    (Link(name="vmbr0.10", kind="vlan", vlan=10, parent="eth0"), AlreadyExists, "is not that of network"),
    (Link(name="vmbr0.10", kind="bridge"), AlreadyExists, "is not that of network"),
    (Link(name="eth1", master="br0"), AlreadyExists, "is a port of br0"),
    (Link(name="eth1", addresses=(IPv4Interface("192.0.2.7/24"),)), AlreadyExists, "which it would lose"),
    (Link(name="eth1", addresses6=(IPv6Interface("2001:db8::7/64"),)), AlreadyExists, "which it would lose"),
])
def test_what_is_somebody_elses_stays_so(
    store: Store, host: Host, files: HostFiles, link: Link, error: type[Exception], words: str,
) -> None:
    assert isinstance(host.net, fakes.FakeNet)
    host.net.known[link.name] = link
    before = dict(host.net.known)
    with pytest.raises(error, match=words):
        go(networks.start, host, store, MANAGEMENT, files)
    assert host.net.links() == before and store.network("management") is None


@pytest.mark.parametrize(("network", "pvid"), [
    (SERVICES, 20), (dataclasses.replace(DEFAULT, name=Name("plain"), bridge="br1"), 1),
    (dataclasses.replace(DEFAULT, name=Name("plain"), bridge="br1"), None),
])
def test_a_network_with_somebodys_tap_does_not_stop(
    store: Store, host: Host, files: HostFiles, network: Network, pvid: int | None,
) -> None:
    """As soon as one bridge keeps VLANs apart, the kernel tells those of all: a plain one's ports are in its own, 1."""
    go(networks.create, host, store, network, files)
    assert isinstance(host.net, fakes.FakeNet)
    host.net.known["tap7"] = Link(name="tap7", kind="tun", master=network.bridge, pvid=pvid)
    with pytest.raises(Busy, match="in use by tap7"):
        go(networks.stop, host, store, network, files)


def test_a_vlan_that_is_stopped_is_not_there_though_its_bridge_is(
    store: Store, host: Host, files: HostFiles,
) -> None:
    for network in (MANAGEMENT, SERVICES):
        go(networks.create, host, store, network, files)
    go(networks.stop, host, store, SERVICES, files)
    power.check(host, store, [], [MANAGEMENT])
    with pytest.raises(HostUnavailable, match=r"no bridge 'vmbr0\.20'"):
        power.check(host, store, [], [SERVICES])


def test_a_card_that_is_not_there_is_named(store: Store, files: HostFiles) -> None:
    with pytest.raises(HostUnavailable, match="no card 'eth1'"):
        go(networks.start, fakes.host(run=fakes.FakeNft()), store, MANAGEMENT, files)


def test_a_kernel_that_cannot_is_told_and_nothing_is_made(store: Store, host: Host, files: HostFiles) -> None:
    assert isinstance(host.net, fakes.FakeNet)
    host.net.vlans = False
    with pytest.raises(HostUnavailable, match="keep VLANs apart"):
        go(networks.create, host, store, SERVICES, files)
    assert set(host.net.links()) == {"eth1"} and store.network("services") is None


@pytest.mark.parametrize(("other", "error"), [
    (vlan(20, "twice", address=IPv4Interface("10.21.0.1/24"), dhcp_first=IPv4Address("10.21.0.2"),
          dhcp_last=IPv4Address("10.21.0.9")), AlreadyExists),
    (dataclasses.replace(DEFAULT, name=Name("whole"), bridge="vmbr0"), AlreadyExists),
    (dataclasses.replace(SERVICES, vlan=21, name=Name("over")), ConfigError),
])
def test_a_vlan_is_one_networks_and_a_bridge_has_vlans_or_none(
    store: Store, host: Host, files: HostFiles, other: Network, error: type[Exception],
) -> None:
    go(networks.create, host, store, SERVICES, files)
    with pytest.raises(error):
        go(networks.create, host, store, other, files)


@pytest.mark.parametrize("wrong", [
    {"vlan": 0}, {"vlan": 4095}, {"uplink": "vmbr0"}, {"uplink": "a b"}, {"users": ("alice",)},
    {"vlan": None, "uplink": "eth1"}, {"bridge": "twelve-chars", "vlan": 4000},
    {"external": True, "dhcp_first": None, "dhcp_last": None},
])
def test_what_is_no_vlan_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        dataclasses.replace(SERVICES, **wrong)


def test_a_tap_knows_its_vlan() -> None:
    (card,) = taps.of(VAULT, {MANAGEMENT.name: MANAGEMENT})
    assert isinstance(card, TapCard) and (card.bridge, card.vlan) == ("vmbr0", 10)


# rules between networks

def test_the_rules_are_those_of_the_golden_file() -> None:
    text = rules.text("cloudme-between", [DEFAULT, MANAGEMENT, SERVICES], [VAULT, WORKER])
    assert text == (DATA / "between.nft").read_text(encoding="utf-8")


def test_where_nothing_is_closed_there_are_no_rules() -> None:
    assert rules.text("t", [DEFAULT], [dataclasses.replace(VAULT, ports=None)]) == ""
    elsewhere = dataclasses.replace(SERVICES, vlan=None, external=True, dhcp_first=None, dhcp_last=None)
    assert rules.text("t", [DEFAULT, elsewhere], [WORKER]) == ""


@pytest.mark.parametrize(("source", "target", "may"), [
    (DEFAULT, dataclasses.replace(DEFAULT, name=Name("lab"), bridge="cm-lab"), True),
    (DEFAULT, SERVICES, False), (SERVICES, DEFAULT, False), (MANAGEMENT, SERVICES, True), (SERVICES, MANAGEMENT, False),
    (vlan(30, "third", "default"), DEFAULT, True),
])
def test_who_opens_connections_to_whom(source: Network, target: Network, *, may: bool) -> None:
    assert rules.allowed(source, target) is may


def test_rules_are_made_when_machines_want_them_and_go_with_the_last(
    store: Store, host: Host, files: HostFiles,
) -> None:
    open_ = dataclasses.replace(SERVICES, reaches=None)
    go(networks.create, host, store, open_, files)
    assert between.found(host, store) == ()
    networks.refresh_names(host, store, coming=[WORKER], files=files)
    assert "10.20.20.21 . tcp . 30000-32900" in between_rules(host, store)
    publish(store, WORKER)
    assert networks.status(host, store, open_, files).amiss == ()
    moved = dataclasses.replace(WORKER, nics=(dataclasses.replace(WORKER.nics[0], address="10.20.20.99"),))
    publish(store, moved)
    networks.refresh_names(host, store, files=files)
    assert "10.20.20.21" not in between_rules(host, store)
    host.run.answers.clear()  # type: ignore[attr-defined]
    table = rules.table(store.world)
    assert f"keep networks apart (nft table {table})" in networks.status(host, store, open_, files).amiss
    store.remove(store.folder(moved), "machine.json")
    networks.refresh_names(host, store, files=files)
    assert between.found(host, store) == ()


def test_rules_go_with_the_last_network(store: Store, host: Host, files: HostFiles) -> None:
    go(networks.create, host, store, SERVICES, files)
    assert between.found(host, store)
    assert f"remove the nft table {rules.table(store.world)}" in go(networks.stop, host, store, SERVICES, files)
    assert between.found(host, store) == ()


def test_ports_change_and_change_back(store: Store, host: Host, files: HostFiles) -> None:
    go(networks.create, host, store, SERVICES, files)
    publish(store, WORKER)
    new = opening.changed(store, WORKER, openports.read("web=80"), Settings())
    step = opening.Reopen(store, WORKER, new)
    assert step.describe() == "open ports of worker: web=80 (was: nodes=30000-32767,more=32000-32900,dns=53/udp)"
    with Transaction(host, print) as transaction:
        transaction.apply([step])
    assert store.machine("worker").ports == (Port(name=Name("web"), first=80, last=80),)
    assert "10.20.20.21 . tcp . 80" in between_rules(host, store)
    step.undo(host)
    assert store.machine("worker") == WORKER
    assert "10.20.20.21 . udp . 53" in between_rules(host, store)


def test_ports_are_refused_where_no_rules_of_ours_hold(store: Store) -> None:
    elsewhere = dataclasses.replace(SERVICES, vlan=None, external=True, dhcp_first=None, dhcp_last=None)
    store.publish_network(elsewhere)
    with pytest.raises(UsageError, match="is somebody else's"):
        opening.changed(store, WORKER, (), Settings())
    assert opening.changed(store, WORKER, None, Settings()).ports is None


@pytest.mark.parametrize("text", ["ssh=22", "ssh=22,nodes=30000-32767,dns=53/udp", "none", "all"])
def test_what_is_said_of_ports_is_said_again(text: str) -> None:
    assert openports.words(openports.read(text)) == text


def test_a_port_needs_no_name() -> None:
    assert openports.words(openports.read("22, 53/udp")) == "tcp-22=22,udp-53=53/udp"


@pytest.mark.parametrize("text", [
    "", "ssh", "ssh=", "ssh=0", "ssh=65536", "ssh=22-21", "ssh=22/sctp", "ssh=22,ssh=23", "a b=1", "=1", "ssh=-1", "1-",
    "ssh=²",
])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        openports.read(text)
