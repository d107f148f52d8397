"""A merged machine -> the files that systemd reads: its units, and the user as whom QEMU runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cloudme.errors import SpecError, UsageError
from cloudme.formats import render
from cloudme.formats.definitions import quoting
from cloudme.layout import unit as unit
from cloudme.model.definitions import accounts, tpm
from cloudme.model.definitions.nouns import STANDARD_SOCKETS, HostConfiguration, Kind, Merged
from cloudme.model.limits import UNLIMITED, check
from cloudme.model.machine import Limits
from cloudme.model.units import MIB

MARK = "# Made by vmunit generate"
"""How every file of ours begins: no other file is written over, or removed."""
SWTPM = "swtpm-"
"""What a TPM's unit has before the name of its machine: no machine may be called so."""
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""What a unit has none of, or one of its own (systemd.exec(5), ProtectHome= and PrivateTmp=)."""
PATH_BYTES, NAME_BYTES = 4095, 255
"""Of a path, and of a name in it (limits.h): systemd drops what is longer from a unit."""
LINE_BYTES = 1 << 20
"""systemd's LONG_LINE_MAX; a command line is one line."""
_GROUP = re.compile("[a-z_][a-z0-9_-]{0,30}")


@dataclass(frozen=True, slots=True)
class Place:
    """A file, or a folder, that QEMU uses."""

    path: str
    writable: bool
    folder: bool = False

    @property
    def device(self) -> bool:
        return self.path.startswith("/dev/")

    @property
    def within(self) -> str:
        """The folder that has to be there first."""
        return self.path if self.folder else os.path.dirname(self.path)

    @property
    def hidden(self) -> bool:
        return any(f"{self.path}/".startswith(f"{folder}/") for folder in HIDDEN)

    @property
    def quoted(self) -> str:
        return quoting.path(self.path)

    @property
    def optional(self) -> str:
        """With the mark by which a path that is missing is left out: QEMU will say so, and more clearly."""
        return quoting.path(f"-{self.path}")


def swtpm_unit(machine: str) -> str:
    return f"machina-{SWTPM}{machine}.service"


def users(machine: str) -> str:
    """The file of sysusers.d(5)."""
    return f"machina-{machine}.conf"


def texts(machine: Merged, host: HostConfiguration, argv: Sequence[Sequence[str]], *, run: str,
          config: str) -> dict[str, str]:
    """The name of each file -> what is in it.

    argv:    the program alone, then its options, each with its argument: a line each.
    run:     the folder in which machines have their sockets. config: that in which people have templates of their own.
    Raises:  SpecError for what systemd does not take.
    """
    places = list(_places(machine, host))
    command = " \\\n".join(map(_line, argv))
    if wrong := list(_wrong(machine, places, command)):
        raise SpecError([f"{machine.sources[key].file}: {key}: {what}" for key, what in wrong])
    attributes, account, name = machine.attributes, accounts.of(machine), machine.name
    values: dict[str, Any] = {
        "name": name, "user": account.user, "uid": account.uid, "group": account.group, "gid": account.gid,
        "kvm": host.accelerator == "kvm", "qmp": attributes.qmp, "taps": bool(machine.connections),
        "vfio": bool(machine.devices), "ports": bool(attributes.spice or attributes.agent_port)}
    head = f"{MARK}. What is to stay goes into {{}}.d/NAME.conf: here it is lost.\n"
    its = tpm.of(machine, run)
    made = {unit(name): render.text(
        "machine.service.j2", config, command=command, swtpm=swtpm_unit(name) if its else "",
        others=[Place(its.folder, True, folder=True)] if its else [],
        limits=list(_limits(attributes.limits, places)), **_granted(places), **values)}
    if its:
        made[swtpm_unit(name)] = render.text(
            "swtpm.service.j2", config, command=_line(its.daemon), setup=[_line(words) for words in its.setup],
            **_granted([Place(its.folder, True, folder=True)]), **values)
    made = {name: head.format(name) + text for name, text in made.items()}
    return {**made, users(name): f"{MARK}.\n" + render.text("sysusers.conf.j2", config, **values)}


def _line(words: Sequence[str]) -> str:
    return " ".join(map(quoting.argument, words))


def _wrong(machine: Merged, places: list[Place], command: str) -> Iterator[tuple[str, str]]:
    """(path of keys, what) of all that a definition may say, and systemd does not take."""
    if machine.name.startswith(SWTPM):
        yield "name", f"a machine's unit cannot be called {unit(machine.name)}: that is the TPM's of another"
    group = machine.attributes.group
    if group and not _GROUP.fullmatch(group):
        yield "privileges.filesystem.group.name", f"'{group[:40]}' is no name of a group: small letters and digits"
    try:
        check(machine.attributes.limits, machine.attributes.ram_mib)
    except UsageError as error:
        yield "attrs.limits.memory", f"{error.message}: {error.hint}"
    for path in [place.path for place in places]:
        if len(path.encode()) > PATH_BYTES or any(len(part.encode()) > NAME_BYTES for part in path.split("/")):
            yield "name", f"no file can be called '{path[:80]}...'"
    if len(command.encode()) >= LINE_BYTES:
        yield "name", f"a command line of {len(command)} characters is too long for a unit"


def _places(machine: Merged, host: HostConfiguration) -> Iterator[Place]:
    """The volumes, and the folders of those QMP sockets that are not where the unit has them."""
    attributes = machine.attributes
    firmware = [it for it in (attributes.firmware_code, attributes.firmware_variables) if it]
    for volume in (*firmware, *machine.volumes):
        pool = host.storage[volume.storage]
        if pool.kind != Kind.tpm_data:
            yield Place(volume.path, not (pool.readonly or pool.kind.fixed), pool.kind == Kind.vvfat_block)
    folders = [os.path.dirname(os.path.normpath(path)) for path in attributes.qmp_sockets]
    own = {"", "/", "//", *folders[:len(STANDARD_SOCKETS)]}
    yield from (Place(folder, True, folder=True) for folder in folders if folder not in own and folder.startswith("/"))


def _granted(places: list[Place]) -> dict[str, list[Any]]:
    """What is let through to the places. What is written anywhere is not only read."""
    every = {place.path: place for place in sorted(places, key=lambda place: place.writable)}
    found = [every[path] for path in sorted(every)]
    plain = [place for place in found if not place.device]
    return {"nodes": [place for place in found if place.device],
            "folders": sorted({quoting.path(place.within) for place in plain}),
            "written": [place for place in plain if place.writable and not place.hidden],
            "bound": [place for place in plain if place.writable and place.hidden],
            "shown": [place for place in plain if not place.writable and place.hidden]}


def _limits(limits: Limits, places: list[Place]) -> Iterator[str]:
    """The limits as systemd.resource-control(5) has them. 'max' lifts one; what nothing sets is systemd's default."""
    def bound(count: int, unit: int = 1) -> str:
        return "infinity" if count == UNLIMITED else str(count * unit)

    if limits.cpus is not None:
        yield "CPUQuota=" + ("" if limits.cpus == UNLIMITED else f"{limits.cpus * 100:.1f}".removesuffix(".0") + "%")
    if limits.cpu_weight is not None:
        yield f"CPUWeight={limits.cpu_weight}"
    if limits.memory_mib is not None:
        yield f"MemoryMax={bound(limits.memory_mib, MIB)}"
    if limits.tasks is not None:
        yield f"TasksMax={bound(limits.tasks)}"
    if limits.io_bps is not None:
        for folder in sorted({place.within for place in places if not place.device}):
            yield f"IOReadBandwidthMax={quoting.path(folder)} {bound(limits.io_bps)}"
            yield f"IOWriteBandwidthMax={quoting.path(folder)} {bound(limits.io_bps)}"
