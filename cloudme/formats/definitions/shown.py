"""Merged machines -> what people and scripts read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cloudme.model import limits
from cloudme.model.definitions import identity
from cloudme.model.definitions.nouns import Attributes, HostConfiguration, Merged, Source, Volume


def summary(machine: Merged, host: HostConfiguration) -> str:
    """The lines that the seed's `cat` prints."""
    definition = machine.definition
    lines = [f"Name: {machine.name}"]
    if definition.description:
        lines.append(f"Description: {definition.description}")
    lines.append(f"ID: {machine.uuid}")
    if definition.body.tags:
        lines.append(f"Tags: {','.join(definition.body.tags)}")
    lines += _section("Vars", (f"{key}: {machine.variables[key]}" for key in sorted(machine.variables)))
    lines += _attributes(machine.attributes, host)
    lines += _section("Volumes", map(_volume, machine.volumes))
    lines += _section("Connections", (
        f"{it.name}: {it.network} ({f'ip: {it.ip}, ' if it.ip else ''}mac: {it.mac})" for it in machine.connections))
    lines += _section("Devices", (f"{it.name}: {it.kind} ({it.id})" for it in machine.devices))
    return "".join(f"  {line}\n" for line in lines)


def _section(head: str, lines: Iterator[str]) -> list[str]:
    found = [f"  {line}" for line in lines]
    return [f"{head}:", *found] if found else []


def _volume(volume: Volume) -> str:
    bootable = ", bootable" if volume.bootable or volume.index else ""
    return f"{volume.name}: {volume.storage} (wwn: {volume.wwn}, serial: {volume.serial}{bootable})"


def _attributes(attributes: Attributes, host: HostConfiguration) -> Iterator[str]:
    for what, volume in (("Code", attributes.firmware_code), ("Variables", attributes.firmware_variables)):
        if volume:
            pool = host.storage.get(volume.storage)
            mode = "read-only" if pool and pool.readonly else "read/write"
            yield f"Firmware {what} ({mode}): {volume.name}: {volume.storage}"
    numbers = (("Processor", attributes.processor), ("Sockets", attributes.sockets), ("Cores", attributes.cores),
               ("Threads", attributes.threads), ("RAM", attributes.ram_mib and f"{attributes.ram_mib}M"))
    yield from (f"{what}: {value}" for what, value in numbers if value)
    if attributes.enlightenments:
        yield "Hyper-V Enlightenments: Enabled"
    if attributes.tpm:
        yield "TPM: Enabled"
    if attributes.qmp:
        yield "QMP: Enabled"
        yield from (f"QMP Socket Path: {path}" for path in attributes.qmp_sockets)
    if attributes.agent:
        yield "QEMU Guest Agent: Enabled"
        yield from [f"QEMU Guest Agent Port: {attributes.agent_port}"] * bool(attributes.agent_port)
    if attributes.spice:
        yield "Spice Display: Enabled"
        yield f"Spice Port: {attributes.spice_port}"
        yield f"Spice Display Count: {attributes.displays}"
    if told := [f"{name}={text}" for name, text in limits.words(attributes.limits).items() if text != "default"]:
        yield f"Limits: {','.join(told)}"
    named = (("User", attributes.user), ("Key", attributes.key_file), ("Group", attributes.member_of),
             ("Type", attributes.type))
    yield from (f"{what}: {value}" for what, value in named if value)


def document(machine: Merged) -> dict[str, Any]:
    """The machine with the keys of its file, as JSON takes it; null is what nothing sets."""
    definition, attributes = machine.definition, machine.attributes
    return {
        "name": machine.name, "id": machine.uuid, "description": definition.description or None,
        "tags": list(definition.body.tags), "vars": dict(machine.variables),
        "attrs": {
            "firmware": {"code": _code(attributes.firmware_code), "vars": _file(attributes.firmware_variables),
                         "template": _file(attributes.firmware_template)},
            "cpu": {"processor": attributes.processor or None, "sockets": attributes.sockets or None,
                    "cores": attributes.cores or None, "threads": attributes.threads or None},
            "memory": {"ram": attributes.ram_mib or None},
            "enlightenments": {"enabled": attributes.enlightenments},
            "tpm": {"enabled": attributes.tpm, "data": _file(attributes.tpm_data)},
            "qmp": {"enabled": attributes.qmp, "sockets": {"paths": list(attributes.qmp_sockets)}},
            "agent": {"qemu": {"enabled": attributes.agent, "port": attributes.agent_port or None}},
            "spice": {"enabled": attributes.spice, "port": attributes.spice_port or None,
                      "displays": attributes.displays or None},
            "limits": {name: text if text != "default" else None
                       for name, text in limits.words(attributes.limits).items()},
            "access": {"user": attributes.user or None, "key": attributes.key_file or None},
            "membership": {"group": attributes.member_of or None, "type": attributes.type or None},
        },
        "volumes": [{"name": it.name, "storage": it.storage, "wwn": it.wwn, "serial": it.serial,
                     "bootindex": it.index or None, "path": it.path or None} for it in machine.volumes],
        "connections": [{"name": it.name, "network": it.network, "ip": it.ip or None, "mac": it.mac,
                         "link": identity.link(machine.name, it.name)} for it in machine.connections],
        "devices": [{"name": it.name, "class": it.kind, "id": it.id} for it in machine.devices],
    }


def _file(volume: Volume | None) -> dict[str, Any] | None:
    return {"name": volume.name, "storage": volume.storage, "path": volume.path or None} if volume else None


def _code(volume: Volume | None) -> dict[str, Any] | None:
    return {**found, "secure": volume.secure} if volume and (found := _file(volume)) else None


def explained(machine: Merged, key: str) -> list[tuple[str, Any, Source | None]]:
    """The final values at `key` and below it, and where each comes from: None for what follows from others.

    Returns nothing where there is no such key.
    """
    return [(path, value, _source(machine.sources, path)) for path, value in _leaves(document(machine), "")
            if f"{path}.".startswith(f"{key}.")]


def _source(sources: Mapping[str, Source], path: str) -> Source | None:
    """That of the value, or of what it is part of."""
    while path:
        if path in sources:
            return sources[path]
        path = path.rpartition(".")[0]
    return None


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for item in value:
            for key in list(item)[1:]:
                yield f"{path}.{item['name']}.{key}", item[key]
    else:
        yield path, value
