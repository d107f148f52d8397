"""A definition, its tags and the host together: what each value is at last, and where it comes from.

The order is: the machine itself, then its tags as it lists them; a tag's own tags come right behind it; each counts
once, where it comes first. Of variables and settings the first that is set wins (0, '' and false are not set); volumes,
connections and devices are put together, and one whose name is there already is dropped whole. Names and paths of QMP
sockets are put together from the last tag to the machine.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cloudme.errors import UsageError
from cloudme.model import limits
from cloudme.model.definitions import identity
from cloudme.model.definitions.expressions import expand
from cloudme.model.definitions.nouns import (
    STANDARD_SOCKETS,
    Attributes,
    Body,
    Complaint,
    Connection,
    Definition,
    Device,
    HostConfiguration,
    Merged,
    Source,
    Storage,
    Volume,
    qmp_socket,
)
from cloudme.model.machine import Limits

GATHERED = ("attrs.qmp.sockets.names", "attrs.qmp.sockets.paths")
"""Settings that are lists: every body adds to them."""
PORTS = range(1, 1 << 16)


def order(tags: Iterable[str], known: Mapping[str, Body]) -> list[str]:
    """The tags and those that they list, as they count. Unknown ones are left out, and no cycle is followed."""
    found: dict[str, None] = {}
    waiting = list(tags)[::-1]
    while waiting:
        tag = waiting.pop()
        if tag in known and tag not in found:
            found[tag] = None
            waiting += known[tag].tags[::-1]
    return list(found)


def merge(definition: Definition, host: HostConfiguration, run: str) -> tuple[Merged, list[Complaint]]:
    """Return the machine on this host, and what is wrong with it. run: see `qmp_socket`."""
    merging = _Merging(definition, host, run)
    return merging.machine(), merging.complaints


class _Merging:
    """One merge under way."""

    def __init__(self, definition: Definition, host: HostConfiguration, run: str) -> None:
        self.definition = definition
        self.host = host
        self.run = run
        self.bodies = [definition.body, *(host.tags[tag] for tag in order(definition.body.tags, host.tags))]
        self.complaints: list[Complaint] = []
        self.sources: dict[str, Source] = {}
        self.variables: dict[str, str] = {}
        self.settings: dict[str, Any] = {}

    def complain(self, where: Source, what: str) -> None:
        self.complaints.append(Complaint(where, what, (self.definition.stem,)))

    def machine(self) -> Merged:
        definition, origin = self.definition, self.definition.body.origin
        for key in ("name", "id", "description", "tags"):
            self.sources[key] = origin.at(key)
        for body in self.bodies:
            self._take(self.variables, body.variables, body, "vars.")
            self._take(self.settings, body.settings, body, "")
        self._gather()
        volumes = [self._volume(volume) for volume in self._items("volumes")]
        return Merged(
            definition=definition, variables=self.variables, attributes=self._attributes(),
            volumes=tuple(self._indexed(volumes)), sources=self.sources,
            connections=tuple(self._connection(connection) for connection in self._items("connections")),
            devices=tuple(self._device(device) for device in self._items("devices")))

    def _take(self, into: dict[str, Any], given: Mapping[str, Any], body: Body, prefix: str) -> None:
        for key, value in given.items():
            if key not in into:
                into[key] = value
                self.sources[prefix + key] = body.origin.at(prefix + key)

    def _gather(self) -> None:
        for key in GATHERED:
            every = [value for body in reversed(self.bodies) for value in body.settings.get(key, ())]
            if every:
                self.settings[key] = tuple(dict.fromkeys(every))

    def _items(self, kind: str) -> Iterator[Any]:
        """The volumes, connections or devices that count. The sources of what is written of them are noted."""
        seen = set()
        for body in self.bodies:
            for number, item in enumerate(getattr(body, kind)):
                if item.name not in seen:
                    seen.add(item.name)
                    self._note(f"{kind}.{item.name}", item, body.origin.at(f"{kind}[{number}]"))
                    yield item

    def _note(self, path: str, item: Volume | Connection | Device, origin: Source) -> None:
        for field in dataclasses.fields(item)[1:]:
            if getattr(item, field.name):
                key = {"kind": "class", "index": "bootindex"}.get(field.name, field.name)
                self.sources[f"{path}.{key}"] = origin.at(key)

    def _derived(self, path: str, what: str = "id and name") -> None:
        self.sources[path] = dataclasses.replace(self.definition.body.origin.at("id"), derived=what)

    def _volume(self, volume: Volume) -> Volume:
        uuid, name, path = self.definition.uuid, self.definition.name, f"volumes.{volume.name}"
        for key in ("wwn", "serial"):
            if not getattr(volume, key):
                self._derived(f"{path}.{key}")
        return dataclasses.replace(
            volume, wwn=volume.wwn or identity.wwn(uuid, name, volume.name),
            serial=volume.serial or identity.serial(uuid, name, volume.name), path=self._path(volume, path))

    def _path(self, volume: Volume, path: str) -> str:
        """Where it is on this host; '' where that cannot be said."""
        pool = self.host.storage.get(volume.storage)
        if pool is None:
            return ""
        where = Source(self.host.file, f"storage.{volume.storage}.pattern" if pool.pattern else
                       f"storage.{volume.storage}.path", derived=pool.pattern)
        self.sources[f"{path}.path"] = where
        try:
            return volume_path(pool, volume.name, self.variables | built_in(self.definition))
        except UsageError as error:
            self.complain(where, f"{error.message}, for volume '{volume.name}' of {self.definition.name}")
            return ""

    def _indexed(self, volumes: Sequence[Volume]) -> Iterator[Volume]:
        """With the boot indexes that they have: those they ask for; for other bootable disks the lowest free ones."""
        taken: dict[int, str] = {}
        for volume in volumes:
            where = self.sources[f"volumes.{volume.name}.bootindex"] if volume.index else None
            if where and taken.setdefault(volume.index, volume.name) != volume.name:
                self.complain(where, f"{volume.index} is the boot index of volume '{taken[volume.index]}', too")
        free = (number for number in range(1, len(volumes) + len(taken) + 1) if number not in taken)
        for volume in volumes:
            pool = self.host.storage.get(volume.storage)
            automatic = volume.bootable and not volume.index and (pool is None or pool.kind.bootable)
            if automatic:
                given = dataclasses.replace(self.sources[f"volumes.{volume.name}.bootable"], derived="bootable")
                self.sources[f"volumes.{volume.name}.bootindex"] = given
            yield dataclasses.replace(volume, index=next(free)) if automatic else volume

    def _connection(self, connection: Connection) -> Connection:
        if connection.mac:
            return connection
        self._derived(f"connections.{connection.name}.mac")
        mac = identity.mac(self.definition.uuid, self.definition.name, connection.name)
        return dataclasses.replace(connection, mac=mac)

    def _device(self, device: Device) -> Device:
        if device.id:
            return device
        self._derived(f"devices.{device.name}.id", "id, name and class")
        given = identity.device(self.definition.uuid, self.definition.name, device.kind, device.name)
        return dataclasses.replace(device, id=given)

    def _attributes(self) -> Attributes:
        given = self.settings.get
        qmp, agent, spice = (bool(given(f"attrs.{key}.enabled")) for key in ("qmp", "agent.qemu", "spice"))
        code, variables = (self._firmware(f"attrs.firmware.{key}") for key in ("code", "vars"))
        if variables and not code:
            self.complain(self.sources["attrs.firmware.vars"], "there is no firmware.code that uses it")
        return Attributes(
            firmware_code=code, firmware_variables=variables, processor=given("attrs.cpu.processor", ""),
            sockets=given("attrs.cpu.sockets", 0), cores=given("attrs.cpu.cores", 0),
            threads=given("attrs.cpu.threads", 0), ram_mib=given("attrs.memory.ram", 0),
            enlightenments=given("attrs.enlightenments.enabled", False), tpm=given("attrs.tpm.enabled", False),
            tpm_data=self._firmware("attrs.tpm.data"), tpm_socket=given("attrs.tpm.socket.path", ""),
            qmp=qmp, qmp_sockets=self._sockets() if qmp else (),
            agent=agent, agent_port=self._port("attrs.agent.qemu") if agent else 0,
            spice=spice, spice_port=self._port("attrs.spice", wanted=True) if spice else 0,
            displays=given("attrs.spice.displays", 0), firmware_template=self._firmware("attrs.firmware.template"),
            limits=self._limits(), user=given("attrs.access.user", ""), key_file=given("attrs.access.key", ""),
            member_of=given("attrs.membership.group", ""), type=given("attrs.membership.type", ""),
            group=given("privileges.filesystem.group.name", ""),
            group_id=given("privileges.filesystem.group.id", 0))

    def _limits(self) -> Limits:
        fields: dict[str, Any] = {}
        for name in limits.KINDS:
            if text := self.settings.get(f"attrs.limits.{name}"):
                fields |= limits.one(name, text)
        return Limits(**fields)

    def _firmware(self, key: str) -> Volume | None:
        """A volume that is an attribute: it has a path, and no identifiers."""
        volume: Volume | None = self.settings.get(key)
        return dataclasses.replace(volume, path=self._path(volume, key)) if volume else None

    def _sockets(self) -> tuple[str, ...]:
        names, paths = (self.settings.get(key, ()) for key in GATHERED)
        self.sources.setdefault(GATHERED[1], self.sources.get(GATHERED[0], self.sources["attrs.qmp.enabled"]))
        standard = [qmp_socket(self.run, self.definition.name, name) for name in (*STANDARD_SOCKETS, *names)]
        return tuple(dict.fromkeys([*standard, *paths]))

    def _port(self, key: str, *, wanted: bool = False) -> int:
        """The port that is set, else the one that the pattern gives; 0 where there is neither."""
        if port := self.settings.get(f"{key}.port"):
            return int(port)
        pattern = self.settings.get(f"{key}.port-pattern")
        if not pattern:
            if wanted:
                self.complain(self.sources[f"{key}.enabled"], "neither port nor port-pattern is set")
            return 0
        where = self.sources[f"{key}.port-pattern"]
        self.sources[f"{key}.port"] = dataclasses.replace(where, derived=pattern)
        try:
            text = expand(pattern, self.variables)
        except UsageError as error:
            self.complain(where, f"{error.message}, for {self.definition.name}")
            return 0
        if not (text.isascii() and text.isdecimal() and len(text) <= 18 and int(text) in PORTS):
            self.complain(where, f"'{text[:40]}' is no port, for {self.definition.name}")
            return 0
        return int(text)


def built_in(definition: Definition) -> dict[str, str]:
    """The variables that patterns of storage pools know besides the machine's own; they win."""
    return {"machine-name": definition.name, "machine-description": definition.description,
            "machine-id": definition.uuid}


def volume_path(pool: Storage, volume: str, variables: Mapping[str, str]) -> str:
    """The file of a volume.

    Raises:  UsageError where the pattern cannot be expanded, or leads out of the pool.
    """
    name = (expand(pool.pattern, {**variables, "volume": volume}) if pool.pattern else f"{volume}.{pool.kind}")
    if os.path.normpath(f"/{name}").strip("/") == "" or ".." in name.split("/"):
        raise UsageError(f"'{name[:80]}' is no name of a file in the pool")
    return os.path.normpath(os.path.join(pool.path, name.lstrip("/")))
