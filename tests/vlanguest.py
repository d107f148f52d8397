"""What a guest is told to do: VLANs on one bridge, by our commands, in its own network. It prints what it found (JSON).

    PYTHONPATH=/root/packages python3 -m tests.vlanguest
"""

from __future__ import annotations

import functools
import glob
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cloudme.host.netlink import Links
from cloudme.host.outside import Here
from cloudme.host.run import Programs
from cloudme.layout import World
from cloudme.model.launch import TapCard
from tests.leases import lease
from tests.vlans import MACHINES, ROOT, Box, Site, ask, boxes, inside, ip, mac, matrix

FAR = "far"
"""The namespace at the other end of the uplink's cable."""
LEASE_S = 20


def main() -> None:
    site = Site(World(data="/srv/lab", run="/srv/lab/run", config="/srv/lab/config"), "", vlans=True)
    ip("netns", "add", FAR)
    ip("link", "add", "trunk", "type", "veth", "peer", "name", "eth1", "netns", FAR)
    made = apply(site)
    site.create("--uplink", "trunk")  # what is there, is what cmnet would make
    for name in MACHINES:
        site.publish(name)
    site.cmnet("start", "management")
    found: dict[str, Any] = {"applied": [made, apply(site)], "kernel": kernel(), "links": told(), "tap": tap()}
    with boxes(site, "box") as standing:
        found["leases"] = {name: of(box, mac(name)) for name, box in standing.items()}
        found["foreign lease"] = of(standing["registry"], mac("jenkins"), 2)
        found["matrix"] = matrix(site, standing)
        found["tagged by a guest"] = tagged(standing["jenkins"])
        found["at the uplink"] = outside(standing)
        found["again"] = [site.cmnet("start", name, "--dry-run") for name in ("management", "services")]
        found["broken"] = broken(site)
        found["mended"] = [site.cmnet("status", name) for name in ("management", "services")]
        found["matrix then"] = matrix(site, standing)
    found["busy"] = site.cmnet("delete", "services", status=75)
    site.call("bin/vmstop", "-d", "-y", *MACHINES)
    site.cmnet("delete", "services")
    found["one is left"] = told()
    site.cmnet("delete", "management")
    found["left"] = sorted(told()), subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True,
                                                   check=True).stdout
    sys.stdout.write(json.dumps(found))


def apply(site: Site) -> str:
    """The example's networks, with a bridge and an uplink of ours: cmapply's own words."""
    text = (ROOT / "examples/homelab.yaml").read_text(encoding="utf-8")
    own = text[text.index("networks:\n"):text.index("hosts:\n")].replace(
        "networks:\n", "networks:\n  bridge: vmbr0\n  uplink: trunk\n")
    Path("/srv/homelab.yaml").write_text(own, encoding="utf-8")
    return site.call("sbin/cmapply", "/srv/homelab.yaml")


def kernel() -> dict[str, str]:
    (path,) = glob.glob(f"/boot/config-{os.uname().release}")
    text = Path(path).read_text(encoding="ascii")
    return dict(re.findall("^(CONFIG_BRIDGE_VLAN_FILTERING|CONFIG_VLAN_8021Q)=(.)$", text, re.MULTILINE))


def links() -> Links:
    return Links(Here(Programs()), Programs())


def told() -> dict[str, Any]:
    """Our links: what of them the tests look at."""
    return {name: {key: str(value) if key == "addresses" else value for key, value in asdict(link).items()
                   if key in ("filtering", "vids", "pvid", "vlan", "parent", "master", "addresses")}
            for name, link in links().links().items() if name.startswith(("vmbr0", "trunk"))}


def tap() -> list[Any]:
    """A machine's tap, as it is made for a start."""
    (fd,) = links().taps([TapCard("net0", "vmbr0", "52:54:00:aa:bb:cc", vlan=20)])
    try:
        (link,) = [link for name, link in links().links().items() if name.startswith("cmaabbcc-")]
        return [link.master, link.vids, link.pvid, link.up]
    finally:
        os.close(fd)


def of(box: Box, card: str, patience_s: float = LEASE_S) -> str | None:
    return inside(box.namespace, lambda: lease("eth0", card, patience_s))


def tagged(box: Box) -> str:
    """A guest that tags its frames with the other VLAN's number."""
    netns = os.path.basename(box.namespace)
    ip("-n", netns, "link", "add", "link", "eth0", "name", "eth0.20", "type", "vlan", "id", "20")
    ip("-n", netns, "address", "add", "10.20.20.77/24", "dev", "eth0.20")
    ip("-n", netns, "link", "set", "eth0.20", "up")
    try:
        return inside(box.namespace, lambda: ask("10.20.20.10", "icmp"))
    finally:
        ip("-n", netns, "link", "delete", "eth0.20")


def outside(standing: dict[str, Box]) -> dict[str, str]:
    """Who is tagged at the other end of the uplink is a neighbour in that VLAN, and nobody without a tag."""
    for vlan in (10, 20):
        ip("-n", FAR, "link", "add", "link", "eth1", "name", f"eth1.{vlan}", "type", "vlan", "id", str(vlan))
        ip("-n", FAR, "address", "add", f"10.20.{vlan}.77/24", "dev", f"eth1.{vlan}")
        ip("-n", FAR, "link", "set", "eth1", "up")
        ip("-n", FAR, "link", "set", f"eth1.{vlan}", "up")
    return {name: inside(f"/run/netns/{FAR}", functools.partial(ask, box.address, "tcp/81"))
            for name, box in standing.items()}


def broken(site: Site) -> list[str]:
    """What cmnet status says of each thing that somebody took away, before it is mended."""
    ways = (["nft", "flush", "ruleset"], ["bridge", "vlan", "delete", "dev", "vmbr0", "vid", "20", "self"],
            ["ip", "link", "delete", "vmbr0.20"], ["bridge", "vlan", "delete", "dev", "trunk", "vid", "20"],
            ["ip", "link", "set", "vmbr0", "type", "bridge", "vlan_filtering", "0"])
    said = []
    for way in ways:
        subprocess.run(way, check=True)
        said.append("; ".join(json.loads(site.cmnet("status", "services", "--json", status=78))["amiss"]))
        for name in ("management", "services"):
            site.cmnet("start", name)
    return said


if __name__ == "__main__":
    main()
