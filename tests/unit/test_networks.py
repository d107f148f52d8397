"""Starting, stopping and telling of a network, over a host of fakes."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from cloudme.errors import (
    AlreadyExists,
    Busy,
    CommandFailed,
    ConfigError,
    HostUnavailable,
    MissingProgram,
    NotFound,
    NotPermitted,
)
from cloudme.layout import World
from cloudme.model.hostconfig import Resolve, Settings
from cloudme.model.names import Name
from cloudme.model.network import Link, Network
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction
from cloudme.operations import networks
from cloudme.operations.networks import truth
from cloudme.operations.networks.truth import HostFiles
from cloudme.store import Store
from tests import fakes

NETWORK = dataclasses.replace(Settings().network(), resolve=Resolve.hosts)
MAC, OTHER = "52:54:00:00:00:07", "52:54:00:00:00:08"
OURS = Link(name="bridge0", kind="bridge", alias="cloudme default", addresses=(NETWORK.address,))


@pytest.fixture
def files(tmp_path: Path) -> HostFiles:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").write_text("127.0.0.1 localhost\n")
    return HostFiles(bridge_acl=str(tmp_path / "etc/qemu/bridge.conf"), hosts=str(tmp_path / "etc/hosts"),
                     networkmanager=str(tmp_path / "etc/nm"))


def started(store: Store, files: HostFiles, network: Network = NETWORK, **parts: Any) -> Host:
    host = fakes.host(**{"run": fakes.FakeNft(), **parts})
    go(networks.start, host, store, network, files)
    return host


def go(operation: Callable[..., None], host: Host, store: Store, network: Network | str, files: HostFiles) -> list[str]:
    said: list[str] = []
    with Transaction(host, said.append) as transaction:
        operation(transaction, store, network, files)
    return said


def test_a_start_makes_all_and_a_second_nothing(store: Store, files: HostFiles) -> None:
    host = fakes.host(run=fakes.FakeNft())
    store.reserve(NETWORK, "web00", MAC, "10.210.0.7")
    said = go(networks.start, host, store, NETWORK, files)
    assert [line.split()[0] for line in said] == ["make", "forward", "allow", "start", f"{files.hosts}:", "note"]
    assert not os.path.exists(files.bridge_acl)
    assert "10.210.0.7 web00.cloudme\n" in Path(files.hosts).read_text()
    assert store.network() == NETWORK
    assert go(networks.start, host, store, NETWORK, files) == []


def test_a_stop_undoes_a_start_and_a_second_nothing(store: Store, files: HostFiles) -> None:
    store.reserve(NETWORK, "web00", MAC, "10.210.0.7")
    host = started(store, files)
    go(networks.stop, host, store, NETWORK, files)
    assert Path(files.hosts).read_text() == "127.0.0.1 localhost\n"
    assert store.network() is None
    assert host.net.links() == {}
    assert go(networks.stop, host, store, NETWORK, files) == []


def test_a_failure_undoes_what_was_done(store: Store, files: HostFiles) -> None:
    run = fakes.FakeNft(fail={"--conf-file": CommandFailed("dnsmasq failed: bad option")})
    host = fakes.host(run=run)
    with pytest.raises(CommandFailed):
        go(networks.start, host, store, NETWORK, files)
    assert host.net.links() == {}
    assert run.answers == {}
    assert not os.path.exists(files.bridge_acl)
    assert store.network() is None


@pytest.mark.parametrize(("broken", "words"), [
    ({"links": {}}, ["make the bridge", "restart dnsmasq"]),
    ({"links": {"bridge0": dataclasses.replace(OURS, up=False)}}, ["set bridge0 up"]),
    ({"links": {"bridge0": dataclasses.replace(OURS, addresses=())}}, ["set bridge0 up"]),
    ({"forwarding": False}, ["forward IPv4"]),
    ({"marks": ()}, ["allow forwarding"]),
    ({"serving": False}, ["start dnsmasq"]),
    ({"configuration": "old"}, ["restart dnsmasq"]),
    ({"record": None}, ["note what the network 'default' is"]),
    ({}, []),
])
def test_each_thing_that_is_amiss_has_its_step(
    store: Store, files: HostFiles, broken: dict[str, Any], words: list[str],
) -> None:
    host = started(store, files)
    found = dataclasses.replace(truth.find(host, store, NETWORK, files), **broken)
    steps = truth.diff(store, truth.want(host, store, NETWORK), found, files)
    assert len(steps) == len(words)
    assert all(word in step.describe() for word, step in zip(words, steps, strict=True))


@pytest.mark.parametrize(("parts", "links", "error", "words"), [
    ({"net": fakes.FakeNet(root=False)}, {}, NotPermitted, "root"),
    ({"run": fakes.FakeNft(missing={"dnsmasq"})}, {}, MissingProgram, "dnsmasq"),
    ({"run": fakes.FakeNft(missing={"nft"})}, {}, MissingProgram, "nft"),
    ({"net": fakes.FakeNet(holder="port 53: named (pid 12)")}, {}, Busy, "named"),
    ({}, {"bridge0": Link(name="bridge0", kind="veth")}, AlreadyExists, "no bridge"),
    ({}, {"bridge0": dataclasses.replace(OURS, alias="")}, AlreadyExists, "not cloudMe's"),
    ({}, {"eth0": Link(name="eth0", addresses=(IPv4Interface("10.0.0.5/8"),))}, ConfigError, "which eth0 has"),
    ({}, {"tun0": Link(name="tun0", routes=(NETWORK.address.network,))}, ConfigError, "which tun0 has"),
])
def test_a_check_that_fails_has_changed_nothing(
    store: Store, files: HostFiles, parts: dict[str, Any], links: dict[str, Link], error: type[Exception], words: str,
) -> None:
    host = fakes.host(**{"run": fakes.FakeNft(), "net": fakes.FakeNet(), **parts})
    host.net.known.update(links)  # type: ignore[attr-defined]
    with pytest.raises(error, match=words):
        go(networks.start, host, store, NETWORK, files)
    assert host.net.links() == links
    assert store.network() is None


def test_an_empty_bridge_of_that_name_is_taken_over(store: Store, files: HostFiles) -> None:
    """A start that was killed between making it and marking it leaves such a one."""
    net = fakes.FakeNet(known={"bridge0": Link(name="bridge0", kind="bridge", up=False)})
    assert started(store, files, net=net).net.links() == {"bridge0": OURS}


def test_a_reservation_that_does_not_go_with_the_network_is_named(store: Store, files: HostFiles) -> None:
    store.reserve(NETWORK, "web00", MAC, "10.99.0.7")
    with pytest.raises(ConfigError, match="'web00' has the address"):
        started(store, files)


def test_a_network_in_use_is_not_stopped(store: Store, files: HostFiles) -> None:
    host = started(store, files)
    host.net.known["cm0"] = Link(name="cm0", kind="tun", master="bridge0")  # type: ignore[attr-defined]
    with pytest.raises(Busy, match="cm0"):
        go(networks.stop, host, store, NETWORK, files)
    assert "bridge0" in host.net.links()


def test_reload_wants_a_network_that_was_started(store: Store, files: HostFiles) -> None:
    with pytest.raises(NotFound):
        go(networks.reload, fakes.host(run=fakes.FakeNft()), store, NETWORK, files)


def test_reload_keeps_the_way_of_resolving_and_replaces_a_renamed_bridge(store: Store, files: HostFiles) -> None:
    host = started(store, files)
    renamed = dataclasses.replace(NETWORK, bridge="lab0", resolve=Resolve.auto)
    go(networks.reload, host, store, renamed, files)
    assert set(host.net.links()) == {"lab0"}
    assert store.network() == dataclasses.replace(renamed, resolve=Resolve.hosts)


def test_dnsmasq_may_read_what_is_reserved_whatever_the_umask(store: Store) -> None:
    """It serves a network of the LAN's nowhere, and reads its names for those that reach it."""
    before = os.umask(0o077)
    try:
        store.reserve(NETWORK, "web00", MAC, "10.210.0.7")
    finally:
        os.umask(before)
    assert os.stat(store.world.host_names("default")).st_mode & 0o777 == 0o755


def test_what_is_no_reservation_of_ours_stops_nothing(store: Store) -> None:
    store.reserve(NETWORK, "web00", MAC, "10.210.0.7")
    folder = Path(store.world.reservations("default"))
    (folder / "web00~").write_text(f"{OTHER},10.210.0.8,web00\n")
    (folder / "printer").write_text(f"{OTHER},10.210.0.9\n")
    (folder / "more").mkdir()
    assert store.reservations("default") == {"web00": (MAC, "10.210.0.7")}
    assert store.owners("default") == {}


def test_refresh_makes_dnsmasq_forget_what_is_no_longer_reserved(store: Store, files: HostFiles) -> None:
    host = started(store, files)
    store.reserve(NETWORK, "web00", MAC, "10.210.0.7")
    Path(store.world.leases("default")).write_text(
        f"1 {MAC} 10.210.0.7 web00 *\n1 {OTHER} 10.210.0.8 web01 *\n")
    assert isinstance(host.run, fakes.FakeNft)
    networks.refresh_names(host, store, files=files)
    assert signal.SIGHUP in host.run.daemons[store.world.dnsmasq("default", "conf")]
    assert isinstance(host.net, fakes.FakeNet)
    ((address, port, packet),) = host.net.sent
    assert (address, port, packet[12:16]) == ("10.210.0.1", 67, bytes((10, 210, 0, 8)))
    assert "10.210.0.7 web00.cloudme\n" in Path(files.hosts).read_text()


def test_who_reaches_a_network_that_is_stopped_and_forgotten_knows_no_longer_its_domain(
    store: Store, files: HostFiles,
) -> None:
    lab = Network(name=Name("lab"), bridge="cm-lab", address=IPv4Interface("10.44.0.1/24"), domain="lab.cloudme",
                  dhcp_first=IPv4Address("10.44.0.2"), dhcp_last=IPv4Address("10.44.0.254"), reaches=(NETWORK.name,),
                  resolve=Resolve.none)
    host = started(store, files)
    go(networks.start, host, store, lab, files)
    known, conf = Path(store.world.reached_domains("lab")), store.world.dnsmasq("lab", "conf")
    assert known.read_text() == "server=/cloudme/\n" and isinstance(host.run, fakes.FakeNft)
    host.run.daemons[conf].clear()
    go(networks.stop, host, store, NETWORK, files)
    assert (known.read_text(), host.run.daemons) == ("", {conf: [signal.SIGHUP]})


def test_refresh_of_what_is_not_started_does_nothing(store: Store, files: HostFiles) -> None:
    networks.refresh_names(fakes.host(), store, files=files)
    assert Path(files.hosts).read_text() == "127.0.0.1 localhost\n"


def test_status_tells_what_is_amiss(store: Store, files: HostFiles) -> None:
    host = started(store, files)
    assert not networks.status(host, store, NETWORK, files).amiss
    host.net.remove_link("bridge0")
    found = networks.status(host, store, NETWORK, files)
    assert found.started
    assert found.amiss == ("make the bridge bridge0 with 10.210.0.1/24",
                           "restart dnsmasq on bridge0: DHCP and DNS for cloudme")


def test_status_of_what_is_not_started(store: Store, files: HostFiles) -> None:
    found = networks.status(fakes.host(run=fakes.FakeNft()), store, NETWORK, files)
    assert (found.started, found.amiss) == (False, ())


def test_a_note_tells_of_rules_that_drop_what_guests_send() -> None:
    chains = '{"nftables": [{"metainfo": {}}, {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", ' \
             '"hook": "forward", "policy": "drop"}}, {"chain": {"family": "ip", "table": "x", "name": "y"}}]}'
    assert truth.notes(fakes.host(run=fakes.FakeRun(answers={"nft": chains})), NETWORK, HostFiles()) == [
        "the host's nft chain 'filter FORWARD' drops by default: guests may not get out"]


def test_in_a_realm_names_do_not_reach_the_host_unless_it_is_asked_for() -> None:
    realm = World(data="/d", run="/r", config="/c", realm="demo")
    assert truth.mode(fakes.host(), realm, Resolve.auto) == Resolve.none
    assert truth.mode(fakes.host(), realm, Resolve.hosts) == Resolve.hosts
    with pytest.raises(ConfigError):
        truth.mode(fakes.host(), realm, Resolve.resolved)


def test_a_way_of_resolving_that_is_not_there_is_said_and_auto_takes_the_hosts_file(store: Store) -> None:
    bare = fakes.host(run=fakes.FakeRun(missing={"resolvectl", "nmcli"}))
    assert truth.mode(bare, store.world, Resolve.auto) == Resolve.hosts
    for way in (Resolve.resolved, Resolve.networkmanager):
        with pytest.raises(HostUnavailable, match=way):
            truth.mode(bare, store.world, way)


def test_networkmanager_needs_its_plug_in(store: Store) -> None:
    class Managed(fakes.FakeRun):
        def __call__(self, argv: Any, **more: Any) -> str:
            return {"nmcli": "running\n", "NetworkManager": self.answers["config"]}[argv[0]]

    def chosen(config: str) -> Resolve:
        run = Managed(answers={"config": config}, missing={"resolvectl"})
        return truth.mode(fakes.host(run=run), store.world, Resolve.auto)

    assert chosen("[main]\ndns=dnsmasq\n") == Resolve.networkmanager
    assert chosen("[main]\ndns=default\n") == Resolve.hosts


def test_networkmanager_gets_a_file_and_is_told(store: Store, files: HostFiles) -> None:
    network = dataclasses.replace(NETWORK, resolve=Resolve.networkmanager)
    host = fakes.host(run=fakes.FakeNft())
    found = truth.find(host, store, network, files)
    steps = [step for step in truth.diff(store, truth.want(host, store, network), found, files)
             if files.networkmanager in step.describe()]
    for step in steps:
        step.do(host)
    file = Path(files.networkmanager) / "cloudme-bridge0.conf"
    assert "server=/cloudme/10.210.0.1\n" in file.read_text()
    assert isinstance(host.run, fakes.FakeNft)
    assert host.run.calls[-1] == ["nmcli", "general", "reload", "dns-full"]
    for step in steps:
        step.undo(host)
    assert not file.exists()


def test_resolved_is_asked_and_told_by_link(store: Store, files: HostFiles) -> None:
    network = dataclasses.replace(NETWORK, resolve=Resolve.resolved)

    class Resolvectl(fakes.FakeNft):
        def __call__(self, argv: Any, **more: Any) -> str:
            answer = super().__call__(argv, **more)
            if argv[0] != "resolvectl" or len(argv) > 3:
                return answer
            return {"dns": "Link 3 (bridge0): 10.210.0.1\n", "domain": "Link 3 (bridge0): ~cloudme\n"}[argv[1]]

    for run, count in ((Resolvectl(), 0), (fakes.FakeNft(), 1)):
        host = fakes.host(run=run)
        found = truth.find(host, store, network, files)
        steps = truth.diff(store, truth.want(host, store, network), found, files)
        told = [step for step in steps if "systemd-resolved" in step.describe()]
        assert len(told) == count
    told[0].do(host)
    assert run.calls[-3:] == [["resolvectl", "dns", "bridge0", "10.210.0.1"],
                              ["resolvectl", "domain", "bridge0", "~cloudme"],
                              ["resolvectl", "default-route", "bridge0", "no"]]


@pytest.mark.parametrize("wrong", [
    {"bridge": "a b"}, {"bridge": "sixteen-letters-"}, {"bridge": "br*"}, {"bridge": ""}, {"bridge": "a\ninterface=b"},
    {"domain": "a b"}, {"domain": "a\nserver=1.2.3.4"}, {"domain": ".x"}, {"domain": "X"}, {"domain": ""},
])
def test_what_would_be_more_than_a_name_in_a_file_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        dataclasses.replace(NETWORK, **wrong)  # type: ignore[arg-type]
