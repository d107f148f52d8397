"""cmcheck, as a program, in realms and namespaces of the test's own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudme import layout
from cloudme.host import clock
from cloudme.model.hostconfig import Settings
from cloudme.operations import checks
from cloudme.store import Store
from tests.net.conftest import CMNET, Realm, inside
from tests.net.test_cmnet import kill

CMCHECK = CMNET.parent / "cmcheck"
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def cmcheck(realm: Realm, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    ended = subprocess.run(
        [sys.executable, str(CMCHECK), *arguments, "--json", "--realm", realm.name], capture_output=True, text=True,
        check=False, env=os.environ | {"CLOUDME_HOME": str(realm.home)}, cwd=realm.home)
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


def levels(found: list[dict[str, Any]]) -> list[str]:
    return [one["status"] for one in found]


@pytest.fixture
def alone(home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `before` in a shell, then cmcheck, in a network and a mount namespace that end with it: no realm."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make namespaces")
    home.chmod(0o755)

    def run(*arguments: str, before: str = ":", prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        argv = [*prefix, sys.executable, str(CMCHECK), *arguments]
        return subprocess.run(["unshare", "-n", "-m", "sh", "-c", f'set -e; {before}; exec "$@"', "sh", *argv],
                              capture_output=True, text=True, check=False, cwd="/")

    return run


def test_a_healthy_realm_has_no_warning(realm: Realm) -> None:
    """But for what the machine lacks on which the tests run: KVM is not asked for, its clock may run free."""
    (realm.home / "cloudme.toml").write_text('[defaults]\naccel = "tcg"\n', encoding="utf-8")
    status, found = cmcheck(realm)
    lacking = {"limits"} | (set() if clock.synchronised() else {"time"})  # it may have no cgroups of version 2
    assert {one["check"] for one in found if one["status"] != "ok"} | {"limits"} == lacking, found
    assert {one["check"] for one in found} == set(checks.CHECKS)
    assert status == 0


def test_what_is_amiss_in_a_realm_is_found_mended_and_found_well(make_realm: Callable[[], Realm]) -> None:
    """Values of a namespace that are its own: forwarding, and the filter of its bridges with a rule that drops."""
    realm = make_realm()
    realm.cmnet("start")
    for words in (("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1"), ("sysctl", "-qw", "net.ipv4.ip_forward=0"),
                  ("nft", "add", "table", "ip", "filter"),
                  ("nft", "add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }")):
        realm.run(*words)
    names = ("bridge-nf", "forwarding", "firewall")
    status, found = cmcheck(realm, *names)
    assert (status, [one["status"] for one in found]) == (78, ["failed", "warning", "failed"])
    status, found = cmcheck(realm, *names, "--fix")
    assert (status, [one["status"] for one in found]) == (0, ["ok", "warning", "ok"])
    for fix in next(one["fix"] for one in found if one["status"] == "warning").split("; "):
        realm.run(*fix.split())
    assert [one["status"] for one in cmcheck(realm, "firewall")[1]] == ["ok"]
    assert realm.run("sysctl", "-n", "net.ipv4.ip_forward") == "1\n"
    realm.run("ip", "link", "set", "bridge0", "down")
    assert [one["status"] for one in cmcheck(realm, "bridge")[1]] == ["failed"]
    realm.cmnet("start")
    assert [one["status"] for one in cmcheck(realm, "bridge")[1]] == ["ok"]


def test_the_address_belongs_on_the_bridge_and_not_on_its_card(realm: Realm) -> None:
    for words in (("add", "br0", "type", "bridge"), ("set", "br0", "up"),
                  ("add", "nic0", "type", "veth", "peer", "name", "far0"), ("set", "nic0", "master", "br0", "up")):
        realm.run("ip", "link", *words)
    realm.run("ip", "address", "add", "192.168.86.10/24", "dev", "nic0")
    realm.cmnet("create", "lan", "--external", "--bridge", "br0", "--cidr", "192.168.86.0/24")
    status, found = cmcheck(realm, "bridge", "nic")
    assert (status, levels(found)) == (78, ["ok", "failed", "failed"])
    assert "nic0 has 192.168.86.10/24" in found[2]["what"]
    realm.run("ip", "address", "flush", "dev", "nic0")
    realm.run("ip", "address", "add", "192.168.86.10/24", "dev", "br0")
    assert cmcheck(realm, "bridge", "nic")[0] == 0
    realm.run("ip", "link", "set", "nic0", "nomaster")
    assert levels(cmcheck(realm, "nic")[1]) == ["failed"]
    realm.cmnet("delete", "lan")


def test_a_network_that_is_stopped_is_no_complaint_and_one_that_lost_its_bridge_is(realm: Realm) -> None:
    realm.cmnet("create", "lab", "--cidr", "10.44.0.0/24")
    realm.cmnet("stop", "lab")
    status, found = cmcheck(realm, "bridge", "forwarding", "firewall")
    assert (status, found[1]["what"]) == (0, "network 'lab' is not started (cmnet start lab)")
    realm.run("ip", "link", "delete", "bridge0")
    assert cmcheck(realm, "bridge")[1][0]["fix"] == "cmnet start default"
    realm.cmnet("start", "default")
    assert cmcheck(realm, "bridge")[0] == 0


def test_who_keeps_the_port_of_dns_is_named(realm: Realm) -> None:
    kill(realm.dnsmasq())
    with inside(realm.namespace, lambda: socket.create_server(("0.0.0.0", 53))):
        status, found = cmcheck(realm, "ports")
        assert status == 78
        assert f"(pid {os.getpid()})" in found[0]["what"]
    assert cmcheck(realm, "ports")[0] == 0


def test_a_dry_run_says_the_steps_and_changes_nothing(realm: Realm) -> None:
    realm.run("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1")
    argv = [sys.executable, str(CMCHECK), "bridge-nf", "--fix", "--dry-run", "--realm", realm.name]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=realm.home).stdout
    assert said == "sysctl -w net.bridge.bridge-nf-call-iptables=0\n"
    assert realm.run("sysctl", "-n", "net.bridge.bridge-nf-call-iptables") == "1\n"


def test_a_new_realm_has_no_complaint_of_its_own(make_realm: Callable[[], Realm]) -> None:
    assert cmcheck(make_realm(), "bridge", "nic", "bridge-nf", "firewall", "forwarding", "ports")[0] == 0


# no realm

def started(home: Path) -> None:
    """A record of the default network, as after a boot of the host."""
    Store(layout.world()).publish_network(Settings().network())
    for folder in (home, home / "networks"):
        folder.chmod(0o755)
    (home / "networks/default.json").chmod(0o644)


def test_who_is_not_root_is_told_all_the_same(home: Path, alone: Callable[..., Any]) -> None:
    started(home)
    ended = alone("--json", before="ip link set lo up", prefix=NOBODY)
    assert ended.stdout, ended.stderr
    found = {one["check"]: one for one in json.loads(ended.stdout)}
    assert set(found) == set(checks.CHECKS), ended.stderr
    assert (found["firewall"]["status"], found["ports"]["status"]) == ("ok", "ok")


def test_a_bare_host_is_told_what_to_install(home: Path, alone: Callable[..., Any]) -> None:
    empty = home / "empty"
    empty.mkdir()
    hide = f"for d in /usr/local/sbin /usr/local/bin /usr/sbin /sbin; do mount --bind {empty} $d; done"
    ended = alone("--json", before=hide)
    found = {one["check"]: one for one in json.loads(ended.stdout)}
    assert set(found) == set(checks.CHECKS), ended.stderr
    assert ended.returncode == 78
    assert "nft" in found["programs"]["what"]
    assert "nftables" in found["programs"]["fix"]


def test_a_missing_tun_is_made(alone: Callable[..., Any]) -> None:
    """The driver is in the kernel, as /proc/misc says, and only the file is missing: as in many containers."""
    if "200 tun\n" not in Path("/proc/misc").read_text("ascii"):
        pytest.skip("needs tun in the kernel")
    hidden = "mount -t tmpfs none /dev/net"
    assert alone("tun", before=hidden).returncode == 78
    ended = alone("tun", "--fix", "--json", before=hidden)
    assert (ended.returncode, levels(json.loads(ended.stdout))) == (0, ["ok"]), ended.stderr


def test_what_is_to_last_is_written_below_the_root_and_once(tmp_path: Path, alone: Callable[..., Any]) -> None:
    for path, text in {"proc/sys/net/bridge/bridge-nf-call-iptables": "1\n", "etc/os-release": "ID=alpine\n",
                       "etc/network/interfaces": "auto eth0\niface eth0 inet dhcp\n"}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    words = ("bridge-nf", "--persist", "--bridge", "br0", "--nic", "eth0", "--root", str(tmp_path))
    assert alone(*words, "--dry-run").stdout.count("\n") == 5
    ended = alone(*words)
    assert ended.returncode == 0, ended.stderr
    assert "at once by: rc-update add networking boot" in ended.stderr
    assert "read at boot once this was done: rc-update add sysctl boot; rc-update add modules boot" in ended.stderr
    assert (tmp_path / "proc/sys/net/bridge/bridge-nf-call-iptables").read_text("ascii").strip() == "0"
    assert (tmp_path / "etc/sysctl.d/90-cloudme.conf").read_text() == "net.bridge.bridge-nf-call-iptables = 0\n"
    assert (tmp_path / "etc/modules").read_text().split() == ["br_netfilter", "bridge", "tun"]
    assert "bridge_ports eth0" in (tmp_path / "etc/network/interfaces").read_text()
    assert alone(*words, "--dry-run").stdout == ""


def test_a_name_that_is_a_path_is_refused(tmp_path: Path, alone: Callable[..., Any]) -> None:
    (tmp_path / "etc/systemd/network").mkdir(parents=True)
    (tmp_path / "etc/systemd/network/a.network").write_text("[Match]\nName=ens18\n[Network]\nDHCP=yes\n")
    before = sorted(tmp_path.rglob("*"))
    ended = alone("tun", "--root", str(tmp_path), "--persist", "--bridge", "x/../../evil", "--nic", "ens18")
    assert (ended.returncode, sorted(tmp_path.rglob("*"))) == (64, before)
