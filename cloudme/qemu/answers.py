"""What QEMU answers to questions (its QMP reference) -> rows of plain values, the same for tables and for scripts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cloudme.errors import PeerError

T = TypeVar("T")

Answers = Mapping[str, Any]
"""Command -> what it returned; None for one that QEMU refused, where that is no wonder."""
Row = dict[str, Any]

QUESTIONS = {
    "pci": ("query-pci",),
    "cpu": ("query-cpus-fast",),
    "block": ("query-block", "query-blockstats", "query-fdsets"),
    "memory": ("query-memory-size-summary", "query-balloon", "query-memory-devices"),
    "migrate": ("query-migrate",),
}
REFUSABLE = ("query-balloon",)
"""Without a balloon it is an error to ask."""

PERIPHERAL = "/machine/peripheral/"
"""Where devices that have an id are in QEMU's tree of objects."""


@dataclass(frozen=True, slots=True)
class PciDevice:
    """A device on a bus. buses: of a bridge, the numbers of its first and last one; behind: the devices there."""

    address: str
    kind: int
    kind_name: str | None
    vendor: int
    device: int
    id: str | None
    buses: tuple[int, int] | None
    behind: tuple[PciDevice, ...]

    @property
    def place(self) -> str:
        """On its bus, as '1f.2'."""
        return self.address.partition(":")[2]


def rows(what: str, answers: Answers) -> list[Row]:
    """what: one of QUESTIONS. Raises PeerError for what makes no sense."""
    return _sensible(ROWS[what], answers)


def tree(answers: Answers) -> list[str]:
    """The lines that `lspci -t` prints in the guest (pciutils, ls-tree.c)."""
    return _sensible(_tree, answers)


def _sensible(read: Callable[[Answers], T], answers: Answers) -> T:
    try:
        return read(answers)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise PeerError("QEMU's answer makes no sense") from error


# pci

def _pci(answers: Answers) -> list[Row]:
    def below(devices: Sequence[PciDevice], bridge: str | None) -> Iterator[Row]:
        for one in devices:
            yield {"address": one.address, "class": f"{one.kind:04x}", "class_name": one.kind_name,
                   "vendor": f"{one.vendor:04x}", "device": f"{one.device:04x}", "id": one.id, "bridge": bridge}
            yield from below(one.behind, one.address)

    return sorted((row for _, devices in _roots(answers) for row in below(devices, None)),
                  key=lambda row: str(row["address"]))


def _roots(answers: Answers) -> list[tuple[int, list[PciDevice]]]:
    """The buses that hang on no bridge: number, devices."""
    return sorted((int(bus["bus"]), _pci_devices(bus["devices"])) for bus in answers["query-pci"])


def _pci_devices(raw: Any) -> list[PciDevice]:
    return sorted((_pci_device(one) for one in raw), key=lambda one: one.address)


def _pci_device(raw: Any) -> PciDevice:
    """A bridge has no bus behind it before the firmware has given it a number other than 0."""
    bridge = raw.get("pci_bridge")
    numbers = (int(bridge["bus"]["secondary"]), int(bridge["bus"]["subordinate"])) if bridge else None
    return PciDevice(
        address=f"{int(raw['bus']):02x}:{int(raw['slot']):02x}.{int(raw['function']):x}",
        kind=int(raw["class_info"]["class"]), kind_name=_text(raw["class_info"].get("desc")),
        vendor=int(raw["id"]["vendor"]), device=int(raw["id"]["device"]), id=_text(raw["qdev_id"]),
        buses=numbers, behind=tuple(_pci_devices((bridge or {}).get("devices", ()))))


def _tree(answers: Answers) -> list[str]:
    roots = _roots(answers)
    heads = ["+-"] * (len(roots) - 1) + ["\\-"] if len(roots) > 1 else [""]
    lines = [line for head, (number, devices) in zip(heads, roots, strict=True)
             for line in _beside(f"{head}[0000:{number:02x}]-", _bus(devices))]
    return _beside("-", lines)


def _bus(devices: Sequence[PciDevice]) -> list[str]:
    if not devices:
        return [""]
    heads = ["+-"] * (len(devices) - 1) + ["\\-"] if len(devices) > 1 else ["--"]
    return [line for head, one in zip(heads, devices, strict=True) for line in _beside(head, _branch(one))]


def _branch(device: PciDevice) -> list[str]:
    if device.buses is None:
        return [device.place]
    first, last = device.buses
    numbers = f"{first:02x}" if first == last else f"{first:02x}-{last:02x}"
    return _beside(f"{device.place}-[{numbers}]-", _beside("-", _bus(device.behind)))


def _beside(head: str, lines: Sequence[str]) -> list[str]:
    """The head before the first line; below it goes on what does go on."""
    under = "".join("|" if character == "+" else " " for character in head)
    return [head + lines[0], *(under + line for line in lines[1:])]


# the others

def _cpu(answers: Answers) -> list[Row]:
    return [{"cpu": int(one["cpu-index"]), "tid": int(one["thread-id"]), **{
        key: _number(one.get("props", {}).get(name))
        for key, name in (("socket", "socket-id"), ("core", "core-id"), ("thread", "thread-id"))}}
        for one in answers["query-cpus-fast"]]


def _block(answers: Answers) -> list[Row]:
    read = {_device(one): one["stats"] for one in answers["query-blockstats"]}
    names = {f"/dev/fdset/{one['fdset-id']}": str(fd["opaque"]).partition(":")[2]
             for one in answers["query-fdsets"] for fd in one["fds"] if fd.get("opaque")}

    def one(raw: Any) -> Row:
        inserted = raw.get("inserted") or {}
        image = inserted.get("image") or {}
        stats = read.get(_device(raw), {})
        return {"device": _device(raw), "file": _file(inserted.get("file"), names),
                "format": _text(inserted.get("drv")), "size_bytes": _number(image.get("virtual-size")),
                "allocated_bytes": _number(image.get("actual-size")), "read_only": inserted.get("ro"),
                "backing": _file(inserted.get("backing_file"), names),
                "read_bytes": _number(stats.get("rd_bytes")), "written_bytes": _number(stats.get("wr_bytes"))}

    return [one(raw) for raw in answers["query-block"]]


def _file(name: Any, names: Mapping[str, str]) -> str | None:
    """The file of a disk. QEMU names a chain of nodes by its options, and a file that it was handed by a set's number.

    names:  of the sets.
    """
    if name and name.startswith("json:"):
        node = json.loads(name.removeprefix("json:"))
        while "filename" not in node:
            node = node["file"]
        name = node["filename"]
    return _text(names.get(name, name))


def _device(raw: Any) -> str:
    """Its id, as one gave it: qdev is that, or a path in QEMU's tree of objects; old drives have a name instead."""
    name = str(raw.get("qdev") or raw.get("device") or raw.get("node-name") or "-")
    return _plain(name.removeprefix(PERIPHERAL).partition("/")[0] if name.startswith(PERIPHERAL) else name)


def _memory(answers: Answers) -> list[Row]:
    summary, balloon = answers["query-memory-size-summary"], answers["query-balloon"]
    return [{
        "base_bytes": int(summary["base-memory"]), "plugged_bytes": int(summary.get("plugged-memory", 0)),
        "balloon_bytes": int(balloon["actual"]) if balloon else None,
        "devices": [{"id": _text(one["data"].get("id")), "type": _plain(str(one["type"])),
                     "size_bytes": int(one["data"]["size"])} for one in answers["query-memory-devices"]]}]


def _migrate(answers: Answers) -> list[Row]:
    said = answers["query-migrate"]
    ram = said.get("ram", {})
    return [{"status": _text(said.get("status")), "transferred_bytes": _number(ram.get("transferred")),
             "remaining_bytes": _number(ram.get("remaining")), "total_bytes": _number(ram.get("total")),
             "total_ms": _number(said.get("total-time")), "downtime_ms": _number(said.get("downtime")),
             "error": _text(said.get("error-desc"))}]


ROWS: Mapping[str, Callable[[Answers], list[Row]]] = {
    "pci": _pci, "cpu": _cpu, "block": _block, "memory": _memory, "migrate": _migrate}


def _number(value: Any) -> int | None:
    return None if value is None else int(value)


def _text(value: Any) -> str | None:
    """None for what is empty."""
    return _plain(str(value)) if value else None


def _plain(text: str) -> str:
    """QEMU may be in a guest's hands: what it says does nothing to a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
