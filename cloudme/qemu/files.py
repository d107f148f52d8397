"""The files of a machine, as QEMU gets them: open already, under names that need no right on any path of ours."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloudme.model.confinement import Reach
from cloudme.model.launch import Launch, Part
from cloudme.qemu import hardware

SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/dev/urandom", "/dev/random")
"""What the program itself is made of: binary, libraries, firmware; and the source of the guest's random numbers."""

DEVICES = ("/dev/null",)
VFIO = "/dev/vfio"
"""A file for each IOMMU group, and one, `vfio`, for what they have in common. QEMU opens them by their names: before
9.0 it cannot be handed them (its docs/devel/vfio-iommufd.rst)."""
RAM = "ram0"
OWN = "own"
"""Roles: the file that is the memory; the folder in which QEMU makes its display's socket."""


@dataclass(frozen=True, slots=True)
class File:
    """A file that QEMU gets as a set of descriptors: one for each way in which it may want to open it.

    role:   the name of its block node, or 'console.log' and the like.
    flags:  of open(2). QEMU opens a disk anew, the other way, when what may be done to it changes.
    """

    role: str
    path: str
    flags: tuple[int, ...]

    @property
    def descriptors(self) -> list[str]:
        """The roles of its descriptors, one for each of `flags`."""
        return [f"{self.role}/{number}" for number in range(len(self.flags))]


def mark(path: str, flags: int) -> str:
    """What a descriptor is called in QEMU's own list of them (`query-fdsets`)."""
    return f"{'read' if flags & os.O_ACCMODE == os.O_RDONLY else 'write'}:{path}"


def of(launch: Launch) -> list[File]:
    """All files of a launch, in the order of their sets, whose numbers begin with 1."""
    logs = [File(f"{chardev.role}.log", chardev.log, (os.O_WRONLY | os.O_APPEND,))
            for chardev in launch.chardevs if chardev.log]
    disks = [File(part.props["node-name"], part.props["filename"],
                  (os.O_RDONLY,) if part.props.get("read-only") else (os.O_RDWR, os.O_RDONLY))
             for part in launch.parts if _is_file(part)]
    return [*logs, File("firmware.log", launch.firmware_log, (os.O_WRONLY,)), *disks]


def sets(launch: Launch) -> dict[str, str]:
    """Role -> the name under which QEMU opens that file (its docs/devel, 'fdset')."""
    return {file.role: f"/dev/fdset/{number}" for number, file in enumerate(of(launch), 1)}


def ram(launch: Launch) -> str | None:
    """The file that is the memory, if any."""
    for part in launch.parts:
        if part.props.get("qom-type") == "memory-backend-file":
            return str(part.props["mem-path"])
    return None


def booted(launch: Launch) -> dict[str, str]:
    """Role, which is QEMU's option, too -> path, of what is booted directly. QEMU opens it anew, through /proc."""
    files = {"kernel": launch.kernel, "initrd": launch.initrd}
    return {role: path for role, path in files.items() if path}


def devices(launch: Launch) -> dict[str, str]:
    """Role -> path of the host's devices that QEMU gets open."""
    there = any(part.props.get("id") == hardware.VSOCK for part in launch.parts)
    return {hardware.VSOCK: hardware.VSOCK_DEVICE} if there else {}


def passed(part: Part, names: Mapping[str, str], fds: Mapping[str, int]) -> Part:
    """The part as QEMU is told it. `memory-backend-file` knows no sets: it opens our descriptor anew, through /proc."""
    if _is_file(part):
        return Part(part.option, {**part.props, "filename": names[part.props["node-name"]]})
    if part.props.get("qom-type") == "memory-backend-file":
        return Part(part.option, {**part.props, "mem-path": f"/proc/self/fd/{fds[RAM]}"})
    if part.props.get("id") == hardware.VSOCK:
        return Part(part.option, {**part.props, "vhostfd": str(fds[hardware.VSOCK])})
    return part


def disks(launch: Launch) -> dict[str, str]:
    """Block node -> path of each qcow2 disk, which may stand on others."""
    paths = {part.props["node-name"]: part.props["filename"] for part in launch.parts if _is_file(part)}
    return {part.props["node-name"]: paths[part.props["file"]] for part in launch.parts
            if part.option == "blockdev" and part.props["driver"] == "qcow2"}


def chained(launch: Launch, chains: Mapping[str, Sequence[str]]) -> Launch:
    """The launch with the disks below its disks as nodes of their own, read-only: QEMU looks for none by its name.

    chains:  for each disk's node the qcow2 files that it stands on, the nearest first.
    """
    parts: list[Part] = []
    for part in launch.parts:
        chain = chains.get(part.props.get("node-name", ""), ())
        below = None
        for number, path in reversed(list(enumerate(chain, 1))):
            node = f"{part.props['node-name']}-base{number}"
            parts += [
                Part("blockdev", {"driver": "file", "node-name": f"{node}-file", "filename": path, "read-only": True}),
                Part("blockdev", {"driver": "qcow2", "node-name": node, "file": f"{node}-file", "read-only": True,
                                  **({"backing": below} if below else {})}),
            ]
            below = node
        parts.append(Part(part.option, {**part.props, "backing": below}) if below else part)
    return dataclasses.replace(launch, parts=parts)


def reach(launch: Launch, binary: str, own: str) -> Reach:
    """What QEMU gets at by name.

    binary:  its path.   own: the folder in which it makes its display's socket.
    """
    memory = None if launch.copies else ram(launch)
    nine = [] if launch.virtiofs else launch.folders
    return Reach(
        readable=(*SYSTEM, binary, *booted(launch).values(), *(folder.source for folder in nine if folder.readonly)),
        trees=tuple(folder.source for folder in nine if not folder.readonly),
        writable=(own, *DEVICES, *(("/dev/kvm",) if launch.accel == "kvm" else ()), *((memory,) if memory else ()),
                  *(os.path.join(VFIO, name) for name in (*launch.iommu, *(["vfio"] if launch.iommu else [])))),
        ports=(launch.vnc_port,) if launch.vnc_port else ())


def _is_file(part: Part) -> bool:
    return part.option == "blockdev" and part.props["driver"] == "file"
