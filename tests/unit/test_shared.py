"""Root's networks shared with users: what root sets aside, what a user finds, and what is refused; with fakes."""

from __future__ import annotations

import dataclasses
import os
import stat
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from cloudme import claim, shared
from cloudme.errors import AlreadyExists, Busy, HostUnavailable, NotFound, NotPermitted, UsageError
from cloudme.formats import inventory
from cloudme.layout import World
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import Forward, Machine
from cloudme.model.names import Name
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction
from cloudme.operations import exposing, networks, playbooks, power
from cloudme.operations.networks import sharing
from cloudme.operations.networks.truth import HostFiles
from cloudme.qemu import launch
from cloudme.store import Store
from tests import fakes
from tests.conftest import program
from tests.unit.test_clones import instantiate, request, template
from tests.unit.test_networks import NETWORK, files, go, started

__all__ = ["files"]

SETTINGS = Settings()
ME = shared.me()
OTHER = "games"
"""A user that every Debian has, alone in his group."""
SHARED = dataclasses.replace(NETWORK, users=(ME,))
"""Tests may run as root, whom cmnet would refuse: so it is noted already that this user is allowed."""


@pytest.fixture
def root(store: Store, files: HostFiles, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Root's world, with a network that is shared with who runs the tests."""
    monkeypatch.setenv("CLOUDME_HOST_HOME", store.world.data)
    store.publish_network(SHARED)
    started(store, files, SHARED)
    return store


@pytest.fixture
def mine(root: Store, tmp_path: Path) -> Store:
    """An ordinary user's world, with a template."""
    home = str(tmp_path / "me")
    store = Store(World(data=home, run=f"{home}/run", config=f"{home}/config", rootless=True))
    os.mkdir(home)
    template(store, fakes.host())
    return store


def clones(store: Store, host: Host, count: int = 1, *names: str) -> list[Machine]:
    return instantiate(store, host, request(count, networks=tuple(Name(name) for name in names or ("host",))))


def test_each_user_has_a_list_of_his_own_and_nobody_has_all(store: Store, files: HostFiles) -> None:
    network = dataclasses.replace(NETWORK, users=(OTHER,))
    host = fakes.host(run=fakes.FakeNft())
    said = go(networks.start, host, store, network, files)
    assert f"set 16 addresses aside for machines of {OTHER}: 10.210.0.2 to 10.210.0.17" in said
    own = Path(files.of_user(OTHER))
    assert own.read_text() == "# begin cloudme bridge0 (written by cmnet)\nallow bridge0\n# end cloudme bridge0\n"
    assert (stat.S_IMODE(own.stat().st_mode), stat.S_IMODE(Path(files.bridge_acl).stat().st_mode)) == (0o640, 0o644)
    assert Path(files.bridge_acl).read_text() == (
        f"# begin cloudme bridge0 (written by cmnet)\ninclude {own}\n# end cloudme bridge0\n")
    assert len(store.reservations("default")) == shared.CARDS
    assert len({mac for mac, _ in store.reservations("default").values()}) == shared.CARDS
    assert go(networks.start, host, store, network, files) == []


def test_what_a_stop_takes_away_and_what_stays(store: Store, files: HostFiles) -> None:
    """Others' lines stay, and so do the addresses: the next start knows by them who was allowed."""
    Path(files.bridge_acl).parent.mkdir()
    Path(files.bridge_acl).write_text("allow virbr0\n")
    network = dataclasses.replace(NETWORK, users=(OTHER,))
    host = started(store, files, network)
    assert Path(files.bridge_acl).read_text().startswith("allow virbr0\n# begin")
    go(networks.stop, host, store, network, files)
    assert Path(files.bridge_acl).read_text() == "allow virbr0\n"
    assert not os.path.exists(files.of_user(OTHER))
    assert store.network() is None
    assert store.users("default") == (OTHER,)
    assert len(store.owners("default")) == shared.CARDS


def test_who_is_denied_gives_all_of_it_back(store: Store, files: HostFiles) -> None:
    host = started(store, files, dataclasses.replace(NETWORK, users=(OTHER,)))
    said = go(networks.start, host, store, NETWORK, files)
    assert said[0] == f"give the addresses back that {OTHER} had"
    assert store.reservations("default") == {}
    assert not os.path.exists(files.of_user(OTHER))
    assert not os.path.exists(files.bridge_acl)
    assert store.network() == NETWORK


def test_what_was_set_aside_keeps_its_address_and_fits_the_range(store: Store, files: HostFiles) -> None:
    network = dataclasses.replace(NETWORK, users=(OTHER,))
    host = started(store, files, network)
    before = store.reservations("default")
    later = dataclasses.replace(network, dhcp_first=IPv4Address("10.210.0.10"), users=(OTHER, "news"))
    go(networks.start, host, store, later, files)
    after = store.reservations("default")
    for name, (mac, address) in before.items():
        assert after[name][0] == mac
        assert after[name][1] == address if IPv4Address(address) >= IPv4Address("10.210.0.10") else address != after[
            name][1]
    assert len({address for _, address in after.values()}) == len(after) == 2 * shared.CARDS


def test_a_range_without_room_is_refused_before_anything_changes(store: Store, files: HostFiles) -> None:
    small = dataclasses.replace(NETWORK, dhcp_last=IPv4Address("10.210.0.9"), users=(OTHER,))
    with pytest.raises(Busy, match="8 free addresses, 16 are wanted"):
        started(store, files, small)
    assert not os.path.exists(files.bridge_acl)
    assert store.network() is None


@pytest.mark.parametrize(("user", "error", "words"), [
    ("nobody-of-that-name", NotFound, "no user"),
    ("root", UsageError, "needs no permission"),
    ("_apt", UsageError, "whose machines can have names"),
    ("sync", UsageError, "in the group of 'sync'"),
])
def test_users_whom_nothing_can_be_shared_with(
    store: Store, files: HostFiles, user: str, error: type[Exception], words: str,
) -> None:
    """_apt is no DNS label, and sync has its primary group with others (base-passwd)."""
    with pytest.raises(error, match=words):
        started(store, files, dataclasses.replace(NETWORK, users=(user,)))
    assert store.network() is None


def test_only_root_shares_and_only_the_hosts_own(store: Store, files: HostFiles) -> None:
    world = store.world
    network = dataclasses.replace(NETWORK, users=(OTHER,), resolve="none")
    for changed, error in ({"rootless": True}, NotPermitted), ({"realm": "demo"}, UsageError):
        other = World(data=world.data, run=world.run, config=world.config, **changed)
        with pytest.raises(error):
            started(Store(other), files, network)


def test_a_list_that_a_user_may_not_read_is_told(store: Store, files: HostFiles) -> None:
    network = dataclasses.replace(NETWORK, users=(OTHER,))
    Path(files.bridge_acl).parent.mkdir()
    Path(files.bridge_acl).write_text("allow virbr0\n")
    os.chmod(files.bridge_acl, 0o600)
    started(store, files, network)
    paths = {OTHER: [files.bridge_acl]}
    assert sharing.unreadable(network, paths) == [
        f"{OTHER} may not read {files.bridge_acl}: his machines cannot join bridge0; chmod o+r {files.bridge_acl}"]
    os.chmod(files.bridge_acl, 0o644)
    assert sharing.unreadable(network, paths) == []
    os.chmod(os.path.dirname(files.bridge_acl), 0o700)
    assert "chmod o+x" in sharing.unreadable(network, paths)[0]


def test_a_machine_of_a_user_has_a_card_that_root_reserved(root: Store, mine: Store) -> None:
    host = fakes.host(net=fakes.FakeNet(bridges=set()))
    machines = clones(mine, host, 2)
    reserved = {(mac, address) for mac, address in root.reservations("default").values()}
    assert {(m.nics[0].mac, m.address) for m in machines} <= reserved
    assert not any(m.nics[0].static for m in machines)
    assert isinstance(host.qemu, fakes.FakeHypervisor)
    assert [(tap.bridge, tap.outside) for one in host.qemu.launches for tap in one.taps] == [("bridge0", True)] * 2
    assert mine.target(machines[0]).outside
    assert mine.networks() == []


def test_cards_run_out(mine: Store) -> None:
    clones(mine, fakes.host(), shared.CARDS)
    with pytest.raises(Busy, match="0 of the 16 cards"):
        clones(mine, fakes.host())


def test_all_realms_of_a_user_have_one_allotment(mine: Store) -> None:
    network = mine.network_of(SETTINGS, "host")
    world = mine.world
    other = Store(World(data=world.data, run=world.run, config=world.config, realm="demo", rootless=True))
    (machine,) = clones(mine, fakes.host())
    assert claim.addresses(other, network, 1) != [machine.address]


def test_an_address_may_be_chosen_among_ones_own(mine: Store) -> None:
    network = mine.network_of(SETTINGS, "host")
    claim.check_free(fakes.host(), mine, network, ["10.210.0.5"])
    with pytest.raises(UsageError, match=r"not set 10\.210\.0\.99 aside"):
        claim.check_free(fakes.host(), mine, network, ["10.210.0.99"])
    card = claim.nic(network, "uuid", 0, "10.210.0.5")
    assert (card.mac, card.static) == (shared.allotment(network)["10.210.0.5"], False)


def test_a_machine_may_have_cards_on_both(root: Store, mine: Store) -> None:
    (machine,) = clones(mine, fakes.host(), 1, "default", "host")
    assert not mine.target(machine).outside
    assert machine.nics[1].mac in {mac for mac, _ in root.reservations("default").values()}
    lab = dataclasses.replace(SHARED, name=Name("lab"), bridge="cm-lab")
    assert not set(sharing._pairs(lab, ME, {}, set()).values()) & set(root.reservations("default").values())


def test_networks_that_are_not_shared_are_refused_and_others_are_not_there(root: Store, mine: Store) -> None:
    root.publish_network(dataclasses.replace(SHARED, name=Name("lab"), bridge="cm-lab", users=("somebody",)))
    with pytest.raises(NotPermitted, match="'lab' is root's network") as told:
        mine.network_of(SETTINGS, "lab")
    assert told.value.hint == f"an administrator allows it: sudo cmnet start lab --allow-user {ME}"
    with pytest.raises(NotFound):
        mine.network_of(SETTINGS, "other")
    assert [network.name for network in shared.networks()] == ["host"]
    assert not mine.network_of(SETTINGS).shared
    with pytest.raises(NotFound):
        root.network_of(SETTINGS, "host")


def test_the_record_of_what_is_shared_is_there_to_be_read(root: Store) -> None:
    def mode(name: str) -> int:
        return stat.S_IMODE(os.stat(root.world.network_record(name)).st_mode)

    root.publish_network(dataclasses.replace(NETWORK, name=Name("lab"), bridge="cm-lab"))
    assert (mode("default"), mode("lab")) == (0o644, 0o600)


def test_ones_own_network_of_that_name_comes_first(root: Store, mine: Store) -> None:
    root.publish_network(dataclasses.replace(SHARED, name=Name("lab"), bridge="cm-lab"))
    own = dataclasses.replace(NETWORK, name=Name("lab"), bridge="cm-mine")
    assert mine.network_of(SETTINGS, "lab").shared
    mine.publish_network(own)
    assert mine.network_of(SETTINGS, "lab") == own


def test_a_bridge_that_is_not_there_is_told(mine: Store) -> None:
    outside = fakes.FakeOutside(bridges=set())
    with pytest.raises(HostUnavailable, match="root's bridge 'bridge0' is not there"):
        power.check(fakes.host(outside=outside), mine, [], [mine.network_of(SETTINGS, "host")])


def test_nothing_of_it_is_a_users_to_change(mine: Store, files: HostFiles) -> None:
    network = mine.network_of(SETTINGS, "host")
    for operation in (networks.start, networks.stop, networks.reload):
        with pytest.raises(NotPermitted, match="you may use it, no more"):
            go(operation, fakes.host(run=fakes.FakeNft()), mine, network, files)

    host = fakes.host(run=fakes.FakeNft())
    with pytest.raises(NotPermitted, match="you may use it, no more"):
        go(lambda transaction, *_: networks.delete(transaction, mine, "host", files), host, mine, network, files)
    with pytest.raises(NotFound):
        go(lambda transaction, *_: networks.delete(transaction, mine, "lab", files), host, mine, network, files)
    with pytest.raises(AlreadyExists, match="to users"):
        go(networks.create, host, mine, dataclasses.replace(NETWORK, name=Name("host")), files)


def test_what_a_user_is_told_of_it(mine: Store) -> None:
    found = networks.shared_status(fakes.host(), mine, mine.network_of(SETTINGS, "host"))
    assert (found.network, found.shared, found.started, found.reservations) == ("host", True, True, shared.CARDS)


def test_ansible_is_led_outside(mine: Store) -> None:
    machines = clones(mine, fakes.host())
    ansible = fakes.FakePlaybooks()
    playbooks.configure(
        fakes.host(playbooks=ansible), mine, machines, {"web": "/p/web.yml"}, print,
        lambda machine: inventory.proxy("/bin/vm", machine, mine.world, home=None, door="/run/door"))
    arguments = ansible.inventories[0]["all"]["hosts"]["web00"]["ansible_ssh_common_args"]
    assert "'ProxyCommand=env CLOUDME_OUTSIDE=/run/door /bin/vm --proxy web00'" in arguments


def test_such_a_machine_is_not_exposed(mine: Store) -> None:
    clones(mine, fakes.host())
    forward = Forward(protocol="tcp", address="127.0.0.1", port=8080, guest_port=80)


    def expose(transaction: Transaction, *_: object) -> None:
        exposing.expose(transaction, mine, "web00", forward)

    with pytest.raises(HostUnavailable, match="on a network of root's"):
        go(expose, fakes.host(), mine, NETWORK, HostFiles())


def test_options_go_with_start_and_create_alone() -> None:
    from cloudme.cli import network

    for words in (["stop", "--allow-user", OTHER], ["list", "--deny-user", OTHER]):
        with pytest.raises(UsageError, match="go with start and create"):
            network.run(program("cmnet").parser().parse_args(words))


def test_what_a_user_cannot_promise_there_is_refused(mine: Store) -> None:
    for more in ({"isolate": True}, {"net_rate": 1_000_000}):
        with pytest.raises(UsageError, match="no rules of yours hold there"):
            instantiate(mine, fakes.host(), request(networks=(Name("host"),), **more))


def test_a_tap_of_another_network_is_inside(mine: Store) -> None:
    (machine,) = clones(mine, fakes.host(), 1, "default")
    place = launch.Place(folder="/m", run="/r", accel="tcg", networks=mine.networks_of(SETTINGS, [machine]))
    assert [tap.outside for tap in launch.of(machine, place).taps] == [False]
