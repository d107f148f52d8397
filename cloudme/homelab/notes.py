"""What was applied: the part of files that records of machines have no place for, and whose machines they are."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cloudme.disk import alone
from cloudme.errors import NotFound, StoreError
from cloudme.formats import homelab as homelab_format
from cloudme.model.homelab.checks import FILES
from cloudme.model.homelab.nouns import Declared, Defaults, Homelab
from cloudme.store import Store, reported, write_atomic

VERSION = 1
Given = TypeVar("Given", Declared, Defaults)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """homelab: what files said of machines when they were brought to it; its paths are absolute.

    machines: those that cmapply made, or found in a file, and has not destroyed: name -> uuid. Another machine of that
              name is none of them.
    vlans:    likewise its networks.   configured: the digests of playbooks that were applied, by the machine's uuid.
    """

    homelab: Homelab = field(default_factory=Homelab)
    machines: Mapping[str, str] = field(default_factory=dict)
    vlans: tuple[str, ...] = ()
    configured: Mapping[str, str] = field(default_factory=dict)


def read(store: Store) -> Notes:
    """Raises StoreError."""
    path = store.world.homelab
    try:
        with reported(path), contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
            raw = json.load(file)
            if raw["version"] != VERSION:
                raise StoreError(f"{path} is of another cloudMe (format {raw['version']})", hint="update cloudMe")
            found = homelab_format.parse(json.dumps(raw["homelab"]).encode(), f"{path}.json")
            return Notes(homelab=found.homelab, machines=_texts(raw["machines"]), vlans=tuple(map(str, raw["vlans"])),
                         configured=_texts(raw["configured"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} is no note of cloudMe: {error}", hint=f"without it, what it says is forgotten: "
                         f"rm {path}") from error
    return Notes()


def _texts(raw: Any) -> dict[str, str]:
    return {str(key): str(value) for key, value in raw.items()}


def write(store: Store, notes: Notes) -> None:
    """Nothing where that is what is noted."""
    path = store.world.homelab
    raw = {"version": VERSION, "homelab": homelab_format.plain(notes.homelab), "machines": dict(notes.machines),
           "vlans": list(notes.vlans), "configured": dict(notes.configured)}
    text = json.dumps(raw, indent=2) + "\n"
    with reported(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as file:
            if file.read() == text:
                return
    write_atomic(path, text)


def locked(store: Store) -> AbstractContextManager[None]:
    """Raises Busy where somebody else applies a file here."""
    return alone(store.world.homelab_lock, "somebody else applies a file here")


def merged(
    old: Notes, homelab: Homelab, entries: Collection[str], machines: Mapping[str, str], vlans: Collection[str],
) -> Notes:
    """With these entries and VLANs as `homelab` has them, and these machines; others stay as they were."""
    before = {name: vlan for name, vlan in old.homelab.networks.vlans.items() if name in old.vlans}
    nets = {name: vlan if name in vlans else before.get(name, vlan) for name, vlan in homelab.networks.vlans.items()}
    declared = {name: one for name, one in homelab.machines.items() if name in entries or name in old.homelab.machines}
    declared |= {name: one for name, one in old.homelab.machines.items() if name not in entries}
    known = {**old.machines, **machines}
    return Notes(
        homelab=dataclasses.replace(homelab, machines=declared, networks=dataclasses.replace(
            homelab.networks, vlans={**nets, **{name: vlan for name, vlan in before.items() if name not in nets}})),
        machines=known,
        vlans=tuple(dict.fromkeys([*old.vlans, *vlans])),
        configured={uuid: digest for uuid, digest in old.configured.items() if uuid in known.values()})


def without(old: Notes, entries: Collection[str], machines: Collection[str], vlans: Collection[str]) -> Notes:
    before = old.homelab
    return dataclasses.replace(
        old, machines={name: uuid for name, uuid in old.machines.items() if name not in machines},
        homelab=dataclasses.replace(
            before, machines={name: one for name, one in before.machines.items() if name not in entries},
            networks=dataclasses.replace(before.networks, vlans={
                name: vlan for name, vlan in before.networks.vlans.items() if name not in vlans})),
        vlans=tuple(name for name in old.vlans if name not in vlans))


def anchored(homelab: Homelab, folder: str) -> Homelab:
    """With absolute paths; folder: that of its file."""
    def path(written: str) -> str:
        return os.path.abspath(os.path.join(folder, written))

    return dataclasses.replace(
        homelab, hosts=with_paths(homelab.hosts, path),
        machines={name: with_paths(declared, path) for name, declared in homelab.machines.items()})


def with_paths(given: Given, change: Callable[[str], str]) -> Given:
    """With other paths of all files that it names."""
    changed: dict[str, Any] = {key: change(path) for key in FILES if (path := getattr(given, key, None))}
    return dataclasses.replace(given, **changed)


def digest(path: str) -> str:
    """Of a playbook: where it is, and what it says. Raises NotFound."""
    return hashlib.sha256(path.encode(errors="surrogateescape") + b"\0" + content(path)).hexdigest()


def content(path: str) -> bytes:
    """Of a file that the homelab's names. Raises NotFound."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from error
