"""cloudme.toml: merged, checked, all complaints at once."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from cloudme.errors import ConfigError
from cloudme.formats import settings
from cloudme.model.hostconfig import Accelerator, Settings
from cloudme.model.machine import Limits
from cloudme.model.units import GIB


def written(folder: Path, texts: Sequence[str]) -> list[str]:
    """Files with these texts, and one that is missing."""
    for number, text in enumerate(texts):
        (folder / f"{number}.toml").write_text(text, encoding="utf-8")
    return [str(folder / f"{number}.toml") for number in (*range(len(texts)), "missing")]


def read(tmp_path: Path, *texts: str) -> Settings:
    return settings.read(written(tmp_path, texts))


def test_no_file_means_the_defaults(tmp_path: Path) -> None:
    assert read(tmp_path) == Settings()


def test_the_later_file_wins_key_by_key(tmp_path: Path) -> None:
    found = read(tmp_path, '[defaults]\nmemory = "1G"\ncpus = 4\ndisk = 20\naccel = "tcg"\n', "[defaults]\ncpus = 1\n")
    assert (found.ram_mib, found.vcpus, found.disk_bytes, found.accel) == (1024, 1, 20 * GIB, Accelerator.tcg)


def test_an_address_without_a_range_hands_out_the_longer_side_of_its_network(tmp_path: Path) -> None:
    found = read(tmp_path, '[network]\naddress = "172.20.0.1/16"\nbridge = "br7"\n')
    assert (found.bridge, found.address) == ("br7", IPv4Interface("172.20.0.1/16"))
    assert (found.dhcp_first, found.dhcp_last) == (IPv4Address("172.20.0.2"), IPv4Address("172.20.255.254"))


def test_a_wide_network_costs_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, '[network]\naddress = "10.0.0.1/8"\n').dhcp_last == IPv4Address("10.255.255.254")


def test_a_range_is_first_to_last(tmp_path: Path) -> None:
    found = read(tmp_path, '[network]\ndhcp = "10.210.0.100 - 10.210.0.199"\n[timeouts]\nboot = "2m"\nstop = 5\n')
    assert (str(found.dhcp_first), str(found.dhcp_last)) == ("10.210.0.100", "10.210.0.199")
    assert (found.boot_timeout_s, found.stop_timeout_s) == (120, 5)


def test_limits_of_the_host_are_merged_one_by_one(tmp_path: Path) -> None:
    found = read(tmp_path, '[limits]\ncpus = 1.5\ntasks = 300\nio = "50M"\n',
                 '[limits]\ntasks = "max"\noverhead = "2G"\n')
    assert (found.limits, found.overhead_mib) == (Limits(cpus=1.5, tasks=0, io_bps=50 << 20), 2048)
    assert read(tmp_path, '[limits]\noverhead = "max"\n').overhead_mib is None


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, '[defaults]\nmemory = "much"\nram = 1\n[network]\nnat = "yes"\naddress = "10.0.0"\n', "x")
    lines = caught.value.message.splitlines()
    assert [line.split(": ")[1] for line in lines[:4]] == [
        "defaults.memory", "defaults.ram", "network.nat", "network.address"]
    assert lines[0].startswith(f"{tmp_path}/0.toml: ") and lines[4].startswith(f"{tmp_path}/1.toml: ")
    assert caught.value.exit_status == 78


@pytest.mark.parametrize(("line", "what"), [
    ('dhcp = "10.210.0.1-10.210.0.9"', "in the range that is handed out"),
    ('dhcp = "10.211.0.1-10.211.0.9"', "is not in 10.210.0.0/24"),
    ('dhcp = "10.210.0.9-10.210.0.3"', "is empty"),
    ('bridge = "a-name-of-16-chr"', "is no name of a bridge"),
])
def test_a_network_that_cannot_be_is_refused(tmp_path: Path, line: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        read(tmp_path, f"[network]\n{line}\n").network()
