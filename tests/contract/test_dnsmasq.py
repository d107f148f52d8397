"""The real dnsmasq accepts what it is told."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from cloudme.errors import CommandFailed
from cloudme.formats import dhcp
from cloudme.host.run import Programs
from cloudme.layout import World
from cloudme.model.hostconfig import Settings
from cloudme.model.names import Name

run = Programs()


@pytest.mark.parametrize("user", ["", "nobody"])
@pytest.mark.parametrize("resolv_file", [None, "/etc/resolv.conf"])
def test_dnsmasq_accepts_the_configuration(tmp_path: Path, user: str, resolv_file: str | None) -> None:
    if run.find("dnsmasq") is None:
        pytest.skip("needs dnsmasq")
    world = World(data=str(tmp_path), run=str(tmp_path), config=str(tmp_path))
    network = dataclasses.replace(Settings().network(), reaches=(Name("services"),))
    Path(world.reached_domains("default")).parent.mkdir()
    Path(world.reached_domains("default")).write_text("server=/services.cloudme/\n")
    for folder in (world.reservations("default"), world.host_names("default")):
        os.makedirs(folder)
    conf = tmp_path / "dnsmasq.conf"
    conf.write_text(dhcp.configuration(network, world, user=user, resolv_file=resolv_file))
    run(["dnsmasq", "--test", f"--conf-file={conf}"])
    conf.write_text(conf.read_text() + "no-such-option\n")
    with pytest.raises(CommandFailed, match="bad option at line"):
        run(["dnsmasq", "--test", f"--conf-file={conf}"])


def test_nft_accepts_the_rules_and_lists_their_marks(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or run.find("nft") is None or os.geteuid() != 0:
        pytest.skip("needs unshare, nft and root")
    world = World(data=str(tmp_path), run=str(tmp_path), config=str(tmp_path))
    network = Settings().network()
    rules = tmp_path / "rules"
    rules.write_text(dhcp.rules(network, world))
    gone = tmp_path / "gone"
    gone.write_text(dhcp.no_rules(network))
    twice = (f"nft -f {rules}", f"nft -f {rules}", "nft list ruleset", f"nft -f {gone}", f"nft -f {gone}",
             "nft list ruleset")
    listed = run(["unshare", "-n", "sh", "-c", " && ".join(twice)])
    assert dhcp.marks(listed) == dhcp.marks(rules.read_text())
