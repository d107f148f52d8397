"""cmapply, and what stands in its way: other machines, playbooks, hosts, notes, users."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from cloudme import layout, shared
from cloudme.layout import World
from cloudme.model.names import DefinitionName, Name
from cloudme.model.network import Network
from cloudme.model.ports import HostReport
from cloudme.store import Store
from tests.unit.labs import REALM, SETTINGS, TWO, Lab, by_hand, lab, one
from tests.unit.test_networks import files
from tests.unit.test_shared import root
from tests.unit.test_warm import make as warm_up

__all__ = ["files", "lab", "root"]

OTHER = "machines: {other: {template: debian, autostart: false}}"


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
    assert "cmapply: db: task 1: no\n" in ended.stderr
    lab.playbooks.reports = {}
    assert lab.well(text) == {"db": "configured", "sql": "ok"}


def test_a_playbook_that_went_meanwhile_fails_its_machine(lab: Lab) -> None:
    (lab.folder / "db.yml").write_text("- hosts: all\n")
    lab.well(one("playbook: db.yml"))
    ended = lab.apply(one("playbook: other.yml"))
    assert ended.status == 65 and "other.yml" in ended.stderr


def test_a_playbook_that_is_none_is_told_before_anything_is_made(lab: Lab) -> None:
    book, data = lab.folder / "db.yml", lab.folder / "user-data"
    book.write_text("- hosts: all\n  tasks:\n  - debug: msg: hi\n")
    data.write_text("#cloud-config\n- packages\n")
    text = one("playbook: db.yml, user_data: user-data, mem: x")
    before = lab.everything()
    for words in (["--dry-run"], []):
        ended = lab.apply(text, *words)
        assert (ended.status, lab.everything()) == (65, before)
        assert [line.rpartition("cloudme.yaml:")[2] for line in ended.stderr.splitlines()] == [
            f"3:47: machines.db.playbook: {book}:3:15: mapping values are not allowed here",
            f"3:66: machines.db.user_data: {data}:2:1: after #cloud-config an object is wanted, as {{packages: [git]}}",
            "3:82: machines.db.mem: 'x' is no size (for instance 2G, 512M)"]
    data.write_text("#cloud-config\n")
    assert lab.well(text.replace(", mem: x", ""), "--no-configure") == {"db": "made, started"}  # as at boot
    os.unlink(book)
    book.mkdir()
    assert f"db.playbook: {book}: Is a directory" in lab.apply(text).stderr


# where the host lacks something

def test_a_default_network_that_cannot_be_is_told_only_to_who_wants_it(lab: Lab) -> None:
    os.makedirs(lab.store.world.config, exist_ok=True)
    Path(lab.store.world.config, "cloudme.toml").write_text('[network]\naddress = "10.0.0.0/24"\n')
    assert lab.well(one()) == {"db": "made, started"}
    assert lab.apply(one().replace(", vlan: lan", "")).status == 78


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
    by_hand(lab, "web", "lan", group="homelab")
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
    # the network is shared with who runs the tests: where that is root, only a patch makes him an ordinary user
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


def test_somebody_is_asked_before_a_disk_is_lost(lab: Lab) -> None:
    lab.well(TWO)
    before = lab.everything()
    ended = lab.apply(OTHER, "--prune")
    assert ended.status == 64
    assert ended.stderr.splitlines()[0] == ("cmapply: Destroy db, web00, web01, VLAN lan, VLAN dmz, with their disks? "
                                            "Nobody can be asked here")
    assert lab.everything() == before


def test_names_that_become_too_long_are_a_mistake(lab: Lab) -> None:
    ended = lab.apply("machines: {%s: {template: debian, replicas: 2}}" % ("a" * 62))
    assert ended.status in (64, 65) and "aaa" in ended.stderr and "Traceback" not in ended.stderr
