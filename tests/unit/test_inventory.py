"""Ansible's view of the machines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudme import layout
from cloudme.formats import inventory
from cloudme.layout import World
from cloudme.model.machine import Machine
from cloudme.model.ports import Target
from tests.conftest import ROOT, Ended
from tests.unit.test_vmrunning import Made, machine

DATA = ROOT / "tests" / "data" / "inventory"
HOME = "/var/lib/cloudme"


def target(machine: Machine, *, home: str = HOME, port: int = 22) -> Target:
    return Target(name=machine.name, address=machine.address or "", user="root", port=port,
                  key_file=f"{home}/templates/debian/ssh_key",
                  known_hosts_file=f"{home}/machines/{machine.name}/known_hosts")


MACHINES = [machine("sql00", type="sql", address="10.210.0.4"), machine("web00", address="10.210.0.2"),
            machine("web01", address="10.210.0.3"), machine("dns00", group="pf-2", type="web", address="10.210.0.5")]


@pytest.mark.parametrize(("file", "render", "proxied"), [
    ("list.json", inventory.listing, False), ("list-realm.json", inventory.listing, True),
    ("static.json", inventory.static, False),
])
def test_the_inventory_is_what_the_golden_file_says(
    file: str, render: Callable[[dict[Machine, dict[str, Any]]], dict[str, Any]], proxied: bool
) -> None:
    def proxy(machine: Machine) -> list[str]:
        realm = "demo" if proxied else ""
        return inventory.proxy("/usr/local/bin/vm", machine, World(data="", run="", config="", realm=realm),
                               home="/tmp/play ground")

    found = render({machine: inventory.variables(machine, target(machine), proxy(machine)) for machine in MACHINES})
    assert found == json.loads((DATA / file).read_text("utf-8"))


@pytest.mark.parametrize(("group", "type", "names"), [
    ("pf1", "web", ["pf1", "web", "pf1_web"]), ("pf-1", "my-sql", ["pf_1", "my_sql", "pf_1_my_sql"]),
    ("3tier", "web", ["_3tier", "web", "_3tier_web"]),
])
def test_names_of_groups_are_good_for_ansible(group: str, type: str, names: list[str]) -> None:
    assert inventory.groups(machine("web00", group=group, type=type)) == names


def test_a_group_with_the_name_of_its_type_lists_a_machine_once() -> None:
    web = machine("web00", group="web", type="web")
    assert inventory.listing({web: {}})["web"] == {"hosts": ["web00"]}


def test_only_a_port_of_its_own_is_said() -> None:
    web = machine("web00")
    assert "ansible_port" not in inventory.variables(web, target(web))
    assert inventory.variables(web, target(web, port=2222))["ansible_port"] == 2222


@pytest.fixture
def made(home: Path) -> Iterator[Made]:
    made = Made(layout.world())
    made.machine(machine("web00", address="10.210.0.2"), held=True)
    made.machine(machine("web01", address="10.210.0.3"), held=False)
    made.machine(machine("old00", address=None), held=True)
    yield made
    for fd in made.locks:
        os.close(fd)


def test_vminventory_lists_what_runs_and_has_an_address(made: Made, command: Callable[..., Ended]) -> None:
    ended = command("vminventory", "--list")
    listed = json.loads(ended.stdout)
    assert (ended.status, ended.stderr) == (0, "")
    assert listed["pf1_web"] == {"hosts": ["web00"]}
    assert list(listed["_meta"]["hostvars"]) == ["web00"]
    assert "ProxyCommand" not in listed["_meta"]["hostvars"]["web00"]["ansible_ssh_common_args"]


def test_vminventory_tells_the_variables_of_one_machine(made: Made, command: Callable[..., Ended]) -> None:
    assert json.loads(command("vminventory", "--host", "web01").stdout)["ansible_host"] == "10.210.0.3"
    assert command("vminventory", "--host", "nosuch").status == os.EX_NOINPUT


def test_vminventory_reaches_into_a_named_realm(home: Path, command: Callable[..., Ended]) -> None:
    made = Made(layout.world("demo"))
    made.machine(machine("web00", address="10.210.0.2"), held=True)
    listed = json.loads(command("vminventory", "--realm", "demo", "--list").stdout)
    os.close(made.locks[0])
    words = listed["_meta"]["hostvars"]["web00"]["ansible_ssh_common_args"]
    assert f"env CLOUDME_HOME={home} {ROOT}/bin/vm --realm demo --proxy web00" in words


def test_vminventory_wants_to_know_what_to_print(command: Callable[..., Ended]) -> None:
    assert command("vminventory").status == os.EX_USAGE
