"""Group files: 'template:count:group:type[:options]', one request a line. All bad lines are reported at once."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Sequence
from typing import Any

from cloudme.errors import SpecError, UsageError
from cloudme.model import limits, units
from cloudme.model.machine import CloneRequest, Limits, Shape
from cloudme.model.names import DEFAULT_TYPE, TEMPLATES, Name, numbered
from cloudme.model.network import DEFAULT_NETWORK

MAX_CARDS = 4
"""One in each root port (qemu/hardware.py)."""
MAX_DISKS = 7
"""Extra disks of one machine: eight functions of one PCI slot, less the system's (qemu/hardware.py, disk)."""

OPTIONS = "mem=1024;cpu=4;name=db;dsk=5,5;net=lan,lab;iso=yes;rate=100M;" \
    "cap=1.5;weight=50;memmax=2G;tasks=300;io=50M"
KEYS = tuple(item.partition("=")[0] for item in OPTIONS.split(";"))
FORM = f"template:count:group:type[:options], options {OPTIONS}"
LIMITS = {"cap": "cpus", "weight": "weight", "memmax": "memory", "tasks": "tasks", "io": "io"}
"""What limits are named where `cpu` and `mem` are the machine's own; and in --limit."""


def stem(path: str) -> str:
    """The group of lines that name none: the file's name without folder and last suffix; 'group' for '-'."""
    return "group" if path == "-" else os.path.splitext(os.path.basename(path))[0]


def parse(text: str, path: str, templates: Container[str]) -> list[CloneRequest]:
    """Return the requests in file order.

    text:      a UTF-8 mark, CRLF and a missing last newline are borne; blank lines and '#' comments are skipped.
    Raises:    SpecError with every bad line, each as 'file:line: what'.
    """
    requests: list[CloneRequest] = []
    wrong: list[str] = []
    prefixes: dict[str, int] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            request, explicit = _request(line, path, templates, f"{path}:{number}")
            if explicit and prefixes.setdefault(explicit, number) != number:
                raise UsageError(f"the name '{explicit}' clashes with that of line {prefixes[explicit]}")
            requests.append(request)
        except UsageError as error:
            wrong.append(f"{path}:{number}: {error.message}")
    if wrong:
        raise SpecError(wrong, hint=f"a line is {FORM}")
    return requests


def _request(line: str, path: str, templates: Container[str], where: str) -> tuple[CloneRequest, str | None]:
    fields = [field.strip() for field in line.split(":")]
    if not 2 <= len(fields) <= 5:
        raise UsageError(f"2 to 5 fields are wanted, not {len(fields)}")
    template_text, count_text, group_text, type_text, options_text = fields + [""] * (5 - len(fields))
    template = Name(template_text, "name of a template")
    if template not in templates:
        raise UsageError(f"no template '{template}'")
    if not re.fullmatch("[0-9]+", count_text or "1") or int(count_text or 1) == 0:
        raise UsageError(f"'{count_text}' is no number of clones")
    group = Name(group_text or stem(path), "name of a group")
    if group == TEMPLATES:
        raise UsageError(f"the group '{TEMPLATES}' is reserved")
    kind = Name(type_text or DEFAULT_TYPE, "name of a type")
    options = _options(options_text)
    prefix = Name(options.get("name") or type_text or template, "prefix of names")
    count = int(count_text or 1)
    numbered(prefix, count - 1)
    request = CloneRequest(
        template=template, count=count, group=group, type=kind, prefix=prefix, where=where,
        ram_mib=_ram(options["mem"]) if "mem" in options else None,
        vcpus=_cpus(options["cpu"]) if "cpu" in options else None,
        extra_disks=_disks(options["dsk"]) if "dsk" in options else (),
        networks=networks(options["net"].split(",")) if "net" in options else (DEFAULT_NETWORK,),
        limits=_limits(options),
        isolate=_yes("iso", options.get("iso", "no")),
        net_rate=units.bit_rate(options["rate"]) if "rate" in options else None,
    )
    return request, options.get("name")


def _options(text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(";"))):
        key, separator, value = item.partition("=")
        if key not in KEYS or not separator or not value:
            raise UsageError(f"'{item}' is no option ({OPTIONS})")
        if key in options:
            raise UsageError(f"'{key}' stands twice")
        options[key] = value
    return options


def networks(names: Sequence[str]) -> tuple[Name, ...]:
    """Raises UsageError for what is no name, stands twice, or has no slot."""
    if len(names) > MAX_CARDS:
        raise UsageError(f"{len(names)} cards are too many: {MAX_CARDS} at most")
    if len(set(names)) < len(names):
        raise UsageError("a machine has one card in a network")
    return tuple(Name(name.strip(), "name of a network") for name in names)


def _yes(key: str, text: str) -> bool:
    if text not in ("yes", "no"):
        raise UsageError(f"{key}={text}: yes or no is wanted")
    return text == "yes"


def _ram(text: str) -> int:
    return Shape(vcpus=1, ram_mib=units.ram_mib(text)).ram_mib


def _cpus(text: str) -> int:
    if not re.fullmatch("[0-9]+", text):
        raise UsageError(f"'{text}' is no number of CPUs")
    return Shape(vcpus=int(text), ram_mib=32).vcpus


def _limits(options: dict[str, str]) -> Limits:
    fields: dict[str, Any] = {}
    for key in LIMITS.keys() & options.keys():
        fields |= limits.one(LIMITS[key], options[key])
    return Limits(**fields)


def _disks(text: str) -> tuple[int, ...]:
    sizes = tuple(units.disk_bytes(size) for size in text.split(","))
    if len(sizes) > MAX_DISKS:
        raise UsageError(f"{len(sizes)} extra disks are too many: {MAX_DISKS} at most")
    return sizes
