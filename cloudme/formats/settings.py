"""cloudme.toml -> Settings. Unknown keys are an error with file and key."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import Any

from cloudme.errors import CloudMeError, ConfigError
from cloudme.model import limits
from cloudme.model.hostconfig import Accelerator, Resolve, Settings
from cloudme.model.network import whole_range
from cloudme.model.units import disk_bytes, ram_mib, seconds

Fields = dict[str, Any]


def _one(field: str, convert: Callable[[Any], Any]) -> Callable[[Any], Fields]:
    return lambda value: {field: convert(value)}


def _text(convert: Callable[[str], Any]) -> Callable[[Any], Any]:
    return lambda value: convert(str(value))


def _range(value: Any) -> Fields:
    first, last = str(value).split("-")
    return {"dhcp_first": IPv4Address(first.strip()), "dhcp_last": IPv4Address(last.strip())}


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false is wanted")
    return value


def _ipv6(value: Any) -> str:
    if isinstance(value, bool):
        return "auto" if value else "none"
    return value if value in ("auto", "none") else str(IPv6Interface(value))


def _limit(name: str) -> Callable[[Any], Fields]:
    return lambda value: limits.one(name, str(value))


def _overhead(value: Any) -> int | None:
    return None if value == "max" else ram_mib(str(value))


KEYS: dict[str, Callable[[Any], Fields]] = {
    "defaults.memory": _one("ram_mib", _text(ram_mib)),
    "defaults.cpus": _one("vcpus", int),
    "defaults.disk": _one("disk_bytes", _text(disk_bytes)),
    "defaults.accel": _one("accel", Accelerator),
    "network.bridge": _one("bridge", str),
    "network.address": _one("address", IPv4Interface),
    "network.dhcp": _range,
    "network.domain": _one("domain", str),
    "network.nat": _one("nat", _bool),
    "network.ipv6": _one("ipv6", _ipv6),
    "network.guard": _one("guard", _bool),
    "network.resolve": _one("resolve", Resolve),
    "limits.cpus": _limit("cpus"),
    "limits.weight": _limit("weight"),
    "limits.overhead": _one("overhead_mib", _overhead),
    "limits.tasks": _limit("tasks"),
    "limits.io": _limit("io"),
    "timeouts.boot": _one("boot_timeout_s", _text(seconds)),
    "timeouts.stop": _one("stop_timeout_s", _text(seconds)),
}
"""Every key of the file; the README lists the same."""


def read(files: Iterable[str]) -> Settings:
    """Merge the files that exist, the later over the earlier. Raises ConfigError with all complaints at once."""
    fields: Fields = {}
    wrong: list[str] = []
    for path in files:
        try:
            with open(path, "rb") as file:
                text = file.read()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        new, complaints = parse(text, path)
        fields |= new
        wrong += complaints
    if "address" in fields and "dhcp_first" not in fields:
        fields["dhcp_first"], fields["dhcp_last"] = whole_range(fields["address"])
    if wrong:
        raise ConfigError("\n".join(wrong), hint=f"the keys are: {', '.join(KEYS)}")
    own = {field: fields.pop(field) for field, _ in limits.KINDS.values() if field in fields}
    return dataclasses.replace(Settings(), limits=dataclasses.replace(Settings().limits, **own), **fields)


def parse(text: bytes, where: str) -> tuple[Fields, list[str]]:
    """Return the fields that a file sets, and what is wrong with it, each as 'file: key: what'."""
    try:
        document = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return {}, [f"{where}: {error}"]
    fields: Fields = {}
    wrong: list[str] = []
    for key, value in _flat(document):
        if key not in KEYS:
            wrong.append(f"{where}: {key}: no such key")
            continue
        try:
            fields |= KEYS[key](value)
        except CloudMeError as error:
            wrong.append(f"{where}: {key}: {error.message}")
        except (ValueError, TypeError) as error:
            wrong.append(f"{where}: {key}: {error}")
    return fields, wrong


def _flat(document: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    for section, values in document.items():
        if isinstance(values, dict):
            yield from ((f"{section}.{key}", value) for key, value in values.items())
        else:
            yield section, values
