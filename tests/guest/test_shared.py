"""A user's machines on root's bridge: restored, given their address by root's dnsmasq, reached, configured."""

from __future__ import annotations

from cloudme import shared
from cloudme.store import Store
from tests.guest.conftest import CACHE
from tests.guest.test_rootless import PACKAGES, PLAYBOOK
from tests.shared import ALICE, Sharing, etc, sharing
from tests.users import outside

__all__ = ["etc", "outside", "sharing"]


def test_instant_clones_of_a_user_on_roots_bridge(sharing: Sharing) -> None:
    """The user's own network, on which the template was warmed, has the same addresses."""
    alice = sharing.alice
    alice.run("cmnet", "start")
    alice.run("cmimage", "build", "debian", "--include", PACKAGES, "--cache", f"{CACHE}/images")
    alice.run("vmcreate", "-n", "debian", "--image", "debian", "-m", "640")
    alice.run("vmwarm", "debian")
    made = ["vminstantiate", "-n", "debian", "-C", "2", "-g", "pf1", "-t", "web", "--instant", "--network", "host"]
    assert alice.run(*made) == "web00\nweb01\n"
    reserved = sharing.root.store.reservations("default")
    assert len(sharing.root.ports()) == 2
    for number in range(2):
        _, address = reserved[shared.reservation(ALICE, number)]
        assert Store(alice.world).machine(f"web0{number}").address == address
        assert alice.run("vm", f"web0{number}", "--", "hostname; hostname -I").split()[:2] == [f"web0{number}", address]
    assert alice.run("vm", "web00", "--", "getent", "ahostsv4", f"user-{ALICE}-01.cloudme").startswith("10.210.0.3")
    (alice.home / "config/playbooks").mkdir(parents=True)
    (alice.home / "config/playbooks/web.yml").write_text(PLAYBOOK)
    assert [line.split()[-1] for line in alice.run("vmlaunch", "pf1").splitlines()] == ["changed", "changed"]
    assert alice.run("vm", "web01", "--", "cat", "/root/said") == "web of web01"
    said = alice.run("ansible", "-i", f"{alice.programs}/bin/vminventory", "web01", "-m", "command", "-a", "hostname")
    assert said.splitlines()[-1] == "web01"
    alice.run("vmstop", "-d", "-y", "--timeout", "1", "web00", "web01")
    assert sharing.root.ports() == []
