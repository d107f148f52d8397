"""What guards are made of: which machine gets which, the rules as text, the options that ask for them."""

from __future__ import annotations

import argparse
import dataclasses
import os
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Any

import pytest

from cloudme import layout
from cloudme.cli import requests
from cloudme.errors import PeerError, UsageError
from cloudme.formats import groupfiles, guards
from cloudme.model.hostconfig import Settings
from cloudme.model.launch import Guard
from cloudme.model.machine import CloneRequest, Machine, Nic
from cloudme.model.names import Name
from cloudme.model.network import DEFAULT_NETWORK, Network
from cloudme.model.ports import Ended
from cloudme.model.steps import Transaction
from cloudme.model.units import bit_rate
from cloudme.operations import clones, machines, networks
from cloudme.operations.networks import changes, truth
from cloudme.operations.networks.truth import HostFiles
from cloudme.qemu import taps
from cloudme.store import Store, take_lock
from tests import fakes
from tests.unit.test_clones import template
from tests.unit.test_machines import SETTINGS, lan, make
from tests.unit.test_vmrunning import machine as plain

__all__ = ["lan"]

DATA = Path(__file__).parents[1] / "data/guards"
MAC, BRIDGE_MAC = "52:54:00:da:3d:1d", "52:54:00:00:00:01"
OURS = Settings().network(IPv6Interface("fd12:3456:789a:1::1/64"))
LAN = Network(name=Name("lan"), bridge="br0", address=IPv4Interface("192.168.86.1/24"), dhcp_first=None, dhcp_last=None,
              domain="lan", nat=False, external=True, dns=(IPv4Address("192.168.86.1"), IPv4Address("192.168.86.2")))
NETWORKS = {network.name: network for network in (OURS, LAN)}


def machine(*networks: Network, **more: Any) -> Machine:
    nics = tuple(
        Nic(network=network.name, mac=MAC[:-1] + str(number), address=None if network.external else "10.210.0.2",
            address6=None if network.external else "fd12:3456:789a:1:5054:ff:feda:3d10")
        for number, network in enumerate(networks))
    return dataclasses.replace(plain("web00"), nics=nics, **more)


def guard(made: Machine, networks: dict[Name, Network] | None = None) -> Guard | None:
    return taps.of(made, networks or NETWORKS)[0].guard


CASES = {
    "ours": machine(OURS),
    "ours-apart": machine(OURS, isolate=True, net_rate=100_000_000),
    "lan": machine(LAN),
}


@pytest.mark.parametrize("case", CASES)
def test_the_rules_are_the_golden_ones(case: str) -> None:
    found = guard(CASES[case])
    assert found
    golden = DATA / f"{case}.nft"
    text = guards.text([("cmda3d10-0", CASES[case].nics[0].mac, BRIDGE_MAC, found)], [7, 8])
    if os.environ.get("REGOLD"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_nothing_to_do_is_no_text_and_no_process() -> None:
    assert guards.text([]) == ""
    assert guards.text([], [7]) == "add table netdev cloudme-guard\ndelete chain netdev cloudme-guard handle 7\n"


def test_two_comparisons_with_single_values_never_stand_side_by_side() -> None:
    """nft 1.0.6 makes one of them, which is true where only one differs."""
    for made in CASES.values():
        found = guard(made)
        assert found
        for line in guards.text([("cm-0", MAC, BRIDGE_MAC, found)]).splitlines():
            assert line.replace("!= {", "").replace("& 0x1fff !=", "").replace("& 0xfff8 !=", "").count("!=") < 2, line


def test_a_card_of_ours_has_its_own_addresses_and_no_others() -> None:
    found = guard(machine(OURS))
    assert found == Guard(addresses=("10.210.0.2",), others=("10.210.0.1",), addresses6=(
        "fe80::5054:ff:feda:3d10", "fd12:3456:789a:1:5054:ff:feda:3d10"))


def test_on_the_lan_only_the_mac_is_known_and_offloads_are_not_to_be_had() -> None:
    assert guard(machine(LAN)) == Guard(others=("192.168.86.1", "192.168.86.2"), offload=False)


def test_a_network_without_guards_has_none_but_what_the_machine_itself_wants() -> None:
    free = {OURS.name: dataclasses.replace(OURS, guarded=False)}
    assert guard(machine(OURS), free) is None
    found = guard(machine(OURS, isolate=True), free)
    assert found and not found.locked and found.apart == ("10.210.0.1/24", "fd12:3456:789a:1::1/64")
    found = guard(machine(OURS, net_rate=8000), free)
    assert found
    _, chain, *rules = guards.text([("cm-0", MAC, "", found)]).splitlines()
    assert chain.endswith('device "cm-0" priority 0; policy accept; }')
    assert rules == ["add rule netdev cloudme-guard in-cm-0 limit rate over 1000 bytes/second burst 65536 bytes drop"]


def test_who_is_set_apart_is_so_on_all_its_networks_from_each_of_its_cards() -> None:
    lab = dataclasses.replace(OURS, name=Name("lab"), address=IPv4Interface("10.44.0.1/24"), address6=None,
                              dhcp_first=IPv4Address("10.44.0.2"), dhcp_last=IPv4Address("10.44.0.9"))
    found = taps.of(machine(OURS, lab, isolate=True), {**NETWORKS, lab.name: lab})
    assert [tap.guard.apart for tap in found if tap.guard] == [
        ("10.210.0.1/24", "fd12:3456:789a:1::1/64", "10.44.0.1/24")] * 2


@pytest.mark.parametrize(("text", "bits"), [
    ("100M", 10**8), ("1.5G", 1_500_000_000), ("64k", 64_000), ("8000", 8000), ("10 Mbit", 10**7), ("1Gbit/s", 10**9)])
def test_a_rate_is_bits_a_second(text: str, bits: int) -> None:
    assert bit_rate(text) == bits


@pytest.mark.parametrize("text", ["", "0", "7999", "fast", "1T", "200G", "-1M", "1MB"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no rate"):
        bit_rate(text)


def test_a_line_of_a_group_file_sets_apart_and_limits() -> None:
    one, other = groupfiles.parse("debian:1:a:web:iso=yes;rate=100M\ndebian:1:a:sql:iso=no", "f", {"debian"})
    assert (one.isolate, one.net_rate, other.isolate, other.net_rate) == (True, 10**8, False, None)


def test_options_do_as_the_lines_of_a_file(store: Store) -> None:
    none = dict.fromkeys(("group", "type", "prefix", "memory", "cpus", "count", "network", "ip", "limit", "ports",
                          "share", "file"))
    args = argparse.Namespace(**none, name="debian", named=None, name_required=False, isolate=True, net_rate="1M")
    (request,) = requests.read(args, store)
    assert (request.isolate, request.net_rate) == (True, 10**6)
    args = argparse.Namespace(**{**vars(args), "name": None, "file": "x"})
    with pytest.raises(UsageError, match="--isolate does not go with a file"):
        requests.read(args, store)


def wanted(**more: Any) -> CloneRequest:
    return CloneRequest(template=Name("debian"), count=1, group=Name("g"), type=Name("web"), prefix=Name("web"), **more)


def test_a_clone_is_as_it_was_asked_for(store: Store) -> None:
    host = fakes.host()
    template(store, host)
    with Transaction(host, print) as transaction, clones.making(
            transaction, store, [wanted(isolate=True, net_rate=10**6)], SETTINGS) as (made,):
        pass
    assert (made.isolate, made.net_rate) == (True, 10**6) and store.machine("web00") == made


def test_on_somebody_elses_bridge_nobody_is_set_apart(lan: Store) -> None:
    host = fakes.host(net=fakes.FakeNet(bridges={"br0", "bridge0"}))
    template(lan, host)
    with (pytest.raises(UsageError, match="'lan' is external"), Transaction(host, print) as transaction,
          clones.making(transaction, lan, [wanted(isolate=True, networks=(DEFAULT_NETWORK, Name("lan")))], SETTINGS)):
        pass
    with pytest.raises(UsageError, match="'lan' is external"):
        make(lan, isolate=True)


class Running(fakes.FakeShell):
    """Takes what it is told; lets in, or not, with the new key."""

    def __init__(self, stage: str) -> None:
        super().__init__(probes={"vm1": [stage]}, answers={"vm1": Ended(status=0, stdout=b"", stderr=b"")})


@pytest.mark.parametrize("stage", ["ready", "refused"])
def test_the_guard_goes_along_with_an_address_that_changes_now(lan: Store, stage: str) -> None:
    """While nobody knows which it has, the machine may have both."""
    old = make(lan)
    net = fakes.FakeNet(bridges={"br0"})
    host = fakes.host(net=net, shell=Running(stage))
    change = machines.Change(address="192.168.86.54")
    new = machines.changed(host, lan, old, change, SETTINGS)
    assert new
    update = machines.Update(lan, old, new, change, SETTINGS)
    apply = machines.Apply(update, lan.network_of(SETTINGS, Name("lan")), lan.target(old))
    try:
        with Transaction(host, print) as transaction:
            transaction.apply([update, apply])
    except Exception as error:
        assert stage == "refused" and not isinstance(error, PeerError)
    seen = [one.addresses for cards in net.guarded for one in cards if one]
    first, last = "192.168.86.53", "192.168.86.54"
    assert seen == ([(first, last), (last,)] if stage == "ready" else [(first, last), (first, last), (first,)])


def test_a_network_that_stops_sweeps(store: Store, tmp_path: Path) -> None:
    net = fakes.FakeNet(bridges=set())
    host = fakes.host(net=net)
    files = HostFiles(bridge_acl=str(tmp_path / "acl"), hosts=str(tmp_path / "hosts"), networkmanager=str(tmp_path))
    for dry_run in (True, False):
        with Transaction(host, print, dry_run=dry_run) as transaction:
            networks.stop(transaction, store, OURS, files)
    assert net.swept == 1


def test_a_note_tells_that_there_are_no_guards() -> None:
    host = fakes.host(run=fakes.FakeRun())
    assert truth.notes(host, OURS) == []
    free = dataclasses.replace(OURS, guarded=False)
    assert truth.notes(host, free) == ["machines may send what they like (no guard)"]


def test_what_lost_its_guard_gets_it_back(store: Store, tmp_path: Path) -> None:
    """Of a machine that runs, on the network that is looked at, by rules that know its other network, too."""
    other = dataclasses.replace(OURS, name=Name("lab"), bridge="cm-lab", address=IPv4Interface("10.44.0.1/24"),
                                dhcp_first=IPv4Address("10.44.0.2"), dhcp_last=IPv4Address("10.44.0.9"))
    for network in (OURS, other):
        store.publish_network(network)
    net = fakes.FakeNet(bare={MAC[:-1] + "0", MAC[:-1] + "1"})
    host = fakes.host(net=net)
    files = HostFiles(bridge_acl=str(tmp_path / "acl"), hosts=str(tmp_path / "hosts"), networkmanager=str(tmp_path))
    made = machine(OURS, other, isolate=True, net_rate=8000)
    os.makedirs(store.folder(made))
    store.publish(made)
    lock = layout.lock(store.folder(made))
    Path(lock).touch()
    assert truth.find(host, store, OURS, files).unguarded == {}
    fd = take_lock(lock)
    try:
        found = truth.find(host, store, OURS, files)
        steps = [step for step in truth.diff(store, truth.want(host, store, OURS), found, files)
                 if isinstance(step, changes.GuardTaps)]
        assert [step.describe() for step in steps] == ["guard web00's tap on bridge0"]
        with Transaction(host, print) as transaction:
            transaction.apply(steps)
        assert net.guarded == [[taps.of(made, {OURS.name: OURS, other.name: other})[0].guard]]
        assert truth.find(host, store, OURS, files).unguarded == {}
        assert list(truth.find(host, store, other, files).unguarded) == ["web00"]
    finally:
        os.close(fd)
