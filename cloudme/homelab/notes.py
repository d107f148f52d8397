"""What was applied: the part of files that records of machines have no place for, and whose machines they are."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from cloudme.errors import NotFound, StoreError
from cloudme.formats import homelab as homelab_format
from cloudme.model.homelab.nouns import Homelab
from cloudme.model.names import Name
from cloudme.store import Store, reported, write_atomic

Noun = TypeVar("Noun")
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """homelab: as it was applied. folder: of its file. configured: the digests of playbooks, by the machine's name."""

    homelab: Homelab = field(default_factory=Homelab)
    folder: str = ""
    configured: dict[str, str] = field(default_factory=dict)


def read(store: Store) -> Notes:
    """Raises StoreError."""
    path = store.world.homelab
    try:
        with open(path, encoding="utf-8") as file:
            raw = json.load(file)
        if raw["version"] != VERSION:
            raise StoreError(f"{path} was written by a newer cloudMe (format {raw['version']})", hint="update cloudMe")
        found = homelab_format.parse(json.dumps(raw["homelab"]).encode(), f"{path}.json")
        return Notes(homelab=found.homelab, folder=raw["folder"], configured=dict(raw["configured"]))
    except FileNotFoundError:
        return Notes()
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is no note of cloudMe: {error}", hint=f"without it, what it says is forgotten: "
                         f"rm {path}") from error


def write(store: Store, notes: Notes) -> None:
    path = store.world.homelab
    raw = {"version": VERSION, "folder": notes.folder, "homelab": homelab_format.plain(notes.homelab),
           "configured": notes.configured}
    with reported(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    write_atomic(path, json.dumps(raw, indent=2) + "\n")


def merged(old: Notes, homelab: Homelab, folder: str, entries: Collection[str], vlans: Collection[str]) -> Notes:
    """With these machines and VLANs as the file has them; the others, and what it has no longer, stay."""
    before = old.homelab.networks.vlans
    kept = {**before, **{name: vlan for name, vlan in homelab.networks.vlans.items() if name in vlans}}
    machines = {**old.homelab.machines,
                **{name: declared for name, declared in homelab.machines.items() if name in entries}}
    return dataclasses.replace(old, folder=folder, homelab=dataclasses.replace(
        homelab, machines=_ordered(machines, homelab.machines),
        networks=dataclasses.replace(homelab.networks, vlans=_ordered(kept, homelab.networks.vlans))))


def _ordered(found: Mapping[Name, Noun], like: Mapping[Name, Noun]) -> dict[Name, Noun]:
    """In the order of the file; what it has not, comes last."""
    order = {name: number for number, name in enumerate(like)}
    return {name: found[name] for name in sorted(found, key=lambda name: order.get(name, len(order)))}


def without(old: Notes, homelab: Homelab) -> Notes:
    """Nothing that the file has no longer."""
    before = old.homelab
    machines = {name: declared for name, declared in before.machines.items() if name in homelab.machines}
    vlans = {name: vlan for name, vlan in before.networks.vlans.items() if name in homelab.networks.vlans}
    return dataclasses.replace(old, homelab=dataclasses.replace(
        before, machines=machines, networks=dataclasses.replace(before.networks, vlans=vlans)))


def digest(path: str, machine: str) -> str:
    """Of a playbook for a machine: where it is, what it says, and whom (a uuid: a name may come again).

    Raises NotFound.
    """
    return hashlib.sha256(b"\0".join((path.encode(), machine.encode(), content(path)))).hexdigest()


def content(path: str) -> bytes:
    """Of a file that the homelab's names. Raises NotFound."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from error
