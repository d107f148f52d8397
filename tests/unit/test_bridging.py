"""A bridge of the LAN that lasts, written in the way of who sets the host's network up."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cloudme.errors import ConfigError, HostUnavailable, UsageError
from cloudme.formats import hostnet
from cloudme.model.steps import Transaction
from cloudme.operations.checks import bridging
from tests.unit.test_cmcheck import Root, root

DATA = Path(__file__).resolve().parents[1] / "data" / "hostnet"
__all__ = ["root"]


@pytest.mark.parametrize(("source", "path", "then", "distribution", "golden"), [
    ("interfaces", "/etc/network/interfaces", "systemctl restart networking", "debian", "interfaces.bridged"),
    ("interfaces", "/etc/network/interfaces", "rc-service networking restart", "alpine", "interfaces.bridged.alpine"),
    ("netplan.yaml", "/etc/netplan/50-cloud-init.yaml", "netplan apply", "ubuntu", "netplan.yaml.bridged"),
    ("20-wired.network", "/etc/systemd/network/20-wired.network", "networkctl reload", "arch",
     "20-wired.network.bridged"),
])
def test_a_bridge_is_written_as_the_host_has_its_network(
    root: Root, source: str, path: str, then: str, distribution: str, golden: str,
) -> None:
    before = (DATA / source).read_text(encoding="utf-8")
    root.put(path, before)
    root.put("/etc/os-release", f"ID={distribution}\n")
    root.put("/sys/class/net/ens18/address", "52:54:00:12:34:56\n")
    steps, said = bridging.steps(root.look(), "br0", "ens18")
    assert then in said
    with Transaction(root.host, print) as transaction:
        transaction.apply(steps)
    written = "".join(f"== {file.name}\n{file.read_text(encoding='utf-8')}"
                      for file in sorted(root.path(path).parent.iterdir()) if file.is_file())
    assert written == (DATA / golden).read_text(encoding="utf-8")
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


SOURCING = "source /etc/network/interfaces.d/*\nauto lo\niface lo inet loopback\n"
CARD = "auto ens18\niface ens18 inet dhcp\n"


def test_a_card_that_a_file_of_cloud_init_sets_up_is_found_and_the_file_stays(root: Root) -> None:
    """What was there is kept outside that folder, all of which ifupdown reads; cloud-init is told to leave it alone."""
    path = "/etc/network/interfaces.d/50-cloud-init"
    root.put("/etc/network/interfaces", SOURCING)
    root.put(path, CARD)
    with Transaction(root.host, print) as transaction:
        transaction.apply(bridging.steps(root.look(), "br0", "ens18")[0])
    assert root.text("/etc/network/interfaces") == SOURCING
    assert "iface br0 inet dhcp\n    bridge_ports ens18\n" in root.text(path)
    assert [file.name for file in root.path(path).parent.iterdir()] == ["50-cloud-init"]
    assert root.text("/etc/network/50-cloud-init.before-cloudme") == CARD
    assert root.text("/etc/cloud/cloud.cfg.d/99-cloudme-network.cfg") == "network: {config: disabled}\n"
    assert bridging.steps(root.look(), "br0", "ens18")[0] == []


def test_a_folder_that_ifupdown_is_not_told_to_read_is_not_read(root: Root) -> None:
    root.put("/etc/network/interfaces", "auto lo\niface lo inet loopback\n")
    root.put("/etc/network/interfaces.d/ens18", CARD)
    with pytest.raises(ConfigError, match="says nothing of ens18"):
        bridging.steps(root.look(), "br0", "ens18")


def test_a_host_that_would_boot_without_a_network_is_left_as_it_is(root: Root) -> None:
    """Debian's ifupdown takes bridge_ports for an option that it does not know, unless bridge-utils is there."""
    root.put("/etc/network/interfaces", CARD)
    root.gone("/etc/network/if-pre-up.d/bridge")
    with pytest.raises(HostUnavailable, match="bridge-utils"):
        bridging.steps(root.look(), "br0", "ens18")
    root.put("/etc/os-release", "ID=alpine\n")
    assert bridging.steps(root.look(), "br0", "ens18")[0]


@pytest.mark.parametrize(("bridge", "nic"), [
    ("x/../../../tmp/evil", "ens18"), ("br0", "../ens18"), ("br0\nauto x", "ens18"), ("", "ens18"), ("br0", "br0"),
    ("sixteen-letters-", "ens18"), (".br0", "ens18"),
])
def test_what_is_no_name_of_a_link_becomes_part_of_no_file(root: Root, bridge: str, nic: str) -> None:
    root.put("/etc/systemd/network/a.network", f"[Match]\nName={nic}\n[Network]\nDHCP=yes\n")
    with pytest.raises(UsageError):
        bridging.steps(root.look(), bridge, nic)


def test_a_bridge_that_fails_half_way_is_taken_back(root: Root) -> None:
    root.put("/etc/network/interfaces", CARD)
    with pytest.raises(RuntimeError), Transaction(root.host, print) as transaction:
        transaction.apply(bridging.steps(root.look(), "br0", "ens18")[0])
        raise RuntimeError
    assert root.text("/etc/network/interfaces") == CARD
