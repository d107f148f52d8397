"""Each check of cmcheck, failing and mended; and what --fix and --persist write, in a root folder of the test's own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudme.errors import ConfigError, UsageError
from cloudme.formats import hostnet
from cloudme.host.files import Below
from cloudme.layout import World
from cloudme.model import distributions
from cloudme.model.check import Level, Result
from cloudme.model.names import Name
from cloudme.model.network import Link, Network
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction
from cloudme.operations import checks
from cloudme.operations.checks import bridging, mend
from cloudme.operations.checks.look import Look
from cloudme.operations.checks.network import FILTERS, HELPERS
from tests import fakes

DATA = Path(__file__).resolve().parents[1] / "data" / "hostnet"
ADDRESS = IPv4Interface("192.168.86.1/24")
LAN = Network(name=Name("lan"), bridge="br0", address=ADDRESS, dhcp_first=None, dhcp_last=None, domain="lan",
              nat=False, external=True)
OWN = Network(name=Name("lab"), bridge="cm-lab", address=IPv4Interface("10.44.0.1/24"), domain="lab",
              dhcp_first=IPv4Interface("10.44.0.2/24").ip, dhcp_last=IPv4Interface("10.44.0.9/24").ip)
BRIDGES = {
    "br0": Link(name="br0", kind="bridge", addresses=(IPv4Interface("192.168.86.10/24"),)),
    "ens18": Link(name="ens18", master="br0"),
    "cm-lab": Link(name="cm-lab", kind="bridge", addresses=(OWN.address,)),
}
CHAINS = {"nftables": [{"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward",
                                  "policy": "drop"}}]}
LIMITS = "Limit                     Soft Limit           Hard Limit           Units\n" \
         "Max open files            512                  {}                  files\n"


class Root:
    """A folder that stands for /, in which all is well, and a host that has its files there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.net = fakes.FakeNet(known=dict(BRIDGES))
        self.run = fakes.FakeRun()
        self.now = 1_800_000_000.0
        self.networks: tuple[Network, ...] = (LAN, OWN)
        self.root, self.realm = True, ""
        for path, text in {
            "/proc/cpuinfo": "flags\t\t: fpu vmx sse\n", "/dev/kvm": "", "/dev/net/tun": "",
            "/sys/module/kvm_intel/parameters/nested": "Y\n", "/proc/self/limits": LIMITS.format(524288),
            "/proc/sys/net/ipv4/ip_forward": "1\n", "/proc/sys/fs/inotify/max_user_instances": "128\n",
            "/proc/sys/fs/inotify/max_user_watches": "65536\n", "/etc/qemu/bridge.conf": "allow br0\nallow cm-lab\n",
            **{"/proc/sys/" + name.replace(".", "/"): "0\n" for name in FILTERS}, HELPERS[0]: "",
        }.items():
            self.put(path, text)
        (self.folder / HELPERS[0].lstrip("/")).chmod(0o4755)

    def put(self, path: str, text: str) -> None:
        where = self.folder / path.lstrip("/")
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(text, encoding="utf-8")

    def text(self, path: str) -> str:
        return (self.folder / path.lstrip("/")).read_text(encoding="utf-8")

    def gone(self, path: str) -> None:
        (self.folder / path.lstrip("/")).unlink()

    @property
    def host(self) -> Host:
        return fakes.host(net=self.net, run=self.run, files=Below(str(self.folder)), now=lambda: self.now)

    def look(self) -> Look:
        world = World(data="/data", run="/run/cm", config="/nowhere", realm=self.realm)
        return Look(self.host, world, self.networks, self.root)

    def results(self, *names: str) -> list[Result]:
        return checks.all_of(self.look(), names)

    def fix(self, *, persist: bool = False) -> None:
        look = self.look()
        with Transaction(look.host, print) as transaction:
            transaction.apply(mend.steps(checks.all_of(look, ()), look.distribution, persist=persist))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    made = Root(tmp_path)
    made.now = tmp_path.stat().st_mtime
    return made


def link(**changes: Any) -> Callable[[Root], object]:
    """Change a link: the first word of `changes` is its name."""
    name = changes.pop("of")
    return lambda root: root.net.known.update({name: dataclasses.replace(root.net.known[name], **changes)})


def put(path: str, text: str) -> Callable[[Root], object]:
    return lambda root: root.put(path, text)


def user(root: Root) -> None:
    root.root = False


def helperless(root: Root) -> None:
    user(root)
    root.gone(HELPERS[0])


def plain(root: Root) -> None:
    user(root)
    (root.folder / HELPERS[0].lstrip("/")).chmod(0o755)


def filtered(root: Root) -> None:
    root.put("/proc/sys/net/bridge/bridge-nf-call-iptables", "1\n")


def dropping(root: Root) -> None:
    root.run.answers["nft"] = json.dumps(CHAINS)


def trapped(root: Root) -> None:
    filtered(root)
    dropping(root)


BROKEN: list[tuple[str, Callable[[Root], object], Level, str, str]] = [
    ("programs", lambda root: root.run.missing.update({"qemu-img", "nft"}), Level.failed, "qemu-img, nft",
     "apt install qemu-utils nftables"),
    ("kvm", put("/proc/cpuinfo", "flags\t: fpu\n"), Level.warning, "no virtualisation", "firmware"),
    ("kvm", lambda root: root.gone("/dev/kvm"), Level.warning, "no /dev/kvm", "modprobe kvm_intel"),
    ("nested", put("/sys/module/kvm_intel/parameters/nested", "N\n"), Level.warning, "no nesting", "nested=1"),
    ("tun", lambda root: root.gone("/dev/net/tun"), Level.failed, "no /dev/net/tun", "modprobe tun"),
    ("bridge", lambda root: root.net.known.pop("br0"), Level.failed, "no bridge br0", "--bridge br0"),
    ("bridge", lambda root: root.net.known.pop("cm-lab"), Level.failed, "no bridge cm-lab", "cmnet start lab"),
    ("bridge", link(of="br0", up=False), Level.failed, "is down", "ip link set br0 up"),
    ("bridge", link(of="br0", addresses=()), Level.failed, "has no address in 192.168.86.0/24", "--bridge br0"),
    ("nic", lambda root: root.net.known.pop("ens18"), Level.failed, "no card is a port of br0", "master br0"),
    ("nic", link(of="ens18", addresses=(IPv4Interface("192.168.86.9/24"),)), Level.failed,
     "ens18 has 192.168.86.9/24", "ip address flush dev ens18"),
    ("nic", put("/sys/class/net/ens18/wireless/status", ""), Level.failed, "ens18 is Wi-Fi", "cable"),
    ("bridge-nf", filtered, Level.warning, "bridge-nf-call-iptables = 1", "sysctl -w"),
    ("bridge-nf", trapped, Level.failed, "ip filter FORWARD drops", "sysctl -w"),
    ("firewall", dropping, Level.warning, "FORWARD drops", "nft insert rule ip filter FORWARD iifname cm-lab"),
    ("forwarding", put("/proc/sys/net/ipv4/ip_forward", "0\n"), Level.failed, "is off", "sysctl -w"),
    ("bridge-helper", put("/etc/qemu/bridge.conf", "allow cm-lab\n"), Level.warning, "does not allow br0", "allow br0"),
    ("bridge-helper", put("/etc/qemu/bridge.conf", "allow all\n"), Level.warning, "'allow all'", "sed -i"),
    ("bridge-helper", helperless, Level.failed, "not installed", "apt install qemu-system-common"),
    ("bridge-helper", plain, Level.failed, "is not setuid", "chmod u+s"),
    ("ports", lambda root: setattr(root.net, "holder", "port 53: named (pid 12)"), Level.failed, "named (pid 12)",
     "end it"),
    ("inotify", put("/proc/sys/fs/inotify/max_user_instances", "8\n"), Level.warning, "max_user_instances is 8",
     "sysctl -w fs.inotify.max_user_instances=128"),
    ("open-files", put("/proc/self/limits", LIMITS.format(512)), Level.warning, "512 files", "ulimit"),
    ("apparmor", put("/sys/kernel/security/apparmor/profiles", "/usr/sbin/dnsmasq (enforce)\n"), Level.warning,
     "confines /usr/sbin/dnsmasq", "/etc/apparmor.d/local/usr.sbin.dnsmasq"),
    ("time", lambda root: setattr(root, "now", root.now - 3600), Level.failed, "behind files", "set-ntp"),
]


def test_where_all_is_well_no_check_complains(root: Root) -> None:
    assert [result for result in root.results() if result.level != Level.ok] == []
    root.root = False
    assert [result for result in root.results() if result.level != Level.ok] == []
    assert {result.check for result in root.results()} == set(checks.CHECKS)


@pytest.mark.parametrize(("check", "breaks", "level", "what", "fix"), BROKEN)
def test_each_check_fails_where_its_thing_is_amiss(
    root: Root, check: str, breaks: Callable[[Root], object], level: Level, what: str, fix: str,
) -> None:
    breaks(root)
    bad = [result for result in root.results(check) if result.level != Level.ok]
    assert [result.level for result in bad] == [level]
    assert what in bad[0].what
    assert fix in bad[0].fix
    assert bad[0].means
    assert "\n" not in bad[0].what + bad[0].means + bad[0].fix


def test_little_room_is_a_warning_and_none_a_failure(root: Root) -> None:
    for free, level in ((1 << 30, Level.failed), (5 << 30, Level.warning), (50 << 30, Level.ok)):
        look = dataclasses.replace(root.look(), host=fakes.host(files=fakes.FakeFiles(free=free)))
        assert [result.level for result in checks.all_of(look, ["disk"])] == [level]


def test_what_cannot_be_opened_is_told_apart_from_what_is_missing(root: Root) -> None:
    for device, check, level in (("/dev/net/tun", "tun", Level.failed), ("/dev/kvm", "kvm", Level.warning)):
        files = fakes.FakeFiles(texts={device: "", "/proc/cpuinfo": "flags : svm\n"}, closed={device})
        look = dataclasses.replace(root.look(), host=fakes.host(files=files))
        found = checks.all_of(look, [check])
        assert [(result.level, "cannot be opened" in result.what) for result in found] == [(level, True)]
        with Transaction(look.host, print) as transaction:
            transaction.apply(mend.steps(found, "debian", persist=False))
        again = checks.all_of(dataclasses.replace(look), [check])
        assert (again[0].level == Level.ok) == (check == "tun")


def test_a_machine_that_is_meant_to_be_emulated_needs_no_kvm(root: Root) -> None:
    root.gone("/dev/kvm")
    assert checks.all_of(dataclasses.replace(root.look(), emulated=True), ["kvm"])[0].level == Level.ok


def test_in_a_realm_nobody_asks_for_the_helper(root: Root) -> None:
    root.realm = "demo"
    helperless(root)
    assert root.results("bridge-helper")[0].level == Level.ok


def test_fix_mends_what_is_safe_and_a_second_time_there_is_nothing(root: Root) -> None:
    trapped(root)
    root.put("/proc/sys/net/ipv4/ip_forward", "0\n")
    root.put("/proc/sys/fs/inotify/max_user_instances", "8\n")
    root.put("/etc/qemu/bridge.conf", "allow cm-lab\n")
    root.fix()
    assert [result.check for result in root.results() if result.level != Level.ok] == ["firewall"]  # not ours to change
    assert root.text("/etc/qemu/bridge.conf") == "allow cm-lab\nallow br0\n"
    assert not (root.folder / "etc/sysctl.d").exists()
    assert mend.steps(root.results(), "debian", persist=True) == []


@pytest.mark.parametrize(("os_release", "modules"), [
    ("ID=debian\n", "/etc/modules-load.d/cloudme.conf"), ("ID=alpine\n", "/etc/modules"),
    ('ID=pop\nID_LIKE="ubuntu debian"\n', "/etc/modules-load.d/cloudme.conf"),
])
def test_persist_writes_what_the_next_boot_reads(root: Root, os_release: str, modules: str) -> None:
    trapped(root)
    root.put("/etc/os-release", os_release)
    root.put("/etc/sysctl.d/90-cloudme.conf", "# mine\nnet.bridge.bridge-nf-call-iptables = 1\n")
    root.fix(persist=True)
    assert root.text("/etc/sysctl.d/90-cloudme.conf") == "# mine\nnet.bridge.bridge-nf-call-iptables = 0\n"
    assert root.text(modules) == "br_netfilter\n"


def test_a_mend_that_fails_takes_the_others_back(root: Root) -> None:
    trapped(root)
    with pytest.raises(RuntimeError), Transaction(root.host, print) as transaction:
        transaction.apply(mend.steps(root.results(), "debian", persist=True))
        raise RuntimeError
    assert root.text("/proc/sys/net/bridge/bridge-nf-call-iptables") == "1"
    assert not (root.folder / "etc/sysctl.d/90-cloudme.conf").exists()


def test_an_unknown_check_is_named(root: Root) -> None:
    with pytest.raises(UsageError, match="no check 'x'"):
        root.results("kvm", "x")


# a bridge that lasts

@pytest.mark.parametrize(("source", "path", "then", "os_release"), [
    ("interfaces", "/etc/network/interfaces", "systemctl restart networking", "ID=debian\n"),
    ("interfaces", "/etc/network/interfaces", "rc-service networking restart", "ID=alpine\n"),
    ("netplan.yaml", "/etc/netplan/50-cloud-init.yaml", "netplan apply", "ID=ubuntu\n"),
    ("20-wired.network", "/etc/systemd/network/20-wired.network", "networkctl reload", "ID=arch\n"),
])
def test_a_bridge_is_written_as_the_host_has_its_network(
    root: Root, source: str, path: str, then: str, os_release: str,
) -> None:
    before = (DATA / source).read_text(encoding="utf-8")
    root.put(path, before)
    root.put("/etc/os-release", os_release)
    steps, said = bridging.steps(root.look(), "br0", "ens18")
    assert then in said
    with Transaction(root.host, print) as transaction:
        transaction.apply(steps)
    written = "".join(f"== {file.name}\n{file.read_text(encoding='utf-8')}"
                      for file in sorted((root.folder / path.lstrip("/")).parent.iterdir()))
    golden = DATA / f"{source}.bridged"
    assert written == golden.read_text(encoding="utf-8")
    if source != "20-wired.network":  # networkd's is not changed
        assert root.text(f"{path}.before-cloudme") == before
    assert [step.describe() for step in bridging.steps(root.look(), "br0", "ens18")[0]] == []


def test_wifi_and_a_card_that_nobody_sets_up_get_no_bridge(root: Root) -> None:
    with pytest.raises(ConfigError, match="sets ens18 up"):
        bridging.steps(root.look(), "br0", "ens18")
    root.put("/etc/network/interfaces", "auto lo\n")
    with pytest.raises(ConfigError, match="says nothing of ens18"):
        bridging.steps(root.look(), "br0", "ens18")
    root.put("/sys/class/net/ens18/phy80211", "")
    with pytest.raises(ConfigError, match="is Wi-Fi"):
        bridging.steps(root.look(), "br0", "ens18")


def test_what_cannot_be_carried_over_whole_is_refused(root: Root) -> None:
    twice = "[Match]\nName=ens18\n[Address]\nAddress=192.168.86.10/24\n[Address]\nAddress=192.168.86.11/24\n"
    root.put("/etc/systemd/network/10.network", twice)
    with pytest.raises(ConfigError, match="a section twice"):
        bridging.steps(root.look(), "br0", "ens18")


def test_the_lines_of_the_seed_come_out() -> None:
    text = "auto ens18\niface ens18 inet static\n    address 192.168.86.10\n    netmask 255.255.255.0\n"
    assert hostnet.interfaces(text, "br0", "ens18") == (
        "auto ens18\niface ens18 inet manual\n\nauto br0\niface br0 inet static\n    address 192.168.86.10\n"
        "    netmask 255.255.255.0\n    bridge_ports ens18\n    bridge_stp off\n    bridge_fd 0\n")


def test_netplan_keeps_the_card_and_moves_what_it_carries() -> None:
    made = yaml.safe_load(hostnet.netplan((DATA / "netplan.yaml").read_text(encoding="utf-8"), "br0", "ens18") or "")
    assert made["network"]["bridges"]["br0"]["addresses"] == ["192.168.86.10/24"]
    assert made["network"]["ethernets"]["ens18"] == {
        "match": {"macaddress": "52:54:00:12:34:56"}, "set-name": "ens18", "dhcp4": False, "dhcp6": False}
    assert made["network"]["ethernets"]["ens19"] == {"dhcp4": True}
    assert hostnet.netplan("network: {version: 2}\n", "br0", "ens18") is None


def test_a_distribution_is_known_by_its_own_name_or_by_what_it_is_like() -> None:
    assert distributions.of('ID=debian\nVERSION_ID="12"\n') == "debian"
    assert distributions.of('ID="rocky"\nID_LIKE="rhel centos fedora"\n') == "debian"
    assert distributions.of("ID=manjaro\nID_LIKE=arch\n") == "arch"
    assert distributions.install("alpine", ["qemu-img", "nft"]) == "apk add qemu-img nftables"
    assert distributions.install("arch", ["qemu-system-x86_64", "qemu-bridge-helper"]) == "pacman -S --needed qemu-base"
    assert distributions.packages("alpine", ["mmdebstrap"]) == []
