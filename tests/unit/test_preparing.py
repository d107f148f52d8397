"""What is prepared for machines that are defined, and undone: links, all of it together, notes."""

from __future__ import annotations

import json
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cloudme import notes
from cloudme.errors import (
    AlreadyExists,
    Busy,
    CommandFailed,
    HostUnavailable,
    StoreError,
)
from cloudme.formats import firmware
from cloudme.model import identity
from cloudme.model.launch import Guard
from cloudme.model.network import Link
from cloudme.operations import preparing
from cloudme.operations.preparing import foreground, links
from cloudme.store import take_lock
from tests.preparing import GPU, SMALL, UUID, A, B, Site, refused
from tests.preparing import lock_file as lock_file
from tests.preparing import site as site

# links

def test_a_tap_is_the_machines_in_its_bridge_with_its_mtu_and_guarded(site: Site) -> None:
    site.define({"network": {"lan": {"device": "br0"}}}, connections=[
        {"name": "0", "network": "lan"}, {"name": "1", "network": "lan", "ip": "10.0.0.5/24"}])
    assert len(site.prepare()) == 4
    uid = identity.uid(site.machina.one().uuid)
    assert site.net.known["vm.0"] == Link(name="vm.0", kind="tun", master="br0", mtu=9000, owner=uid)
    assert site.net.guarded == [[Guard(locked=False, own_mac=True)], [Guard(addresses=("10.0.0.5",))]]
    assert site.prepare() == []
    site.net.bare.add(site.machina.one().connections[1].mac)
    assert site.prepare() == ["make vm.1 a port of the bridge br0, guarded"]
    site.tear_down()
    assert set(site.net.known) == {"br0"} and site.notes == {}
    site.tear_down()


def test_a_tap_gets_another_guard_with_another_address(site: Site) -> None:
    for address in ("10.0.0.5", "10.0.0.6"):
        site.define({"network": {"lan": {"device": "br0"}}}, connections=[
            {"name": "0", "network": "lan", "ip": address}])
        assert "make vm.0 a port of the bridge br0, guarded" in site.prepare()
    assert [entry["ip"] for entry in site.notes["taps"]] == ["10.0.0.6"]
    card = replace(site.machina.one().connections[0], ip="2001:db8::5", mac="52:54:00:00:00:01")
    assert links.guard(card) == Guard(addresses6=("fe80::5054:ff:fe00:1", "2001:db8::5"))


def test_a_link_of_somebody_else_is_left_alone(site: Site) -> None:
    site.define({"network": {"lan": {"device": "br0"}}}, connections=[{"name": "0", "network": "lan"}])
    for found in (Link(name="vm.0", kind="veth"), Link(name="vm.0", kind="tun", owner=1000)):
        site.net.known["vm.0"] = found
        refused(site, AlreadyExists)
        site.tear_down()
        assert site.net.known["vm.0"] == found


def test_the_tap_goes_even_where_the_program_of_its_network_fails(site: Site) -> None:
    site.define({"network": {"lan": {"up": "/up", "down": "/down"}}}, connections=[{"name": "0", "network": "lan"}])
    site.prepare()
    site.run.fail["/down"] = CommandFailed("no")
    with pytest.raises(CommandFailed):
        site.tear_down()
    assert site.run.calls == [["/up", "vm.0"], ["/down", "vm.0"]] and "vm.0" not in site.net.known
    site.tear_down()
    assert site.notes == {}


# teardown and notes

def test_a_failure_on_the_way_gives_everything_back(site: Site) -> None:
    site.define({"network": {"lan": {"device": "br0"}},
                 "mdev": {"m": {"address": A, "types": {"small": "GRID RTX8000-6Q"}}},
                 "pci": {"p": {"address": B, "class": "card"}}},
                connections=[{"name": "0", "network": "lan"}],
                devices=[{**GPU, "id": UUID}, {"name": "c", "class": "card"}])
    site.sysfs.device(A, types=SMALL)
    site.sysfs.device(B, driver="nouveau", group="7")
    site.sysfs.driver("vfio-pci")
    site.sysfs.stubborn = {B}
    with pytest.raises(HostUnavailable):
        site.prepare()
    assert "vm.0" not in site.net.known and site.sysfs.mediated() == [] and site.notes == {}
    assert site.sysfs.group("7")[0].driver == "nouveau"


def test_a_teardown_goes_on_after_a_failure_and_tells_all_of_them(site: Site) -> None:
    test = test_a_failure_on_the_way_gives_everything_back
    test(site)
    site.sysfs.stubborn = set()
    site.prepare()
    assert stat.S_IMODE(os.stat(site.world.prepared("vm")).st_mode) == 0o600
    site.sysfs.stubborn = {"1", B}
    with pytest.raises(Busy) as told:
        site.tear_down()
    assert UUID in told.value.message and "Device or resource busy" in told.value.message.splitlines()[1]
    assert "vm.0" not in site.net.known
    assert {kind: len(site.notes[kind]) for kind in notes.KINDS} == {"taps": 0, "mediated": 1, "bound": 1, "lent": 0}
    site.sysfs.stubborn = set()
    site.tear_down()
    assert site.notes == {}


def test_nothing_is_torn_down_while_qemu_lives(site: Site, lock_file: str) -> None:
    site.define({"network": {"lan": {"device": "br0"}}}, connections=[{"name": "0", "network": "lan"}])
    site.prepare()
    lock = take_lock(lock_file)
    with pytest.raises(Busy, match="vm: QEMU lives"):
        site.tear_down()
    assert "vm.0" in site.net.known
    os.close(lock)
    site.tear_down()
    assert "vm.0" not in site.net.known


def test_notes_that_cannot_be_read_are_told(site: Site) -> None:
    path = Path(site.world.prepared("vm"))
    path.parent.mkdir(parents=True)
    for text in ("", "[]", '{"version": 2}', '{"version": 1}'):
        path.write_text(text)
        with pytest.raises(StoreError, match="cannot be read"):
            site.tear_down()
    assert notes.names(site.world.preparations) == ["vm"]


# firmware

@pytest.mark.parametrize(("code", "variables"), [
    ("/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/CODE/ovmf-stable202302.code.bin", "/CODE/ovmf-stable202302.vars.bin"),
    ("/usr/share/seabios/bios.bin", None),
])
def test_code_and_variables_are_called_alike(code: str, variables: str | None) -> None:
    assert firmware.sibling(code) == variables


def test_a_descriptor_says_what_belongs_to_the_code() -> None:
    def text(code: str, variables: str) -> str:
        return json.dumps({"mapping": {"device": "flash", "executable": {"filename": code, "format": "raw"},
                                       "nvram-template": {"filename": variables, "format": "raw"}}})

    texts = ["{", "[]", '{"mapping": {"device": "memory", "filename": "/bios"}}', text("/a", "/b"), text("/c", "/d"),
             text("/c", "/e")]
    assert firmware.described("/c", texts) == "/d"
    assert firmware.described("/x", texts) is None


def test_vmrun_refuses_a_machine_that_runs(site: Site, lock_file: str) -> None:
    site.define({"accelerator": "tcg"})
    read = site.machina.read()
    one = preparing.tenant.of(read.pick(["vm"])[0], read.host, notes.read(site.world.prepared("vm")))
    foreground.check(site.host, one)
    lock = take_lock(lock_file)
    with pytest.raises(Busy, match="'vm' runs"):
        foreground.check(site.host, one)
    os.close(lock)


def test_kvm_that_cannot_be_had_is_told(site: Site) -> None:
    site.define({"accelerator": "kvm"})
    read = site.machina.read()
    machine, = read.pick(["vm"])
    one = preparing.tenant.of(machine, read.host, notes.read(site.world.prepared("vm")))
    site.qemu.kvm = True
    foreground.check(site.host, one)
    assert preparing.doubts(site.host, [machine], read.host) == []
    site.qemu.kvm = False
    with pytest.raises(HostUnavailable, match="KVM cannot run") as told:
        foreground.check(site.host, one)
    assert told.value.hint == '"accelerator": "tcg" in the host\'s configuration'
    doubt, = preparing.doubts(site.host, [machine], read.host)
    assert "KVM cannot run" in doubt and preparing.doubts(site.host, [], read.host) == []


def test_what_runs_says_how_it_ends_and_where_it_is(site: Site) -> None:
    site.define({"accelerator": "tcg"})
    read = site.machina.read()
    one = preparing.tenant.of(read.pick(["vm"])[0], read.host, notes.read(site.world.prepared("vm")))
    assert foreground.greeting(one, None) == "vm: Ctrl-C ends it"
    more = replace(one.machine.attributes, qmp_sockets=("/s",), spice_port=5900)
    one = replace(one, machine=replace(one.machine, attributes=more))
    assert foreground.greeting(one, "10.0.0.5") == (
        "vm: Ctrl-C presses its power button, once more ends it, address 10.0.0.5, SPICE port 5900")


def test_of_two_that_prepare_a_machine_one_waits(site: Site) -> None:
    """The second would write the notes without those of the first."""
    order: list[str] = []

    def second() -> None:
        with notes.alone([site.world.prepared("vm")]):
            order.append("second")

    with notes.alone(map(site.world.prepared, ["vm", "other", "vm"])):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"] and notes.names(site.world.preparations) == []


def test_nothing_is_left_of_who_is_forgotten_and_who_waited_for_him_is_alone(site: Site) -> None:
    world = site.world
    order: list[bool] = []

    def next_one() -> None:
        with notes.alone([world.prepared("vm")]):
            order.append(notes.met(world.prepared("vm")))

    thread = threading.Thread(target=next_one)
    with notes.alone([world.prepared("vm")]):
        assert notes.met(world.prepared("vm"))
        thread.start()
        os.unlink(world.prepared("vm").replace(".json", ".lock"))
    thread.join()
    assert order == [True]
    notes.forget(world.prepared("vm"))
    notes.forget(world.prepared("vm"))
    assert not notes.met(world.prepared("vm"))
