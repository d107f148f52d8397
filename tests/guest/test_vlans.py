"""VLANs on one bridge that keeps them apart, in a kernel that can: our commands run inside a guest of ours."""

from __future__ import annotations

import importlib.util
import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.guest.conftest import ROOT, Cloud
from tests.vlans import MACHINES, OPEN, WANTED

pytestmark = [pytest.mark.guest, pytest.mark.timeout(1200)]

OURS = ("cloudme", "bin", "sbin", "templates", "tests/__init__.py", "tests/leases.py", "tests/vlans.py",
        "tests/vlanguest.py", "examples/homelab.yaml")
PACKAGES = ("pyroute2", "jinja2", "markupsafe", "qemu")
"""Where markupsafe's compiled part does not fit, it goes without."""


def packed() -> bytes:
    """The checkout and the packages that cmnet needs, as a tar."""
    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if "__pycache__" in member.name else member

    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w:gz", compresslevel=1) as tar:
        for path in OURS:
            tar.add(ROOT / path, f"cloudme/{path}", filter=plain)
        for package in PACKAGES:
            spec = importlib.util.find_spec(package)
            assert spec and spec.submodule_search_locations
            tar.add(next(iter(spec.submodule_search_locations)), f"packages/{package}", filter=plain)
    return found.getvalue()


@pytest.fixture
def name(cloud: Cloud, warm: str) -> Iterator[str]:
    cloud.run("vmwarm", warm)  # whoever upgraded the template has taken its RAM image
    with cloud.instant(warm, "vlans", "lab") as name:
        yield name


def test_vlans_share_a_bridge_and_do_not_meet(cloud: Cloud, name: str) -> None:
    cloud.run("vm", name, "--", "tar --no-same-owner -xzf - -C /root", stdin=packed())
    said = cloud.run("vm", name, "--", "cd /root/cloudme; PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONPATH=/root/packages "
                     "exec python3 -m tests.vlanguest")
    found: dict[str, Any] = json.loads(said)
    assert found["applied"] == ["cmapply: network management: made\ncmapply: network services: made\n", ""]
    assert found["kernel"].keys() == {"CONFIG_BRIDGE_VLAN_FILTERING", "CONFIG_VLAN_8021Q"}
    links = found["links"]
    assert links["vmbr0"]["filtering"] and links["vmbr0"]["vids"] == [10, 20] and links["vmbr0"]["pvid"] is None
    assert (links["trunk"]["master"], links["trunk"]["vids"], links["trunk"]["pvid"]) == ("vmbr0", [10, 20], None)
    for vlan in (10, 20):
        one = links[f"vmbr0.{vlan}"]
        assert (one["vlan"], one["parent"]) == (vlan, "vmbr0") and f"10.20.{vlan}.1/24" in one["addresses"]
    assert found["tap"] == ["vmbr0", [20], 20, True]
    assert found["leases"] == {name: address for name, (_, address, _) in MACHINES.items()}
    assert found["foreign lease"] is None
    assert found["matrix"] == WANTED
    assert found["tagged by a guest"] != OPEN
    assert found["at the uplink"] == dict.fromkeys(MACHINES, OPEN)
    assert found["again"] == ["", ""]
    words = ("keep networks apart", "make vmbr0.20: VLAN 20 of vmbr0", "make vmbr0.20: VLAN 20 of vmbr0",
             "tag VLAN 20 on trunk", "make the bridge vmbr0, which keeps VLANs apart")
    assert all(word in line for word, line in zip(words, found["broken"], strict=True)), found["broken"]
    assert found["matrix then"] == WANTED
    assert "is used by registry, worker" in found["busy"]
    assert set(found["one is left"]) == {"vmbr0", "vmbr0.10", "trunk"} and found["one is left"]["trunk"]["vids"] == [10]
    assert found["left"] == [["trunk"], ""]
