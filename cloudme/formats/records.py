"""Records on disk: model <-> JSON documents with a version. Unknown keys are an error, old versions are upgraded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import Any, TypeVar

from cloudme.errors import CloudMeError, StoreError
from cloudme.model.machine import (
    Access,
    Disk,
    Forward,
    Image,
    Kernel,
    Limits,
    Machine,
    Nic,
    Port,
    Shape,
    Template,
)
from cloudme.model.names import DefinitionName, ImageName, Name
from cloudme.model.network import Network
from cloudme.model.share import Share
from cloudme.model.warm import Kind, Manifest, Stamp

VERSION = 6
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: lambda raw: {**raw, "bases": []} if "nics" in raw else raw,
    2: lambda raw: raw,  # what is new has a default
    3: lambda raw: raw,
    4: lambda raw: raw,
    5: lambda raw: raw,
}
"""From version N to N + 1; every old version keeps a golden file in tests/data/records."""

T = TypeVar("T")

Record = Machine | Template | Image | Network | Manifest


def dump(record: Record) -> str:
    """The JSON text of a record, two blanks of indent, sorted as declared."""
    fields = dataclasses.asdict(record)
    return json.dumps({"version": VERSION, **fields}, indent=2, default=str) + "\n"


def machine(text: str, where: str) -> Machine:
    return _load(text, where, _machine)


def template(text: str, where: str) -> Template:
    return _load(text, where, _template)


def image(text: str, where: str) -> Image:
    return _load(text, where, lambda raw: Image(**{**raw, "name": ImageName(raw["name"])}))


def network(text: str, where: str) -> Network:
    return _load(text, where, _network)


def manifest(text: str, where: str) -> Manifest:
    return _load(text, where, lambda raw: Manifest(**{
        **raw, "kind": Kind(**raw["kind"]), "files": {name: Stamp(**stamp) for name, stamp in raw["files"].items()}}))


def _load(text: str, where: str, build: Callable[[dict[str, Any]], T]) -> T:
    """Raises StoreError, naming the file, for anything that is no such record."""
    try:
        raw = json.loads(text)
        version = raw.pop("version")
        if version > VERSION:
            raise StoreError(f"{where} was written by a newer cloudMe (format {version})", hint="update cloudMe")
        while version < VERSION:
            raw = UPGRADES[version](raw)
            version += 1
        return build(raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{where} is no record of cloudMe: {error}") from error
    except CloudMeError as error:
        raise StoreError(f"{where}: {error.message}") from error


def _machine(raw: dict[str, Any]) -> Machine:
    return Machine(**{
        **raw, "name": Name(raw["name"]), "type": Name(raw["type"]), "template": _maybe(Name, raw["template"]),
        "shape": Shape(**raw["shape"]), "disks": tuple(Disk(**disk) for disk in raw["disks"]),
        "nics": tuple(_nic(nic) for nic in raw["nics"]), "access": _access(raw["access"]),
        "bases": tuple(raw["bases"]), "image": _maybe(ImageName, raw.get("image")),
        "forwards": tuple(Forward(**forward) for forward in raw.get("forwards", [])),
        "limits": Limits(**raw.get("limits", {})), "definition": _maybe(DefinitionName, raw.get("definition")),
        "ports": None if raw.get("ports") is None else tuple(_port(port) for port in raw["ports"]),
        "kernel": Kernel(**raw["kernel"]) if raw.get("kernel") else None,
        "shares": tuple(Share(**share) for share in raw.get("shares", [])),
        "hostname": _maybe(Name, raw.get("hostname")), "devices": tuple(raw.get("devices", [])),
    })


def _template(raw: dict[str, Any]) -> Template:
    return Template(**{
        **raw, "name": Name(raw["name"]), "image": raw["image"] and ImageName(raw["image"]),
        "shape": Shape(**raw["shape"]), "disk": Disk(**raw["disk"]), "nic": _nic(raw["nic"]),
        "access": _access(raw["access"]),
    })


def _network(raw: dict[str, Any]) -> Network:
    return Network(**{
        **raw, "name": Name(raw["name"]), "address": IPv4Interface(raw["address"]),
        "dhcp_first": _maybe(IPv4Address, raw["dhcp_first"]), "dhcp_last": _maybe(IPv4Address, raw["dhcp_last"]),
        "address6": _maybe(IPv6Interface, raw.get("address6")),
        "dns": tuple(IPv4Address(server) for server in raw.get("dns", [])), "users": tuple(raw.get("users", [])),
        "reaches": None if raw.get("reaches") is None else tuple(Name(name) for name in raw["reaches"]),
    })


def _port(raw: dict[str, Any]) -> Port:
    return Port(**{**raw, "name": Name(raw["name"])})


def _nic(raw: dict[str, Any]) -> Nic:
    return Nic(**{**raw, "network": Name(raw["network"])})


def _access(raw: dict[str, Any]) -> Access:
    return Access(**{**raw, "key_of": _maybe(Name, raw["key_of"])})


def _maybe(convert: Callable[[str], T], text: str | None) -> T | None:
    return None if text is None else convert(text)
