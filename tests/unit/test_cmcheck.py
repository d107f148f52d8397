"""Each check of cmcheck, failing and mended; and what --fix and --persist write, in a root folder of the test's own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from cloudme.errors import CommandFailed, NotPermitted, UsageError
from cloudme.host.files import Below
from cloudme.layout import BRIDGE_HELPERS, World
from cloudme.model import distributions
from cloudme.model.check import Level, Result
from cloudme.model.names import Name
from cloudme.model.network import DEFAULT_NETWORK, Link, Network
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction
from cloudme.operations import checks
from cloudme.operations.checks import mend
from cloudme.operations.checks.look import Look
from cloudme.operations.checks.network import FILTERS
from tests import fakes
from tests.conftest import Ended, program

DATA = Path(__file__).resolve().parents[1] / "data" / "hostnet"
ADDRESS = IPv4Interface("192.168.86.1/24")
LAN = Network(name=Name("lan"), bridge="br0", address=ADDRESS, dhcp_first=None, dhcp_last=None, domain="lan",
              nat=False, external=True)
OWN = Network(name=Name("lab"), bridge="cm-lab", address=IPv4Interface("10.44.0.1/24"), domain="lab",
              dhcp_first=IPv4Interface("10.44.0.2/24").ip, dhcp_last=IPv4Interface("10.44.0.9/24").ip,
              users=("alice",))
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
        self.root, self.realm, self.synchronised = True, "", True
        self.shared: tuple[Network, ...] = ()
        self.processor = "x86_64"
        self.qemu = fakes.FakeHypervisor()
        for path, text in {
            "/proc/cpuinfo": "flags\t\t: fpu vmx sse\n", "/dev/kvm": "", "/dev/net/tun": "",
            "/sys/module/kvm_intel/parameters/nested": "Y\n", "/proc/self/limits": LIMITS.format(524288),
            "/proc/sys/net/ipv4/ip_forward": "1\n", "/proc/sys/fs/inotify/max_user_instances": "128\n",
            "/proc/sys/fs/inotify/max_user_watches": "65536\n", "/etc/network/if-pre-up.d/bridge": "",
            "/proc/misc": " 58 rfkill\n",
            "/etc/qemu/bridge.conf": "include /etc/qemu/cloudme.d/alice.conf\n",
            "/etc/qemu/cloudme.d/alice.conf": "allow cm-lab\n",
            **{"/proc/sys/" + name.replace(".", "/"): "0\n" for name in FILTERS}, BRIDGE_HELPERS[0]: "",
        }.items():
            self.put(path, text)
        self.path(BRIDGE_HELPERS[0]).chmod(0o4755)

    def path(self, path: str) -> Path:
        return self.folder / path.lstrip("/")

    def put(self, path: str, text: str) -> None:
        where = self.path(path)
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(text, encoding="utf-8")

    def text(self, path: str) -> str:
        return self.path(path).read_text(encoding="utf-8")

    def gone(self, path: str) -> None:
        self.path(path).unlink()

    @property
    def host(self) -> Host:
        return fakes.host(net=self.net, run=self.run, qemu=self.qemu, files=Below(str(self.folder)),
                          now=lambda: self.now, synchronised=lambda: self.synchronised)

    def look(self) -> Look:
        world = World(data="/data", run="/run/cm", config="/nowhere", realm=self.realm)
        return Look(self.host, world, self.networks, self.root, processor=self.processor,
                    shared=self.shared)

    def results(self, *names: str) -> list[Result]:
        return checks.all_of(self.look(), names)

    def fix(self, *, persist: bool = False) -> None:
        look = self.look()
        with Transaction(look.host, print) as transaction:
            transaction.apply(mend.steps(checks.all_of(look, ()), look, persist=persist))


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
    root.gone(BRIDGE_HELPERS[0])


def plain(root: Root) -> None:
    root.path(BRIDGE_HELPERS[0]).chmod(0o755)


def sharing(root: Root) -> None:
    """Who asks is alice."""
    root.root, root.shared, root.networks = False, (dataclasses.replace(OWN, shared=True),), ()


def sharing_nothing(root: Root) -> None:
    """Who asks is somebody whom alice's file is closed to."""
    sharing(root)
    root.gone("/etc/qemu/cloudme.d/alice.conf")


def filtered(root: Root) -> None:
    root.put("/proc/sys/net/bridge/bridge-nf-call-iptables", "1\n")


def dropping(root: Root) -> None:
    root.run.answers["nft"] = json.dumps(CHAINS)


def trapped(root: Root) -> None:
    filtered(root)
    dropping(root)


def driven(root: Root) -> None:
    root.gone("/dev/net/tun")
    root.put("/proc/misc", " 58 rfkill\n200 tun\n")


def unstarted_default(root: Root) -> None:
    root.networks = (dataclasses.replace(OWN, name=DEFAULT_NETWORK),)
    root.net.known.pop("cm-lab")


def unprivileged(root: Root) -> None:
    root.root = root.net.root = False
    root.run.fail["nft"] = CommandFailed("nft failed: Operation not permitted")


def bare(root: Root) -> None:
    root.run.missing.update({"nft", "dnsmasq", "ssh", "qemu-img", "qemu-system-x86_64"})


BROKEN: list[tuple[str, Callable[[Root], object], Level, str, str]] = [
    ("qemu", lambda root: root.run.missing.add("qemu-img"), Level.failed, "qemu-img", "apt install qemu-utils"),
    ("qemu", lambda root: setattr(root.qemu, "number", "6.2.0"), Level.failed, "QEMU is 6.2.0",
     "apt install qemu-system-x86"),
    ("programs", lambda root: root.run.missing.update({"dnsmasq", "nft"}), Level.failed, "dnsmasq, nft",
     "apt install dnsmasq-base nftables"),
    ("kvm", lambda root: setattr(root, "processor", "aarch64"), Level.warning, "is aarch64", "x86_64"),
    ("kvm", put("/proc/cpuinfo", "flags\t: fpu\n"), Level.warning, "no virtualisation", "firmware"),
    ("kvm", lambda root: root.gone("/dev/kvm"), Level.warning, "no /dev/kvm", "modprobe kvm_intel"),
    ("nested", put("/sys/module/kvm_intel/parameters/nested", "N\n"), Level.warning, "no nesting", "nested=1"),
    ("tun", lambda root: root.gone("/dev/net/tun"), Level.failed, "no /dev/net/tun", "modprobe tun"),
    ("bridge", lambda root: root.net.known.pop("br0"), Level.failed, "no bridge br0", "--bridge br0"),
    ("tun", driven, Level.failed, "no /dev/net/tun", "mknod -m 666 /dev/net/tun c 10 200"),
    ("bridge", unstarted_default, Level.failed, "no bridge cm-lab", "cmnet start default"),
    ("bridge", link(of="cm-lab", addresses=(IPv4Interface("10.44.0.7/24"),)), Level.failed,
     "does not have 10.44.0.1/24", "cmnet start lab"),
    ("bridge", link(of="br0", up=False), Level.failed, "is down", "ip link set br0 up"),
    ("bridge", link(of="br0", addresses=()), Level.failed, "has no address in 192.168.86.0/24", "--bridge br0"),
    ("nic", lambda root: root.net.known.pop("ens18"), Level.failed, "no card is a port of br0", "master br0"),
    ("nic", link(of="ens18", addresses=(IPv4Interface("192.168.86.9/24"),)), Level.failed,
     "ens18 has 192.168.86.9/24", "ip address flush dev ens18"),
    ("nic", put("/sys/class/net/ens18/wireless/status", ""), Level.failed, "ens18 is Wi-Fi", "cable"),
    ("bridge-nf", filtered, Level.warning, "bridge-nf-call-iptables = 1", "sysctl -w"),
    ("bridge-nf", trapped, Level.failed, "ip filter FORWARD drops", "sysctl -w"),
    ("firewall", dropping, Level.warning, "FORWARD drops", "nft insert rule ip filter FORWARD iifname cm-lab"),
    ("firewall", unprivileged, Level.warning, "cannot see", "sudo cmcheck firewall"),
    ("firewall", bare, Level.warning, "without nft", "apt install nftables"),
    ("ports", unprivileged, Level.warning, "cannot try", "sudo cmcheck ports"),
    ("forwarding", put("/proc/sys/net/ipv4/ip_forward", "0\n"), Level.failed, "is off", "sysctl -w"),
    ("bridge-helper", put("/etc/qemu/bridge.conf", ""), Level.warning, "alice is not allowed to join cm-lab",
     "cmnet start lab"),
    ("bridge-helper", put("/etc/qemu/cloudme.d/alice.conf", "allow br0\n"), Level.warning, "alice is not allowed",
     "cmnet start lab"),
    ("bridge-helper", sharing_nothing, Level.warning, "does not allow cm-lab", "--allow-user"),
    ("bridge-helper", put("/etc/qemu/bridge.conf", "allow all\n"), Level.warning, "'allow all'", "sed -i"),
    ("bridge-helper", put("/etc/qemu/bridge.conf", "allow all\ndeny br0\n"), Level.warning, "'allow all'", "sed -i"),
    ("bridge-helper", put("/etc/qemu/bridge.conf", "include /etc/qemu/cloudme.d/alice.conf\ndeny cm-lab\n"),
     Level.warning, "denies cm-lab", "bridge.conf"),
    ("bridge-helper", lambda root: root.path("/etc/qemu/bridge.conf").chmod(0o666), Level.warning,
     "by others than root", "chmod go-w"),
    ("bridge-helper", helperless, Level.warning, "not installed", "apt install qemu-system-common"),
    ("bridge-helper", plain, Level.warning, "is not setuid", "chmod u+s"),
    ("ports", lambda root: setattr(root.net, "holder", "port 53: named (pid 12)"), Level.failed, "named (pid 12)",
     "end it"),
    ("inotify", put("/proc/sys/fs/inotify/max_user_instances", "8\n"), Level.warning, "max_user_instances is 8",
     "sysctl -w fs.inotify.max_user_instances=128"),
    ("open-files", put("/proc/self/limits", LIMITS.format(512)), Level.warning, "512 files", "ulimit"),
    ("rootless", put("/proc/sys/kernel/unprivileged_userns_clone", "0\n"), Level.warning,
     "kernel.unprivileged_userns_clone is 0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("rootless", put("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n"), Level.warning,
     "apparmor_restrict_unprivileged_userns is 1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
    ("rootless", put("/proc/sys/user/max_user_namespaces", "0\n"), Level.warning, "max_user_namespaces is 0", "=65536"),
    ("rootless", lambda root: root.run.missing.update({"pasta", "slirp4netns"}), Level.warning,
     "neither pasta nor slirp4netns", "apt install passt"),
    ("apparmor", put("/sys/kernel/security/apparmor/profiles", "/usr/sbin/dnsmasq (enforce)\n"), Level.warning,
     "confines /usr/sbin/dnsmasq", "/etc/apparmor.d/local/usr.sbin.dnsmasq"),
    ("time", lambda root: setattr(root, "now", root.now - 3600), Level.warning, "behind files", "set-ntp"),
    ("time", lambda root: setattr(root, "synchronised", False), Level.warning, "nothing keeps", "set-ntp"),
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
    assert {result.level for result in bad} == {level}
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
            transaction.apply(mend.steps(found, look, persist=False))
        again = checks.all_of(dataclasses.replace(look), [check])
        assert (again[0].level == Level.ok) == (check == "tun")


def test_a_machine_that_is_meant_to_be_emulated_needs_no_kvm(root: Root) -> None:
    root.gone("/dev/kvm")
    assert checks.all_of(dataclasses.replace(root.look(), emulated=True), ["kvm"])[0].level == Level.ok


def levels(results: list[Result]) -> list[Level]:
    return [result.level for result in results]


@pytest.mark.parametrize("breaks", [unprivileged, bare])
def test_what_cannot_be_looked_at_keeps_no_other_check_from_being_told(
    root: Root, breaks: Callable[[Root], object],
) -> None:
    breaks(root)
    assert {result.check for result in root.results()} == set(checks.CHECKS)


def test_another_users_dnsmasq_serves_too(root: Root) -> None:
    class Foreign(fakes.FakeRun):
        def signal(self, pid_file: str, mark: str, number: int) -> bool:
            raise NotPermitted(mark)

    root.run, root.net.root = Foreign(), False
    assert levels(root.results("ports")) == [Level.ok]


def test_a_network_that_was_created_and_is_stopped_is_fine(root: Root) -> None:
    root.net.known.pop("cm-lab")
    root.put("/proc/sys/net/ipv4/ip_forward", "0\n")
    assert [result.what for result in root.results("bridge")][1] == "network 'lab' is not started (cmnet start lab)"
    assert levels(root.results()) == [Level.ok] * len(root.results())


def test_nesting_matters_only_where_kvm_is_usable(root: Root) -> None:
    root.put("/sys/module/kvm_intel/parameters/nested", "N\n")
    assert levels(root.results("nested")) == [Level.warning]
    root.gone("/dev/kvm")
    assert levels(root.results("nested")) == [Level.ok]


@pytest.mark.parametrize(("family", "value", "level"), [
    ("ip", "iptables", Level.failed), ("inet", "iptables", Level.failed), ("inet", "ip6tables", Level.failed),
    ("ip6", "iptables", Level.warning), ("ip", "arptables", Level.warning), ("bridge", "iptables", Level.warning),
])
def test_a_chain_drops_only_what_the_filter_shows_it(root: Root, family: str, value: str, level: Level) -> None:
    chain = {"family": family, "table": "t", "name": "f", "hook": "forward", "policy": "drop"}
    root.run.answers["nft"] = json.dumps({"nftables": [{"chain": chain}]})
    root.put(f"/proc/sys/net/bridge/bridge-nf-call-{value}", "1\n")
    assert levels(root.results("bridge-nf")) == [level]


def test_the_filter_of_a_realm_in_which_nothing_is_started_says_nothing(root: Root) -> None:
    trapped(root)
    root.realm, root.networks = "demo", ()
    assert levels(root.results("bridge-nf")) == [Level.ok]


def test_the_list_of_the_helper_may_be_in_other_files_and_in_itself(root: Root) -> None:
    root.put("/etc/qemu/bridge.conf", "# ours\ninclude /etc/qemu/more.conf\n\tallow   br0\n")
    root.put("/etc/qemu/more.conf", "include /etc/qemu/bridge.conf\nallow cm-lab\n")
    sharing(root)
    assert levels(root.results("bridge-helper")) == [Level.ok]


def test_in_a_realm_nobody_asks_for_the_helper(root: Root) -> None:
    root.realm, root.networks = "demo", (dataclasses.replace(OWN, users=()),)
    helperless(root)
    assert root.results("bridge-helper")[0].level == Level.ok


def test_the_names_that_a_tab_offers_are_the_checks() -> None:
    assert tuple(checks.CHECKS) == program("cmcheck").CHECKS
    with pytest.raises(UsageError, match="no check 'x'"):
        checks.all_of(Look(fakes.host(), World(data="", run="", config=""), (), True), ["x"])


def test_no_name_means_all_of_them() -> None:
    assert program("cmcheck").parser().parse_args([]).checks == []
    assert program("cmcheck").parser().parse_args(["tun", "kvm"]).checks == ["tun", "kvm"]


@pytest.mark.parametrize("words", [
    ["x"], ["--bridge", "br0"], ["--persist", "--bridge", "br0"], ["--persist", "--realm", "demo"],
    ["--root", "/no/such/folder"],
])
def test_options_that_are_off_end_with_64(command: Callable[..., Ended], words: list[str]) -> None:
    assert command("cmcheck", *words).status == 64


def test_a_distribution_is_known_by_its_own_name_or_by_what_it_is_like() -> None:
    assert distributions.of('ID=debian\nVERSION_ID="12"\n') == "debian"
    assert distributions.of('ID="rocky"\nID_LIKE="rhel centos fedora"\n') == "debian"
    assert distributions.of("ID=manjaro\nID_LIKE=arch\n") == "arch"
    assert distributions.install("alpine", ["qemu-img", "nft"]) == "apk add qemu-img nftables"
    assert distributions.install("arch", ["qemu-system-x86_64", "qemu-bridge-helper"]) == "pacman -S --needed qemu-base"
    assert distributions.packages("alpine", ["mmdebstrap"]) == []
