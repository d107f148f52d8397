"""The keys of a definition and of a host configuration, and what becomes of their values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cloudme.errors import UsageError
from cloudme.formats import values
from cloudme.formats.values import (
    ABSENT,
    Convert,
    address,
    checked,
    flag,
    listing,
    mac,
    mapping,
    name,
    number,
    pci,
    record,
    text,
    uuid,
    wwn,
)
from cloudme.model import limits
from cloudme.model.definitions.nouns import (
    Attachment,
    Body,
    Complaint,
    Connection,
    Definition,
    DefinitionName,
    Device,
    HostConfiguration,
    Kind,
    Processor,
    Source,
    Storage,
    Supply,
    Volume,
)
from cloudme.model.machine import login
from cloudme.model.names import TEMPLATES, Name


class Reader:
    """Collects what is wrong with the values of one file; machines: whom it concerns."""

    def __init__(self, origin: Source, machines: tuple[str, ...] = ()) -> None:
        self.origin = origin
        self.machines = machines
        self.complaints: list[Complaint] = []

    @property
    def told(self) -> set[str]:
        """The paths that there are complaints of."""
        return {complaint.where.path for complaint in self.complaints}

    def complain(self, path: str, what: str) -> Any:
        where = self.origin.at(path) if path else self.origin
        self.complaints.append(Complaint(where, what, self.machines))
        return ABSENT


PORT = number(0, 65535)
COUNT = number(0, 1024)
RAM_MIB = number(0, 1 << 30)
ACCELERATORS = ("kvm", "tcg")


def _made(noun: Callable[..., Any], fields: Mapping[str, Convert], wanted: tuple[str, ...], **renamed: str) -> Convert:
    """A record that becomes `noun`; renamed: key -> field."""
    convert = record(fields, wanted)

    def whole(reader: values.Reader, value: Any, path: str) -> Any:
        found = convert(reader, value, path)
        if found is ABSENT or not set(wanted) <= set(found):
            return ABSENT
        return noun(**{renamed.get(key, key): item for key, item in found.items()})

    return whole


def _folder(given: str) -> str:
    if not given.startswith("/"):
        raise UsageError(f"'{given[:80]}' is no path from the root, as /srv/machines is")
    return given


def _limit(name: str) -> Convert:
    """One of `limits.KINDS`, as people write it."""
    def convert(given: str) -> str:
        limits.one(name, given)
        return given

    return checked(convert)


def _group(given: str) -> Name:
    if given == TEMPLATES:
        raise UsageError(f"the group '{TEMPLATES}' is reserved")
    return Name(given, "name of a group")


FIRMWARE = _made(Volume, {"name": name, "storage": name}, ("name", "storage"))
CODE = _made(Volume, {"name": name, "storage": name, "secure": flag}, ("name", "storage"))

SETTINGS: dict[str, Convert] = {
    "attrs.firmware.code": CODE,
    "attrs.firmware.vars": FIRMWARE,
    "attrs.firmware.template": FIRMWARE,
    "attrs.cpu.processor": text,
    "attrs.cpu.sockets": COUNT,
    "attrs.cpu.cores": COUNT,
    "attrs.cpu.threads": COUNT,
    "attrs.memory.ram": RAM_MIB,
    "attrs.enlightenments.enabled": flag,
    "attrs.tpm.enabled": flag,
    "attrs.tpm.data": FIRMWARE,
    "attrs.tpm.socket.path": text,
    "attrs.qmp.enabled": flag,
    "attrs.qmp.sockets.names": listing(checked(lambda given: DefinitionName(given, "name of a socket"))),
    "attrs.qmp.sockets.paths": listing(name),
    "attrs.agent.qemu.enabled": flag,
    "attrs.agent.qemu.port": PORT,
    "attrs.agent.qemu.port-pattern": text,
    "attrs.spice.enabled": flag,
    "attrs.spice.port": PORT,
    "attrs.spice.port-pattern": text,
    "attrs.spice.displays": COUNT,
    **{f"attrs.limits.{name}": _limit(name) for name in limits.KINDS},
    "attrs.access.user": checked(login),
    "attrs.access.key": checked(_folder),
    "attrs.membership.group": checked(_group),
    "attrs.membership.type": checked(lambda given: Name(given, "name of a type")),
    "privileges.filesystem.group.name": text,
    "privileges.filesystem.group.id": number(0, (1 << 32) - 2),
}
"""The attributes, by their path."""


def _nested(leaves: Mapping[str, Convert]) -> dict[str, Convert]:
    """'attrs.spice.port' -> a record within a record."""
    groups: dict[str, dict[str, Convert]] = {}
    for path, convert in leaves.items():
        first, _, rest = path.partition(".")
        groups.setdefault(first, {})[rest] = convert
    return {first: rest[""] if "" in rest else record(_nested(rest)) for first, rest in groups.items()}


def _set(found: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings that are set, by their path: the way back from `_nested`."""
    settings: dict[str, Any] = {}
    for key, value in found.items():
        if isinstance(value, dict):
            settings |= _set(value, f"{prefix}{key}.")
        elif value:
            settings[prefix + key] = value
    return settings


def _unlike(kind: str, items: Convert) -> Convert:
    """A list in which no two things have one name."""
    def whole(reader: values.Reader, value: Any, path: str) -> Any:
        found = items(reader, value, path)
        seen: set[str] = set()
        for item in () if found is ABSENT else found:
            if item.name in seen:
                reader.complain(path, f"two {kind} '{item.name}'")
            seen.add(item.name)
        return found

    return whole


BODY: dict[str, Convert] = {
    "tags": listing(name),
    "vars": mapping(text),
    **_nested(SETTINGS),
    "volumes": _unlike("volumes", listing(_made(
        Volume, {"name": name, "storage": name, "wwn": wwn, "serial": text, "bootable": flag,
                 "bootindex": number(0, 1 << 16)}, ("name", "storage"), bootindex="index"))),
    "connections": _unlike("connections", listing(_made(
        Connection, {"name": name, "network": name, "ip": address, "mac": mac}, ("name", "network")))),
    "devices": _unlike("devices", listing(_made(
        Device, {"name": name, "class": name, "id": uuid}, ("name", "class"), **{"class": "kind"}))),
}
MACHINE = record({**BODY, "name": checked(DefinitionName), "description": text, "id": uuid}, ("id",))
TAG = record(BODY)


def _kind(given: str) -> Kind:
    try:
        return Kind(given)
    except ValueError:
        raise UsageError(f"no type '{given[:40]}': there are {', '.join(Kind)}") from None


def _accelerator(given: str) -> str:
    if given not in ACCELERATORS:
        raise UsageError(f"no accelerator '{given[:40]}': there are {', '.join(ACCELERATORS)}")
    return given


def _mediated(address: str, classes: Mapping[str, Any], heterogeneous: bool = False) -> Supply:
    return Supply(address=address, kinds={kind: given["name"] for kind, given in classes.items()},
                  heterogeneous=heterogeneous,
                  placements={kind: given["placements"] for kind, given in classes.items() if "placements" in given})


SUPPLIES = {
    "mdev": _made(Supply, {"address": pci, "types": mapping(name)}, ("address", "types"), types="kinds"),
    "mediated-device": _made(_mediated, {
        "address": pci, "heterogeneous": flag,
        "classes": mapping(_made(dict, {"name": name, "placements": listing(number(0, 1 << 16))}, ("name",))),
    }, ("address", "classes")),
    "pci": _made(lambda address, kind: Supply(address=address, kinds={kind: ""}),
                 {"address": pci, "class": name}, ("address", "class"), **{"class": "kind"}),
}
"""Devices that supply classes: as the seed has them, as its later versions do, and whole ones."""

HOST = record({
    "accelerator": checked(_accelerator),
    "storage": mapping(_made(Storage, {"path": checked(_folder), "pattern": text, "type": checked(_kind),
                                       "readonly": flag}, ("path", "type"), type="kind"), keep=True),
    "network": mapping(_made(Attachment, {"device": text, "up": text, "down": text}, ()), keep=True),
    "processor": mapping(_made(Processor, {"brand": text, "model": text, "threads": COUNT, "default": flag}, ()),
                         keep=True),
    **{section: mapping(convert, keep=True) for section, convert in SUPPLIES.items()},
    "tag": mapping(TAG, keep=True),
})


def definition(document: Any, file: str, stem: str) -> tuple[Definition | None, Reader]:
    """Read a machine's file; None where its name or its id is wrong or missing."""
    reader = Reader(Source(file), (stem,))
    found = MACHINE(reader, document, "")
    if found is ABSENT:
        return None, reader
    given, uuid_given = found.get("name"), found.get("id")
    if "name" not in reader.told and not given:
        try:
            given = DefinitionName(stem)
        except UsageError as error:
            reader.complain("", f"{error.message}, and the file is called after it")
    if uuid_given == "":
        reader.complain("id", "is wanted")
    if not given or not uuid_given:
        return None, reader
    return Definition(stem=stem, name=given, uuid=uuid_given, description=found.get("description", ""),
                      body=_body(found, reader.origin)), reader


def host(document: Any, file: str) -> tuple[HostConfiguration, Reader]:
    """Read a host's file. What is wrong in it is left out, but its name."""
    reader = Reader(Source(file))
    found = HOST(reader, document, "")
    found = {} if found is ABSENT else found
    accelerator = found.pop("accelerator", "") or ACCELERATORS[0]
    right = {section: {key: value for key, value in values.items() if value is not None}
             for section, values in found.items()}
    supplies = [dataclasses.replace(supply, name=key) for section in SUPPLIES
                for key, supply in right.get(section, {}).items()]
    _supplied_once(supplies, reader)
    return HostConfiguration(
        file=file, accelerator=accelerator, storage=right.get("storage", {}), networks=right.get("network", {}),
        supplies=tuple(supplies),
        processors=right.get("processor", {}),
        tags={tag: _body(body, Source(file, f"tag.{tag}", tag)) for tag, body in right.get("tag", {}).items()},
        broken=frozenset((section, key) for section, values in found.items()
                         for key, value in values.items() if value is None),
    ), reader


def _supplied_once(supplies: Sequence[Supply], reader: Reader) -> None:
    """A whole device is one: there is no choice of it for those that come later."""
    by_kind: dict[str, Supply] = {}
    for supply in supplies:
        for kind, type in supply.kinds.items():
            other = by_kind.setdefault(kind, supply)
            if other is not supply and not (type and other.kinds[kind]):
                reader.complain(f"pci.{supply.name}", f"the class '{kind}' is supplied by '{other.name}', too")


def _body(found: Mapping[str, Any], origin: Source) -> Body:
    settings = {key: value for key, value in found.items() if key in ("attrs", "privileges")}
    return Body(origin=origin, tags=found.get("tags", ()), variables=found.get("vars", {}), settings=_set(settings),
                volumes=found.get("volumes", ()), connections=found.get("connections", ()),
                devices=found.get("devices", ()))
