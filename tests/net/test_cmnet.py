"""cmnet, as a program, in realms of the test's own."""

from __future__ import annotations

import json
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudme.host import realm as namespaces
from cloudme.layout import World
from cloudme.model.hostconfig import Settings
from cloudme.operations import networks
from cloudme.store import Store
from tests.net.conftest import CMNET, Realm, inside

MAC = "52:54:00:00:00:07"
STRANGER = "52:54:00:00:00:99"


def reserve(realm: Realm, name: str, mac: str, address: str) -> None:
    network = realm.store.network()
    assert network
    realm.store.reserve(network, name, mac, address)


def refresh(realm: Realm) -> None:
    """As a command does it after machines came or went."""
    from cloudme.cli import wiring

    inside(realm.namespace, lambda: networks.refresh_names(wiring.host(realm.store.world), realm.store))


def kill(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], 5)[0]
    finally:
        os.close(pidfd)


def test_a_machine_gets_the_address_that_is_reserved_for_it_even_if_dnsmasq_ran_before(realm: Realm) -> None:
    client = realm.client()
    reserve(realm, "web00", MAC, "10.210.0.7")
    assert client.lease(MAC) == "10.210.0.7"
    assert json.loads(realm.cmnet("status", "--json").stdout)["leases"] == 1


def test_a_stranger_gets_no_address_and_the_log_says_so(realm: Realm) -> None:
    client = realm.client()
    assert client.lease(STRANGER, patience_s=0.5) is None
    log = Path(realm.store.world.dnsmasq("default", "log")).read_text()
    assert f"DHCPDISCOVER(bridge0) {STRANGER} ignored" in log


def test_names_resolve_between_guests_and_from_the_realm_itself(realm: Realm) -> None:
    from tests.net.conftest import ask

    client = realm.client()
    reserve(realm, "web00", MAC, "10.210.0.7")
    reserve(realm, "sql00", STRANGER, "10.210.0.8")
    assert client.lease(MAC) == "10.210.0.7"
    assert client.resolve("sql00.cloudme", "10.210.0.7") == ["10.210.0.8"]
    assert client.resolve("nobody.cloudme", "10.210.0.7") == []
    assert inside(realm.namespace, lambda: ask("web00.cloudme", "10.210.0.1")) == ["10.210.0.7"]


def test_an_outside_name_is_refused_at_once_where_the_realm_has_no_way_out(realm: Realm) -> None:
    assert realm.client().resolve("example.org", "10.210.0.7") == []


def test_an_address_goes_to_its_next_owner_at_once(realm: Realm) -> None:
    client = realm.client()
    reserve(realm, "web00", MAC, "10.210.0.7")
    assert client.lease(MAC) == "10.210.0.7"
    realm.store.release("default", "web00")
    refresh(realm)
    reserve(realm, "web00", STRANGER, "10.210.0.7")
    refresh(realm)
    assert client.lease(MAC, patience_s=0.5) is None
    assert client.lease(STRANGER) == "10.210.0.7"
    assert client.resolve("web00.cloudme", "10.210.0.9") == ["10.210.0.7"]


def test_a_second_start_changes_nothing(realm: Realm) -> None:
    pid = realm.dnsmasq()
    assert realm.cmnet("start", "--dry-run").stdout == ""
    assert "cmnet" not in realm.cmnet("start", "-v").stderr
    assert realm.dnsmasq() == pid


def test_a_dry_run_says_all_and_makes_nothing(make_realm: Callable[[], Realm]) -> None:
    realm = make_realm()
    lines = realm.cmnet("start", "--dry-run").stdout.splitlines()
    assert lines[0] == f"make the network namespace {realm.namespace}"
    assert any("start dnsmasq" in line for line in lines)
    assert not os.path.exists(realm.namespace)
    assert os.listdir(realm.home) == []


def test_stop_leaves_no_process_no_namespace_and_no_folder_of_what_ran(realm: Realm) -> None:
    pid = realm.dnsmasq()
    realm.cmnet("stop")
    assert not os.path.exists(realm.namespace)
    assert not os.path.exists(f"/proc/{pid}") or not Path(f"/proc/{pid}/cmdline").read_bytes()
    assert not os.path.exists(realm.store.world.network_run("default"))
    assert realm.store.network() is None
    realm.cmnet("stop")


def test_stop_takes_link_and_rules_away_where_the_namespace_stays(realm: Realm) -> None:
    """As on the host: what stop does before it drops the realm."""
    from cloudme.cli import wiring
    from cloudme.model.steps import Transaction

    def stop() -> list[str]:
        said: list[str] = []
        host = wiring.host(realm.store.world)
        with Transaction(host, said.append) as transaction:
            networks.stop(transaction, realm.store, Settings().network())
        return said

    said = inside(realm.namespace, stop)
    assert said == ["stop dnsmasq on bridge0", "remove the nft table cloudme-bridge0", "remove the bridge bridge0",
                    "forget what the network 'default' is"]
    assert [link["ifname"] for link in json.loads(realm.run("ip", "-j", "link"))] == ["lo"]
    assert realm.run("nft", "list", "ruleset") == ""
    assert inside(realm.namespace, stop) == []


def test_start_heals_what_was_broken(realm: Realm) -> None:
    kill(realm.dnsmasq())
    realm.run("nft", "flush", "table", "ip", "cloudme-bridge0")
    realm.run("ip", "address", "flush", "dev", "bridge0")
    amiss = json.loads(realm.cmnet("status", "--json", status=78).stdout)["amiss"]
    assert amiss[0].startswith("set bridge0 up with 10.210.0.1/24 and fd")
    assert amiss[1:] == [
        "allow forwarding and masquerading for bridge0 (nft table cloudme-bridge0)",
        "start dnsmasq on bridge0: DHCP and DNS for cloudme"]
    realm.cmnet("start")
    realm.cmnet("status")
    client = realm.client()
    reserve(realm, "web00", MAC, "10.210.0.7")
    assert client.lease(MAC) == "10.210.0.7"


def test_a_bridge_that_was_deleted_comes_back_with_dhcp(realm: Realm) -> None:
    realm.run("ip", "link", "delete", "bridge0")
    realm.cmnet("start")
    reserve(realm, "web00", MAC, "10.210.0.7")
    assert realm.client().lease(MAC) == "10.210.0.7"


def test_status_of_what_was_never_started_says_so(make_realm: Callable[[], Realm]) -> None:
    realm = make_realm()
    assert "not started" in realm.cmnet("status", status=66).stdout
    assert f"cmnet start --realm {realm.name}" in realm.cmnet("reload", status=66).stderr


def test_two_realms_do_not_see_each_other(make_realm: Callable[[], Realm]) -> None:
    one, other = make_realm(), make_realm()
    one.cmnet("start")
    other.cmnet("start")
    reserve(one, "web00", MAC, "10.210.0.7")
    reserve(other, "web00", MAC, "10.210.0.9")
    assert one.client().lease(MAC) == "10.210.0.7"
    assert other.client().lease(MAC) == "10.210.0.9"
    one.cmnet("stop")
    other.cmnet("status")


def test_reload_applies_a_changed_configuration(realm: Realm) -> None:
    (realm.home / "config").mkdir()
    (realm.home / "config" / "cloudme.toml").write_text(
        '[network]\nbridge = "lab0"\naddress = "10.211.0.1/24"\ndomain = "lab"\n')
    realm.cmnet("reload")
    assert "lab0 10.211.0.1/24" in realm.cmnet("status").stdout
    assert {link["ifname"] for link in json.loads(realm.run("ip", "-j", "link"))} == {"lo", "lab0"}
    assert "bridge0" not in realm.run("nft", "list", "ruleset")


def test_a_clash_of_addresses_changes_nothing_and_names_the_link(realm: Realm) -> None:
    realm.cmnet("stop")
    subprocess.run(["ip", "netns", "add", os.path.basename(realm.namespace)], check=True)
    realm.run("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "far")
    realm.run("ip", "address", "add", "10.210.0.77/16", "dev", "uplink")
    ended = realm.cmnet("start", status=78)
    assert "10.210.0.0/24 overlaps with 10.210.0.0/16, which uplink has" in ended.stderr
    assert "bridge0" not in realm.run("ip", "-j", "link")


def test_another_ones_bridge_is_left_alone(realm: Realm) -> None:
    realm.cmnet("stop")
    subprocess.run(["ip", "netns", "add", os.path.basename(realm.namespace)], check=True)
    realm.run("ip", "link", "add", "bridge0", "type", "bridge")
    realm.run("ip", "address", "add", "10.99.0.1/24", "dev", "bridge0")
    assert "is not cloudMe's" in realm.cmnet("start", status=73).stderr
    realm.run("ip", "link", "delete", "bridge0")
    realm.run("ip", "link", "add", "bridge0", "type", "veth", "peer", "name", "far")
    assert "is no bridge" in realm.cmnet("start", status=73).stderr


def test_a_taken_port_is_named_with_its_holder(realm: Realm) -> None:
    import socket

    realm.cmnet("stop")
    subprocess.run(["ip", "netns", "add", os.path.basename(realm.namespace)], check=True)

    def listening() -> socket.socket:
        return socket.create_server(("0.0.0.0", 53))

    with inside(realm.namespace, listening):
        ended = realm.cmnet("start", status=75)
    assert f"port 53: {Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()}) is there" in ended.stderr
    realm.cmnet("start")


def test_a_failed_start_leaves_no_namespace(make_realm: Callable[[], Realm]) -> None:
    realm = make_realm()
    templates = realm.home / "config" / "templates"
    templates.mkdir(parents=True)
    (templates / "dnsmasq.conf.j2").write_text("no-such-option\n")
    assert "bad option at line 1" in realm.cmnet("start", status=71).stderr
    assert not os.path.exists(realm.namespace)
    assert realm.store.network() is None
    assert not os.path.exists(realm.store.world.network_run("default"))


def test_dnsmasq_gives_root_up_where_its_user_can_read_the_home(make_realm: Callable[[], Realm]) -> None:
    realm = make_realm()
    realm.home.chmod(0o755)
    realm.cmnet("start")
    assert pwd.getpwuid(int(status(realm.dnsmasq())["Uid"].split()[0])).pw_name == "dnsmasq"
    assert Path(realm.store.world.dnsmasq("default", "log")).parent.owner() == "dnsmasq"
    client = realm.client()
    reserve(realm, "web00", MAC, "10.210.0.7")
    assert client.lease(MAC) == "10.210.0.7"
    refresh(realm)
    assert client.lease(MAC) == "10.210.0.7"


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_dnsmasq_has_three_capabilities_and_can_have_no_more(make_realm: Callable[[], Realm], mode: int) -> None:
    """Where its user cannot get at the home it is root, in name."""
    realm = make_realm()
    realm.home.chmod(mode)
    realm.cmnet("start")
    found = status(realm.dnsmasq())
    three = 1 << 10 | 1 << 12 | 1 << 13  # CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW
    assert {int(found[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {three}
    assert found["NoNewPrivs"] == "1"
    assert found["Groups"] == "" or mode == 0o700
    realm.home.chmod(0o755 if mode == 0o700 else 0o700)
    realm.cmnet("start")  # its user changes; what it writes is the new one's
    assert (status(realm.dnsmasq())["Uid"].split()[0] == "0") == (mode == 0o755)
    client = realm.client()
    reserve(realm, "web00", MAC, "10.210.0.7")
    assert client.lease(MAC) == "10.210.0.7"


def test_dnsmasq_reads_a_home_that_is_anothers_and_writes_nothing_there(make_realm: Callable[[], Realm]) -> None:
    realm = make_realm()
    realm.home.chmod(0o700)
    os.chown(realm.home, 65534, 65534)
    realm.cmnet("start")
    assert int(status(realm.dnsmasq())["CapEff"], 16) == 1 << 10 | 1 << 12 | 1 << 13 | 1 << 2  # CAP_DAC_READ_SEARCH
    client = realm.client()
    reserve(realm, "web00", MAC, "10.210.0.7")
    refresh(realm)
    assert client.lease(MAC) == "10.210.0.7"


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_a_stale_file_of_a_realm_is_no_realm(make_realm: Callable[[], Realm]) -> None:
    """After a reboot /run is empty, after a crash the bare file may be there."""
    realm = make_realm()
    Path(realm.namespace).parent.mkdir(exist_ok=True)
    Path(realm.namespace).touch()
    realm.cmnet("status", status=66)
    realm.cmnet("start")
    assert namespaces.exists(realm.namespace)
    realm.cmnet("status")


HOST_ITSELF = """\
set -e
mount --bind {etc} /etc
mount --bind {etc}/hosts /etc/hosts
ip link set lo up
{cmnet} start -v
{cmnet} start -v
cat /etc/qemu/bridge.conf
getent hosts web00.cloudme
{cmnet} status
{cmnet} stop
test ! -e /etc/qemu/bridge.conf
grep -c . /etc/hosts
ip -o link | wc -l
"""


def test_on_the_host_itself_names_resolve_and_the_bridge_helper_is_allowed(home: Path, tmp_path: Path) -> None:
    """Without a realm, in a namespace that plays the host's, and with an /etc of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make namespaces")
    etc = tmp_path / "etc"
    subprocess.run(["cp", "-a", "/etc", etc], check=True)
    shutil.rmtree(etc / "qemu", ignore_errors=True)
    (etc / "hosts").write_text("127.0.0.1 localhost\n")
    store = Store(World(data=str(home), run=f"{home}/run", config=f"{home}/config"))
    store.reserve(Settings().network(), "web00", MAC, "10.210.0.7")
    script = HOST_ITSELF.format(etc=etc, cmnet=f"{sys.executable} {CMNET}")
    ended = subprocess.run(["unshare", "-n", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr.count("cmnet: start dnsmasq") == 1
    assert "allow bridge0\n" in ended.stdout
    assert "10.210.0.7      web00.cloudme\n" in ended.stdout
    assert "on the host: hosts\n" in ended.stdout
    assert ended.stdout.splitlines()[-2:] == ["1", "1"]


@pytest.mark.timeout(60)
def test_ctrl_c_while_dnsmasq_starts_leaves_nothing(make_realm: Callable[[], Realm]) -> None:
    """A named pipe as a part of its configuration holds dnsmasq up, until cmnet is interrupted."""
    realm = make_realm()
    realm.home.joinpath("config/templates").mkdir(parents=True)
    pipe = realm.home / "pipe"
    os.mkfifo(pipe)
    (realm.home / "config/templates/dnsmasq.conf.j2").write_text(f"conf-file={pipe}\n")
    argv = [sys.executable, str(CMNET), "start", "--realm", realm.name]
    with (subprocess.Popen(argv, cwd=realm.home, stderr=subprocess.PIPE, text=True) as process,
          pipe.open("w")):  # opens once dnsmasq reads it
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=20)
    assert (process.returncode, complaint) == (130, "cmnet: interrupted\n")
    assert not os.path.exists(realm.namespace)
    assert realm.store.network() is None
