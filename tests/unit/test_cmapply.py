"""cmapply over a host of fakes: brought there once, and the second time nothing; what fails leaves what was there."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
from collections.abc import Callable
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from cloudme import cli, layout, seed, shared
from cloudme.errors import HostUnavailable, PeerError, StoreError, UsageError
from cloudme.layout import World
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import Machine
from cloudme.model.names import DefinitionName, Name
from cloudme.model.network import Network
from cloudme.model.ports import HostReport
from cloudme.model.steps import Transaction
from cloudme.operations import clones, networks, readiness
from cloudme.store import Store, take_lock
from tests import fakes
from tests.conftest import Ended
from tests.unit.labs import REALM, TWO, Lab
from tests.unit.test_clones import request
from tests.unit.test_homelab import said
from tests.unit.test_networks import files
from tests.unit.test_shared import root
from tests.unit.test_warm import make as warm_up

__all__ = ["files", "root"]

SETTINGS = Settings()
ONE = """\
networks: {vlans: {lan: {id: 10, cidr: 10.1.0.0/24}}}
machines:
  db: {template: debian, vlan: lan%s}
"""


def one(more: str = "") -> str:
    return ONE % (f", {more}" if more else "")


@pytest.fixture
def lab(command: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(command, tmp_path, monkeypatch)


def test_a_file_is_brought_about_once_and_the_second_time_nothing_is_done(lab: Lab) -> None:
    assert lab.well(TWO) == {"db": "made, started", "web00": "made, started", "web01": "made, started"}
    assert lab.runs() == {"db", "web00", "web01"}
    assert [launch.name for launch in lab.qemu.launches][0] == "db"
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
    assert json.loads(ended.stdout) == [{"name": "db", "address": "10.1.0.2", "result": "changed ports, needs a restart",
                                         "did": ["changed ports"], "pending": ["vcpu"], "message": None}]
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


def test_a_machine_that_was_stopped_for_a_change_that_fails_runs_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab.well(one("ip: 10.1.0.10"))
    before = lab.machine("db")
    (reserved,) = lab.store.reservations("lan").items()

    write = seed.write

    def refused(*args: object) -> None:
        monkeypatch.setattr(seed, "write", write)
        raise PeerError("no seed")

    monkeypatch.setattr(seed, "write", refused)
    ended = lab.apply(one("ip: 10.1.0.11"), "--restart")
    assert (ended.status, lab.told(ended)) == (76, {"db": "failed"})
    assert lab.runs() == {"db"} and lab.machine("db") == before
    assert lab.store.reservations("lan").items() == {reserved}
    assert len(lab.qemu.launches) == 2


def test_what_cannot_be_is_known_before_a_machine_is_stopped(lab: Lab) -> None:
    lab.well(one())
    lab.net.others["10.1.0.50"] = "52:54:00:99:99:99"
    ended = lab.apply(one("ip: 10.1.0.50"), "--restart")
    assert ended.status == 73 and "10.1.0.50 is in use" in ended.stderr
    assert len(lab.qemu.launches) == 1 and lab.runs() == {"db"}


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
    assert lab.apply(text).status == 73
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


def by_hand(lab: Lab, name: str, **more: object) -> None:
    with Transaction(lab.host, lambda line: None) as transaction, clones.making(
            transaction, lab.store, [request(name=Name(name), **more)], SETTINGS):
        pass


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
    assert "no longer in the file: web00, web01, network dmz" in lab.apply(fewer).stderr
    assert "delete the network dmz" in lab.apply(fewer, "--prune", "--dry-run").stdout
    assert lab.well(fewer, "--prune", "-y") == {"db": "ok"}
    assert lab.store.network("dmz") is None
    assert lab.notes()["vlans"] == ["lan"]


def test_a_vlan_that_others_use_stays_and_the_rest_is_done(lab: Lab) -> None:
    lab.well(TWO)
    by_hand(lab, "mine", networks=(Name("dmz"),))
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
    from cloudme.homelab import site

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
    ended = lab.apply(text)
    assert (ended.status, lab.told(ended)) == (69, {"own": "made, started", "db": "failed"})
    assert ended.stderr.count("do not keep VLANs apart") == 1


# other machines

def test_a_machine_of_another_kind_is_left_as_it_is(lab: Lab) -> None:
    lab.well(one())
    ended = lab.apply(one().replace("template: debian", "image: bookworm"))
    assert ended.status == 73 and "vmstop -d db" in ended.stderr
    assert lab.machine("db").template == "debian" and lab.runs() == {"db"}
    assert lab.notes()["machines"] == {"db": lab.machine("db").uuid}


def test_a_machine_that_is_defined_is_left_as_it_is(lab: Lab) -> None:
    lab.well(one())
    lab.stop()
    before = dataclasses.replace(lab.machine("db"), definition=DefinitionName("db"))
    lab.store.publish(before)
    ended = lab.apply(one("vcpu: 1"), "--restart")
    assert ended.status == 73 and lab.machine("db") == before
    ended = lab.apply("machines: {}", "--prune", "-y")
    assert ended.status == 75 and "lan stays: network 'lan' is used by db" in ended.stderr
    assert lab.machine("db") == before


@pytest.mark.parametrize("same", ["vsock_cid: 7", "mac: 52:54:00:00:00:01", "tap_id: tap7"])
def test_what_a_machine_of_no_file_has_is_nobody_elses(lab: Lab, same: str) -> None:
    lab.well(one(same))
    os.unlink(lab.store.world.homelab)
    ended = lab.apply(one(same).replace("db:", "sql:"))
    assert ended.status == 73 and "db'" in ended.stderr
    assert {machine.name for machine in lab.store.machines()} == {"db"}


def test_addresses_are_not_swapped_by_halves(lab: Lab) -> None:
    text = one("ip: 10.1.0.10") + "  sql: {template: debian, vlan: lan, ip: 10.1.0.11}\n"
    lab.well(text)
    swapped = text.replace("0.10", "0.x").replace("0.11", "0.10").replace("0.x", "0.11")
    assert lab.well(swapped, "--restart") == {"db": "changed ip, started", "sql": "changed ip, started"}
    assert lab.store.owners("lan") == {"10.1.0.11": "db", "10.1.0.10": "sql"}
    assert lab.runs() == {"db", "sql"}


def test_addresses_are_not_swapped_where_one_runs_and_may_not_be_stopped(lab: Lab) -> None:
    text = one("ip: 10.1.0.10") + "  sql: {template: debian, vlan: lan, ip: 10.1.0.11}\n"
    lab.well(text)
    lab.stop("sql")
    swapped = text.replace("0.10", "0.x").replace("0.11", "0.10").replace("0.x", "0.11")
    ended = lab.apply(swapped)
    assert ended.status == 73 and "10.1.0.10 is the address of 'db'" in ended.stderr
    assert lab.store.owners("lan") == {"10.1.0.10": "db", "10.1.0.11": "sql"}
    assert lab.apply(swapped, "--restart", "--dry-run").status == 0
    assert lab.runs() == {"db"}
    lab.stop()
    assert lab.well(swapped, "--no-start") == {"db": "changed ip", "sql": "changed ip"}


def test_a_swap_that_fails_leaves_all_as_they_were(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    text = one("ip: 10.1.0.10") + "  sql: {template: debian, vlan: lan, ip: 10.1.0.11}\n"
    lab.well(text)
    before = {name: lab.machine(name) for name in ("db", "sql")}
    write = Store.publish

    def refused(store: Store, machine: Machine) -> None:
        if machine.address == "10.1.0.10" and machine.name == "sql":
            raise StoreError("disk full")
        write(store, machine)

    monkeypatch.setattr(Store, "publish", refused)
    swapped = text.replace("0.10", "0.x").replace("0.11", "0.10").replace("0.x", "0.11")
    ended = lab.apply(swapped, "--restart")
    assert ended.status == 74 and lab.runs() == {"db", "sql"}
    assert {name: lab.machine(name) for name in before} == before
    assert lab.store.owners("lan") == {"10.1.0.10": "db", "10.1.0.11": "sql"}


# playbooks

def test_a_playbook_is_applied_when_it_is_new(lab: Lab) -> None:
    book = lab.folder / "db.yml"
    book.write_text("- hosts: all\n")
    text = one("playbook: db.yml")
    assert lab.well(text) == {"db": "made, started, configured"}
    assert lab.playbooks.runs == [(str(book), ["db"])]
    assert lab.well(text) == {"db": "ok"}
    book.write_text("- hosts: db\n")
    assert lab.well(text, "--no-configure") == {"db": "ok"}
    assert "apply " + str(book) + " to db" in lab.apply(text, "--dry-run").stdout
    assert lab.well(text) == {"db": "configured"}
    lab.stop()
    book.write_text("- hosts: none\n")
    assert lab.well(text, "--no-start") == {"db": "ok"}
    assert "apply" not in lab.apply(text, "--dry-run", "--no-start").stdout
    assert len(lab.playbooks.runs) == 2


def test_a_machine_that_was_made_again_is_configured_again(lab: Lab) -> None:
    (lab.folder / "db.yml").write_text("- hosts: all\n")
    lab.well(one("playbook: db.yml"))
    lab.destroy("db")
    assert lab.well(one("playbook: db.yml")) == {"db": "made, started, configured"}
    assert list(lab.notes()["configured"]) == [lab.machine("db").uuid]


def test_a_playbook_that_fails_is_tried_again(lab: Lab) -> None:
    (lab.folder / "db.yml").write_text("- hosts: all\n")
    text = one("playbook: db.yml") + "  sql: {template: debian, vlan: lan, playbook: db.yml}\n"
    lab.playbooks.reports = {"db": HostReport(status="failed", message="task 1: no")}
    ended = lab.apply(text)
    assert (ended.status, lab.told(ended)) == (71, {"db": "made, started, failed", "sql": "made, started, configured"})
    assert "db: db: task 1: no" in ended.stderr
    lab.playbooks.reports = {}
    assert lab.well(text) == {"db": "configured", "sql": "ok"}


def test_a_playbook_that_went_meanwhile_fails_its_machine(lab: Lab) -> None:
    (lab.folder / "db.yml").write_text("- hosts: all\n")
    lab.well(one("playbook: db.yml"))
    ended = lab.apply(one("playbook: other.yml"))
    assert ended.status == 65 and "other.yml" in ended.stderr


# what is live and what is not

def test_limits_group_and_type_change_while_it_runs(lab: Lab) -> None:
    lab.well(one())
    assert lab.well(one("limits: {cpus: 1.5}, group: pf1, type: sql")) == {
        "db": "changed group, changed type, changed limits"}
    assert [held.cpus for held in lab.groups.held.values()] == [1.5]
    machine = lab.machine("db")
    assert (machine.group, machine.type, machine.limits.cpus) == ("pf1", "sql", 1.5)
    assert lab.runs() == {"db"} and len(lab.qemu.launches) == 1


def test_limits_that_cannot_be_held_are_none(lab: Lab) -> None:
    lab.well(one())
    lab.groups.lacks = HostUnavailable("no cgroups")
    for words in ((), ("--restart",)):
        assert lab.apply(one("limits: {cpus: 1.5}, group: pf1"), *words).status == 69
        assert lab.machine("db").group == "homelab" and lab.runs() == {"db"}
    lab.stop()
    assert lab.apply(one("limits: {cpus: 1.5}, group: pf1")).status == 69
    assert lab.machine("db").group == "homelab"


def test_memory_is_given_back_at_once_and_more_needs_a_restart(lab: Lab) -> None:
    lab.well(one("mem: 1G"))
    lab.qemu.told.balloon = fakes.FakeBalloon(ram=1 << 30, left=1 << 30)
    assert lab.well(one("mem: 600")) == {"db": "changed mem"}
    assert lab.machine("db").shape.ram_mib == 600 and lab.qemu.told.balloon.left == 600 << 20
    assert lab.well(one("mem: 1G")) == {"db": "changed mem"}
    assert lab.well(one("mem: 2G")) == {"db": "needs a restart"}
    lab.qemu.told.balloon.used = 900 << 20
    ended = lab.apply(one("mem: 600"))
    assert ended.status == 64 and "would starve it" in ended.stderr and lab.machine("db").shape.ram_mib == 1024
    lab.qemu.told.balloon = None
    lab.qemu.told.answers["balloon"] = lab.qemu.told.answers["query-balloon"] = HostUnavailable("none")
    lab.qemu.told.answers["query-memory-size-summary"] = {"base-memory": 1 << 30}
    assert lab.well(one("mem: 600")) == {"db": "needs a restart"}


# files that the file names

def test_user_data_is_that_of_the_file_whatever_its_lines_end_with(lab: Lab) -> None:
    given = lab.folder / "user-data"
    given.write_bytes(b"#cloud-config\r\npackages: [vim]\r\n\xff")
    text = one("user_data: user-data")
    lab.well(text)
    assert lab.well(text, "--restart") == {"db": "ok"}
    before = lab.machine("db").seed_id
    given.write_text("#cloud-config\npackages: [emacs]\n")
    assert lab.well(text) == {"db": "needs a restart"}
    assert lab.well(text, "--restart") == {"db": "changed user_data, started"}
    folder = lab.store.folder(lab.machine("db"))
    assert Path(folder, "user-data").read_text() == given.read_text() and lab.machine("db").seed_id != before
    lab.stop()
    assert lab.well(one(), "--no-start") == {"db": "changed user_data"}
    assert lab.well(one(), "--no-start") == {"db": "ok"}


def test_shares_are_made_with_their_folders(lab: Lab) -> None:
    text = one("shares: [{source: %s, mount_point: /srv/data, mode: 0750}]" % (lab.folder / "data"))
    assert f"make the folder {lab.folder}/data, mode 0750" in lab.apply(text, "--dry-run").stdout
    assert not (lab.folder / "data").exists()
    lab.well(one())
    assert lab.well(text) == {"db": "needs a restart"}
    assert not (lab.folder / "data").exists()
    assert lab.well(text, "--restart") == {"db": "changed shares, started"}
    assert (lab.folder / "data").is_dir() and lab.well(text) == {"db": "ok"}


@pytest.mark.parametrize("words", [("--dry-run",), ()])
def test_a_folder_that_nobody_can_own_fails_its_machine_alone(lab: Lab, words: tuple[str, ...]) -> None:
    text = one("shares: [{source: %s, mount_point: /srv, owner: no-such-user}]" % (lab.folder / "data"))
    ended = lab.apply(text + "  sql: {template: debian, vlan: lan}\n", *words)
    assert ended.status == 66 and "no user 'no-such-user'" in ended.stderr
    assert ("make sql" in ended.stdout) if words else (lab.runs() == {"sql"})


IMAGE = """\
machines:
  box: {image: bookworm, machine: microvm, kernel: vmlinuz, mem: 2G, ip: 10.210.0.9%s}
"""


def test_a_machine_on_an_image_boots_what_the_file_says(lab: Lab) -> None:
    for name in ("vmlinuz", "initrd"):
        (lab.folder / name).write_text(f"{name} 1")
    ended = lab.apply(IMAGE % "")
    assert ended.status == 0 and "hangs with 2048 MiB: it gets 2047" in ended.stderr
    machine = lab.machine("box")
    assert (machine.board, machine.shape.ram_mib, machine.image, machine.template) == (
        "microvm", 2047, "bookworm", None)
    assert machine.kernel and not machine.kernel.initrd
    assert lab.well(IMAGE % "") == {"box": "ok"}
    (lab.folder / "vmlinuz").write_text("vmlinuz 2")
    assert lab.well(IMAGE % ", initrd: initrd") == {"box": "needs a restart"}
    folder = Path(lab.store.folder(machine))
    assert (folder / "kernel").read_text() == "vmlinuz 1"
    assert lab.well(IMAGE % ", initrd: initrd", "--restart") == {"box": "changed kernel, changed initrd, started"}
    assert ((folder / "kernel").read_text(), (folder / "initrd").read_text()) == ("vmlinuz 2", "initrd 1")
    assert lab.machine("box").kernel.initrd  # type: ignore[union-attr]
    assert lab.well(IMAGE % ", initrd: initrd", "--restart") == {"box": "ok"}
    assert sorted(path.name for path in folder.glob("*.new")) == []


def test_a_machine_on_an_image_wants_a_key(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(lab.folder / "nobody"))
    text = "machines: {box: {image: bookworm}, db: {template: debian}}"
    ended = lab.command("cmapply", lab.write(text), "--realm", REALM)
    assert ended.status == 64 and "--pubkey-path FILE" in ended.stderr
    assert {machine.name for machine in lab.store.machines()} == {"db"}


def test_a_machine_that_is_to_boot_a_kernel_is_another_one(lab: Lab) -> None:
    (lab.folder / "vmlinuz").write_text("1")
    lab.well("machines: {box: {image: bookworm}}")
    ended = lab.apply("machines: {box: {image: bookworm, kernel: vmlinuz}}", "--restart")
    assert ended.status == 73 and "kernel: not set ->" in ended.stderr and lab.runs() == {"box"}


# where the host lacks something

def test_without_vsock_a_machine_has_none_until_the_host_has(lab: Lab) -> None:
    lab.files.remove("/dev/vhost-vsock")
    assert lab.well(one("vsock_cid: 9")) == {"db": "made, started"}
    assert lab.machine("db").vsock_cid is None
    lab.files.write("/dev/vhost-vsock", "", mode=0o20666)
    assert lab.well(one("vsock_cid: 9")) == {"db": "needs a restart"}
    assert lab.well(one("vsock_cid: 9"), "--restart") == {"db": "changed vsock_cid, started"}


def test_an_external_network_gives_no_addresses(lab: Lab) -> None:
    lan = Network(name=Name("home"), bridge="br0", address=IPv4Interface("192.168.1.1/24"), dhcp_first=None,
                  dhcp_last=None, domain="home", nat=False, external=True, resolve="none")
    lab.net.bridges.add("br0")
    lab.store.publish_network(lan)
    text = "hosts: {template: debian, network: home}\nmachines: {a: {}, b: {ip: 192.168.1.9}}"
    assert lab.well(text) == {"a": "made, started", "b": "made, started"}
    assert (lab.machine("a").address, lab.machine("b").nics[0].static) == (None, True)
    assert lab.well(text) == {"a": "ok", "b": "ok"}
    assert lab.well(text.replace("{}", "{ip: 192.168.1.8}"), "--restart") == {"a": "changed ip, started", "b": "ok"}
    assert lab.well(text.replace("{}", "{network: default}"), "--restart") == {
        "a": "changed network, changed ip, started", "b": "ok"}
    assert lab.machine("a").address == "10.210.0.2"
    ended = lab.apply(text.replace("{}", "{ports: {a: 1}}"), "--restart")
    assert ended.status == 64 and "no rules of ours" in ended.stderr and lab.machine("a").address == "10.210.0.2"


def test_a_machine_without_cards_gets_one(lab: Lab) -> None:
    lab.well(one())
    lab.stop()
    lab.store.publish(dataclasses.replace(lab.machine("db"), nics=()))
    lab.store.release("lan", "db")
    assert lab.well(one()) == {"db": "changed network, changed mac, started"}
    assert lab.machine("db").address == "10.1.0.2" and lab.well(one()) == {"db": "ok"}


def test_a_machine_made_by_hand_becomes_the_files(lab: Lab) -> None:
    lab.well(one())
    by_hand(lab, "web", networks=(Name("lan"),), group=Name("homelab"), type=Name("default"))
    text = one() + "  web: {template: debian, vlan: lan}\n"
    before = lab.machine("web")
    assert lab.well(text) == {"db": "ok", "web": "started"}
    assert lab.machine("web") == before
    assert lab.well(one(), "--prune", "-y") == {"db": "ok"} and "web" not in lab.runs()


# notes

@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 9}', '{"version": 1, "homelab": {}}', "\xff",
                                  '{"version": 1, "homelab": {}, "machines": [], "vlans": [], "configured": {}}'])
def test_notes_that_nobody_can_read_are_told_and_nothing_is_done(lab: Lab, text: str) -> None:
    lab.well(one())
    Path(lab.store.world.homelab).write_text(text, encoding="latin-1")
    ended = lab.apply(one("vcpu: 1"), "--restart")
    assert ended.status == 74 and lab.store.world.homelab in ended.stderr and "Traceback" not in ended.stderr
    assert lab.machine("db").shape.vcpus == 2
    assert lab.dump().status == 74


def test_notes_written_by_hand_do_no_harm(lab: Lab) -> None:
    lab.well(one())
    notes = lab.notes()
    notes["homelab"]["machines"] |= {"db": {"template": "debian", "vlan": "gone", "mem": "nonsense"}, "x": "y"}
    notes["machines"] = {"db": "another", "x": "y", "../..": "z"}
    notes["vlans"] = ["gone", "lan"]
    Path(lab.store.world.homelab).write_text(json.dumps(notes))
    assert lab.dump().status == 0
    assert lab.well(one()) == {"db": "ok"}
    os.unlink(lab.store.world.homelab)
    assert lab.well(one()) == {"db": "ok"}


def test_notes_that_are_lost_are_made_again(lab: Lab) -> None:
    lab.well(TWO)
    before = lab.notes()
    os.unlink(lab.store.world.homelab)
    lab.well(TWO)
    assert lab.notes() == before


# interrupts

def test_an_interrupt_leaves_notes_of_what_was_done_and_the_realm(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(readiness, "each", interrupted)
        ended = lab.apply(TWO)
    assert ended.status == 130 and lab.kept == [True]
    assert lab.runs() == {"db"}
    assert list(lab.notes()["machines"]) == ["db"] and lab.notes()["vlans"] == ["lan", "dmz"]
    assert lab.well("machines: {}", "--prune", "-y") == {}
    assert lab.store.machines() == [] and lab.store.networks() == []


def test_an_interrupt_in_the_middle_of_making_leaves_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(seed, "write", interrupted)
    assert lab.apply(one()).status == 130
    assert lab.store.machines() == [] and lab.store.owners("lan") == {}
    assert lab.notes()["machines"] == {}


def test_an_interrupt_in_the_middle_of_a_restart_lets_the_machine_run_as_before(
    lab: Lab, monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab.well(one())
    before = lab.machine("db")

    write = seed.write

    def interrupted(*args: object) -> None:
        monkeypatch.setattr(seed, "write", write)
        raise KeyboardInterrupt

    monkeypatch.setattr(seed, "write", interrupted)
    assert lab.apply(one("hostname: other"), "--restart").status == 130
    assert lab.machine("db") == before and lab.runs() == {"db"}


def test_a_wait_is_over_when_somebody_interrupts_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.shell.probes = {"db": ["silent"]}
    waited = readiness.all_ended

    def interrupted(futures: object) -> None:
        monkeypatch.setattr(readiness, "all_ended", waited)
        raise KeyboardInterrupt

    monkeypatch.setattr(readiness, "all_ended", interrupted)
    assert lab.apply(one()).status == 130  # and not when its time is over
    assert lab.runs() == {"db"}


# files of each kind

def test_standard_input_is_a_file_of_the_current_folder(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    (lab.folder / "db.yml").write_text("- hosts: all\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(one("playbook: db.yml").encode())))
    assert lab.command("cmapply", "-", "--realm", REALM).status == 0
    assert lab.playbooks.runs == [(str(lab.folder / "db.yml"), ["db"])]


@pytest.mark.parametrize(("name", "text"), [
    ("homelab.toml", '[machines.db]\ntemplate = "debian"\n'),
    ("homelab.json", '{"machines": {"db": {"template": "debian"}}}'),
])
def test_other_forms_of_the_file_say_the_same(lab: Lab, name: str, text: str) -> None:
    assert lab.command("cmapply", lab.write(text, name), "--realm", REALM).status == 0
    assert lab.well("machines: {db: {template: debian}}") == {"db": "ok"}


def test_mistakes_are_told_and_nothing_is_made(lab: Lab) -> None:
    before = lab.everything()
    ended = lab.apply("machines:\n  a: {template: gone, mem: x}\n  b: {vlan: no, template: debian}\n")
    assert ended.status == 65 and lab.everything() == before
    assert [line.rpartition("cloudme.yaml:")[2].split(" ")[0] for line in ended.stderr.splitlines()][:3] == [
        "2:17:", "2:28:", "3:13:"]
    assert lab.command("cmapply", str(lab.folder / "none.yaml")).status == 66
    assert lab.command("cmapply", str(lab.folder)).status == 74


def test_small_is_without_memory_and_devices(lab: Lab) -> None:
    text = one("mem: 300G, vcpu: 64, gpu: '0000:01:00.0'")
    assert lab.apply(text).status == 65
    lab.well(text, "--small")
    machine = lab.machine("db")
    assert (machine.shape.ram_mib, machine.shape.vcpus, machine.devices) == (512, 2, ())


# an ordinary user

@pytest.fixture
def mine(lab: Lab, root: Store, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Likewise in his own realm, beside a network of root's that he may use."""
    store = lab.store
    world = World(data=store.world.data, run=store.world.run, config=store.world.config, realm=REALM, rootless=True)
    monkeypatch.setattr(layout, "world", lambda realm=None: world)
    lab.store = Store(world)
    return lab


def test_on_roots_network_the_card_goes_with_the_address(mine: Lab) -> None:
    text = "hosts: {template: debian, network: host}\nmachines: {a: {}, b: {ip: 10.210.0.9, mac: 52:54:00:00:00:01}}"
    assert mine.well(text) == {"a": "made, started", "b": "made, started"}
    assert mine.well(text) == {"a": "ok", "b": "ok"}
    network = mine.store.network_of(SETTINGS, "host")
    allotted = shared.allotment(network)
    assert {nic.mac for name in "ab" for nic in mine.machine(name).nics} <= set(allotted.values())
    assert mine.machine("b").nics[0].mac == allotted["10.210.0.9"]
    moved = text.replace("{}", "{network: default}")
    assert mine.well(moved, "--restart")["a"] == "changed network, changed ip, started"
    assert mine.well(text, "--restart")["a"].startswith("changed network, changed ip")
    nic = mine.machine("a").nics[0]
    assert nic.mac == allotted[str(nic.address)] and nic.tap is None
    assert mine.well(text) == {"a": "ok", "b": "ok"}
    ended = mine.apply(text.replace("{}", "{isolate: true}"), "--restart")
    assert ended.status == 64 and "is root's" in ended.stderr and mine.runs() == {"a", "b"}


# RAM images

def test_clones_go_on_from_the_ram_image_of_their_template(lab: Lab) -> None:
    store = Store(World(data=lab.store.world.data, run=lab.store.world.run, config=lab.store.world.config))
    assert warm_up(store, lab.host, lab.store.template("debian"))
    lab.qemu.launches.clear()
    text = TWO.replace("replicas: 2", "replicas: 2, autostart: false")
    assert lab.well(text) == {"db": "made, started", "web00": "made", "web01": "made"}
    assert (bool(lab.machine("db").bases), bool(lab.machine("web00").bases)) == (True, False)
    assert lab.well(text) == {"db": "ok", "web00": "ok", "web01": "ok"}
    assert lab.well(text + "  own: {}\n", "--cold")["own"] == "made, started"
    assert not lab.machine("own").bases
    lab.qemu.refuse = {"new"}
    assert lab.apply(text + "  own: {}\n  new: {}\n").status == 76
    assert "new" not in {machine.name for machine in lab.store.machines()}
    assert "new" not in lab.notes()["machines"]


def test_somebody_is_asked_before_a_disk_is_lost(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.well(TWO)
    asked: list[str] = []

    def no(question: str, *, yes: bool) -> None:
        asked.append(question)
        raise UsageError("not confirmed: nothing was changed")

    monkeypatch.setattr(cli, "confirmed", no)
    before = lab.everything()
    assert lab.apply("machines: {}", "--prune").status == 64
    assert asked == ["Destroy db, web00, web01, network lan, network dmz, with their disks?"]
    assert lab.everything() == before


def test_a_new_machine_has_the_address_that_another_one_leaves(lab: Lab) -> None:
    lab.well(one("ip: 10.1.0.10"))
    lab.stop()
    text = one("ip: 10.1.0.11").replace("  db:", "  sql: {template: debian, vlan: lan, ip: 10.1.0.10}\n  db:")
    assert lab.well(text) == {"sql": "made, started", "db": "changed ip, started"}
    assert lab.store.owners("lan") == {"10.1.0.11": "db", "10.1.0.10": "sql"}


def test_replicas_move_up_by_one(lab: Lab) -> None:
    lab.well(TWO)
    moved = TWO.replace("10.2.0.20", "10.2.0.21")
    assert lab.well(moved) == {"db": "ok", "web00": "needs a restart", "web01": "needs a restart"}
    assert lab.well(moved, "--restart") == {
        "db": "ok", "web00": "changed ip, started", "web01": "changed ip, started"}
    assert lab.store.owners("dmz") == {"10.2.0.21": "web00", "10.2.0.22": "web01"}


def test_names_that_become_too_long_are_a_mistake(lab: Lab) -> None:
    ended = lab.apply("machines: {%s: {template: debian, replicas: 2}}" % ("a" * 62))
    assert ended.status in (64, 65) and "aaa" in ended.stderr and "Traceback" not in ended.stderr
