"""What no value alone is wrong about: names of what is not there, tags in a circle, machines in each other's way."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from ipaddress import ip_interface

from cloudme.model.definitions import identity
from cloudme.model.definitions.nouns import Body, Complaint, HostConfiguration, Kind, Merged, Source
from cloudme.model.identity import uid

WORDS = {"tag": "tag", "storage": "storage pool", "network": "network", "class": "class of devices",
         "processor": "processor"}


def dangling(body: Body, host: HostConfiguration, machines: tuple[str, ...] = ()) -> Iterator[Complaint]:
    """The names in a body of what this host does not have. What it has broken is told elsewhere."""
    classes = {kind for supply in host.supplies for kind in supply.kinds}
    known: dict[str, Container[str]] = {"tag": host.tags, "storage": host.storage, "network": host.networks,
                                        "class": classes, "processor": host.processors}
    for where, section, name in _named(body):
        if name not in known[section] and not _broken(host, section, name):
            yield Complaint(body.origin.at(where), f"no {WORDS[section]} '{name}' in {host.file}", machines)


def _broken(host: HostConfiguration, section: str, name: str) -> bool:
    if section == "class":
        return any(section in ("mdev", "mediated-device", "pci") for section, _ in host.broken)
    return (section, name) in host.broken


def _named(body: Body) -> Iterator[tuple[str, str, str]]:
    """(where, what it is to be, name) of all that a body names."""
    yield from ((f"tags[{number}]", "tag", tag) for number, tag in enumerate(body.tags))
    for number, volume in enumerate(body.volumes):
        yield f"volumes[{number}].storage", "storage", volume.storage
    for key in ("attrs.firmware.code", "attrs.firmware.vars", "attrs.tpm.data"):
        if key in body.settings:
            yield f"{key}.storage", "storage", body.settings[key].storage
    for number, connection in enumerate(body.connections):
        yield f"connections[{number}].network", "network", connection.network
    for number, device in enumerate(body.devices):
        yield f"devices[{number}].class", "class", device.kind
    if processor := body.settings.get("attrs.cpu.processor"):
        yield "attrs.cpu.processor", "processor", processor


def misplaced(body: Body, host: HostConfiguration, machines: tuple[str, ...] = ()) -> Iterator[Complaint]:
    """Firmware and the TPM's data in pools that are for something else."""
    for key, kind in (("attrs.firmware.code", Kind.firmware), ("attrs.firmware.vars", Kind.firmware),
                      ("attrs.tpm.data", Kind.tpm_data)):
        pool = host.storage.get(body.settings[key].storage) if key in body.settings else None
        if pool and pool.kind != kind:
            yield Complaint(body.origin.at(f"{key}.storage"), f"'{body.settings[key].storage}' is a pool of "
                            f"{pool.kind}: one of {kind} is wanted", machines)


def circles(host: HostConfiguration) -> Iterator[Complaint]:
    """Tags that list themselves, by way of others or not: each circle once, at the line that closes it."""
    done: set[str] = set()
    for first in host.tags:
        path: dict[str, None] = {}
        stack: list[tuple[str, Iterator[tuple[int, str]]]] = []
        if first not in done:
            path[first] = None
            stack.append((first, iter(enumerate(host.tags[first].tags))))
        while stack:
            tag, listed = stack[-1]
            number, following = next(listed, (0, None))
            if following is None:
                stack.pop()
                del path[tag]
                done.add(tag)
            elif following in path:
                around = " > ".join([*list(path)[list(path).index(following):], following])
                yield Complaint(host.tags[tag].origin.at(f"tags[{number}]"), f"tags in a circle: {around}")
            elif following in host.tags and following not in done:
                path[following] = None
                stack.append((following, iter(enumerate(host.tags[following].tags))))


def clashes(machines: Iterable[Merged]) -> Iterator[Complaint]:
    """What two machines, or two parts of one, cannot both have; each complaint stands where the later one has it."""
    first: dict[tuple[str, object], Merged] = {}
    seen: set[tuple[str, object, str]] = set()
    for machine in machines:
        stem = machine.definition.stem
        for what, value, where, shown in _unique(machine):
            other = first.setdefault((what, value), machine)
            if other is not machine:
                yield Complaint(where, f"{what} {shown} of {machine.name} is that of {other.name}, too",
                                (stem, other.definition.stem))
            elif (what, value, stem) in seen:
                yield Complaint(where, f"{what} {shown} stands twice in {machine.name}", (stem,))
            seen.add((what, value, stem))


def _unique(machine: Merged) -> Iterator[tuple[str, object, Source, str]]:
    """(what, a value to compare, where it comes from, as it is shown) of all that only one machine may have."""
    sources: Mapping[str, Source] = machine.sources
    attributes = machine.attributes
    yield "the name", machine.name.lower(), sources["name"], f"'{machine.name}'"
    yield "the id", machine.uuid, sources["id"], machine.uuid
    yield "the user's number that follows from the id", uid(machine.uuid), sources["id"], str(uid(machine.uuid))
    for key, port in (("attrs.agent.qemu.port", attributes.agent_port), ("attrs.spice.port", attributes.spice_port)):
        if port:
            yield "port", port, sources[key], str(port)
    for volume in machine.volumes:
        yield "WWN", int(volume.wwn, 16), sources[f"volumes.{volume.name}.wwn"], volume.wwn
    for connection in machine.connections:
        path = f"connections.{connection.name}"
        yield "MAC", connection.mac, sources[f"{path}.mac"], connection.mac
        link = identity.link(machine.name, connection.name)
        yield "the link's name", link, sources[f"{path}.network"], link
        if connection.ip:
            yield "address", (connection.network, ip_interface(connection.ip).ip), sources[f"{path}.ip"], connection.ip
    for device in machine.devices:
        yield "the device's id", device.id, sources[f"devices.{device.name}.id"], device.id
