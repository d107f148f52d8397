"""What tags of the host configuration bring to machines that are no definitions: devices, memory, processors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cloudme.errors import SpecError
from cloudme.model.definitions.merge import order
from cloudme.model.definitions.nouns import Body, Device, HostConfiguration

RAM = "attrs.memory.ram"
COUNTS = ("attrs.cpu.sockets", "attrs.cpu.cores", "attrs.cpu.threads")


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """devices: PCI addresses of devices that a machine gets whole. vcpus, ram_mib: None where no tag says it."""

    devices: tuple[str, ...] = ()
    vcpus: int | None = None
    ram_mib: int | None = None


def of_tags(tags: Iterable[str], host: HostConfiguration) -> Brought:
    """What these tags, and those that they list, bring; of several the first one that says it, as with definitions.

    Variables are for names of volumes, and count for nothing here.
    Raises:  SpecError with all that is wrong: tags that are not there, and what only definitions can have of one.
    """
    tags = list(tags)
    known = order(tags, host.tags)
    wrong = [f"tag '{tag}': there is none in {host.file or 'the configuration of this host'}"
             for tag in dict.fromkeys(tags) if tag not in host.tags]
    wrong += [f"tag '{tag}': {what}" for tag in known for what in _foreign(host.tags[tag])]
    devices: dict[str, str] = {}
    settings: dict[str, Any] = {}
    for tag in known:
        settings = {**host.tags[tag].settings, **settings}
        for device in host.tags[tag].devices:
            if device.name not in devices:
                address = next(_whole(device, host), "")
                wrong += [] if address else [f"tag '{tag}': {_why(device, host)}"]
                devices[device.name] = address
    if wrong:
        raise SpecError(wrong, hint="of tags machines like these get whole PCI devices, memory.ram and cpu alone")
    return Brought(devices=tuple(dict.fromkeys(devices.values())), vcpus=_vcpus(settings),
                   ram_mib=settings.get(RAM) or None)


def _foreign(body: Body) -> Iterator[str]:
    """What of a tag only definitions can have."""
    yield from (f"volume '{volume.name}': disks are said in the file itself" for volume in body.volumes)
    yield from (f"connection '{one.name}': networks are said in the file itself" for one in body.connections)
    yield from (f"{key} is for definitions" for key, value in body.settings.items()
                if value and key not in (RAM, *COUNTS))


def _whole(device: Device, host: HostConfiguration) -> Iterator[str]:
    return (supply.address for supply in host.supplies if supply.kinds.get(device.kind) == "")


def _why(device: Device, host: HostConfiguration) -> str:
    if any(device.kind in supply.kinds for supply in host.supplies):
        return f"device '{device.name}': '{device.kind}' are mediated devices, which only definitions can have"
    return f"device '{device.name}': nobody supplies '{device.kind}'"


def _vcpus(settings: Mapping[str, Any]) -> int | None:
    counts = [settings.get(key) for key in COUNTS]
    return math.prod(count or 1 for count in counts) if any(counts) else None
