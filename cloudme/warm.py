"""RAM images in their folders: of what kind they are, and whether they can be used."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterable, Sequence

from cloudme import layout
from cloudme.errors import NotFound
from cloudme.formats import groupfiles, records
from cloudme.model import warm
from cloudme.model.machine import Disk, Machine
from cloudme.model.ports import Host, Monitor
from cloudme.model.warm import Kind, Manifest, Stamp
from cloudme.qemu import launch
from cloudme.store import FROZEN, Store, blank, read, reported, write_atomic

TEMPLATE_DISK = "../disk.qcow2"
"""The disk of the template that an image belongs to, from the image's folder."""

OPEN = 0o666
"""Mode of the memory's file, see `empty`."""

SAVE_S = 600
"""How long QEMU may take to write the devices' state, whose memory is on disk already: moments, unless that is full."""


def manifest(folder: str) -> Manifest | None:
    """None where there is no RAM image in `folder`, or none that is whole."""
    try:
        return read(os.path.join(folder, layout.MANIFEST), records.manifest, "", hint=None)
    except NotFound:
        return None


def kind(host: Host, machine: Machine, accel: str) -> Kind:
    """Of what kind the RAM image is that `machine`, without its cards, can be restored from here and now."""
    version = host.qemu.version()
    place = launch.Place(folder="", run="", accel=accel, networks={})
    ram = launch.Ram(path="", qemu=version, use="clone")
    starts = launch.of(dataclasses.replace(machine, nics=(), shares=(), devices=(), cdrom=None), place, ram)
    return Kind(
        qemu=version, machine=starts.machine, accel=accel, cpu=_host_cpu() if starts.cpu == "host" else starts.cpu,
        vcpus=starts.vcpus, ram_mib=starts.ram_mib, hardware=launch.fingerprint(starts))


def _host_cpu() -> str:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else "host"


def stamps(folder: str, names: Iterable[str]) -> dict[str, Stamp]:
    """The stamps of those of the files that are there."""
    found = {}
    for name in names:
        try:
            stat = os.stat(os.path.join(folder, name))
        except OSError:
            continue
        found[name] = Stamp(size_bytes=stat.st_size, mtime_ns=stat.st_mtime_ns)
    return found


def why_not(host: Host, folder: str, machine: Machine, accel: str) -> str | None:
    """Why `machine` cannot be restored from the RAM image in `folder`, in words; None where it can."""
    found = manifest(folder)
    if found is None:
        return "there is none"
    if machine.devices:
        return f"it gets a device of the host's, {machine.devices[0]}, whose state nobody can save or load"
    with contextlib.suppress(FileNotFoundError):
        if os.stat(os.path.join(folder, layout.RAM)).st_mode & OPEN != OPEN:
            return "it was made by a cloudMe whose machines all ran as root"
    return warm.mismatch(found, kind(host, machine, accel), stamps(folder, found.files))


def based(host: Host, store: Store, machine: Machine, accel: str) -> tuple[Machine, str]:
    """A planned clone, standing on its template's RAM image where it can go on from that; else why it cannot."""
    assert machine.template
    folder = store.world.warm(machine.template)
    if any(nic.static for nic in machine.nics):
        why: str | None = "its address is told by a seed, at a boot"
    elif machine.shares and len(machine.nics) == groupfiles.MAX_CARDS:
        why = "its cards leave no slot to its shares"
    else:
        why = why_not(host, folder, machine, accel)
    if why:
        return machine, why
    return dataclasses.replace(machine, bases=(os.path.relpath(folder, store.world.data),)), ""


def empty(folder: str, ram_mib: int) -> None:
    """Make the file of the memory, for a QEMU that has no right on anything of ours and opens it anew to write.

    QEMU 7.2 does so even where it will never write: clones have to be able to, too. The folder keeps others out.
    """
    os.chmod(folder, 0o700)
    with open(os.path.join(folder, layout.RAM), "wb") as ram:
        os.fchmod(ram.fileno(), OPEN)
        ram.truncate(ram_mib << 20)


def save(monitor: Monitor, folder: str) -> None:
    """Write the state of a stopped machine, whose memory is in `folder` already, and let QEMU go."""
    monitor.execute("migrate-set-capabilities", capabilities=warm.CAPABILITIES)
    monitor.lend("state", os.path.join(folder, layout.STATE), write=True)
    monitor.execute("migrate", uri="fd:state")
    monitor.await_migration("completed", timeout_s=SAVE_S)
    monitor.execute("quit")
    monitor.wait_closed(SAVE_S)


def publish(
    host: Host, folder: str, made: Kind, *, disks: Sequence[Disk], others: Sequence[str] = (),
) -> None:
    """Freeze what lies in `folder`, lay a blank overlay over each of its disks, and make it valid.

    disks:   they, in their order; what their heads say is not believed, their machine could write it.
    others:  more files that must not change, if it is to stay valid.
    """
    with reported(folder):
        own = (layout.RAM, layout.STATE, *(disk.file for disk in disks))
        for file in own:
            with open(os.path.join(folder, file), "rb") as content:
                os.fsync(content.fileno())
                os.fchmod(content.fileno(), FROZEN if file != layout.RAM else OPEN)
        for index, disk in enumerate(disks):
            host.run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", os.path.join(folder, disk.file),
                      "-F", "qcow2", os.path.join(folder, blank(index)), str(disk.size_bytes)])
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(host.now()))
        whole = Manifest(kind=made, files=stamps(folder, (*own, *others)), created=created)
        write_atomic(os.path.join(folder, layout.MANIFEST), records.dump(whole))
