"""Definitions and parts of a host's configuration, as they are written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cloudme.model import limits
from cloudme.model.definitions.nouns import Connection, Kind, Volume
from cloudme.model.machine import Machine
from cloudme.model.network import Network

Document = dict[str, Any]
Sections = Mapping[str, Mapping[str, Document]]
"""Section of a host's configuration -> name -> entry."""

POOL, SEED_POOL = "cloudme", "cloudme-seed"
"""Where machines of ours have their disks, and their cloud-init disks."""
SEED = "seed"
BLANKS = " \t\r\n"
WIDTH = 100
"""Characters of a line, about."""


def text(document: Document) -> str:
    """The text of a file: what is short has one line."""
    return _laid_out(document, "", first=True) + "\n"


def _laid_out(value: Any, indent: str, *, first: bool = False) -> str:
    short = json.dumps(value, ensure_ascii=False)
    if not value or not isinstance(value, dict | list) or (len(indent) + len(short) <= WIDTH and not first):
        return short
    inner = f"{indent}  "
    if isinstance(value, list):
        items = [_laid_out(item, inner) for item in value]
    else:
        items = [f"{json.dumps(key, ensure_ascii=False)}: {_laid_out(item, inner)}" for key, item in value.items()]
    begin, end = "[]" if isinstance(value, list) else "{}"
    return f"{begin}\n{inner}" + f",\n{inner}".join(items) + f"\n{indent}{end}"


def fresh(
    uuid: str, *, description: str = "", tags: Sequence[str] = (), ram_mib: int = 0, cpus: int = 0,
    volumes: Iterable[Volume] = (), connections: Iterable[Connection] = (),
) -> Document:
    """A definition that has what is not empty."""
    attributes = {"cpu": {"sockets": 1, "cores": cpus} if cpus else None, "memory": ram_mib and {"ram": ram_mib}}
    return _filled({
        "id": uuid, "description": description, "tags": list(tags), "attrs": _filled(attributes),
        "volumes": [_filled({"name": it.name, "storage": it.storage, "bootable": it.bootable}) for it in volumes],
        "connections": [{"name": it.name, "network": it.network} for it in connections]})


def of_machine(machine: Machine, name: str, key_file: str) -> Document:
    """A machine of ours as the definition `name`: it keeps its id, its addresses, and what its disks are called.

    key_file:  the private key that opens it; '': none is known.
    """
    pool, seed_pool = _pools(machine, name)
    volumes = [_filled({"name": os.path.splitext(disk.file)[0], "storage": pool, "serial": f"disk{index}",
                        "bootable": index == 0}) for index, disk in enumerate(machine.disks)]
    if machine.access.seeded:
        volumes.append({"name": SEED, "storage": seed_pool, "serial": SEED})
    return _filled({
        "id": machine.uuid, "description": described(machine),
        "attrs": _filled({
            "cpu": {"sockets": 1, "cores": machine.shape.vcpus}, "memory": {"ram": machine.shape.ram_mib},
            "qmp": {"enabled": True}, "agent": {"qemu": {"enabled": True}},
            "limits": {kind: said for kind, said in limits.words(machine.limits).items() if said != "default"},
            "access": _filled({"user": machine.access.user, "key": key_file}),
            "membership": {"group": machine.group, "type": machine.type}}),
        "volumes": volumes,
        "connections": [_filled({"name": str(index), "network": nic.network, "ip": nic.address, "mac": nic.mac})
                        for index, nic in enumerate(machine.nics)]})


def described(machine: Machine) -> str:
    """One line that says what it is."""
    stands_on = machine.template or machine.image
    return f"{machine.group}, {machine.type}" + (f", on {stands_on}" if stands_on else "")


def offers(machine: Machine, name: str, folder: str, networks: Iterable[Network]) -> dict[str, dict[str, Document]]:
    """What a host has to offer so that `of_machine` means the machine: its disks in `folder`, its networks' bridges.

    Disks are virtio disks, as they are now: the initramfs of our own images has no other driver.
    """
    pool, seed_pool = _pools(machine, name)
    inner = "${machine-name}" if machine.name == name else machine.name
    storage: dict[str, Document] = {
        pool: {"path": folder, "pattern": f"{inner}/${{volume}}.qcow2", "type": str(Kind.qcow2_block)}}
    if machine.access.seeded:
        storage[seed_pool] = {"path": folder, "pattern": f"{inner}/${{volume}}.iso", "type": str(Kind.raw_block),
                              "readonly": True}
    return {"storage": storage, "network": {str(network.name): {"device": network.bridge} for network in networks}}


def _pools(machine: Machine, name: str) -> tuple[str, str]:
    """A machine that gets another name needs pools of its own: no pattern leads from that name to its folder."""
    end = "" if machine.name == name else f".{machine.name}"
    return POOL + end, SEED_POOL + end


def _filled(document: Document) -> Document:
    """Without what is empty."""
    return {key: value for key, value in document.items() if value}


def with_entries(given: str, entries: Sections) -> str:
    """The text of a host's configuration (JSON) with entries that are not there; all else stays, to the last blank."""
    for section, wanted in entries.items():
        for name, entry in wanted.items():
            at = _find(given, section)
            if at is None:
                given = _inserted(given, _begin(given), section, "{}")
            elif given.startswith("null", at):
                given = f"{given[:at]}{{}}{given[at + len('null'):]}"
            given = _inserted(given, _find(given, section) or 0, name, json.dumps(entry, ensure_ascii=False))
    return given


def _begin(given: str) -> int:
    return given.index("{")


def _find(given: str, key: str) -> int | None:
    """Where the value of a key of the whole object begins; keys are in small letters or not."""
    return next((value for name, _, value, _ in _members(given, _begin(given)) if name.lower() == key), None)


def _members(given: str, at: int) -> Iterator[tuple[str, int, int, int]]:
    """(key, where it begins, where its value begins, where that ends) of the members of the object at `at`."""
    decode = json.JSONDecoder().raw_decode
    at = _over(given, at + 1)
    while given[at] == '"':
        first = at
        key, at = decode(given, at)
        value = _over(given, _over(given, at) + 1)
        end = decode(given, value)[1]
        yield key, first, value, end
        at = _over(given, end)
        at = _over(given, at + 1) if given[at] == "," else at


def _over(given: str, at: int) -> int:
    """The next character that is no blank."""
    while given[at] in BLANKS:
        at += 1
    return at


def _inserted(given: str, at: int, key: str, value: str) -> str:
    """The text with a member behind the last of the object at `at`, indented as that is."""
    member = f"{json.dumps(key, ensure_ascii=False)}: {value}"
    line = "\r\n" if "\r\n" in given else "\n"
    members = list(_members(given, at))
    if not members:
        outer = _indent(given, at)
        return "".join((given[:at + 1], line, outer, _unit(given), member, line, outer, given[_over(given, at + 1):]))
    _, first, _, end = members[-1]
    indent = _indent(given, first)
    between = f",{line}{indent}" if given[:first].endswith(f"\n{indent}") else ", "
    return f"{given[:end]}{between}{member}{given[end:]}"


def _indent(given: str, at: int) -> str:
    """The blanks with which the line of `at` begins."""
    line = given[given.rfind("\n", 0, at) + 1:at]
    return line[:len(line) - len(line.lstrip(" \t"))]


def _unit(given: str) -> str:
    """By how much the file indents."""
    first = next((first for _, first, _, _ in _members(given, _begin(given))), 0)
    return _indent(given, first) or "  "
