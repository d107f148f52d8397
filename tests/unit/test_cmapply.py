"""cmapply over a host of fakes: brought there once, and the second time nothing; what an earlier file had."""

from __future__ import annotations

import dataclasses
import json
import os
from ipaddress import IPv4Network

import pytest

from cloudme.homelab import site
from cloudme.model.names import Name
from cloudme.model.network import Link
from cloudme.model.steps import Transaction
from cloudme.operations import networks
from cloudme.store import take_lock
from tests.unit.labs import ONE, SETTINGS, TWO, Lab, by_hand, lab, one
from tests.unit.test_homelab import said

__all__ = ["lab"]


def test_a_file_is_brought_about_once_and_the_second_time_nothing_is_done(lab: Lab) -> None:
    assert lab.well(TWO) == {"db": "made, started", "web00": "made, started", "web01": "made, started"}
    assert lab.runs() == {"db", "web00", "web01"}
    assert lab.qemu.launches[0].name == "db"
    assert {name: lab.machine(name).address for name in lab.runs()} == {
        "db": "10.1.0.10", "web00": "10.2.0.20", "web01": "10.2.0.21"}
    assert (lab.machine("db").nics[0].tap, lab.machine("db").vsock_cid) == ("vm-db", 100)
    before = lab.everything()
    assert lab.well(TWO) == {"db": "ok", "web00": "ok", "web01": "ok"}
    assert lab.everything() == before


@pytest.mark.parametrize("applied", [False, True])
def test_a_dry_run_changes_nothing_at_all(lab: Lab, applied: bool) -> None:
    if applied:
        lab.well(TWO)
        lab.stop()
    before = lab.everything()
    changed = TWO.replace("ip: 10.1.0.10", "ip: 10.1.0.77, mem: 700").replace("replicas: 2", "replicas: 1")
    ended = lab.apply(changed, "--dry-run", "--prune", "--restart", "--diff")
    assert ended.status == 0, ended.stderr
    assert lab.everything() == before
    assert lab.store.network("lan") is not None or not applied
    lines = ended.stdout.splitlines()
    assert "start db" in lines and "start web00" in lines
    assert ("destroy web01 and its disks" in lines) == applied
    assert ("db.ip: 10.1.0.10 -> 10.1.0.77" in lines) == applied
    assert any(line.startswith("make db: a clone of debian, group homelab") for line in lines) != applied


def test_a_dry_run_looks_into_what_is_not_there_yet(lab: Lab) -> None:
    lab.well(one())
    lab.stop()
    moved = TWO.split("machines:")[0] + "machines: {db: {vlan: dmz}}"
    assert lab.apply(moved, "--dry-run").status == 0
    assert lab.well(moved)["db"] == "changed network, changed ip, started"
    assert lab.machine("db").address == "10.2.0.2"


def test_one_field_that_differs_changes_that_alone(lab: Lab) -> None:
    lab.well(TWO)
    ended = lab.apply(TWO.replace("5432", "5433"), "--diff")
    assert [line.split() for line in ended.stdout.splitlines()] == [
        ["db.ports:", "sql=5432", "->", "sql=5433"], ["db", "10.1.0.10", "changed", "ports"],
        ["web00", "10.2.0.20", "ok"], ["web01", "10.2.0.21", "ok"]]
    assert lab.machine("db").ports[0].first == 5433  # type: ignore[index]
    assert lab.runs() == {"db", "web00", "web01"}


def test_json_has_stdout_for_itself(lab: Lab) -> None:
    lab.well(one("ports: {a: 1}"))
    ended = lab.apply(one("ports: {a: 2}, vcpu: 1"), "--diff", "--json")
    assert json.loads(ended.stdout) == [{
        "name": "db", "address": "10.1.0.2", "result": "changed ports, needs a restart", "did": ["changed ports"],
        "pending": ["vcpu"], "message": None}]
    assert "db.ports: a=1 -> a=2" in ended.stderr


def test_what_needs_a_restart_waits_for_one(lab: Lab) -> None:
    lab.well(one("ip: 10.1.0.10"))
    before = lab.machine("db")
    ended = lab.apply(one("ip: 10.1.0.11, vcpu: 1"))
    assert (ended.status, lab.told(ended)) == (0, {"db": "needs a restart"})
    assert "db needs a restart: vcpu: 2 -> 1, ip: 10.1.0.10 -> 10.1.0.11" in ended.stderr
    assert lab.machine("db") == before
    assert lab.well(one("ip: 10.1.0.11, vcpu: 1"), "--restart") == {"db": "changed vcpu, changed ip, started"}
    assert (lab.machine("db").address, lab.machine("db").shape.vcpus) == ("10.1.0.11", 1)
    assert lab.store.owners("lan") == {"10.1.0.11": "db"}
    assert lab.machine("db").seed_id != before.seed_id
    assert lab.well(one("ip: 10.1.0.11, vcpu: 1"), "--restart") == {"db": "ok"}


@pytest.mark.parametrize("words", [(), ("--no-start",)])
def test_what_ran_runs_again_after_a_restart(lab: Lab, words: tuple[str, ...]) -> None:
    lab.well(one("autostart: false"), "db")
    assert lab.well(one("autostart: false, vcpu: 1"), "--restart", *words) == {"db": "changed vcpu, started"}
    assert lab.runs() == {"db"}
    lab.stop()
    assert lab.well(one("autostart: false, vcpu: 2"), "--restart") == {"db": "changed vcpu"}
    assert lab.runs() == set()


def test_a_failure_leaves_others_alone_and_those_that_wait_for_it(lab: Lab) -> None:
    lab.qemu.refuse = {"db"}
    ended = lab.apply(TWO + "  own: {}\n")
    assert (ended.status, lab.told(ended)) == (76, {
        "db": "made, failed", "web00": "skipped", "web01": "skipped", "own": "made, started"})
    assert "web00: waits for db, which failed" in ended.stderr
    lab.qemu.refuse = set()
    assert lab.well(TWO + "  own: {}\n") == {
        "db": "started", "web00": "made, started", "web01": "made, started", "own": "ok"}


def test_errors_are_told_whatever_is_said_to_be_quiet(lab: Lab) -> None:
    lab.qemu.refuse = {"db"}
    assert "QEMU for 'db' ended" in lab.apply(one(), "-q").stderr


def test_two_at_once_wait(lab: Lab) -> None:
    os.makedirs(os.path.dirname(lab.store.world.homelab_lock))
    lock = take_lock(lab.store.world.homelab_lock)
    assert lab.apply(one()).status == 75
    assert lab.apply(one(), "--dry-run").status == 0
    os.close(lock)
    assert lab.apply(one()).status == 0


# names

def test_names_choose_machines_or_entries(lab: Lab) -> None:
    text = TWO.replace("replicas: 2", "replicas: 2, autostart: false")
    assert lab.well(text, "web01") == {"web01": "made, started"}
    assert lab.well(text, "web") == {"web00": "made, started", "web01": "ok"}
    assert lab.apply(text, "nobody").status == 66
    assert lab.apply(text, "web", "--prune").status == 64
    lab.stop()
    assert lab.well(text) == {"db": "made, started", "web00": "ok", "web01": "ok"}
    assert lab.runs() == {"db"}


def test_a_part_of_the_file_does_not_forget_the_rest(lab: Lab) -> None:
    lab.well(TWO.replace("replicas: 2", "replicas: 3"))
    lab.well(TWO, "web00")
    ended = lab.apply(TWO)
    assert "no longer in the file: web02 (--prune destroys)" in ended.stderr
    assert lab.apply(TWO, "--prune", "-y").status == 0
    assert {machine.name for machine in lab.store.machines()} == {"db", "web00", "web01"}


# what an earlier file had

def test_replicas_come_and_go(lab: Lab) -> None:
    lab.well(TWO)
    assert lab.well(TWO.replace("replicas: 2", "replicas: 3")) == {
        "db": "ok", "web00": "ok", "web01": "ok", "web02": "made, started"}
    lab.well(TWO.replace("replicas: 2", "replicas: 1"))
    lab.well(TWO.replace("replicas: 2", "replicas: 1"))  # it is not forgotten
    assert lab.apply(TWO.replace("replicas: 2", "replicas: 1"), "--prune").status == 64  # nobody says yes
    assert lab.runs() == {"db", "web00", "web01", "web02"}
    assert lab.well(TWO.replace("replicas: 2", "replicas: 1"), "--prune", "-y") == {"db": "ok", "web00": "ok"}
    assert {machine.name for machine in lab.store.machines()} == {"db", "web00"}
    assert "no longer" not in lab.apply(TWO.replace("replicas: 2", "replicas: 1")).stderr


def test_one_machine_that_becomes_replicas_is_left_over(lab: Lab) -> None:
    lab.well(one())
    ended = lab.apply(one("replicas: 1"))
    assert (ended.status, lab.told(ended)) == (0, {"db00": "made, started"})
    assert lab.well(one("replicas: 1"), "--prune", "--yes") == {"db00": "ok"}
    assert lab.runs() == {"db00"}


def test_a_machine_that_was_renamed_keeps_its_address_until_it_goes(lab: Lab) -> None:
    lab.well(one("ip: 10.1.0.10, vsock_cid: 5, mac: 52:54:00:00:00:01"))
    text = one("ip: 10.1.0.10, vsock_cid: 5, mac: 52:54:00:00:00:01").replace("db:", "sql:")
    ended = lab.apply(text)
    assert (ended.status, lab.told(ended)) == (73, {"sql": "failed"})
    assert "cloudme.yaml:3:42: machines.sql.ip: warning: 10.1.0.10 is the address of 'db' " \
        "(it is no longer in the file: --prune destroys it)\n" in ended.stderr
    assert lab.apply(text, "--dry-run", "--prune").status == 0
    assert lab.runs() == {"db"}
    assert lab.well(text, "--prune", "-y") == {"sql": "made, started"}
    assert lab.runs() == {"sql"} and lab.store.owners("lan") == {"10.1.0.10": "sql"}


def test_a_machine_that_somebody_made_again_is_not_destroyed(lab: Lab) -> None:
    lab.well(TWO)
    lab.destroy("web01")
    by_hand(lab, "web01")
    fewer = TWO.replace("replicas: 2", "replicas: 1")
    assert lab.well(fewer, "--prune", "-y") == {"db": "ok", "web00": "ok"}
    assert lab.machine("web01").group == "pf1"


def test_machines_and_networks_that_no_file_had_are_never_pruned(lab: Lab) -> None:
    by_hand(lab, "mine")
    lab.well(one())
    lab.well(one().replace("db", "sql"), "--prune", "-y")
    assert {machine.name for machine in lab.store.machines()} == {"mine", "sql"}


def test_a_vlan_goes_with_its_machines_and_not_before(lab: Lab) -> None:
    lab.well(TWO)
    fewer = one("ip: 10.1.0.10, ports: {sql: 5432}, vsock_cid: 100")
    lab.well(fewer)
    assert lab.store.network("dmz")
    assert "no longer in the file: web00, web01, VLAN dmz" in lab.apply(fewer).stderr
    assert "delete the network dmz" in lab.apply(fewer, "--prune", "--dry-run").stdout
    assert lab.well(fewer, "--prune", "-y") == {"db": "ok"}
    assert lab.store.network("dmz") is None
    assert lab.notes()["vlans"] == ["lan"]


def test_a_vlan_that_others_use_stays_and_the_rest_is_done(lab: Lab) -> None:
    lab.well(TWO)
    by_hand(lab, "mine", "dmz")
    ended = lab.apply(one("ip: 10.1.0.10") + "  new: {template: debian, vlan: lan}\n", "--prune", "-y")
    assert ended.status == 75 and "dmz stays: network 'dmz' is used by mine" in ended.stderr
    assert lab.store.network("dmz") and lab.machine("new") and "web00" not in lab.runs()


def test_a_vlan_is_left_behind_by_the_machines_of_the_same_file(lab: Lab) -> None:
    lab.well(one())
    lab.stop()
    text = one().replace("{lan", "{wifi").replace(": lan", ": wifi").replace("10.1", "10.9").replace("id: 10", "id: 9")
    assert lab.well(text, "--prune", "-y") == {"db": "changed network, changed ip, started"}
    assert lab.store.network("lan") is None and lab.machine("db").address == "10.9.0.2"


# networks

def test_a_network_made_by_hand_is_not_changed(lab: Lab) -> None:
    own = site.networks(said(one()), lab.store, SETTINGS)[Name("lan")]
    with Transaction(lab.host, lambda line: None) as transaction:
        networks.create(transaction, lab.store, dataclasses.replace(own, dns=(own.address.ip + 5,)))
    ended = lab.apply(one())
    assert ended.status == 73 and "there is a network 'lan', and it is another one" in ended.stderr
    assert lab.told(ended) == {"db": "failed"}
    with Transaction(lab.host, lambda line: None) as transaction:
        networks.delete(transaction, lab.store, "lan")
        networks.create(transaction, lab.store, own)
    assert lab.well(one()) == {"db": "made, started"}


def test_a_vlans_network_changes_when_nobody_is_in_its_way(lab: Lab) -> None:
    lab.well(one("ip: 10.1.0.10"))
    changed = one("ip: 10.5.0.10").replace("10.1.0.0", "10.5.0.0")
    ended = lab.apply(changed, "--restart")
    assert ended.status == 78 and "'db' has the address 10.1.0.10" in ended.stderr
    assert lab.runs() == {"db"} and lab.machine("db").address == "10.1.0.10"
    gateway = one("ip: 10.1.0.10").replace("/24}", "/24, gateway: 10.1.0.254}")
    assert lab.well(gateway) == {"db": "ok"}
    assert str(lab.store.network("lan").address) == "10.1.0.254/24"  # type: ignore[union-attr]


def test_the_way_of_keeping_vlans_apart_changes_while_machines_are_off(lab: Lab) -> None:
    lab.well(one())
    bridges = one().replace("networks: {", "networks: {vlan_mode: bridges, ")
    ended = lab.apply(bridges)
    assert ended.status == 75 and "vmstop db" in ended.stderr and lab.runs() == {"db"}
    lab.stop()
    assert lab.well(bridges) == {"db": "started"}
    assert lab.store.network("lan").vlan is None and "cm-lan" in lab.net.known  # type: ignore[union-attr]
    assert lab.well(bridges) == {"db": "ok"}


def test_a_network_that_cannot_be_had_fails_its_machines_alone(lab: Lab) -> None:
    lab.net.vlans = False
    text = one().replace("machines:", "machines:\n  own: {template: debian}")
    before = lab.everything()
    dry = lab.apply(text, "--dry-run")
    assert (dry.status, lab.everything()) == (69, before)
    ended = lab.apply(text)
    assert dry.stderr in ended.stderr
    assert (ended.status, lab.told(ended)) == (69, {"own": "made, started", "db": "failed"})
    assert ended.stderr.count("do not keep VLANs apart") == 1


def test_what_is_in_the_way_is_told_by_a_dry_run_and_fails_alone(lab: Lab) -> None:
    own = site.networks(said(one()), lab.store, SETTINGS)[Name("lan")]
    with Transaction(lab.host, lambda line: None) as transaction:
        networks.create(transaction, lab.store, dataclasses.replace(own, name=Name("home"), vlan=9))
    by_hand(lab, "a", "home")
    lab.net.known["wlan0"] = Link(name="wlan0", routes=(IPv4Network("10.2.0.0/16"),))
    before = lab.everything()
    for text, status, words in (
        (TWO, 78, "2:11: networks.vlans.lan: warning: 10.1.0.0/24 overlaps with 10.1.0.0/24, the network 'home'\n"),
        ("machines: {b: {template: debian, network: home, ip: 10.1.0.2}}", 73,
         "1:53: machines.b.ip: warning: 10.1.0.2 is the address of 'a'\n"),
        (TWO.replace("10.1.0", "10.5.0"), 78, "network dmz: 10.2.0.0/24 overlaps with 10.2.0.0/16, which wlan0 has "
         "(another --cidr for 'dmz', or cidr in the file of a homelab)\n"),
    ):
        ended = lab.apply(text, "--dry-run")
        assert (ended.status, lab.everything()) == (status, before) and words in ended.stderr
    ended = lab.apply(TWO.replace("10.1.0", "10.5.0"), "--no-configure")  # as at boot
    assert lab.told(ended) == {"db": "made, started", "web00": "failed", "web01": "failed"}


def test_a_host_that_is_elsewhere_has_the_machines_that_it_can_have(lab: Lab) -> None:
    lab.well(TWO)
    lab.stop()
    lab.net.known |= {"wlan0": Link(name="wlan0", routes=(IPv4Network("10.2.0.0/16"),))}
    ended = lab.apply(TWO)
    assert (ended.status, lab.told(ended)) == (78, {"db": "started", "web00": "failed", "web01": "failed"})


def test_a_vlan_that_was_renamed_has_its_addresses_when_the_old_one_is_gone(lab: Lab) -> None:
    lab.well(one())
    renamed = ONE.partition("machines")[0].replace("lan:", "home:")
    ended = lab.apply(renamed, "--dry-run")
    assert ended.status == 73 and "the network 'lan' (it is no longer in the file: --prune destroys it)" in ended.stderr
    lab.destroy("db")
    assert lab.well(renamed, "--prune", "-y") == {}
    assert [network.name for network in lab.store.networks()] == ["home"]


def test_an_empty_file_prunes_nobody(lab: Lab) -> None:
    lab.well(TWO)
    ended = lab.apply("machines: {}\n", "--prune", "-y")
    assert (ended.status, "there is no machine in" in ended.stderr) == (64, True)
    assert {machine.name for machine in lab.store.machines()} == {"db", "web00", "web01"}


def test_a_network_that_changes_is_shown(lab: Lab) -> None:
    lab.well(TWO)
    changed = TWO.replace(", reaches: lan", "")
    assert "networks.vlans.dmz.reaches: lan -> not set\n" in lab.apply(changed, "--diff").stdout
    assert "networks" not in lab.apply(changed, "--diff").stdout
