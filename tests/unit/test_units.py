"""Units of definitions: the seed's example in full, what each setting lets through; nothing escapes its place."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from cloudme.errors import SpecError
from cloudme.formats.definitions import Site, quoting, units
from cloudme.model.definitions import accounts, tpm
from cloudme.model.definitions.nouns import Merged
from cloudme.qemu.definitions import command
from cloudme.qemu.launch import BINARY
from tests import unitfiles
from tests.conftest import Ended
from tests.unit.test_definitions import SEED, Machina

GOLDEN = SEED.parent / "test-vm.service"
GROUND = command.Ground(run="/run/machina")
RAM = {"memory": {"ram": 64}, "qmp": {"enabled": True}}
NOT_OURS = [
    "ExecStart: -netdev tap,id=net.0,ifname=test-vm.0,script=/usr/bin/machina-ifup,downscript=/usr/bin/machina-ifdown",
    "ExecStartPre: machina prepare test-vm", "ExecStop: machina shutdown --system --timeout 1m25s test-vm",
    "ExecStopPost: machina teardown test-vm", "Type: simple"]
"""Of the seed's unit: docs/design/0021-units.md has the reasons, and 0020 that of the first."""


MANY = [f"/{number}{'/x' * 1000}" for number in range(600)]
"""Paths of sockets that are, together, longer than a line of systemd's."""


@pytest.fixture
def machina(tmp_path: Path) -> Machina:
    return Machina(tmp_path)


def argv(site: Site, machine: Merged) -> list[tuple[str, ...]]:
    return [(BINARY,), *command.options(machine, site.host, GROUND)]


def texts(site: Site, machine: Merged) -> dict[str, str]:
    return units.texts(machine, site.host, argv(site, machine), run=GROUND.run, config="/nonexistent")


def made(machina: Machina, attrs: dict[str, Any] | None = None, *, host: dict[str, Any] | None = None,
         file: str = "machina-vm.service", **more: Any) -> list[str]:
    """The lines of the unit of a machine."""
    machina.host(host or {})
    machina.machine("vm", {"attrs": RAM | (attrs or {}), **more})
    site = machina.read()
    return texts(site, site.pick(["vm"])[0])[file].splitlines()


def of(lines: list[str], *keys: str) -> list[str]:
    return [line for line in lines if line.split("=")[0] in keys]


# the seed's example

def test_the_seeds_example_is_this_unit(command: Callable[..., Ended], tmp_path: Path) -> None:
    shutil.copytree(SEED, tmp_path / "etc/machina")
    assert command("vmunit", "generate", "--preview", "--root", str(tmp_path), "test-vm") == Ended(
        0, GOLDEN.read_text("utf-8"), "")


def test_what_is_not_as_in_the_seeds_unit_is_known() -> None:
    def lines(path: Path) -> set[str]:
        found = set()
        for _, key, value in unitfiles.assignments(path.read_text("utf-8")):
            found |= {f"{key}: {part}" for part in (
                value.replace(" -", "\n-").splitlines() if key == "ExecStart" else [value])}
        return {line.replace("  ", " ").strip() for line in found}

    assert sorted(lines(SEED / "test-vm.unit") - lines(GOLDEN)) == NOT_OURS


# what each setting lets through

def test_the_smallest_machine_may_next_to_nothing(machina: Machina) -> None:
    lines = made(machina)
    assert of(lines, "DeviceAllow", "SupplementaryGroups", "RestrictAddressFamilies", "IPAddressAllow", "LimitMEMLOCK",
              "ReadWritePaths", "BindPaths", "ProtectHome", "BindsTo") == [
        "SupplementaryGroups=kvm", "DeviceAllow=/dev/kvm rw", "ProtectHome=yes", "RestrictAddressFamilies=AF_UNIX"]
    account = accounts.of(machina.one())
    assert of(lines, "User", "Group") == [f"User={account.user}", f"Group={account.user}"]


def test_an_emulated_machine_needs_no_kvm_and_writes_code(machina: Machina) -> None:
    lines = made(machina, host={"accelerator": "tcg"})
    assert of(lines, "SupplementaryGroups", "DeviceAllow", "MemoryDenyWriteExecute") == []


def test_cards_devices_and_ports_are_let_through_where_there_are_some(machina: Machina) -> None:
    host = {"network": {"lan": {}}, "pci": {"gpu": {"address": "c1:00.0", "class": "gpu"}}}
    lines = made(machina, {"spice": {"enabled": True, "port": 5900}}, host=host,
                 connections=[{"name": "0", "network": "lan"}], devices=[{"name": "g", "class": "gpu"}])
    assert of(lines, "DeviceAllow", "LimitMEMLOCK", "RestrictAddressFamilies", "IPAddressAllow") == [
        "DeviceAllow=/dev/kvm rw", "DeviceAllow=/dev/net/tun rw", "DeviceAllow=/dev/vfio/vfio rw",
        "DeviceAllow=char-vfio rw", "LimitMEMLOCK=infinity", "RestrictAddressFamilies=AF_UNIX AF_INET",
        "IPAddressAllow=localhost"]


@pytest.mark.parametrize(("folder", "kind", "readonly", "wanted"), [
    ("/srv/a", "raw", False, ["ReadWritePaths=-/srv/a/v", "RequiresMountsFor=/srv/a", "ProtectHome=yes"]),
    ("/srv/a", "raw", True, ["RequiresMountsFor=/srv/a", "ProtectHome=yes"]),
    ("/srv/a", "iso-scsi", False, ["RequiresMountsFor=/srv/a", "ProtectHome=yes"]),
    ("/home/a", "qcow2", False, ["BindPaths=-/home/a/v", "RequiresMountsFor=/home/a", "ProtectHome=tmpfs"]),
    ("/var/tmp/a:b", "raw", True, ['BindReadOnlyPaths="-/var/tmp/a:b/v"', "RequiresMountsFor=\"/var/tmp/a:b\"",
                                   "ProtectHome=tmpfs"]),
    ("/dev/zvol/a b", "raw", False, ['DeviceAllow="/dev/zvol/a b/v" rw', "ProtectHome=yes"]),
    ("/dev/zvol", "raw-block", True, ["DeviceAllow=/dev/zvol/v r", "ProtectHome=yes"]),
    ("/homework", "raw", False, ["ReadWritePaths=-/homework/v", "RequiresMountsFor=/homework", "ProtectHome=yes"]),
])
def test_a_volume_is_let_through_as_its_pool_says(machina: Machina, folder: str, kind: str, readonly: bool,
                                                  wanted: list[str]) -> None:
    host = {"accelerator": "tcg", "storage": {"p": {"path": folder, "pattern": "${volume}", "type": kind,
                                                    "readonly": readonly}}}
    lines = made(machina, host=host, volumes=[{"name": "v", "storage": "p"}])
    assert sorted(of(lines, "ReadWritePaths", "RequiresMountsFor", "BindPaths", "BindReadOnlyPaths", "DeviceAllow",
                     "ProtectHome")) == sorted(wanted)


def test_a_socket_elsewhere_may_be_made_there(machina: Machina) -> None:
    lines = made(machina, {"qmp": {"enabled": True, "sockets": {"names": ["mine"], "paths": ["/run/other/q.socket"]}}})
    assert of(lines, "ReadWritePaths") == ["ReadWritePaths=-/run/other"]


def test_limits_are_systemds(machina: Machina) -> None:
    limits = {"cpus": "1.25", "weight": "50", "memory": "2G", "tasks": "max", "io": "50M"}
    host = {"storage": {"p": {"path": "/srv/a", "pattern": "${volume}", "type": "raw"}}}
    lines = made(machina, {"limits": limits}, host=host, volumes=[{"name": "v", "storage": "p"}])
    assert of(lines, "CPUQuota", "CPUWeight", "MemoryMax", "TasksMax", "IOReadBandwidthMax", "IOWriteBandwidthMax") == [
        "CPUQuota=125%", "CPUWeight=50", "MemoryMax=2147483648", "TasksMax=infinity",
        "IOReadBandwidthMax=/srv/a 52428800", "IOWriteBandwidthMax=/srv/a 52428800"]


def test_without_qmp_the_unit_says_that_nobody_can_press_the_button(machina: Machina) -> None:
    lines = made(machina, {"qmp": {"enabled": False}})
    assert of(lines, "ExecStop") == [] and any("cut of its power" in line for line in lines if line[0:1] == "#")


def test_a_tpm_has_a_unit_of_its_own_with_the_same_user(machina: Machina) -> None:
    host = {"storage": {"tpm": {"path": "/srv/tpm", "pattern": "${machine-name}", "type": "tpm-data"}}}
    attrs = {"tpm": {"enabled": True, "data": {"name": "t", "storage": "tpm"}}}
    mine = made(machina, attrs, host=host)
    tpm = made(machina, attrs, host=host, file="machina-swtpm-vm.service")
    assert of(mine, "BindsTo") == ["BindsTo=machina-swtpm-vm.service"]
    assert of(mine, "User", "Group") == of(tpm, "User", "Group")
    assert of(tpm, "ReadWritePaths", "RuntimeDirectory") == ["RuntimeDirectory=machina-swtpm/vm",
                                                             "ReadWritePaths=-/srv/tpm/vm"]
    assert any("path=/run/machina-swtpm/vm/control.socket" in line for line in mine)
    with pytest.raises(KeyError):
        made(machina, attrs | {"tpm": attrs["tpm"] | {"socket": {"path": "/run/x"}}}, host=host,
             file="machina-swtpm-vm.service")


@pytest.mark.parametrize(("group", "wanted"), [
    ({}, ["g machina-vm {uid}", 'u machina-vm {uid}:{uid} "machina KVM vm"']),
    ({"name": "zfs"}, ["g zfs -", 'u machina-vm {uid}:zfs "machina KVM vm"']),
    ({"name": "zfs", "id": 2584257136}, ["g zfs 2584257136", 'u machina-vm {uid}:2584257136 "machina KVM vm"']),
])
def test_the_user_is_made_by_systemd_sysusers(machina: Machina, group: dict[str, Any], wanted: list[str]) -> None:
    lines = made(machina, file="machina-vm.conf", privileges={"filesystem": {"group": group}})
    assert lines[1:] == [line.format(uid=accounts.of(machina.one()).uid) for line in wanted]


@pytest.mark.parametrize(("document", "what"), [
    ({"name": "swtpm-vm"}, "name: a machine's unit cannot be called machina-swtpm-vm.service"),
    ({"privileges": {"filesystem": {"group": {"name": "a b"}}}},
     "privileges.filesystem.group.name: 'a b' is no name of a group"),
    ({"volumes": [{"name": "x" * 256, "storage": "p"}]}, "name: no file can be called '/srv/xxx"),
    ({"attrs": RAM | {"limits": {"memory": "100M"}}}, "attrs.limits.memory: a limit of 100M would kill a machine"),
    ({"tags": ["many"], "attrs": RAM | {"qmp": {"enabled": True, "sockets": {"paths": MANY[300:]}}}},
     "name: a command line of 12"),
])
def test_what_systemd_does_not_take_is_an_error_of_the_definition(machina: Machina, document: dict[str, Any],
                                                                 what: str) -> None:
    machina.host({"storage": {"p": {"path": "/srv", "pattern": "${volume}", "type": "raw"}},
                  "tag": {"many": {"attrs": {"qmp": {"sockets": {"paths": MANY[:300]}}}}}})
    machina.machine("vm", {"attrs": RAM, **document})
    site = machina.read()
    with pytest.raises(SpecError) as caught:
        texts(site, site.pick()[0])
    assert what in caught.value.message and str(machina.folder) in caught.value.message


# quoting

@pytest.mark.parametrize(("text", "quoted"), [
    ("a=b,c:d/e", "a=b,c:d/e"), ("", '""'), ("a b", '"a b"'), ("100%", "100%%"), ("$a", '"$$a"'),
    ('a"b\'', '"a\\"b\'"'), ("a\\", '"a\\\\"'), (";", '";"'), ("#x", '"#x"'), ("é", '"é"'),
])
def test_a_word_of_a_command_is_quoted(text: str, quoted: str) -> None:
    assert quoting.argument(text) == quoted


@given(st.lists(st.text(st.characters(blacklist_categories=["Cc", "Cs", "Zl", "Zp"]))))
def test_words_are_read_back_as_they_were(given_words: list[str]) -> None:
    line = " ".join(map(quoting.argument, given_words))
    assert unitfiles.words(line, command=True) == given_words
    assert unitfiles.words(" ".join(map(quoting.path, given_words))) == given_words


# anything at all

NASTY = st.text(st.sampled_from("ab9\"'%$\\{}();,:=#-~/. é日\u00a0|&<>*?!`@[]^+"), min_size=1, max_size=16)
WILD = st.integers(0, 19).flatmap(lambda number: NASTY if number < 19 else st.text(min_size=1, max_size=8))
KINDS = ("raw", "raw-block", "qcow2", "vvfat-block", "iso-ahci", "iso-scsi", "iso-usb")
PATTERN = st.integers(0, 19).flatmap(
    lambda number: NASTY.map(lambda text: text.replace("$", "") + "${volume}") if number < 19 else NASTY)
_numbers = itertools.count()


def _name(item: Any) -> str:
    return str(item["name"])


@st.composite
def documents(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A host's configuration and a definition."""
    folder = st.one_of(NASTY.map(lambda text: f"/srv/{text}"), st.sampled_from(["/home/a b", "/tmp", "/dev/zvol", "/"]))
    pools = {kind: {"path": draw(folder), "pattern": draw(PATTERN), "type": kind} for kind in KINDS}
    pools["tpm"] = {"path": draw(folder), "pattern": "${machine-name}", "type": "tpm-data"}
    host = {"accelerator": draw(st.sampled_from(["kvm", "tcg"])), "storage": pools, "network": {"n": {}},
            "pci": {"gpu": {"address": "c1:00.0", "class": "gpu"}}}
    volume = st.fixed_dictionaries({"name": WILD, "storage": st.sampled_from(KINDS)}, optional={
        "serial": WILD, "bootable": st.booleans()})
    connection = st.fixed_dictionaries({"name": WILD, "network": st.just("n")})
    device = st.fixed_dictionaries({"name": WILD, "class": st.just("gpu")})
    attrs: dict[str, Any] = {
        "memory": {"ram": draw(st.integers(1, 1 << 20))}, "limits": draw(st.fixed_dictionaries({}, optional={
            "cpus": st.sampled_from(["1.25", "max"]), "io": st.sampled_from(["5M", "max"]), "tasks": st.just("max")})),
        "qmp": {"enabled": draw(st.booleans()), "sockets": {"paths": draw(st.lists(WILD, max_size=2))}},
        "agent": {"qemu": {"enabled": draw(st.booleans())}},
        "tpm": {"enabled": draw(st.booleans()), "data": {"name": "t", "storage": "tpm"}}}
    machine = {"id": f"00000000-0000-0000-0000-{next(_numbers) + 1:012}", "attrs": attrs,
               "description": draw(WILD), "vars": draw(st.dictionaries(WILD, WILD, max_size=2)),
               **{f"{key}s": draw(st.lists(one, max_size=3, unique_by=_name)) for key, one in (
                   ("volume", volume), ("connection", connection), ("device", device))}}
    if draw(st.integers(0, 19)) == 19:
        machine["privileges"] = {"filesystem": {"group": {"name": draw(WILD)}}}
    return host, machine


def from_documents(machina: Machina, host: dict[str, Any], machine: dict[str, Any],
                   name: str = "vm") -> tuple[dict[str, str], list[str], Merged] | str:
    """The texts of a machine, its command line and what it is; or why it is refused, in order."""
    machina.host(host)
    machina.machine(name, json.dumps(machine))
    site = machina.read()
    try:
        (merged,) = site.pick([name])
        return texts(site, merged), [word for words in argv(site, merged) for word in words], merged
    except SpecError as error:
        assert all(line.startswith(str(machina.folder)) for line in error.lines)
        return error.lines[0].rpartition(": ")[2]


KEYS = {key for _, key, _ in unitfiles.assignments(GOLDEN.read_text("utf-8"))} | {
    "BindsTo", "BindPaths", "BindReadOnlyPaths", "CPUQuota", "TasksMax", "IOReadBandwidthMax", "IOWriteBandwidthMax",
    "StopWhenUnneeded", "PrivateDevices", "PrivateNetwork", "InaccessiblePaths"}
PATHS = ("ReadWritePaths", "InaccessiblePaths", "BindPaths", "BindReadOnlyPaths", "RequiresMountsFor")


@given(documents())
def test_nothing_in_a_definition_escapes_its_place(machina: Machina, given_documents: Any) -> None:
    found = from_documents(machina, *given_documents)
    event(f"refused: {found}" if isinstance(found, str) else "a unit")
    if isinstance(found, str):
        return
    made_texts, wanted, merged = found
    attributes = merged.attributes
    files = {volume.path for volume in (*merged.volumes, attributes.tpm_data) if volume}
    folders = {os.path.dirname(os.path.normpath(path)) for path in (*files, *attributes.qmp_sockets)}
    lines = [line for file, text in made_texts.items() if file.endswith(".service")
             for line in unitfiles.assignments(text)]
    assert {key for _, key, _ in lines} <= KEYS
    assert {word.removeprefix("-") for _, key, value in lines if key in PATHS
            for word in unitfiles.words(value)} <= files | folders
    commands = [unitfiles.words(value, command=True) for _, key, value in lines if key == "ExecStart"]
    assert commands[0] == wanted and len(commands) == 1 + (tpm.of(merged, "") is not None)
