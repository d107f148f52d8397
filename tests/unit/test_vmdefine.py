"""Definitions that are written: of machines of ours, and new ones; what is put into the host's configuration."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from cloudme import layout
from cloudme.cli import wiring
from cloudme.formats import definitions, documents
from cloudme.formats.definitions import written
from cloudme.model.machine import Access, Disk, Forward, Limits, Machine
from cloudme.model.names import ImageName, Name
from cloudme.model.network import Network
from cloudme.store import Store
from tests import fakes
from tests.conftest import Ended
from tests.unit import test_vmrunning
from tests.unit.test_definitions import ID, OTHER, SEED, Machina

LAN = Network(name=Name("default"), bridge="br7", address=IPv4Interface("198.51.100.1/24"), domain="x",
              dhcp_first=IPv4Address("198.51.100.2"), dhcp_last=IPv4Address("198.51.100.9"))
Define = Callable[..., Ended]


def web00(**changes: Any) -> Machine:
    two = (Disk(file="disk.qcow2", size_bytes=1), Disk(file="disk1.qcow2", size_bytes=2))
    plain = dataclasses.replace(test_vmrunning.machine("web00"), uuid=ID, disks=two, limits=Limits(cpus=1.5, tasks=300))
    return dataclasses.replace(plain, **changes)


@pytest.fixture
def world(home: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Root's own, with the machine web00 and its network. Only a patch of `wiring` gives programs fakes."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    here = layout.world()
    monkeypatch.setattr(wiring, "host", lambda world: fakes.host(qemu=fakes.FakeHypervisor(kvm=True)))
    store = Store(here)
    store.publish_network(LAN)
    os.makedirs(here.machine("web00"))
    store.publish(web00())
    return store


@pytest.fixture
def machina(tmp_path: Path) -> Machina:
    made = Machina(tmp_path)
    (made.folder / "machina.conf.json").unlink()
    return made


@pytest.fixture
def define(command: Define, machina: Machina, world: Store) -> Define:
    return lambda *words: command("vmdefine", *words, "--root", str(machina.folder.parents[1]))


def shown(command: Define, machina: Machina, name: str = "web00") -> dict[str, Any]:
    ended = command("vmcat", "--root", str(machina.folder.parents[1]), "--json", name)
    assert (ended.status, ended.stderr) == (0, "")
    found: dict[str, Any] = json.loads(ended.stdout)[0]
    return found


def test_a_machine_of_ours_goes_round(define: Define, command: Define, machina: Machina, world: Store) -> None:
    ended = define("web00", "--from-machine")
    path = machina.machines / "web00.conf.json"
    assert (ended.status, ended.stdout, ended.stderr) == (0, f"{path}\n", "")
    found = shown(command, machina)
    folder = world.world.machine("web00")
    assert [(it["name"], it["path"], it["serial"], it["bootindex"]) for it in found["volumes"]] == [
        ("disk", f"{folder}/disk.qcow2", "disk0", 1), ("disk1", f"{folder}/disk1.qcow2", "disk1", None),
        ("seed", f"{folder}/seed.iso", "seed", None)]
    assert [(it["network"], it["mac"], it["ip"]) for it in found["connections"]] == [
        ("default", "52:54:00:00:00:01", "198.51.100.7")]
    attributes = found["attrs"]
    assert (found["id"], found["description"]) == (ID, "pf1, web, on debian")
    assert attributes["membership"] == {"group": "pf1", "type": "web"}
    assert attributes["access"] == {"user": "root", "key": f"{world.world.template('debian')}/ssh_key"}
    assert (attributes["cpu"]["cores"], attributes["memory"]["ram"]) == (1, 512)
    assert [attributes["limits"][kind] for kind in ("cpus", "tasks", "io")] == ["1.5", "300", None]
    assert attributes["agent"]["qemu"] == {"enabled": True, "port": None}
    assert attributes["qmp"]["enabled"]
    assert json.loads((machina.folder / "machina.conf.json").read_text()) == {
        "storage": {
            "cloudme": {"path": world.world.machines, "pattern": "${machine-name}/${volume}.qcow2",
                        "type": "qcow2-block"},
            "cloudme-seed": {"path": world.world.machines, "pattern": "${machine-name}/${volume}.iso",
                             "type": "raw-block", "readonly": True}},
        "network": {"default": {"device": "br7"}}}


def test_the_hardware_has_what_our_guests_have_drivers_for(define: Define, command: Define, machina: Machina) -> None:
    define("web00", "--from-machine")
    line = command("vmargs", "--root", str(machina.folder.parents[1]), "--lines", "web00").stdout
    assert "driver=qcow2,node-name=web00-disk,file=web00-disk-file" in line
    assert "virtio-blk-pci,id=block.0,bus=pcie.1.1,num-queues=4,drive=web00-disk,serial=disk0,bootindex=1" in line
    assert "driver=raw,node-name=web00-seed,read-only=on,file=web00-seed-file" in line
    assert "scsi" not in line


def test_the_second_time_nothing_is_to_do(define: Define, machina: Machina) -> None:
    define("web00", "--from-machine")
    before = sorted((path, path.stat().st_ino) for path in machina.folder.rglob("*"))
    ended = define("web00", "--from-machine")
    assert (ended.status, ended.stderr) == (0, "vmdefine: 'web00' is defined so already\n")
    assert sorted((path, path.stat().st_ino) for path in machina.folder.rglob("*")) == before


def test_a_definition_that_says_something_else_stays(define: Define, machina: Machina, world: Store) -> None:
    define("web00", "--from-machine")
    world.publish(web00(limits=Limits()))
    ended = define("web00", "--from-machine")
    assert ended.status == 73
    assert "says something else" in ended.stderr
    machina.machine("web00", 'id = "x"', ".toml")
    (machina.machines / "web00.conf.json").unlink()
    assert define("web00", "--from-machine").status == 73


def test_a_machine_by_another_name_has_pools_of_its_own(define: Define, command: Define, machina: Machina,
                                                         world: Store) -> None:
    assert define("Shop.1", "--from-machine", "web0").status == 0
    found = shown(command, machina, "Shop.1")
    assert [it["path"] for it in found["volumes"]] == [
        f"{world.world.machine('web00')}/{file}" for file in ("disk.qcow2", "disk1.qcow2", "seed.iso")]
    assert (found["id"], found["connections"][0]["mac"]) == (ID, "52:54:00:00:00:01")
    twice = define("web00", "--from-machine")
    assert (twice.status, "the id" in twice.stderr, "MAC" in twice.stderr) == (65, True, True)
    assert not (machina.machines / "web00.conf.json").exists()


def test_a_machine_on_an_image_without_seed_and_address(define: Define, command: Define, machina: Machina,
                                                        world: Store) -> None:
    nic = dataclasses.replace(web00().nics[0], address=None)
    world.publish(web00(template=None, image=ImageName("bookworm"), nics=(nic,), isolate=True,
                        forwards=(Forward(protocol="tcp", address="127.0.0.1", port=8080, guest_port=80),),
                        access=Access(user="me", key_of=None, seeded=False, key_file="/home/me/.ssh/id")))
    ended = define("web00", "--from-machine")
    assert ended.stderr == "vmdefine: no definition says the ports that lead to it, that it is isolated: left out\n"
    found = shown(command, machina)
    assert (found["attrs"]["access"]["key"], found["connections"][0]["ip"]) == ("/home/me/.ssh/id", None)
    assert [it["name"] for it in found["volumes"]] == ["disk", "disk1"]
    assert set(json.loads((machina.folder / "machina.conf.json").read_text())["storage"]) == {"cloudme"}


def test_what_the_host_has_stays_to_the_last_blank(define: Define, machina: Machina) -> None:
    before = (SEED / "machina.conf.json").read_text()
    machina.host(before)
    (machina.folder / "machina.conf.json").chmod(0o640)
    ended = define("web00", "--from-machine")
    after = (machina.folder / "machina.conf.json").read_text()
    changed = [line for line in ended.stderr.splitlines() if line[0] in "+-"]
    assert ended.status == 0
    assert [line[:1] + line.strip("+-\t ,").split(":")[0] for line in changed[2:]] == [
        '-}', '+}', '+"cloudme"', '+"cloudme-seed"', '-}', '+}', '+"default"']
    kept = [line.rstrip(",") for line in after.splitlines() if '"cloudme' not in line and '"default"' not in line]
    assert kept == [line.rstrip(",") for line in before.splitlines()]
    assert '\n\t\t"cloudme": {"path"' in after
    assert (machina.folder / "machina.conf.json").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("given", [
    "{}", "{ }\n", '{"tag": {}}', '{"storage": {}}', '{"storage": null, "network": {}}',
    '{"Storage": {"x": {"path": "/", "type": "raw"}}}',
    '{\n    "storage": {\n    },\n    "tag": {"a": {"vars": {"}": "{\\"", "b": "[,"}}}\n}\n',
    '\ufeff{\r\n\t"tag": {}\r\n}\r\n',
    '{"network":{"a":{"device":"b"}},"storage":{\n "x":{"path":"/","type":"raw"}}}',
])
def test_entries_are_put_into_whatever_is_there(given: str) -> None:
    pools = {name: {"path": f"/{name}", "type": "raw"} for name in "pq"}
    wanted: dict[str, Any] = {"storage": pools, "network": {"n": {}}}
    after = documents.load(written.with_entries(given, wanted).encode(), ".json")
    before = documents.load(given.encode(), ".json")
    for section, entries in wanted.items():
        key = next((key for key in before if key.lower() == section), section)
        before[key] = {**(before.get(key) or {}), **entries}
    assert after == before


def test_a_file_is_indented_as_it_was() -> None:
    assert written.with_entries('{\n\t"tag": {}\n}\n', {"network": {"n": {"device": "b"}}}) == (
        '{\n\t"tag": {},\n\t"network": {\n\t\t"n": {"device": "b"}\n\t}\n}\n')
    assert written.with_entries('{\n "network": {\n  "a": {}\n }\n}', {"network": {"n": {}}}) == (
        '{\n "network": {\n  "a": {},\n  "n": {}\n }\n}')
    assert written.with_entries('{"network": {"a": {}}}', {"network": {"n": {}}}) == '{"network": {"a": {}, "n": {}}}'


@pytest.mark.parametrize(("host", "what"), [
    ({"network": {"default": {"device": "other0"}}}, 'network.default is something else than {"device": "br7"}'),
    ({"storage": {"cloudme": {"path": "/srv", "type": "qcow2"}}}, "storage.cloudme is something else"),
    ({"network": {"default": None}}, "network.default is something else"),
])
def test_an_entry_that_is_another_is_refused(define: Define, machina: Machina, host: Any, what: str) -> None:
    machina.host(host)
    ended = define("web00", "--from-machine")
    assert (ended.status, what in ended.stderr) == (73, True)
    assert not list(machina.machines.iterdir())


def test_only_json_is_changed(define: Define, machina: Machina, world: Store) -> None:
    machina.host('[network.default]\ndevice = "br7"\n', ".toml")
    ended = define("web00", "--from-machine")
    assert ended.status == 78
    assert f'vmdefine: storage: cloudme: {{"path": "{world.world.machines}", "pattern"' in ended.stderr
    assert "network" not in ended.stderr
    assert not list(machina.machines.iterdir())
    pools = "".join(f"""
        [storage.{name}]
        path = "{world.world.machines}"
        pattern = "${{machine-name}}/${{volume}}.{end}"
        type = "{kind}"
        {more}""" for name, end, kind, more in (("cloudme", "qcow2", "qcow2-block", ""),
                                               ("cloudme-seed", "iso", "raw-block", "readonly = true")))
    machina.host(f'[network.default]\ndevice = "br7"\n{pools}', ".toml")
    assert define("web00", "--from-machine").status == 0


@pytest.mark.parametrize(("words", "status", "what"), [
    (["none", "--from-machine"], 66, "no machine 'none'"),
    (["debian", "--from-machine"], 66, "no machine 'debian'"),
    (["web00", "--from-machine", "--memory", "1G"], 64, "--memory is for a definition that is new"),
    (["a/b", "--from-machine", "web00"], 64, "is no name of a machine"),
])
def test_what_cannot_be_defined(define: Define, machina: Machina, words: list[str], status: int, what: str) -> None:
    ended = define(*words)
    assert (ended.status, what in ended.stderr) == (status, True)
    assert list(machina.folder.iterdir()) == [machina.machines]


def test_machines_of_realms_are_not_defined(define: Define, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    ended = define("web00", "--from-machine")
    assert (ended.status, "network namespace" in ended.stderr) == (64, True)


def test_a_dry_run_shows_the_files_and_writes_none(define: Define, machina: Machina) -> None:
    ended = define("web00", "--from-machine", "--dry-run")
    assert ended.status == 0
    assert f"+++ {machina.machines}/web00.conf.json" in ended.stdout
    assert f"+++ {machina.folder}/machina.conf.json" in ended.stdout
    said = json.loads(define("web00", "--from-machine", "--dry-run", "--json").stdout)
    assert said["written"] == [f"{machina.folder}/machina.conf.json", f"{machina.machines}/web00.conf.json"]
    assert list(machina.folder.iterdir()) == [machina.machines]
    assert not list(machina.machines.iterdir())


def test_a_host_that_cannot_kvm_says_so_if_it_is_new(
    define: Define, machina: Machina, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wiring, "host", lambda world: fakes.host(qemu=fakes.FakeHypervisor(kvm=False)))
    define("web00", "--from-machine")
    assert machina.read().host.accelerator == "tcg"


def test_what_was_written_is_taken_back_where_the_rest_fails(
    define: Define, machina: Machina, monkeypatch: pytest.MonkeyPatch,
) -> None:
    machina.host({"network": {"default": {"device": "br7"}}})
    before = (machina.folder / "machina.conf.json").read_text()
    machina.machines.rmdir()
    machina.machines.write_text("in the way")
    assert define("web00", "--from-machine").status == 74
    assert (machina.folder / "machina.conf.json").read_text() == before


# new ones

def test_a_new_definition_has_a_new_uuid(define: Define, command: Define, machina: Machina) -> None:
    machina.host((SEED / "machina.conf.json").read_text())
    words = ["vm", "--tag", "vdi-cad", "--memory", "2G", "--cpus", "2", "--description", "mine", "--volume",
             "data:guest-data", "--volume", "boot:guest-data:bootable", "--connection", "1:local"]
    assert define(*words).status == 0
    found = shown(command, machina, "vm")
    assert (found["attrs"]["memory"]["ram"], found["attrs"]["cpu"]["cores"], found["description"]) == (2048, 2, "mine")
    assert [(it["name"], it["bootindex"]) for it in found["volumes"]] == [("data", None), ("boot", 1), ("os", 2)]
    assert [it["name"] for it in found["connections"]] == ["1", "0"]
    assert define(*words).status == 73
    assert shown(command, machina, "vm")["id"] == found["id"]


@pytest.mark.parametrize(("words", "status", "what"), [
    (["--tag", "none"], 65, "tags[0]: no tag 'none'"),
    (["--volume", "a:none", "--connection", "0:none"], 65, "connections[0].network: no network 'none'"),
    ([], 65, "neither vm nor its tags set attrs.memory.ram"),
    (["--volume", "a"], 64, "'a' is no volume"),
    (["--volume", "a:guest-data:first"], 64, "not 'first'"),
    (["--connection", "a:local:b"], 64, "is no connection"),
    (["--cpus", "0"], 64, "0 is no number of CPUs"),
    (["--memory", "much"], 64, "'much' is no size"),
])
def test_a_new_definition_is_checked_first(
    define: Define, machina: Machina, words: list[str], status: int, what: str,
) -> None:
    machina.host((SEED / "machina.conf.json").read_text())
    ended = define("vm", *words)
    assert (ended.status, what in ended.stderr) == (status, True)
    assert not list(machina.machines.iterdir())


def test_a_new_definition_needs_a_host(define: Define) -> None:
    ended = define("vm", "--memory", "1G")
    assert (ended.status, "machina.conf.json" in ended.stderr) == (66, True)


def test_mistakes_of_other_machines_are_theirs(define: Define, machina: Machina) -> None:
    machina.host({})
    machina.machine("other", {"id": OTHER, "nonsense": 1})
    assert define("vm", "--memory", "1G").status == 0


def test_where_there_is_nothing_yet_the_folder_is_made(
    command: Define, world: Store, home: Path, tmp_path: Path,
) -> None:
    folder = home / "config/machina"
    assert command("vmdefine", "web00", "--from-machine").stdout == f"{folder}/machine.conf.d/web00.conf.json\n"
    assert not list(tmp_path.iterdir())
    site = definitions.read(str(folder / "machina.conf.json"), str(folder / "machine.conf.d"), run="/run")
    assert [machine.name for machine in site.pick()] == ["web00"]
