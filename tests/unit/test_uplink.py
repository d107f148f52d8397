"""The way out of a user's realm, by fakes: which program, and what is said where there is none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cloudme.errors import CommandFailed, NotPermitted
from cloudme.layout import World
from cloudme.model.hostconfig import Settings
from cloudme.model.names import Name
from cloudme.model.steps import Transaction
from cloudme.operations import networks
from cloudme.operations.networks import uplink
from cloudme.store import Store
from tests import fakes


@pytest.fixture
def world(tmp_path: Path) -> World:
    home = str(tmp_path)
    return World(data=home, run=f"{home}/run", config=f"{home}/config", rootless=True)


@pytest.mark.parametrize(("missing", "program"), [(set(), "pasta"), ({"pasta"}, "slirp4netns")])
def test_the_first_that_is_there_is_started(world: World, missing: set[str], program: str) -> None:
    outside = fakes.FakeOutside()
    with Transaction(fakes.host(outside=outside, run=fakes.FakeRun(missing=missing)), print) as transaction:
        assert uplink.start(transaction, world) is None
    assert [argv[0] for argv in outside.ran] == [program]
    assert Path(world.uplink("resolv")).read_text().startswith("nameserver ")


def test_without_one_that_is_said_and_nothing_is_started(world: World) -> None:
    outside = fakes.FakeOutside()
    host = fakes.host(outside=outside, run=fakes.FakeRun(missing={"pasta", "slirp4netns"}))
    with Transaction(host, print) as transaction:
        why = uplink.start(transaction, world)
    assert why == "nothing leads out of this realm: apt install passt or slirp4netns"
    assert outside.ran == []


def test_one_that_fails_is_no_reason_to_have_no_network(world: World) -> None:
    class Refusing(fakes.FakeOutside):
        def run(self, argv: object, *, timeout_s: float = 60) -> str:
            raise CommandFailed("pasta failed: no external interface")

    with Transaction(fakes.host(outside=Refusing()), print) as transaction:
        assert "no external interface" in str(uplink.start(transaction, world))


def test_roots_realms_have_none(world: World) -> None:
    world.rootless = False
    outside = fakes.FakeOutside()
    with Transaction(fakes.host(outside=outside), print) as transaction:
        assert uplink.start(transaction, world) is None
    assert outside.ran == []


def test_a_bridge_of_the_lan_is_refused_to_users(world: World) -> None:

    lan = dataclasses.replace(Settings().network(), name=Name("lan"), external=True, dhcp_first=None, dhcp_last=None)
    with (Transaction(fakes.host(), print) as transaction,
          pytest.raises(NotPermitted, match="which is root's")):
        networks.create(transaction, Store(world), lan)
