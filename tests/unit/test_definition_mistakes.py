"""What can be wrong in definitions: told all at once, with file and path of keys, to those whom it concerns."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudme.errors import SpecError
from cloudme.formats import definitions
from cloudme.formats.definitions import schema, shown
from cloudme.qemu.definitions import command
from tests.unit.test_definitions import ID, OTHER, SEED, Machina

HOST = {"storage": {"data": {"path": "/srv", "type": "raw"}, "code": {"path": "/fw", "type": "firmware"}},
        "network": {"lan": {}}, "pci": {"gpu": {"address": "0000:c1:00.0", "class": "gpu"}}, "processor": {"epyc": {}}}


@pytest.fixture
def machina(tmp_path: Path) -> Machina:
    made = Machina(tmp_path)
    made.host(HOST)
    return made


@pytest.mark.parametrize(("document", "complaint"), [
    ({"id": "8b18"}, "id: '8b18' is no uuid"),
    ({"id": ""}, "id: is wanted"),
    ({"id": None}, "id: is wanted"),
    ({"name": "-x"}, "name: '-x' is no name of a machine"),
    ({"name": "a/b"}, "name: 'a/b' is no name of a machine"),
    ({"name": "a b"}, "name: 'a b' is no name of a machine"),
    ({"name": "\u212aelvin"}, "name: '\u212aelvin' is no name of a machine"),
    ({"tag": []}, "tag: no such key; 'tags' is one"),
    ({"zzz": 1}, "zzz: no such key: there are attrs, connections, description, devices, id, name, privileges, tags, "
                 "vars, volumes"),
    ({"attrs": {"memory": {"rom": 1}}}, "attrs.memory.rom: no such key; 'ram' is one"),
    ({"attrs": {"memory": {"ram": "1G"}}}, "attrs.memory.ram: a number from 0 to 1073741824 is wanted, not '1G'"),
    ({"attrs": {"memory": {"ram": True}}},
     "attrs.memory.ram: a number from 0 to 1073741824 is wanted, not a truth value"),
    ({"attrs": {"memory": {"ram": 10 ** 30}}},
     "attrs.memory.ram: a number from 0 to 1073741824 is wanted, not such a number"),
    ({"attrs": {"cpu": []}}, "attrs.cpu: an object is wanted, not a list"),
    ({"attrs": {"spice": {"enabled": "yes"}}}, "attrs.spice.enabled: true or false is wanted, not 'yes'"),
    ({"attrs": {"spice": {"enabled": True}}}, "attrs.spice.enabled: neither port nor port-pattern is set"),
    ({"attrs": {"spice": {"port": 65536}}},
     "attrs.spice.port: a number from 0 to 65535 is wanted, not the number 65536"),
    ({"attrs": {"qmp": {"sockets": {"names": ["../x"]}}}},
     "attrs.qmp.sockets.names[0]: '../x' is no name of a socket"),
    ({"attrs": {"firmware": {"code": {"name": "x"}}}}, "attrs.firmware.code.storage: is wanted"),
    ({"attrs": {"firmware": {"code": {"name": "x", "storage": "data"}}}},
     "attrs.firmware.code.storage: 'data' is a pool of raw: one of firmware is wanted"),
    ({"attrs": {"firmware": {"vars": {"name": "x", "storage": "code"}}}},
     "attrs.firmware.vars: there is no firmware.code that uses it"),
    ({"attrs": {"cpu": {"processor": "xeon"}}}, "attrs.cpu.processor: no processor 'xeon' in HOST"),
    ({"vars": {"n": 7}}, "vars.n: a text is wanted, not the number 7: quote it"),
    ({"vars": {"": "x"}}, "vars: '' is no name"),
    ({"description": "a\nb"}, "description: the character U+000A cannot be in a text here"),
    ({"description": "\ud800"}, "description: the character U+D800 cannot be in a text here"),
    ({"description": "x" * 5000}, "description: a text of 5000 characters is too long: 4096 at most"),
    ({"tags": "web"}, "tags: a list is wanted, not 'web'"),
    ({"tags": ["web"]}, "tags[0]: no tag 'web' in HOST"),
    ({"tags": ["x"] * 2000}, "tags: a list of 2000 is too long: 1024 at most"),
    ({"volumes": [{"name": "os", "storage": "tank"}]}, "volumes[0].storage: no storage pool 'tank' in HOST"),
    ({"volumes": [{"storage": "data"}]}, "volumes[0].name: is wanted"),
    ({"volumes": [{"name": "../../etc/x", "storage": "data"}]},
     "HOST: storage.data.path: '../../etc/x.raw' is no name of a file in the pool, for volume '../../etc/x' of vm"),
    ({"volumes": [{"name": "os", "storage": "data", "wwn": "0x3000000000000000"}]},
     "volumes[0].wwn: '0x3000000000000000' is no World Wide Name: 16 digits, or 32 that begin with 6"),
    ({"volumes": [{"name": n, "storage": "data"} for n in "aa"]}, "volumes: two volumes 'a'"),
    ({"volumes": [{"name": n, "storage": "data", "bootindex": 3} for n in "ab"]},
     "volumes[1].bootindex: 3 is the boot index of volume 'a', too"),
    ({"connections": [{"name": "0", "network": "wan"}]}, "connections[0].network: no network 'wan' in HOST"),
    ({"connections": [{"name": "0", "network": "lan", "mac": "52:54:00"}]},
     "connections[0].mac: '52:54:00' is no hardware address"),
    ({"connections": [{"name": "0", "network": "lan", "mac": "01:00:5e:00:00:01"}]},
     "connections[0].mac: '01:00:5e:00:00:01' is the address of a group of cards, not of one"),
    ({"connections": [{"name": "0", "network": "lan", "ip": "10.0.0"}]},
     "connections[0].ip: '10.0.0' is no IP address"),
    ({"connections": [{"name": n, "network": "lan", "mac": "52:54:00:00:00:01"} for n in "01"]},
     "connections[1].mac: MAC 52:54:00:00:00:01 stands twice in vm"),
    ({"devices": [{"name": "x", "class": "cad"}]}, "devices[0].class: no class of devices 'cad' in HOST"),
])
def test_a_mistake_is_told_with_its_place(machina: Machina, document: dict[str, Any], complaint: str) -> None:
    machina.machine("vm", document)
    host = str(machina.folder / "machina.conf.json")
    said = [line.replace(host, "HOST").replace("machina.conf.json", "HOST") for line in machina.wrong("vm")]
    assert said == [complaint if complaint.startswith("HOST: ") else f"vm.conf.json: {complaint}"]


@pytest.mark.parametrize(("host", "complaint"), [
    ({"storage": {"p": {"path": "/srv", "type": "zfs"}}}, "storage.p.type: no type 'zfs': there are raw, raw-scsi, "
     "raw-block, qcow2, qcow2-block, vvfat-block, iso-ahci, iso-scsi, iso-usb, firmware, tpm-data"),
    ({"storage": {"p": {"path": "srv", "type": "raw"}}},
     "storage.p.path: 'srv' is no path from the root, as /srv/machines is"),
    ({"storage": {"p": {"type": "raw"}}}, "storage.p.path: is wanted"),
    ({"mdev": {"m": {"address": "c1", "types": {}}}}, "mdev.m.address: 'c1' is no PCI address"),
    ({"pci": {n: {"address": "c1:00.0", "class": "gpu"} for n in "ab"}},
     "pci.b: the class 'gpu' is supplied by 'a', too"),
    ({"tag": {"t": {"id": ID}}},
     "tag.t.id: no such key: there are attrs, connections, devices, privileges, tags, vars, volumes"),
    ({"tag": {"t": {"tags": ["u"]}}}, "tag.t.tags[0]: no tag 'u' in machina.conf.json"),
    ({"tag": {"t": {"tags": ["t"]}}}, "tag.t.tags[0]: tags in a circle: t > t"),
    ({"tag": {"a": {"tags": ["b"]}, "b": {"tags": ["c"]}, "c": {"tags": ["b", "a"]}}},
     "tag.c.tags[0]: tags in a circle: b > c > b|tag.c.tags[1]: tags in a circle: a > b > c > a"),
    ({"tag": {"t": {"volumes": [{"name": "x", "storage": "p"}]}}},
     "tag.t.volumes[0].storage: no storage pool 'p' in machina.conf.json"),
    ([], "an object is wanted, not a list"),
])
def test_a_mistake_of_the_host_is_told_to_everybody(machina: Machina, host: Any, complaint: str) -> None:
    machina.host(host)
    machina.machine("vm", {})
    said = [line.replace(str(machina.folder) + "/", "") for line in machina.wrong("vm")]
    assert said == [f"machina.conf.json: {one}" for one in complaint.split("|")]


def test_what_the_host_has_broken_is_told_once(machina: Machina) -> None:
    machina.host({"storage": {"p": {"path": "/srv", "type": "zfs"}}, "mdev": {"m": {"address": "c1", "types": {}}},
                  "tag": {"t": {"volumes": [{"name": "x", "storage": "p"}], "tags": ["u"]}, "u": []}})
    machina.machine("vm", {"tags": ["t", "u"], "devices": [{"name": "x", "class": "c"}]})
    assert [line.split(": ")[1] for line in machina.wrong()] == ["storage.p.type", "mdev.m.address", "tag.u"]


PATTERN = "machina.conf.json: tag.t.attrs.spice.port-pattern: "


@pytest.mark.parametrize(("pattern", "complaint"), [
    ("5${nobody}", "column 4: no variable 'nobody', for vm"),
    ("${1 +}", "column 6: a number, a name or '(' is wanted, not '}', for vm"),
    ("x", "'x' is no port, for vm"), ("0", "'0' is no port, for vm"), ("65536", "'65536' is no port, for vm"),
    ("${0 - 5}", "'-5' is no port, for vm"), ("٣", "'٣' is no port, for vm"),
])
def test_a_pattern_is_blamed_where_it_stands(machina: Machina, pattern: str, complaint: str) -> None:
    machina.host({"tag": {"t": {"attrs": {"spice": {"enabled": True, "port-pattern": pattern}}}}})
    machina.machine("vm", {"tags": ["t"]})
    assert machina.wrong("vm") == [PATTERN + complaint]


@pytest.mark.parametrize(("suffix", "text", "complaint"), [
    (".json", '{\n  "id": }', "line 2, column 9: Expecting value"),
    (".json", '{"id": "x"} {}', "line 1, column 13: Extra data"),
    (".json", '{"id": "x", "id": "y"}', "the key 'id' stands twice in one object"),
    (".json", "[" * 100_000, "it is nested too deeply"),
    (".json", "[" + "9" * 9999 + "]", "Exceeds the limit"),
    (".toml", 'id = "x"\nid = "y"\n', "line 2, column 9: Cannot overwrite a value"),
    (".yaml", "id: [x\n", "line 2, column 1: expected ',' or ']', but got '<stream end>'"),
    (".yaml", "id: 2023-99-99", "a value is none of YAML: month must be in 1..12"),
    (".yaml", "!!python/object/apply:os.getcwd []", "line 1, column 1: could not determine a constructor"),
    (".yaml", "1: x", "a key is a text, not the number 1: quote it"),
])
def test_a_file_that_cannot_be_read_says_where(machina: Machina, suffix: str, text: str, complaint: str) -> None:
    machina.machine("vm", text, suffix)
    assert machina.wrong("vm")[0].startswith(f"vm.conf{suffix}: {complaint}")


def test_two_files_are_not_one_machine(machina: Machina) -> None:
    machina.machine("vm", {})
    machina.machine("vm", f"id: {ID}", ".yaml")
    (line,) = machina.wrong("vm")
    assert line.startswith("vm.conf.yaml: the machine has another file: ")


def test_a_file_that_is_not_utf8_or_too_large_says_so(machina: Machina) -> None:
    (machina.machines / "a.conf.json").write_bytes(b"{\n\xff}")
    (machina.machines / "b.conf.json").write_bytes(b" " * (1 << 20) + b"{}")
    (machina.machines / "c.conf.json").mkdir()
    assert [line.split(": ", 1)[1] for line in machina.wrong()] == [
        "line 2: it is not UTF-8", "it has 1048577 bytes: 1048576 at most", "Is a directory"]


def test_machines_that_are_in_each_others_way_are_both_told(machina: Machina) -> None:
    machina.host(HOST | {"network": {"lan": {}, "wan": {}}, "tag": {"t": {
        "attrs": {"spice": {"enabled": True, "port": 5900}, "agent": {"qemu": {"enabled": True, "port": 5901}}},
        "volumes": [{"name": "os", "storage": "data", "wwn": "0x5525400000000001"}],
        "connections": [{"name": "0", "network": "lan", "mac": "52:54:00:00:00:01", "ip": "10.0.0.5/24"}]}}})
    machina.machine("a", {"tags": ["t"]})
    machina.machine("b", {"tags": ["t"], "id": OTHER, "name": "A"})
    machina.machine("c", {"id": ID[:-1] + "1", "connections": [{"name": "0", "network": "wan", "ip": "10.0.0.5"}]})
    lines = machina.wrong("a")
    assert lines == machina.wrong("b")
    assert [line.split(": ", 1)[1] for line in lines] == [
        "name: the name 'A' of A is that of a, too",
        "tag.t.attrs.agent.qemu.port: port 5901 of A is that of a, too",
        "tag.t.attrs.spice.port: port 5900 of A is that of a, too",
        "tag.t.volumes[0].wwn: WWN 0x5525400000000001 of A is that of a, too",
        "tag.t.connections[0].mac: MAC 52:54:00:00:00:01 of A is that of a, too",
        "tag.t.connections[0].ip: address 10.0.0.5/24 of A is that of a, too"]
    assert [machine.name for machine in machina.read().pick(["c"])] == ["c"]


def test_two_ports_of_one_machine_are_two(machina: Machina) -> None:
    machina.machine("vm", {"attrs": {"spice": {"enabled": True, "port": 5900},
                                     "agent": {"qemu": {"enabled": True, "port": 5900}}}})
    assert machina.wrong() == ["vm.conf.json: attrs.spice.port: port 5900 stands twice in vm"]


def test_the_mistakes_of_others_are_not_told(machina: Machina) -> None:
    machina.machine("good", {})
    machina.machine("bad", "nonsense")
    assert [machine.name for machine in machina.read().pick(["good"])] == ["good"]
    assert len(machina.wrong()) == 1


def test_all_mistakes_are_told_at_once(machina: Machina) -> None:
    machina.machine("vm", {"tags": ["x"], "attrs": {"cpu": {"cores": -1}, "spice": {"enabled": True}}, "foo": 1})
    assert [line.split(": ")[1] for line in machina.wrong()] == [
        "attrs.cpu.cores", "foo", "tags[0]", "attrs.spice.enabled"]


# whatever is written

KEYS = sorted({part for key in (*schema.SETTINGS, *schema.BODY) for part in key.split(".")} | {
    "id", "description", "name", "class", "storage", "network", "mac", "wwn", "serial", "ip", "bootable", "bootindex",
    "mdev", "mediated-device", "pci", "processor", "tag", "path", "pattern", "type", "address", "types", "classes"})
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(
    [ID, "data", "t", "lan", "raw", "/srv", "${volume}", "${1 + x}", "0000:c1:00.0", "5900", "os", "cad-standard"]))
NAMES = st.one_of(st.sampled_from(KEYS), st.text(max_size=5))
DOCUMENTS = st.recursive(LEAVES, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=6)))
EXAMPLE = json.loads((SEED / "machine.conf.d/test-vm.conf.json").read_text("utf-8"))
EXAMPLE_HOST = json.loads((SEED / "machina.conf.json").read_text("utf-8"))


@st.composite
def twisted(draw: st.DrawFn, document: Any) -> Any:
    """The document with some of its values replaced, and keys added and lost."""
    if not isinstance(document, dict | list) or draw(st.integers(0, 15)) == 0:
        return draw(DOCUMENTS) if draw(st.integers(0, 3)) == 0 else document
    if isinstance(document, list):
        return [draw(twisted(item)) for item in document] * draw(st.integers(1, 2))
    kept = {key: draw(twisted(item)) for key, item in document.items() if draw(st.integers(0, 20))}
    return kept | (draw(st.dictionaries(st.sampled_from(KEYS), DOCUMENTS, max_size=1)))


@given(machine=st.one_of(DOCUMENTS, twisted(EXAMPLE)), host=st.one_of(DOCUMENTS, twisted(EXAMPLE_HOST)))
def test_whatever_a_document_holds_there_are_machines_or_complaints(machina: Machina, machine: Any, host: Any) -> None:
    (machina.folder / "machina.conf.json").write_text(json.dumps(host), "utf-8")
    (machina.machines / "vm.conf.json").write_text(json.dumps(machine), "utf-8")
    site = machina.read()
    try:
        (found,) = site.pick(["vm"])
    except SpecError as error:
        assert "\n" not in "".join(error.lines)
        return
    assert all(line.startswith("  ") for line in shown.summary(found, site.host).splitlines())
    with contextlib.suppress(SpecError):
        assert all("\n" not in word for option in command.options(found, site.host, command.Ground(run="/run"))
                   for word in option)
    shown.explained(found, "attrs")
    json.dumps(shown.document(found))


@given(content=st.one_of(st.binary(), st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))),
       suffix=st.sampled_from([".json", ".toml", ".yaml"]))
def test_whatever_a_file_holds_it_is_read_or_complained_of(tmp_path: Path, content: bytes, suffix: str) -> None:
    folder = tmp_path / "any"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / f"vm.conf{suffix}").write_bytes(content)
    with pytest.raises(SpecError):
        definitions.read(None, str(folder), run="/run").pick(["vm"])
