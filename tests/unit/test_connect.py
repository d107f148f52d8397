"""vmconnect and vmdisconnect: which links words mean, and what is done to them; with fakes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import pytest

from cloudme import cli
from cloudme.cli import connecting
from cloudme.errors import CommandFailed, HostUnavailable, NotFound, PeerError
from cloudme.model.machine import Nic
from cloudme.model.names import DefinitionName, Name
from cloudme.model.network import Link
from cloudme.store import Store
from tests import fakes
from tests.conftest import Ended, program
from tests.unit.test_definitions import Machina
from tests.unit.test_definitions import machina as machina
from tests.unit.test_vmrunning import machine

LONG, DIGEST = "a-rather-long-machine", "BMjROfc55lhhzlM"


class Here:
    """web00, with cards in `default` and `lan`; the definitions test-vm, and one with a long name."""

    def __init__(self, store: Store, machina: Machina, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd
        self.store = store
        self.root = str(machina.folder.parents[1])
        os.makedirs(store.world.machine("web00"))
        nics = (*machine("web00").nics, Nic(network=Name("lan"), mac="52:54:00:00:00:02", address=None))
        store.publish(dataclasses.replace(machine("web00"), nics=nics))
        machina.host({"network": {"local": {"device": "bridge0"}, "own": {"up": "/up", "down": "/down"}}})
        attrs = {"attrs": {"memory": {"ram": 64}, "qmp": {"enabled": True}}}
        machina.machine("test-vm", {**attrs, "connections": [{"name": "0", "network": "local"},
                                                             {"name": "1", "network": "own"}]})
        machina.machine(LONG, {**attrs, "id": "00000000-0000-0000-0000-000000000001",
                               "connections": [{"name": "0", "network": "local"}]})
        self.net = fakes.FakeNet(known={name: Link(name=name, up=True, master="bridge0")
                                        for name in ("test-vm.0", DIGEST)})
        self.qemu, self.run = fakes.FakeHypervisor(), fakes.FakeRun()
        self.host = fakes.host(net=self.net, qemu=self.qemu, run=self.run)

    @property
    def links(self) -> dict[str, bool]:
        return self.qemu.told.links

    def call(self, name: str, *words: str) -> Ended:
        args = program(name).parser().parse_args([*words, "--root", self.root])
        status = cli.run(name, lambda args: connecting.run(args, self.store, self.host, on=name == "vmconnect"), args)
        out = self._capfd.readouterr()
        return Ended(status, out.out, out.err)


@pytest.fixture
def here(store: Store, machina: Machina, capfd: pytest.CaptureFixture[str]) -> Here:
    return Here(store, machina, capfd)


@pytest.mark.parametrize(("word", "said", "netdevs"), [
    ("web00", ["web00.0", "web00.1"], ["net0", "net1"]),
    ("web00.1", ["web00.1"], ["net1"]),
    ("web00.lan", ["web00.1"], ["net1"]),
    ("test-vm", ["test-vm.0", "test-vm.1"], ["net.0", "net.1"]),
    ("test-vm.0", ["test-vm.0"], ["net.0"]),
    (f"{LONG}.0", [DIGEST], ["net.0"]),
    (DIGEST, [DIGEST], ["net.0"]),
])
def test_words_mean_machines_cards_and_links(here: Here, word: str, said: list[str], netdevs: list[str]) -> None:
    for _ in range(2):
        assert here.call("vmdisconnect", word).stdout.splitlines() == [f"{link}: disabled" for link in said]
        assert here.links == dict.fromkeys(netdevs, False)
    for _ in range(2):
        assert here.call("vmconnect", word, word).stdout.splitlines() == [f"{link}: enabled" for link in said]
        assert here.links == dict.fromkeys(netdevs, True)


def test_the_record_of_what_is_defined_leads_to_its_definition(here: Here) -> None:
    os.makedirs(here.store.world.machine("short"))
    here.store.publish(dataclasses.replace(machine("short"), definition=DefinitionName(LONG), nics=()))
    for word in ("short", "short.0"):
        assert here.call("vmdisconnect", word).stdout == f"{DIGEST}: disabled\n"


def test_the_tap_of_a_definition_leaves_its_bridge_and_comes_back(here: Here) -> None:
    here.call("vmdisconnect", DIGEST)
    assert (here.net.known[DIGEST].master, here.net.known[DIGEST].up) == ("", False)
    assert here.net.known["test-vm.0"].master == "bridge0"
    here.call("vmconnect", DIGEST)
    assert (here.net.known[DIGEST].master, here.net.known[DIGEST].up) == ("bridge0", True)


def test_a_networks_own_programs_are_run(here: Here) -> None:
    here.call("vmdisconnect", "test-vm.1")
    here.call("vmconnect", "test-vm.1")
    assert here.run.calls == [["/down", "test-vm.1"], ["/up", "test-vm.1"]]


def test_a_dry_run_says_the_steps_in_their_order(here: Here) -> None:
    assert here.call("vmconnect", "test-vm", "--dry-run").stdout.splitlines() == [
        "put test-vm.0 into the bridge bridge0, and set it up", "set the link of test-vm.0 up in QEMU",
        "run /up test-vm.1", "set the link of test-vm.1 up in QEMU"]
    assert here.call("vmdisconnect", "test-vm.0", "web00.0", "--dry-run").stdout.splitlines() == [
        "set the link of test-vm.0 down in QEMU", "set test-vm.0 down, and take it out of its bridge",
        "set the link of web00.0 down in QEMU"]
    assert here.links == {} and here.net.known["test-vm.0"].up


@pytest.mark.parametrize(("words", "status", "said"), [
    (["web00", "nobody"], 66, "no machine or link 'nobody'"),
    (["web00", "test-vm.7"], 66, "no machine or link 'test-vm.7'"),
    (["web00", "web00.7"], 66, "'web00' has no card '7'"),
    ([], 64, "LINK"),
])
def test_nothing_is_changed_where_a_word_means_nothing(here: Here, words: list[str], status: int, said: str) -> None:
    try:
        ended = here.call("vmdisconnect", *words)
    except SystemExit as parsing:
        assert parsing.code == status
    else:
        assert (ended.status, ended.stdout) == (status, "") and said in ended.stderr
    assert here.links == {}


def test_one_that_does_not_run_keeps_no_other_from_it(here: Here) -> None:
    here.qemu.refused = {"/web00/": NotFound("nobody listens")}
    ended = here.call("vmdisconnect", "web00", "test-vm.0")
    assert (ended.status, ended.stdout) == (75, "test-vm.0: disabled\n")
    assert [line.partition(": ")[2] for line in ended.stderr.splitlines() if "(" not in line] == [
        "web00.0: 'web00' does not run", "web00.1: 'web00' does not run"]


def test_what_was_begun_is_undone(here: Here) -> None:
    here.net.known = {}
    ended = here.call("vmdisconnect", "test-vm.0")
    assert ended.status == HostUnavailable.exit_status and "there is no link 'test-vm.0'" in ended.stderr
    assert here.links == {"net.0": True}
    here.net.known = {"test-vm.0": Link(name="test-vm.0", up=False)}
    here.qemu.told.answers["set_link"] = PeerError("QEMU refused 'set_link'")
    assert here.call("vmconnect", "test-vm.0").status == 76
    assert here.net.known["test-vm.0"] == Link(name="test-vm.0", up=False)
    here.run.fail["/up"] = CommandFailed("/up failed")
    assert here.call("vmconnect", "test-vm.1").status == 71


def test_a_link_that_two_have_is_a_mistake_of_theirs(here: Here, machina: Machina) -> None:
    attrs = {"attrs": {"memory": {"ram": 64}}}
    machina.machine("a", {**attrs, "connections": [{"name": "b.c", "network": "local"}]})
    machina.machine("a.b", {**attrs, "id": "00000000-0000-0000-0000-000000000002",
                            "connections": [{"name": "c", "network": "local"}]})
    ended = here.call("vmdisconnect", "a.b.c")
    assert ended.status == 65 and "the link's name a.b.c of a is that of a.b, too" in ended.stderr


def test_without_definitions_the_machine_is_what_is_missing(command: Callable[..., Ended]) -> None:
    ended = command("vmdisconnect", "nobody")
    assert ended.status == 66 and "no machine or link 'nobody'" in ended.stderr
