"""Ports of the host that lead to machines: options, records, conflicts, starts; with fakes."""

from __future__ import annotations

import dataclasses
import json
import os
from functools import partial

import pytest

from cloudme import cli, forwards, layout
from cloudme.cli import exposing as options
from cloudme.errors import Busy, CloudMeError, HostUnavailable, NotPermitted, PeerError, UsageError
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import Forward, Machine
from cloudme.model.names import Name
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction
from cloudme.operations import clones, exposing, power
from cloudme.store import Store
from tests import fakes
from tests.conftest import Ended, program
from tests.unit.test_clones import instantiate, request, template

SETTINGS = Settings()
WEB = Forward(protocol="tcp", address="127.0.0.1", port=8080, guest_port=80)


class Outside(fakes.FakeOutside):
    """Raises what it is told to, for an address or a port."""

    def __init__(self, raises: dict[str | int, CloudMeError]) -> None:
        super().__init__()
        self.raises = raises

    def listen(self, protocol: str, address: str, port: int) -> int:
        for what in (address, port):
            if error := self.raises.get(what):
                raise error
        return super().listen(protocol, address, port)


@dataclasses.dataclass
class Site:
    """web00 and web01, which run, and the host that they run on."""

    store: Store
    host: Host
    capfd: pytest.CaptureFixture[str]

    def call(self, *words: str) -> Ended:
        """vmexpose, in this process."""
        parser = program("vmexpose").parser()
        parser.prog = "vmexpose"
        args = parser.parse_args(words)
        show, change = partial(options.show, store=self.store), partial(options.change, store=self.store,
                                                                        host=self.host)
        status = cli.run("vmexpose", show if args.list else change, args)
        out = self.capfd.readouterr()
        return Ended(status, out.out, out.err)

    def stop(self, *machines: Machine) -> None:
        power.stop(self.host, self.store, machines or self.store.machines(), timeout_s=1, say=print)

    def start(self, *names: str) -> None:
        with Transaction(self.host, lambda line: None) as transaction:
            power.start(transaction, self.store, [self.store.machine(name) for name in names], SETTINGS)

    @property
    def relays(self) -> fakes.FakeRelays:
        assert isinstance(self.host.relays, fakes.FakeRelays)
        return self.host.relays

    def taken(self, raises: dict[str | int, CloudMeError]) -> None:
        self.host = dataclasses.replace(self.host, outside=Outside(raises))


@pytest.fixture
def site(store: Store, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr("sys.argv", ["vmexpose"])
    host = fakes.host()
    template(store, host)
    instantiate(store, host, request(2))
    capfd.readouterr()
    return Site(store, host, capfd)


# options

@pytest.mark.parametrize(("text", "port", "guest_port"), [
    ("8080:80", 8080, 80), ("8080", 8080, 8080), ("1:65535", 1, 65535),
])
def test_ports_as_they_are_written(text: str, port: int, guest_port: int) -> None:
    forward = options.parse(text, "udp", "::0:1")
    assert forward == Forward(protocol="udp", address="::1", port=port, guest_port=guest_port)
    assert str(forward) == f"[::1]:{port} (udp)"


@pytest.mark.parametrize("text", ["", ":", "80:", ":80", "0:80", "80:65536", "1-2:1-2", "a:b", "8080:80:tcp", "²:1",
                                  "-1:1", "123456:1", "127.0.0.1:80:80"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        options.parse(text, "tcp", "127.0.0.1")


@pytest.mark.parametrize("address", ["localhost", "", "127.0.0.1/8", "fe80::1%eth0", "fe80::1%a/../b", "1.2.3", "../x"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError):
        options.parse("80", "tcp", address)


@pytest.mark.parametrize(("other", "overlaps"), [
    (("tcp", "127.0.0.1", 8080), True), (("tcp", "0.0.0.0", 8080), True), (("tcp", "127.0.0.2", 8080), False),
    (("udp", "127.0.0.1", 8080), False), (("tcp", "127.0.0.1", 8081), False), (("tcp", "::1", 8080), False),
    (("tcp", "::", 8080), False),
])
def test_which_ports_exclude_each_other(other: tuple[str, str, int], overlaps: bool) -> None:
    protocol, address, port = other
    that = Forward(protocol=protocol, address=address, port=port, guest_port=1)  # type: ignore[arg-type]
    assert (WEB.overlaps(that), that.overlaps(WEB)) == (overlaps, overlaps)


@pytest.mark.parametrize("words", [[], ["web00"], ["web00", "80", "--remove", "80"], ["--remove", "80"],
                                   ["--list", "web00", "80"], ["--list", "--udp"], ["web00", "--remove", "8080:80"]])
def test_options_that_make_no_sense_end_with_64(site: Site, words: list[str]) -> None:
    assert site.call(*words).status == 64


# exposing

def test_a_port_is_open_and_noted_and_the_same_again_is_nothing_to_do(site: Site) -> None:
    assert site.call("web00", "8080:80") == Ended(0, "127.0.0.1:8080\n", "")
    assert site.store.machine("web00").forwards == (WEB,)
    assert site.relays.ways() == {"forward.tcp.127.0.0.1.8080": "10.210.0.2:80"}
    before = dict(site.relays.serving)
    assert site.call("web00", "8080:80") == Ended(
        0, "127.0.0.1:8080\n", "vmexpose: 127.0.0.1:8080 (tcp) leads to port 80 of 'web00' already\n")
    assert site.relays.serving == before
    assert site.call("web00", "53", "--udp", "--address", "::1", "-q") == Ended(0, "[::1]:53\n", "")
    assert site.call("--list").stdout == ("web00  tcp  127.0.0.1:8080  80  open\n"
                                          "web00  udp  [::1]:53        53  open\n")


def test_json_has_the_documented_keys(site: Site) -> None:
    one = {"name": "web00", "protocol": "tcp", "address": "127.0.0.1", "port": 8080, "guest_port": 80, "state": "open"}
    assert json.loads(site.call("web00", "8080:80", "--json").stdout) == one
    assert json.loads(site.call("--list", "--json", "web00").stdout) == [one]
    assert json.loads(site.call("--list", "--json", "web01").stdout) == []


def test_a_dry_run_says_the_steps_and_changes_nothing(site: Site) -> None:
    assert site.call("web00", "8080:80", "--dry-run") == Ended(
        0, "note that web00 has 127.0.0.1:8080 (tcp) of the host\n"
        "lead 127.0.0.1:8080 (tcp) of the host to port 80 of web00\n", "")
    assert (site.store.machine("web00").forwards, site.relays.serving) == ((), {})
    site.call("web00", "8080:80")
    assert site.call("web00", "--remove", "8080", "--dry-run").stdout == (
        "close 127.0.0.1:8080 (tcp) of the host\nnote that web00 no longer has 127.0.0.1:8080 (tcp) of the host\n")
    assert len(site.relays.serving) == len(site.store.machine("web00").forwards) == 1


@pytest.mark.parametrize(("words", "status", "said"), [
    (["nosuch", "80"], 66, "no machine 'nosuch'"),
    (["web", "80"], 64, "may be web00, web01"),
    (["web00", "8081:80"], 75, "taken: nginx (pid 7)"),
    (["web00", "80"], 77, "is for root"),
    (["web00", "9000", "--address", "192.0.2.1"], 64, "no address 192.0.2.1"),
    (["web01", "7000:80"], 73, "vmexpose web00 --remove 7000)"),
    (["web01", "7000:80", "--address", "0.0.0.0"], 73, "127.0.0.1:7000 (tcp) leads to port 70 of 'web00'"),
    (["web00", "7000:80"], 73, "vmexpose web00 --remove 7000)"),
])
def test_what_cannot_be_is_said_and_nothing_is_changed(site: Site, words: list[str], status: int, said: str) -> None:
    site.call("web00", "7000:70")
    before, machines = dict(site.relays.serving), site.store.machines()
    site.taken({8081: Busy("port 8081 is taken: nginx (pid 7)"), 80: NotPermitted("port 80 is for root"),
                "192.0.2.1": UsageError("this host has no address 192.0.2.1")})
    ended = site.call(*words)
    assert (ended.status, ended.stdout) == (status, "")
    assert said in ended.stderr
    assert (site.relays.serving, site.store.machines()) == (before, machines)


def test_the_ports_of_another_realm_are_taken_too(site: Site) -> None:
    site.call("web00", "8080:80")
    world = site.store.world
    there = Store(layout.World(data=world.data, run=world.run, config=world.config, realm="r1"))
    os.makedirs(there.world.machine("far00"))
    there.publish(dataclasses.replace(site.store.machine("web01"), name=Name("far00"), forwards=(
        dataclasses.replace(WEB, port=9090),)))
    ended = site.call("web00", "9090")
    assert ended.status == 73
    assert "of 'r1/far00'\nvmexpose: (vmexpose far00 --remove 9090 --realm r1)" in ended.stderr


def test_a_machine_whose_address_nobody_knows_is_refused(site: Site) -> None:
    machine = site.store.machine("web00")
    nic = dataclasses.replace(machine.nics[0], address=None)
    site.store.publish(dataclasses.replace(machine, nics=(nic,)))
    ended = site.call("web00", "8080:80")
    assert (ended.status, "nobody here knows the address" in ended.stderr) == (69, True)


def test_a_relay_that_does_not_begin_leaves_no_record(site: Site) -> None:
    site.relays.refuse.add(80)
    assert site.call("web00", "8080:80").status == 76
    assert (site.store.machine("web00").forwards, site.relays.serving) == ((), {})


# removing

def test_a_port_is_closed_for_good_and_twice_is_once(site: Site) -> None:
    site.call("web00", "8080:80")
    site.call("web00", "8080:53", "--udp")
    assert site.call("web00", "--remove", "8080") == Ended(0, "", "")
    assert site.relays.ways() == {"forward.udp.127.0.0.1.8080": "10.210.0.2:53"}
    assert [forward.protocol for forward in site.store.machine("web00").forwards] == ["udp"]
    assert site.call("web00", "--remove", "8080") == Ended(
        0, "", "vmexpose: 'web00' has no tcp port 8080 of the host\n")
    assert site.call("web00", "--remove", "8080", "--udp").status == 0
    assert site.call("--list") == Ended(0, "", "")
    assert site.call("web01", "8080:80").status == 0


def test_which_of_two_is_removed_is_asked(site: Site) -> None:
    site.call("web00", "8080:80")
    site.call("web00", "8080:81", "--address", "::1")
    assert site.call("web00", "--remove", "8080").status == 64
    assert site.call("web00", "--remove", "8080", "--address", "0::1").status == 0
    assert site.store.machine("web00").forwards == (WEB,)


def test_a_removal_that_fails_serves_on(site: Site) -> None:
    site.call("web00", "8080:80")
    with pytest.raises(RuntimeError), Transaction(site.host, lambda line: None) as transaction:
        exposing.remove(transaction, site.store, "web00", exposing.Wanted(protocol="tcp", port=8080))
        raise RuntimeError
    assert site.relays.ways() == {"forward.tcp.127.0.0.1.8080": "10.210.0.2:80"}
    assert site.store.machine("web00").forwards == (WEB,)


# with the machine

def test_a_port_goes_with_the_machine_and_comes_back_with_it(site: Site) -> None:
    site.call("web00", "8080:80")
    site.stop()
    assert site.relays.serving == {}
    assert site.call("--list").stdout == "web00  tcp  127.0.0.1:8080  80  waiting\n"
    site.start("web00", "web01")
    assert site.relays.ways() == {"forward.tcp.127.0.0.1.8080": "10.210.0.2:80"}


def test_a_stopped_machine_gets_its_port_when_it_starts(site: Site) -> None:
    site.stop()
    assert site.call("web00", "8080:80") == Ended(
        0, "127.0.0.1:8080\n", "vmexpose: 'web00' does not run: the port opens when it starts\n")
    assert site.relays.serving == {}
    site.start("web00")
    assert site.call("--list").stdout == "web00  tcp  127.0.0.1:8080  80  open\n"


def test_a_relay_that_was_killed_is_told_and_the_same_command_mends_it(site: Site) -> None:
    site.call("web00", "8080:80")
    site.relays.end(forwards.lock(site.store, site.store.machine("web00"), WEB))
    assert site.call("--list").stdout == "web00  tcp  127.0.0.1:8080  80  broken\n"
    assert site.call("web00", "8080:80") == Ended(0, "127.0.0.1:8080\n", "")
    assert site.call("--list").stdout == "web00  tcp  127.0.0.1:8080  80  open\n"


@pytest.mark.parametrize(("raises", "error"), [
    (Busy("taken: nginx"), Busy), (UsageError("no address"), HostUnavailable), (NotPermitted("for root"), NotPermitted),
])
def test_a_start_whose_port_is_gone_fails_before_anything_is_changed(
    site: Site, raises: CloudMeError, error: type[CloudMeError],
) -> None:
    site.call("web01", "8080:80", "--udp")
    site.stop()
    site.taken({8080: raises})
    with pytest.raises(error) as caught:
        site.start("web00", "web01")
    assert caught.value.hint == "to start without it: vmexpose web01 --remove 8080 --udp"
    assert not any(site.store.is_running(machine) for machine in site.store.machines())


def test_a_restart_checks_before_it_stops_and_does_not_mind_its_own_port(site: Site) -> None:
    site.call("web00", "8080:80")
    site.taken({8080: Busy("taken: vmexpose")})
    machines = site.store.machines()
    power.check(site.host, site.store, machines, [])
    site.relays.end(forwards.lock(site.store, machines[0], WEB))
    with pytest.raises(Busy):
        power.check(site.host, site.store, machines, [])


def test_a_start_that_cannot_serve_is_undone(site: Site) -> None:
    site.call("web00", "8080:80")
    site.call("web00", "8081:81")
    site.stop()
    site.relays.refuse.add(81)
    with pytest.raises(PeerError):
        site.start("web00")
    assert (site.relays.serving, site.store.is_running(site.store.machine("web00"))) == ({}, False)


def test_a_machine_that_moves_takes_its_ports_along_and_back_when_that_fails(site: Site) -> None:
    site.call("web00", "8080:80")
    old = site.store.machine("web00")
    new = dataclasses.replace(old, nics=(dataclasses.replace(old.nics[0], address="10.210.0.99"),))
    with pytest.raises(RuntimeError), Transaction(site.host, lambda line: None) as transaction:
        transaction.apply(forwards.opening(site.store, [new], before=old))
        assert site.relays.ways() == {"forward.tcp.127.0.0.1.8080": "10.210.0.99:80"}
        raise RuntimeError
    assert site.relays.ways() == {"forward.tcp.127.0.0.1.8080": "10.210.0.2:80"}


def test_clones_do_not_inherit_ports(site: Site) -> None:
    site.call("web00", "8080:80")
    (clone,) = instantiate(site.store, site.host, request())
    assert clone.forwards == ()


def test_a_machine_that_is_destroyed_gives_its_port_back(site: Site) -> None:
    site.call("web00", "8080:80")
    machine = site.store.machine("web00")
    site.stop(machine)
    with Transaction(site.host, lambda line: None) as transaction:
        clones.destroy(transaction, site.store, [machine])
    assert site.relays.serving == {}
    assert site.call("web01", "8080:80").status == 0
