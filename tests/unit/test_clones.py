"""Clones: names, addresses, all or none; over a real store and a host of fakes."""

from __future__ import annotations

import dataclasses
import os
import stat
from pathlib import Path

import pytest

from cloudme import layout
from cloudme.errors import Busy, CommandFailed, NotFound, PeerError
from cloudme.model.hostconfig import Settings
from cloudme.model.launch import Launch
from cloudme.model.machine import CloneRequest, Machine
from cloudme.model.names import Name
from cloudme.model.network import DEFAULT_NETWORK
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction
from cloudme.operations import clones, devices, power, templates
from cloudme.qemu import launch
from cloudme.store import Store, take_lock
from tests import fakes

SETTINGS = Settings()
UUID = "8b18191a-234f-45ce-b43c-b46e28cd2f70"


def template(store: Store, host: Host, name: str = "debian") -> None:
    source = os.path.join(store.world.data, "source.qcow2")
    with open(source, "w", encoding="ascii") as file:
        file.write("qcow2")
    info = fakes.FakeRun(answers={"qemu-img": '{"format": "raw", "virtual-size": 1073741824}'})
    with Transaction(fakes.host(run=info), lambda line: None) as transaction:
        wanted = templates.Wanted(name=Name(name), file=source, vcpus=2, ram_mib=512)
        templates.make(transaction, store, wanted, default_disk_bytes=1 << 30)
    disk = os.path.join(store.world.template(name), "disk.qcow2")
    with open(disk, "w", encoding="ascii") as file:
        file.write("qcow2")


def request(count: int = 1, prefix: str = "web", **more: object) -> CloneRequest:
    fields = {"template": Name("debian"), "group": Name("pf1"), "type": Name("web"), **more}
    return CloneRequest(count=count, prefix=Name(prefix), **fields)  # type: ignore[arg-type]


def instantiate(store: Store, host: Host, *requests: CloneRequest) -> list[Machine]:
    with (Transaction(host, lambda line: None) as transaction,
          clones.making(transaction, store, requests, SETTINGS) as machines):
        power.start(transaction, store, machines, SETTINGS)
    return machines


def test_clones_are_numbered_and_have_addresses_of_their_own(store: Store) -> None:
    host = fakes.host()
    template(store, host)
    machines = instantiate(store, host, request(2), request(1, "sql", type=Name("sql")))
    assert [m.name for m in machines] == ["web00", "web01", "sql00"]
    assert [m.address for m in machines] == ["10.210.0.2", "10.210.0.3", "10.210.0.4"]
    assert len({m.nics[0].mac for m in machines}) == 3
    assert [m.name for m in store.machines("pf1", "web")] == ["web00", "web01"]
    assert all(store.is_running(m) for m in machines)


def test_the_next_call_takes_the_next_free_numbers(store: Store) -> None:
    host = fakes.host()
    template(store, host)
    instantiate(store, host, request(3))
    power.stop(host, store, store.machines(), timeout_s=1, say=print)
    with Transaction(host, lambda line: None) as transaction:
        clones.destroy(transaction, store, [store.machine("web01")])
    assert [m.name for m in instantiate(store, host, request(2))] == ["web01", "web03"]


def test_the_templates_disk_is_frozen_and_its_start_refused(store: Store) -> None:
    host = fakes.host()
    template(store, host)
    instantiate(store, host, request())
    disk = os.path.join(store.world.template("debian"), "disk.qcow2")
    assert stat.S_IMODE(os.stat(disk).st_mode) == 0o444
    machine = store.boot_template(store.template("debian"), SETTINGS.network())
    with Transaction(host, lambda line: None) as transaction, pytest.raises(Busy, match="frozen"):
        power.start(transaction, store, [machine], SETTINGS)


def leftovers(store: Store) -> list[str]:
    world = store.world
    return [*os.listdir(world.machines), *store.reservations("default"), *os.listdir(world.host_names("default"))]


def test_when_one_clone_cannot_be_made_none_stays(store: Store) -> None:
    host = fakes.host(run=fakes.FakeRun(fail={"web01/disk1": CommandFailed("qemu-img failed")}))
    template(store, host)
    with pytest.raises(CommandFailed):
        instantiate(store, host, request(3, extra_disks=(1 << 30,)))
    assert leftovers(store) == []


def test_when_one_clone_cannot_start_none_stays_and_none_runs(store: Store) -> None:
    qemu = fakes.FakeHypervisor(refuse={"web02"})
    host = fakes.host(qemu=qemu)
    template(store, host)
    with pytest.raises(PeerError, match="web02"):
        instantiate(store, host, request(4))
    assert leftovers(store) == [] and qemu.running == {}


def test_a_machine_that_somebody_else_started_meanwhile_is_not_ended_by_our_undo(store: Store) -> None:
    qemu = fakes.FakeHypervisor()
    host = fakes.host(qemu=qemu)
    template(store, host)
    (machine,) = instantiate(store, host, request())
    step = power.Start(store, machine, launch.Place(folder=store.folder(machine), run="/run/x", accel="tcg",
                                                    networks={DEFAULT_NETWORK: Settings().network()}))
    with pytest.raises(Busy), Transaction(host, lambda line: None) as transaction:
        transaction.apply([step])
    assert store.is_running(machine)


def test_a_machine_does_not_start_with_other_devices_than_its_record_has(store: Store) -> None:
    class Late(fakes.FakeHypervisor):
        def start(self, launch: Launch, *, timeout_s: float = 30) -> None:
            devices.Change(store, machine, dataclasses.replace(machine, devices=("0000:01:00.0",))).do(host)
            super().start(launch)

    host = fakes.host()
    template(store, host)
    (machine,) = instantiate(store, host, request())
    host.qemu.kill(layout.lock(store.folder(machine)))
    host = fakes.host(qemu=Late())
    place = launch.Place(folder=store.folder(machine), run="/run/x", accel="tcg",
                         networks={DEFAULT_NETWORK: SETTINGS.network()})
    with pytest.raises(Busy, match="changed the devices of 'web00'"), Transaction(host, print) as transaction:
        transaction.apply([power.Start(store, machine, place)])
    assert store.machine("web00").devices == ("0000:01:00.0",) and not store.is_running(machine)
    other = dataclasses.replace(machine, uuid=UUID)  # as a template of that name has
    power.Start(store, other, place).do(fakes.host())
    assert store.is_running(machine)


def test_an_interrupt_in_the_middle_leaves_nothing(store: Store) -> None:
    host = fakes.host(iso=fakes.FakeIso(fails=[KeyboardInterrupt()]))
    template(store, host)
    with pytest.raises(KeyboardInterrupt):
        instantiate(store, host, request(2))
    assert leftovers(store) == []


def test_a_dry_run_says_the_steps_and_changes_nothing(store: Store) -> None:
    host = fakes.host()
    template(store, host)
    said: list[str] = []
    with (Transaction(host, said.append, dry_run=True) as transaction,
          clones.making(transaction, store, [request(2)], SETTINGS)):
        pass
    assert [line for line in said if line.startswith("make")] == [
        f"make web0{i}: a clone of debian, group pf1, type web, 2 CPUs, 512 MiB" for i in (0, 1)]
    assert store.machines() == [] and not os.path.exists(store.world.machines)


def test_debris_of_a_crash_is_cleaned_by_the_next_claim_of_its_name(store: Store) -> None:
    host = fakes.host()
    template(store, host)
    os.makedirs(store.world.machine("web00"))
    with open(os.path.join(store.world.machine("web00"), "disk.qcow2"), "w", encoding="ascii") as file:
        file.write("half")
    assert instantiate(store, host, request())[0].name == "web00"


def test_a_name_that_somebody_is_making_is_passed_over(store: Store) -> None:
    host = fakes.host()
    template(store, host)
    os.makedirs(store.world.machine("web00"))
    lock = take_lock(layout.maker(store.world.machine("web00")))
    try:
        assert instantiate(store, host, request())[0].name == "web01"
    finally:
        os.close(lock)


def test_a_running_template_is_not_cloned(store: Store) -> None:
    host = fakes.host()
    template(store, host)
    lock = take_lock(layout.lock(store.world.template("debian")))
    try:
        with pytest.raises(Busy, match="template 'debian' runs"):
            instantiate(store, host, request())
    finally:
        os.close(lock)


def test_an_unknown_template_is_named_with_what_there_is(store: Store) -> None:
    host = fakes.host()
    template(store, host)
    with pytest.raises(NotFound, match="no template 'x'") as caught:
        instantiate(store, host, request(template=Name("x")))
    assert caught.value.hint == "there is: debian"


def test_a_full_network_says_how_many_addresses_are_left(store: Store) -> None:
    host = fakes.host()
    template(store, host)
    with pytest.raises(Busy, match="has 253 free addresses, 254 are wanted"):
        instantiate(store, host, request(254, "w"))


def test_every_clone_has_a_host_key_of_its_own_and_it_is_pinned(store: Store) -> None:
    host = fakes.host()
    template(store, host)
    machines = instantiate(store, host, request(2))
    pins = [Path(store.target(m).known_hosts_file).read_text(encoding="ascii") for m in machines]
    assert pins[0].startswith("web00,10.210.0.2,fd") and pins[0].split()[2] != pins[1].split()[2]
