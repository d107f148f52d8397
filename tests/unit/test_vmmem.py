"""Memory that is taken and given back, with fakes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator

import pytest

from cloudme import layout
from cloudme.cli import memory as cli_memory
from cloudme.errors import CloudMeError, HostUnavailable, TimedOut, UsageError
from cloudme.model.machine import Machine
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction
from cloudme.operations import forks, memory
from cloudme.qemu import launch
from cloudme.store import Store, take_lock
from tests import fakes
from tests.conftest import program
from tests.unit.test_launch import PLACE
from tests.unit.test_vmrunning import machine

MIB = 1 << 20


@pytest.fixture
def host() -> Host:
    made = fakes.host()
    told(made).balloon = fakes.FakeBalloon(512 * MIB, 512 * MIB, used=100 * MIB)
    return made


def told(host: Host) -> fakes.FakeMonitor:
    assert isinstance(host.qemu, fakes.FakeHypervisor)
    return host.qemu.told


@pytest.fixture
def web00(store: Store) -> Iterator[Machine]:
    made = machine("web00")
    os.makedirs(store.world.machine("web00"))
    store.publish(made)
    lock = take_lock(layout.lock(store.world.machine("web00")))
    yield made
    os.close(lock)


def resize(host: Host, store: Store, size_mib: int) -> None:
    with Transaction(host, print) as transaction:
        transaction.apply(memory.checked(host, store, [store.machine("web00")], size_mib))


def test_a_balloon_takes_the_memory_and_gives_it_back(host: Host, store: Store, web00: Machine) -> None:
    balloon = told(host).balloon
    assert balloon
    resize(host, store, 200)
    assert balloon.left == 200 * MIB
    resize(host, store, 512)
    assert balloon.left == 512 * MIB
    assert told(host).executed.count("balloon") == 2
    resize(host, store, 512)
    assert told(host).executed.count("balloon") == 2


@pytest.mark.parametrize(("size_mib", "why"), [(513, "has 512M"), (99, "uses 100M")])
def test_there_are_limits_both_ways(host: Host, store: Store, web00: Machine, size_mib: int, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        resize(host, store, size_mib)
    assert "balloon" not in told(host).executed


def test_what_is_in_use_is_counted_without_what_the_balloon_has_already(
    host: Host, store: Store, web00: Machine,
) -> None:
    told(host).balloon = fakes.FakeBalloon(512 * MIB, 150 * MIB, used=100 * MIB)
    resize(host, store, 120)
    with pytest.raises(UsageError, match="uses 100M"):
        resize(host, store, 90)


def test_a_guest_that_does_not_heed_gets_back_what_it_had(host: Host, store: Store, web00: Machine) -> None:
    told(host).balloon = balloon = fakes.FakeBalloon(512 * MIB, 512 * MIB, heeds=10 * MIB)
    (step,) = memory.checked(host, store, [web00], 400, timeout_s=0)
    with pytest.raises(TimedOut, match="stands at 502M"), Transaction(host, print) as transaction:
        transaction.apply([step])
    assert balloon.left == 512 * MIB


def test_a_guest_that_says_nothing_is_not_guessed_at(host: Host, store: Store, web00: Machine) -> None:
    told(host).balloon = balloon = fakes.FakeBalloon(512 * MIB, 512 * MIB, says=False)
    with Transaction(host, print) as transaction:
        transaction.apply(memory.checked(host, store, [web00], 64, answer_s=0))
    assert balloon.left == 64 * MIB


def test_a_machine_without_a_balloon_says_so(store: Store, web00: Machine) -> None:
    with pytest.raises(HostUnavailable, match="'web00': it has no balloon") as raised:
        resize(fakes.host(), store, 64)
    assert raised.value.hint == "vmrestart web00 boots it"


def call(store: Store, host: Host, *words: str) -> None:
    parser = program("vmmem").parser()
    cli_memory.run(parser.parse_args(words), store, host)


def test_the_command_prints_old_and_new_and_a_dry_run_changes_nothing(
    host: Host, store: Store, web00: Machine, capsys: pytest.CaptureFixture[str],
) -> None:
    call(store, host, "web00", "256M", "--dry-run")
    assert capsys.readouterr().out == "give web00 256M of memory (was: 512M)\n"
    call(store, host, "web00", "256M")
    assert capsys.readouterr().out == "web00  512M  ->  256M\n"
    call(store, host, "-g", "pf1", "300M", "--json")
    assert json.loads(capsys.readouterr().out) == [
        {"name": "web00", "old_bytes": 256 * MIB, "new_bytes": 300 * MIB}]
    with pytest.raises(CloudMeError):
        call(store, host, "300M")


def test_machines_that_boot_have_a_balloon_and_those_on_a_ram_image_have_none() -> None:
    def has(it: Machine, ram: launch.Ram | None = None) -> bool:
        made = launch.of(it, PLACE, ram)
        return any(part.props.get("id") == "balloon" for part in (*made.parts, *made.plugged))

    it = machine("web00")
    assert has(it)
    assert not has(dataclasses.replace(it, nics=it.nics * 4))
    for use in ("boot", "receive", "clone"):
        assert not has(it, launch.Ram(path="/r", qemu="7.2.22", use=use))


def test_a_machine_is_forked_without_its_balloon_and_gets_it_back(host: Host, store: Store) -> None:
    told(host).balloon = balloon = fakes.FakeBalloon(512 * MIB, 300 * MIB)
    with forks._bare(host, "/run/web00"):
        assert told(host).executed[-1] == "device_del"
        balloon.left = 512 * MIB
    assert told(host).executed[-2:] == ["device_add", "balloon"]
    assert balloon.left == 300 * MIB
    plain = fakes.host()
    with forks._bare(plain, "/run/web00"):
        pass
    assert told(plain).executed == ["query-balloon"]
