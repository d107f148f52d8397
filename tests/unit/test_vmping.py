"""Each way to a machine, with fakes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator

import pytest

from cloudme import forwards, layout
from cloudme.cli import pinging
from cloudme.errors import NotPermitted
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import Forward, Port
from cloudme.model.names import Name
from cloudme.model.ports import Host
from cloudme.operations.pinging import Answer, ask
from cloudme.store import Store, take_lock
from tests import fakes
from tests.conftest import program
from tests.unit.test_vmrunning import machine

MAC = "52:54:00:00:00:01"
PORT = Forward(protocol="tcp", address="127.0.0.1", port=8080, guest_port=80)


class Here:
    """web00, which runs, with one port; web01, which does not."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.net, self.shell, self.agent = fakes.FakeNet(), fakes.FakeShell(), fakes.FakeAgent()
        self.net.others = {"198.51.100.7": MAC}
        self.host: Host = fakes.host(net=self.net, shell=self.shell, agent=self.agent)
        for name in ("web00", "web01"):
            os.makedirs(store.world.machine(name))
            os.makedirs(store.world.machine_run(name))
            store.publish(dataclasses.replace(machine(name), forwards=(PORT,)))
        store.publish_network(store.designed(Settings()))
        open(os.path.join(store.world.machine_run("web00"), "agent"), "w", encoding="ascii").close()
        web00 = store.machine("web00")
        self.relay = take_lock(forwards.lock(store, web00, PORT))
        self.held = take_lock(layout.lock(store.folder(web00)))

    def of(self, name: str) -> Answer:
        (found,) = ask(self.host, self.store, [self.store.machine(name)], timeout_s=1)
        return found


@pytest.fixture
def here(store: Store) -> Iterator[Here]:
    it = Here(store)
    yield it
    for fd in (it.held, it.relay):
        if fd >= 0:
            os.close(fd)


def test_a_machine_that_answers_every_way_is_ok(here: Here) -> None:
    assert here.of("web00") == Answer(
        name="web00", address="198.51.100.7", runs=True, arp="ok", ssh="open", agent="ok", ports={"tcp/80": "open"})
    assert here.of("web00").ok


def test_one_that_does_not_run_fails(here: Here) -> None:
    assert not here.of("web01").ok


def test_each_way_fails_by_itself(here: Here) -> None:
    here.shell.ports[("web00", 22)] = "silent"
    assert (here.of("web00").ssh, here.of("web00").ok) == ("silent", False)
    here.shell.ports = {("web00", 80): "closed"}
    assert (here.of("web00").ports, here.of("web00").ok) == ({"tcp/80": "closed"}, False)
    here.shell.ports = {}
    here.agent.answers = False
    assert (here.of("web00").agent, here.of("web00").ok) == ("silent", False)


def test_who_answers_in_its_place_is_named(here: Here) -> None:
    here.net.others = {"198.51.100.7": "52:54:00:00:00:99"}
    assert (here.of("web00").arp, here.of("web00").ok) == ("52:54:00:00:00:99", False)
    here.net.others = {}
    assert here.of("web00").arp == "silent"


def test_a_port_of_the_host_that_nobody_serves_is_broken(here: Here) -> None:
    os.close(here.relay)
    here.relay = -1
    assert here.of("web00").ports == {"tcp/80": "broken"}


def test_ports_that_are_open_are_tried_one_by_one_and_ranges_are_not(here: Here) -> None:
    ports = (Port(name=Name("web"), first=80, last=80), Port(name=Name("api"), first=8200, last=8200),
             Port(name=Name("nodes"), first=30000, last=32767),
             Port(name=Name("dns"), first=53, last=53, protocol="udp"))
    here.store.publish(dataclasses.replace(here.store.machine("web00"), ports=ports))
    here.shell.ports = {("web00", 8200): "closed"}
    assert (here.of("web00").ports, here.of("web00").ok) == ({"tcp/80": "open", "tcp/8200": "closed"}, False)


def test_a_vlan_is_asked_on_its_own_link(here: Here) -> None:
    asked: list[str] = []

    class Listening(fakes.FakeNet):
        def arp(self, bridge: str, *_: object, **__: object) -> dict[str, str]:
            asked.append(bridge)
            return {"198.51.100.7": MAC}

    here.store.publish_network(dataclasses.replace(here.store.designed(Settings()), bridge="vmbr0", vlan=10))
    here.host = dataclasses.replace(here.host, net=Listening())
    assert (here.of("web00").arp, asked) == ("ok", ["vmbr0.10"])


def test_what_may_not_be_asked_does_not_fail(here: Here) -> None:
    class Forbidden(fakes.FakeNet):
        def arp(self, *_: object, **__: object) -> dict[str, str]:
            raise NotPermitted("no")

    here.host = dataclasses.replace(here.host, net=Forbidden())
    assert (here.of("web00").arp, here.of("web00").ok) == (None, True)


def test_an_agent_that_has_not_opened_its_port_is_not_asked(here: Here) -> None:
    assert isinstance(here.host.qemu, fakes.FakeHypervisor)
    here.host.qemu.agent_open = False
    assert here.of("web00").agent == "closed"


def run(here: Here, *words: str) -> int:
    return pinging.run(program("vmping").parser().parse_args(words), here.store, here.host)


def test_the_status_says_whether_all_were_reached(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(here) == 0  # those that run
    assert capsys.readouterr().out.split() == ["web00", "198.51.100.7", "ok", "arp:ok", "ssh:open", "agent:ok",
                                               "tcp/80:open"]
    assert run(here, "pf1") == 1
    assert capsys.readouterr().out.splitlines()[1].split() == ["web01", "198.51.100.7", "fails", "stopped"]
    assert run(here, "web00", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "web00", "address": "198.51.100.7", "ok": True, "runs": True, "arp": "ok", "ssh": "open",
         "agent": "ok", "ports": {"tcp/80": "open"}}]
