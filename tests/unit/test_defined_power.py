"""Starting and stopping what is defined, what it does not have, and what its QEMU may plant; with fakes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudme import everyone, forwards, index, layout
from cloudme.errors import Busy, HostUnavailable, NotFound, PeerError, UsageError
from cloudme.model import identity
from cloudme.model.machine import Forward
from cloudme.model.steps import Transaction
from cloudme.operations import clones, consoles, exposing, forks, limiting, machines, networks, power
from cloudme.store import take_lock
from tests import fakes
from tests.conftest import Ended
from tests.defining import OURS, SETTINGS, Site, site
from tests.unit.test_definitions import OTHER

__all__ = ["site"]


# power

def test_systemd_starts_and_stops_it_beside_the_others(site: Site) -> None:
    ours = site.clone()
    site.stop(ours)
    machine = site.define()
    assert site.start(machine, ours) == [machine, ours] and site.start(machine, ours) == []
    site.stop(machine, ours)
    assert site.units.said == ["start machina-vm.service", "stop machina-vm.service"]
    assert site.qemu.pressed == [f"{layout.machina_run()}/vm/command.1.qmp.socket"]
    assert not site.store.is_running(machine) and site.qemu.running == {}


def test_a_start_that_fails_stops_what_was_started(site: Site) -> None:
    one, two = site.define("one"), site.define("two", id=OTHER)
    site.units.deaf.add(layout.unit("two"))
    with pytest.raises(PeerError, match="'two' ended at once"):
        site.start(one, two)
    assert not site.store.is_running(one) and "stop machina-one.service" in site.units.said


def test_a_machine_that_its_definition_runs_is_left_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = site.clone()
    site.stop(ours)
    # a folder of the machine's own user, where nobody but root can make one
    monkeypatch.setattr(identity, "uid", lambda uuid: os.geteuid() if uuid == ours.uuid else 1)
    os.makedirs(f"{layout.machina_run()}/other")
    lock = take_lock(layout.machina_lock("other"))
    with pytest.raises(Busy, match="runs, as the definition 'other' has it"):
        site.start(ours)
    with pytest.raises(Busy):
        site.stop(ours)
    with pytest.raises(Busy):
        clones.destroy(Transaction(site.host, print), site.store, [ours])
    os.close(lock)
    assert site.start(ours) == [ours]


def test_without_a_unit_or_systemd_it_is_said_what_to_type(site: Site) -> None:
    machine = site.define()
    site.units.files.clear()
    with pytest.raises(NotFound) as caught:
        site.start(machine)
    assert caught.value.hint == "sudo vmunit generate vm"
    site.units.there = False
    with pytest.raises(HostUnavailable) as there:
        site.start(machine)
    assert there.value.hint == "vmrun vm"


def test_who_runs_it_without_systemd_can_stop_it_all_the_same(site: Site) -> None:
    machine = site.define()
    site.units.there = False
    site.stop(machine)
    site.qemu.deaf = {"vm"}
    with pytest.raises(Busy, match="vm could not be powered down"):
        site.stop(machine)


def test_what_vmrun_runs_is_not_restarted(site: Site) -> None:
    machine = site.define("Web.00")
    os.makedirs(os.path.dirname(layout.machina_lock("Web.00")))
    lock = take_lock(layout.machina_lock("Web.00"))
    for site.units.there in (True, False):
        with pytest.raises(UsageError, match="vmrun runs 'web-00'") as caught:
            power.check(site.host, site.store, [machine], [])
        assert caught.value.hint == "vmstop web-00; vmrun Web.00"
    os.close(lock)
    site.units.there = True
    power.check(site.host, site.store, [machine], [])


def test_without_an_address_it_is_said_where_one_belongs(site: Site) -> None:
    machine = site.define()
    for asked, kind in ((lambda: site.store.target(machine), NotFound), (lambda: forwards.target(machine),
                                                                         HostUnavailable)):
        with pytest.raises(kind) as caught:
            asked()
        assert caught.value.hint == "connections.0.ip in its definition"


def test_a_dry_run_tells_the_unit(site: Site) -> None:
    said: list[str] = []
    with Transaction(site.host, said.append, dry_run=True) as transaction:
        power.start(transaction, site.store, [site.define()], SETTINGS)
    assert said == ["start vm (systemd: machina-vm.service)"] and site.units.said == []


# what it does not have

def test_what_its_definition_decides_is_not_changed_here(site: Site, command: Callable[..., Ended]) -> None:
    machine = site.define("Web.00")
    store, host = site.store, site.host
    for refused, hint in (
        (lambda: limiting.changed(host, store, machine, "cpus=1"), "vmunit generate Web.00"),
        (lambda: machines.changed(host, store, machine, machines.Change(address="10.9.0.3"), SETTINGS), "Web.00"),
        (lambda: forks.check(host, store, machine), "vminstantiate"),
        (lambda: consoles.taken(host, store, machine), "vmcat Web.00"),
        (lambda: clones.destroy(Transaction(host, print), store, [machine]), "vmdestroy Web.00"),
    ):
        with pytest.raises(UsageError, match="'web-00' is defined: ") as caught:
            refused()
        assert hint in str(caught.value.hint)
    assert command("vmstop", "-d", "-y", "web-00") == Ended(
        64, "", "vmstop: 'web-00' is defined: its disks are its definition's\nvmstop: (vmdestroy Web.00)\n")
    assert command("vmlogs", "web-00") == Ended(
        64, "", "vmlogs: 'web-00' is defined: it has no serial console, and what QEMU says is in the journal\n"
        "vmlogs: (journalctl --unit machina-Web.00.service)\n")


def test_ports_of_the_host_lead_to_it(site: Site) -> None:
    machine = site.define(**OURS)
    site.start(machine)
    forward = Forward(protocol="tcp", address="127.0.0.1", port=8080, guest_port=80)
    with Transaction(site.host, lambda line: None) as transaction:
        assert exposing.expose(transaction, site.store, "vm", forward)
    assert isinstance(site.host.relays, fakes.FakeRelays) and len(site.host.relays.serving) == 1
    assert site.publish().forwards == (forward,)


def test_a_network_that_it_has_a_card_in_stays(site: Site) -> None:
    site.define("Web.00", **OURS)
    with (pytest.raises(Busy) as caught, Transaction(site.host, lambda line: None) as transaction):
        networks.delete(transaction, site.store, "lab")
    assert caught.value.hint == "vmunit remove Web.00"


# its QEMU owns the folder of its lock

def planted(site: Site, kind: str) -> str:
    """The lock of a machine whose QEMU has put something in its place."""
    site.define()
    lock = Path(layout.machina_lock("vm"))
    lock.parent.mkdir(parents=True)
    victim = Path(site.store.world.data, "victim")
    match kind:
        case "link":
            victim.touch()
            lock.symlink_to(victim)
        case "link-to-nowhere":
            lock.symlink_to(victim)
        case "fifo":
            os.mkfifo(lock)
        case "folder":
            lock.mkdir()
    return str(victim)


@pytest.mark.parametrize("kind", ["link", "link-to-nowhere", "fifo", "folder", ""])
def test_what_it_plants_there_is_not_followed(site: Site, kind: str) -> None:
    victim = planted(site, kind)
    mine = take_lock(victim) if kind == "link" else -1
    folder = site.store.world.machine("vm")
    assert index.state(folder, layout.MACHINE_RECORD) == "stopped" and not index.held(layout.machina_lock("vm"))
    with pytest.raises(Busy, match="systemd"):
        take_lock(layout.lock(folder))
    assert os.path.exists(victim) == (kind == "link")
    found, = everyone.listing([everyone.Home(site.store.world.data, "root")], every=True)
    assert found["state"] == "stopped"
    if mine >= 0:
        os.close(mine)


@pytest.mark.parametrize("target", ["/etc/passwd", "{run}/../lock", "{run}/lock", "{run}/vm/sub/lock", "lock"])
def test_only_links_into_a_machines_folder_are_ours(site: Site, target: str) -> None:
    link = os.path.join(site.store.world.data, "link")
    os.symlink(target.format(run=layout.machina_run()), link)
    assert index.behind(link) == link


def test_debris_with_such_a_link_is_cleaned_and_nobody_is_killed(site: Site) -> None:
    machine = site.define()
    site.start(machine)
    os.unlink(site.store.world.machine_record("vm"))
    assert site.publish() == dataclasses.replace(machine, created=site.store.machine("vm").created)
    assert site.store.is_running(machine)
