"""Machines with cards in two networks, at chosen addresses, over IPv6."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.guest.conftest import Cloud

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def both(cloud: Cloud, warm: str) -> Iterator[list[dict[str, Any]]]:
    """The records of two machines with a card in the default network, at chosen addresses, and one in `lab`."""
    cloud.run("cmnet", "create", "lab", "--cidr", "10.44.0.0/24", "--no-nat")
    names: list[str] = []
    try:
        names = cloud.run("vminstantiate", "-n", warm, "-C", "2", "-g", "nets", "-t", "both", "--network", "default",
                          "--network", "lab", "--ip", "10.210.0.200-201").split()
        cloud.run("vmwait", *names)
        yield [json.loads(Path(cloud.world.machine_record(name)).read_text(encoding="utf-8")) for name in names]
    finally:
        if names:
            cloud.run("vmstop", "-d", "-y", "--timeout", "1", *names)
        cloud.run("cmnet", "delete", "lab")


def ssh(cloud: Cloud, machine: str, address: str, command: str) -> subprocess.CompletedProcess[str]:
    """Plain ssh from the realm, by the pinned key alone."""
    folder = cloud.world.machine(machine)
    return subprocess.run(
        [*cloud.inside, "ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o",
         "ConnectTimeout=5", "-o", f"UserKnownHostsFile={folder}/known_hosts", "-o", "IdentitiesOnly=yes",
         "-i", f"{cloud.world.template('debian')}/ssh_key", f"root@{address}", command],
        capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL)


def test_the_first_cards_have_the_addresses_that_were_asked_for(both: list[dict[str, Any]]) -> None:
    assert [one["nics"][0]["address"] for one in both] == ["10.210.0.200", "10.210.0.201"]
    assert [one["nics"][1]["address"] for one in both] == ["10.44.0.2", "10.44.0.3"]


def test_a_machine_is_on_both_networks(cloud: Cloud, both: list[dict[str, Any]]) -> None:
    for one in both:
        for nic in one["nics"]:
            said = ssh(cloud, one["name"], nic["address"], "hostname; cat /sys/class/net/e*/address")
            assert set(said.stdout.split()) == {one["name"], *(card["mac"] for card in one["nics"])}, said


def test_an_ipv6_address_is_reached_pinned_shown_and_named(cloud: Cloud, both: list[dict[str, Any]]) -> None:
    first, second = both
    for nic in first["nics"]:
        said = ssh(cloud, first["name"], nic["address6"], "hostname")
        assert said.stdout == f"{first['name']}\n", said
    assert cloud.machines()[first["name"]]["address6"] == first["nics"][0]["address6"]
    asked = ssh(cloud, second["name"], second["nics"][0]["address"],
                f"getent ahostsv6 {first['name']}.cloudme; getent ahostsv6 {first['name']}.lab.cloudme")
    found = {line.split()[0] for line in asked.stdout.splitlines()}
    assert found == {nic["address6"] for nic in first["nics"]}, asked


def test_what_is_taken_or_in_use_is_refused(cloud: Cloud, both: list[dict[str, Any]], warm: str) -> None:
    name = both[0]["name"]
    ended = cloud.call("vminstantiate", "-n", warm, "--ip", "10.210.0.200")
    assert (ended.returncode, f"is the address of '{name}'".encode() in ended.stderr) == (73, True), ended.stderr
    ended = cloud.call("cmnet", "delete", "lab")
    assert (ended.returncode, name.encode() in ended.stderr) == (75, True), ended.stderr
    ended = cloud.call("cmnet", "stop", "lab")
    assert ended.returncode == 75
    ended = cloud.call("vminstantiate", "-n", warm, "--network", "none")
    assert (ended.returncode, b"no network 'none'" in ended.stderr) == (66, True), ended.stderr


def test_after_a_boot_both_cards_are_as_before(cloud: Cloud, both: list[dict[str, Any]]) -> None:
    one = both[0]
    cloud.run("vmrestart", one["name"], "--timeout", "20")
    cloud.run("vmwait", one["name"])
    for nic in one["nics"]:
        assert ssh(cloud, one["name"], nic["address"], "hostname").stdout == f"{one['name']}\n"
