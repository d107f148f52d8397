"""cmcheck --vfio, with a folder that stands for sysfs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloudme.cli import groups
from cloudme.errors import HostUnavailable, UsageError
from cloudme.model.network import Link
from cloudme.model.ports import Host
from tests import fakes
from tests.conftest import program

GPU, SOUND, BRIDGE, NIC, DISK, OWN = (f"0000:0{slot}.0" for slot in ("1:00", "1:01", "0:01", "2:00", "3:00", "4:00"))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    sysfs = fakes.FakeSysfs(str(tmp_path))
    sysfs.claimed = {"sda"}
    sysfs.device(BRIDGE, group="1", kind="0x060400", driver="pcieport")
    sysfs.device(GPU, group="1", driver="nouveau")
    sysfs.device(SOUND, group="1", kind="0x040300", driver="snd_hda_intel")
    sysfs.device(NIC, group="10", kind="0x020000", driver="e1000e", cards=["eth0"])
    sysfs.device(DISK, group="2", kind="0x010601", driver="ahci", disks=["sda"])
    sysfs.device(OWN, group="11", driver="vfio-pci")
    where = tmp_path / "sys/devices/pci0000:00" / GPU
    (where / "vendor").write_text("0x10de\n")
    (where / "device").write_text("0x1b80\n")
    net = fakes.FakeNet(known={"eth0": Link(name="eth0", master="br0")})
    return fakes.host(devices=sysfs, net=net)


def run(host: Host, *words: str) -> int:
    return groups.run(program("cmcheck").parser().parse_args(["--vfio", *words]), host)


def test_each_device_says_what_giving_it_away_would_mean(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(host) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["1", BRIDGE, "0604", "-", "pcieport", "stays"],
        ["1", GPU, "0300", "10de:1b80", "nouveau", "takes", "along", SOUND],
        ["1", SOUND, "0403", "-", "snd_hda_intel", "takes", "along", GPU],
        ["2", DISK, "0106", "-", "ahci", "in", "use", "the", "disk", "sda", "is", "in", "use"],
        ["10", NIC, "0200", "-", "e1000e", "in", "use", "eth0", "is", "up", "and", "in", "br0"],
        ["11", OWN, "0300", "-", "vfio-pci", "given"]]


def test_scripts_get_keys_and_another_root(host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(host, "--json", "--root", str(tmp_path))
    rows = {one["address"]: one for one in json.loads(capsys.readouterr().out)}
    assert rows[GPU] == {"group": "1", "address": GPU, "class": "0300", "model": "10de:1b80", "driver": "nouveau",
                         "bridge": False, "verdict": "takes along", "uses": [], "along": [SOUND]}
    assert rows[NIC]["verdict"] == "free"  # whose links are up is not known there


def test_a_host_without_an_iommu_says_what_to_switch_on(host: Host) -> None:
    with pytest.raises(HostUnavailable) as raised:
        run(fakes.host())
    assert "VT-d" in str(raised.value.hint)


@pytest.mark.parametrize("words", [["--fix"], ["kvm"], ["--persist"]])
def test_it_goes_alone(host: Host, words: list[str]) -> None:
    with pytest.raises(UsageError):
        run(host, *words)
