"""Definitions and host configurations: the seed's own example, every kind of mistake, how tags merge."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudme import layout
from cloudme.errors import NotFound, SpecError
from cloudme.formats import definitions
from cloudme.formats.definitions import shown
from cloudme.model.definitions import identity
from cloudme.model.definitions.nouns import Merged
from tests.conftest import Ended

SEED = Path(__file__).parents[1] / "data/definitions/seed"
ID = "8b18191a-234f-45ce-b43c-b46e28cd2f70"
OTHER = "00000000-0000-0000-0000-000000000001"


class Machina:
    """A folder with definitions: `host` and `machine` write files, `read` reads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "etc/machina"
        self.machines = self.folder / "machine.conf.d"
        self.machines.mkdir(parents=True)
        self.host({})

    def host(self, document: Any, suffix: str = ".json") -> None:
        text = document if isinstance(document, str) else json.dumps(document)
        (self.folder / f"machina.conf{suffix}").write_text(text, "utf-8")

    def machine(self, name: str, document: Any, suffix: str = ".json") -> None:
        text = document if isinstance(document, str) else json.dumps({"id": ID, **document})
        (self.machines / f"{name}.conf{suffix}").write_text(text, "utf-8")

    def read(self) -> definitions.Site:
        return definitions.read(definitions.host_file(str(self.folder)), str(self.machines), run="/run/machina")

    def one(self, name: str = "vm") -> Merged:
        return self.read().pick([name])[0]

    def wrong(self, *names: str) -> list[str]:
        """The complaints, without the folder."""
        with pytest.raises(SpecError) as caught:
            self.read().pick(names)
        return [line.removeprefix(f"{self.folder}/").removeprefix("machine.conf.d/") for line in caught.value.lines]


@pytest.fixture
def machina(tmp_path: Path) -> Machina:
    return Machina(tmp_path)


# identifiers

@pytest.mark.parametrize(("uuid", "name", "part", "wanted"), [
    (ID, "test-vm", "mac:0", "52:54:00:26:77:fa"),
    (ID, "test-vm", "wwn:os", "0x5525400908FE6258"),
    (ID, "test-vm", "wwn:virtio-win-latest", "0x5525400982DB87CE"),
    (ID, "test-vm", "wwn:win10", "0x5525400F7C2ED5D0"),
    (ID, "test-vm", "serial:os", "9IQ4PUV68QOCNS2C75OKUS04I4"),
    (ID, "test-vm", "serial:virtio-win-latest", "JAVJJVPOOPTIV73ONECE40VFD4"),
    (ID, "test-vm", "serial:win10", "0V17D9DH4EVT9SFOCV9CFTR0BK"),
    (OTHER, "web00", "mac:0", "52:54:00:2a:19:82"),
    (OTHER, "web00", "wwn:os", "0x55254004F175937B"),
    (OTHER, "web00", "serial:os", "I1VJC0P6SDLQ6VV6P6177P46TG"),
    (OTHER, "vm-é", "mac:0", "52:54:00:00:40:c9"),
])
def test_identifiers_are_the_seeds(uuid: str, name: str, part: str, wanted: str) -> None:
    kind, _, of = part.partition(":")
    made: dict[str, Callable[[str, str, str], str]] = {
        "mac": identity.mac, "wwn": identity.wwn, "serial": identity.serial}
    assert made[kind](uuid, name, of) == wanted


def test_devices_and_groups_have_the_seeds_identifiers() -> None:
    assert identity.device(ID, "test-vm", "cad-standard", "vgpu") == "3e2cee4d-1002-4989-af98-3e03b8ad3197"
    assert identity.device(OTHER, "web00", "gpu", "g0") == "9007cb4c-dfd4-4683-9019-7f08c9edefe7"
    assert (identity.group(ID, "test-vm"), identity.group(OTHER, "web00")) == (2584257136, 2361965471)


@pytest.mark.parametrize(("machine", "wanted"), [
    ("test-vm", "test-vm.0"), ("a-rather-long-machine", "BMjROfc55lhhzlM"), ("vm0123456789ab", "VxhJGTYRw5czxV4"),
    ("vm0123456789a", "vm0123456789a.0"), ("a /b\n", "ab.0"),
])
def test_links_have_the_seeds_names(machine: str, wanted: str) -> None:
    assert identity.link(machine, "0") == wanted


# the seed's example

def test_the_seeds_example_is_shown_as_the_seed_shows_it(command: Callable[..., Ended], tmp_path: Path) -> None:
    shutil.copytree(SEED, tmp_path / "etc/machina")
    ended = command("vmcat", "--root", str(tmp_path), "test-vm")
    assert (ended.status, ended.stdout, ended.stderr) == (0, (SEED / "test-vm.cat").read_text("utf-8"), "")


def test_without_a_folder_of_its_own_the_current_one_is_read(
    command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(SEED)
    assert command("vmcat").stdout == (SEED / "test-vm.cat").read_text("utf-8")


def test_a_value_is_explained_by_file_tag_and_pattern(command: Callable[..., Ended], tmp_path: Path) -> None:
    shutil.copytree(SEED, tmp_path / "etc/machina")
    host = tmp_path / "etc/machina/machina.conf.json"
    said = command("vmcat", "--root", str(tmp_path), "test-vm", "--explain", "attrs.spice.port").stdout
    assert said.split("  ") == ["attrs.spice.port", "59000", "vdi-employee",
                                f"{host}: tag.vdi-employee.attrs.spice.port-pattern (5${{employee-id}})\n"]
    (row,) = json.loads(command("vmcat", "--root", str(tmp_path), "--explain", "volumes.os.wwn", "--json").stdout)
    assert (row["value"], row["tag"]) == ("0x5525400908FE6258", None)
    assert (row["path"], row["made_from"]) == ("id", "id and name")
    missing = command("vmcat", "--root", str(tmp_path), "--explain", "volumes.o")
    assert (missing.status, missing.stderr.splitlines()[0]) == (66, "vmcat: no key 'volumes.o'")


def test_every_value_that_is_set_is_explained(machina: Machina) -> None:
    shutil.copytree(SEED, machina.folder, dirs_exist_ok=True)
    sections = ("name", "id", "description", "tags", "vars", "attrs", "volumes", "connections", "devices")
    rows = [row for section in sections for row in shown.explained(machina.one("test-vm"), section)]
    assert {key for key, value, source in rows if value and not source} == {"connections.0.link"}


def test_several_machines_have_their_names_above_them(command: Callable[..., Ended], machina: Machina) -> None:
    machina.machine("b", {})
    machina.machine("a", {"id": OTHER})
    root = str(machina.folder.parents[1])
    assert command("vmcat", "--root", root).stdout == (
        f"----a----\n  Name: a\n  ID: {OTHER}\n----b----\n  Name: b\n  ID: {ID}\n")
    assert [found["name"] for found in json.loads(command("vmcat", "--root", root, "--json", "b").stdout)] == ["b"]


def test_without_a_host_a_machine_is_what_its_own_file_says(command: Callable[..., Ended], machina: Machina) -> None:
    machina.machine("vm", {"tags": ["web"], "connections": [{"name": "0", "network": "lan", "ip": "10.0.0.5"}]})
    (machina.folder / "machina.conf.json").unlink()
    ended = command("vmcat", "--root", str(machina.folder.parents[1]), "vm")
    assert ended.status == 0 and "there is no " in ended.stderr
    assert ended.stdout.splitlines()[-1] == f"    0: lan (ip: 10.0.0.5, mac: {identity.mac(ID, 'vm', '0')})"


@pytest.mark.parametrize(("words", "status", "what"), [
    (["--root", "/nowhere"], 66, "there is no folder '/nowhere/etc/machina'"),
    (["--host-config", "/nowhere.json"], 66, "there is no file '/nowhere.json'"),
    (["nobody"], 66, "no definition 'nobody'"),
])
def test_what_is_not_there_is_said(command: Callable[..., Ended], words: list[str], status: int, what: str) -> None:
    os.makedirs(layout.definitions(None))
    ended = command("vmcat", *words)
    assert ended.status == status
    assert f"vmcat: {what}" in ended.stderr.splitlines()


def test_identifiers_are_made(command: Callable[..., Ended]) -> None:
    assert command("vmid").stdout[14] == "4"
    assert command("vmid", "--mac").stdout.startswith("52:54:00:")


# other formats

TOML = f"""
id = "{ID}"
tags = ["web"]
[vars]
number = "7"
[attrs.spice]
enabled = true
port-pattern = "${{5900 + number}}"
[[volumes]]
name = "os"
storage = "data"
bootable = true
"""
YAML = f"""
id: {ID}
tags: [web]
vars: {{number: "7"}}
attrs: {{spice: {{enabled: true, port-pattern: "${{5900 + number}}"}}}}
volumes:
- {{name: os, storage: data, bootable: true}}
"""
HOST = {"storage": {"data": {"path": "/srv", "pattern": "${machine-name}/${volume}-${upper(machine-name)}.raw",
                             "type": "raw"}},
        "network": {"lan": {"device": "br0"}}, "tag": {"web": {"connections": [{"name": "0", "network": "lan"}]}}}


@pytest.mark.parametrize(("suffix", "text"), [(".toml", TOML), (".yaml", YAML)])
def test_toml_and_yaml_say_the_same_as_json(machina: Machina, suffix: str, text: str) -> None:
    machina.host(HOST)
    machina.machine("vm", text, suffix)
    machine = machina.one()
    assert machine.attributes.spice_port == 5907
    assert (machine.volumes[0].path, machine.volumes[0].index) == ("/srv/vm/os-VM.raw", 1)
    assert [connection.network for connection in machine.connections] == ["lan"]


def test_a_host_has_one_configuration(machina: Machina) -> None:
    machina.host("{}", ".yaml")
    with pytest.raises(SpecError, match=r"machina\.conf\.json is there, too"):
        machina.read()
    (machina.folder / "machina.conf.json").unlink()
    machina.machine("vm", {})
    assert machina.one().name == "vm"


def test_keys_are_read_in_capital_letters_too(machina: Machina) -> None:
    machina.machine("vm", '{"ID": "' + ID.upper() + '", "Attrs": {"Memory": {"RAM": 64}}, "description": null}')
    assert (machina.one().uuid, machina.one().attributes.ram_mib) == (ID, 64)


def test_what_an_editor_leaves_behind_is_no_definition(machina: Machina) -> None:
    machina.machine("vm", {})
    for name in (".vm.conf.json", "vm.conf.json~", "vm.json", "vm.conf.yaml.bak"):
        (machina.machines / name).write_text("nonsense", "utf-8")
    assert list(machina.read().there) == ["vm"]


def test_a_machine_is_found_by_its_file_and_by_its_name(machina: Machina) -> None:
    machina.machine("file", {"name": "Other_1.x"})
    assert machina.one("file").name == machina.one("Other_1.x").name == "Other_1.x"
    with pytest.raises(NotFound):
        machina.one("other")


# merging

def test_the_machine_wins_over_its_tags_and_the_first_tag_over_the_later(machina: Machina) -> None:
    machina.host({"tag": {
        "a": {"vars": {"x": "a", "y": "a"}, "attrs": {"cpu": {"sockets": 2, "cores": 2}, "memory": {"ram": 1}}},
        "b": {"vars": {"y": "b", "z": "b"}, "attrs": {"cpu": {"cores": 4, "threads": 4}, "memory": {"ram": 2}}}}})
    machina.machine("vm", {"tags": ["a", "b"], "vars": {"x": "own"}, "attrs": {"cpu": {"sockets": 8, "cores": 0}}})
    machine = machina.one()
    assert machine.variables == {"x": "own", "y": "a", "z": "b"}
    attributes = machine.attributes
    assert (attributes.sockets, attributes.cores, attributes.threads, attributes.ram_mib) == (8, 2, 4, 1)


def test_false_does_not_switch_off_what_a_tag_switches_on(machina: Machina) -> None:
    machina.host({"tag": {"a": {"attrs": {"qmp": {"enabled": True}}}}})
    machina.machine("vm", {"tags": ["a"], "attrs": {"qmp": {"enabled": False}}})
    assert machina.one().attributes.qmp


def test_volumes_are_put_together_and_a_name_counts_once(machina: Machina) -> None:
    pools = {name: {"path": "/srv", "type": "raw"} for name in ("p", "q")}
    machina.host({"storage": pools, "tag": {
        "a": {"volumes": [{"name": "os", "storage": "q", "bootable": True}, {"name": "data", "storage": "q"}]},
        "b": {"volumes": [{"name": "data", "storage": "p", "bootable": True}, {"name": "log", "storage": "p"}]}}})
    machina.machine("vm", {"tags": ["a", "b"], "volumes": [{"name": "os", "storage": "p"}]})
    assert [(it.name, it.storage, it.index) for it in machina.one().volumes] == [
        ("os", "p", 0), ("data", "q", 0), ("log", "p", 0)]


def test_qmp_sockets_are_put_together_from_the_last_tag(machina: Machina) -> None:
    def sockets(*names: str, **more: Any) -> dict[str, Any]:
        return {"attrs": {"qmp": {"enabled": True, "sockets": {"names": names, **more}}}}

    machina.host({"tag": {"a": sockets("x", "a"), "b": sockets("b", "x", paths=["/b"])}})
    machina.machine("vm", {"tags": ["a", "b"], **sockets("own", paths=["/own", "/b"])})
    folder = "/run/machina/vm/"
    found = machina.one().attributes.qmp_sockets
    assert found[:3] == tuple(f"{folder}{name}.qmp.socket" for name in ("systemd.0", "command.0", "command.1"))
    assert found[3:] == (*(f"{folder}{name}.qmp.socket" for name in ("b", "x", "a", "own")), "/b", "/own")


def test_a_tag_may_list_tags_which_come_right_behind_it(machina: Machina) -> None:
    machina.host({"tag": {"a": {"tags": ["a1", "b"]}, "a1": {"vars": {"v": "a1"}},
                          "b": {"vars": {"v": "b", "w": "b"}}}})
    machina.machine("vm", {"tags": ["a", "b"]})
    assert machina.one().variables == {"v": "a1", "w": "b"}
    assert [source.tag for _, _, source in shown.explained(machina.one(), "vars") if source] == ["a1", "b"]


def test_boot_indexes_that_are_asked_for_are_kept_and_others_fill_the_gaps(machina: Machina) -> None:
    machina.host({"storage": {"d": {"path": "/d", "type": "raw"}, "iso": {"path": "/iso", "type": "iso-scsi"}}})
    machina.machine("vm", {"volumes": [
        {"name": "a", "storage": "d", "bootable": True}, {"name": "b", "storage": "d", "bootable": True},
        {"name": "cd", "storage": "iso", "bootindex": 1}, {"name": "dvd", "storage": "iso", "bootable": True}]})
    assert [(it.name, it.index) for it in machina.one().volumes] == [("a", 2), ("b", 3), ("cd", 1), ("dvd", 0)]


def test_a_port_that_is_set_wins_over_a_pattern(machina: Machina) -> None:
    machina.machine("vm", {"attrs": {"spice": {"enabled": True, "port": 5901, "port-pattern": "nonsense"},
                                     "agent": {"qemu": {"enabled": True}}}})
    assert (machina.one().attributes.spice_port, machina.one().attributes.agent_port) == (5901, 0)


def test_devices_are_supplied_in_every_spelling(machina: Machina) -> None:
    machina.host({"mdev": {"a": {"address": "C1:00.0", "types": {"small": "RTX-6Q"}}},
                  "mediated-device": {"b": {"address": "0000:c2:00.0", "heterogeneous": True, "classes": {
                      "small": {"name": "RTX-6Q", "placements": [0, 6]}}}},
                  "pci": {"c": {"address": "0000:c3:00.0", "class": "whole"}}})
    machina.machine("vm", {"devices": [{"name": "x", "class": "small"}, {"name": "y", "class": "whole"}]})
    site = machina.read()
    assert [(it.name, it.address, dict(it.kinds)) for it in site.host.supplies] == [
        ("a", "0000:c1:00.0", {"small": "RTX-6Q"}), ("b", "0000:c2:00.0", {"small": "RTX-6Q"}),
        ("c", "0000:c3:00.0", {"whole": ""})]
    assert [device.id for device in site.pick(["vm"])[0].devices] == [
        identity.device(ID, "vm", "small", "x"), identity.device(ID, "vm", "whole", "y")]


def test_all_machines_come_in_the_order_of_their_names(machina: Machina) -> None:
    for name in ("b", "c", "a"):
        machina.machine(name, {"id": f"{ID[:-1]}{name}"})
    assert [machine.name for machine in machina.read().pick()] == ["a", "b", "c"]
