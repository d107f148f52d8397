"""A merged machine -> QEMU's command line, in the seed's order and words."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cloudme.errors import SpecError, UsageError
from cloudme.model.definitions import identity
from cloudme.model.definitions.nouns import Attributes, HostConfiguration, Merged, Processor, swtpm_socket
from cloudme.model.launch import Part
from cloudme.qemu.definitions import devices
from cloudme.qemu.definitions.disks import SCSI_DISKS, Disks, disks
from cloudme.qemu.definitions.topology import arranged
from cloudme.qemu.launch import BINARY, SANDBOX

ENLIGHTENMENTS = "hv_relaxed,hv_spinlocks=0x1fff,hv_vapic,hv_time"
"""What Windows is told about its hypervisor (QEMU's docs/system/i386/hyperv.rst)."""
QXL_BYTES = 64 << 20
HEADS = {"object": "qom-type", "chardev": "backend", "netdev": "type", "device": "driver"}
"""The property whose name is left out where it comes first."""
TPM = ((("-tpmdev", "emulator,id=tpm.0,chardev=tpm.0.socket"),), (("-device", "tpm-crb,tpmdev=tpm.0"),))
"""Its backend, which is swtpm behind a socket, and its device."""
LOCK = "lock"
"""QEMU's own file of its pid, which it keeps locked while it lives (util/oslib-posix.c, qemu_write_pidfile)."""
WWN_TEXT = 18
"""Characters of a World Wide Name of 8 bytes: QEMU's disks have no longer ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a command line stands on beside the host configuration.

    run:   the folder in which machines have their sockets, and the lock by which they live.
    """

    run: str


def argv(options: Iterable[Sequence[str]]) -> list[str]:
    """The whole command line."""
    return [BINARY, *(word for option in options for word in option)]


def options(machine: Merged, host: HostConfiguration, ground: Ground) -> list[tuple[str, ...]]:
    """Return the options, each with its argument. Raises SpecError for what QEMU cannot do."""
    found = disks(machine, host)
    wrong = [f"{machine.sources[key].file}: {key}: {what}" for key, what in _impossible(machine, found)]
    if wrong:
        raise SpecError(wrong)
    try:
        hardware = arranged(machine, host, found)
    except UsageError as error:
        raise SpecError([f"{machine.sources['name'].file}: {error.message}"]) from None
    attributes = machine.attributes
    parts = [*([Part("object", {"qom-type": "iothread", "id": devices.IOTHREAD})] if _scsi(hardware) else []),
             *found.nodes(), *_chardevs(machine, ground)]
    backend, frontend = TPM if attributes.tpm else ((), ())
    return [*_head(machine, host, found, ground), *map(option, parts), *backend, *map(option, _taps(machine)),
            *frontend, *map(option, hardware)]


def option(part: Part) -> tuple[str, str]:
    """A part as people write it: key=value; a comma in a value is doubled (qemu(1))."""
    head = HEADS.get(part.option)
    said = [_word(value) if key == head else f"{key}={_word(value)}" for key, value in part.props.items()]
    return f"-{part.option}", ",".join(said)


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value).replace(",", ",,")


def _impossible(machine: Merged, found: Disks) -> Iterator[tuple[str, str]]:
    """(path of keys, what) of all that a definition may say, and QEMU does not do."""
    attributes = machine.attributes
    if not attributes.ram_mib:
        yield "name", f"neither {machine.name} nor its tags set attrs.memory.ram"
    if attributes.tpm and not attributes.tpm_data:
        yield "attrs.tpm.enabled", "attrs.tpm.data is not set"
    if attributes.tpm and attributes.tpm_data and "," in attributes.tpm_data.path:
        yield "attrs.tpm.data", f"swtpm takes no path with a comma: '{attributes.tpm_data.path[:80]}'"
    for disk in found.of(*SCSI_DISKS):
        if len(disk.volume.wwn) > WWN_TEXT:
            yield f"volumes.{disk.volume.name}.wwn", "QEMU's disks have names of 16 digits"


def _scsi(hardware: list[Part]) -> bool:
    return any(part.props.get("iothread") for part in hardware)


def _head(machine: Merged, host: HostConfiguration, found: Disks, ground: Ground) -> Iterator[tuple[str, ...]]:
    """All that comes before the parts."""
    attributes = machine.attributes
    yield "-uuid", machine.uuid
    yield "-name", machine.name
    yield from ((("-enable-kvm",) if host.accelerator == "kvm" else ("-accel", host.accelerator)),
                ("-nodefaults",), ("-nographic",))
    yield "-machine", _machine(attributes, found)
    yield "-cpu", _processor(attributes, host)
    counts = [(what, getattr(attributes, what)) for what in ("sockets", "cores", "threads")]
    if smp := ",".join(f"{what}={count}" for what, count in counts if count):
        yield "-smp", smp
    yield "-m", f"size={attributes.ram_mib}M"
    yield "-rtc", "base=utc,clock=host,driftfix=slew"
    yield from (("-mon", f"chardev=qmp.{index},mode=control") for index in range(len(attributes.qmp_sockets)))
    if attributes.spice:
        yield "-spice", f"port={attributes.spice_port},addr=127.0.0.1,disable-ticketing=on"
    if found.code and found.code.volume.secure:
        yield "-global", "driver=cfi.pflash01,property=secure,value=on"
    if attributes.spice:
        for size in ("ram_size", "vram_size"):
            yield "-global", f"driver=qxl-vga,property={size},value={QXL_BYTES}"
    yield "-boot", "menu=on,reboot-timeout=5000"
    yield "-pidfile", os.path.join(ground.run, machine.name, LOCK)
    yield "-sandbox", SANDBOX


def _machine(attributes: Attributes, found: Disks) -> str:
    words = ["type=q35", *["vmport=off"] * attributes.spice]
    words += [f"pflash{index}={disk.node}" for index, disk in enumerate((found.code, found.variables)) if disk]
    return ",".join(words)


def _processor(attributes: Attributes, host: HostConfiguration) -> str:
    """Threads of AMD's processors are seen by guests only with topoext (QEMU's docs/system/cpu-models-x86).

    An emulated processor has all that QEMU can emulate, and no enlightenments: they are KVM's.
    """
    if host.accelerator != "kvm":
        return "max"
    topoext = ["topoext=on"] * (attributes.threads > 1 and _chosen(attributes, host).brand.lower() == "amd")
    return ",".join(["host", *topoext, *[ENLIGHTENMENTS] * attributes.enlightenments])


def _chosen(attributes: Attributes, host: HostConfiguration) -> Processor:
    """The one that the machine names, else the host's default, else its first."""
    if attributes.processor:
        return host.processors[attributes.processor]
    known = [host.processors[name] for name in sorted(host.processors)]
    return next((one for one in known if one.default), known[0] if known else Processor())


def _chardevs(machine: Merged, ground: Ground) -> Iterator[Part]:
    attributes = machine.attributes
    yield from (devices.socket(f"qmp.{index}", path) for index, path in enumerate(attributes.qmp_sockets))
    if attributes.agent and attributes.agent_port:
        yield devices.local_port("guestagent", attributes.agent_port)
    elif attributes.agent:
        yield devices.socket("guestagent", os.path.join(ground.run, machine.name, "agent.socket"))
    if attributes.spice:
        yield devices.spice_channel("vdagent", "vdagent")
        yield from (devices.spice_channel(f"usbredir.{index}", "usbredir") for index in range(2))
    if attributes.tpm:
        path = attributes.tpm_socket or swtpm_socket(ground.run, machine.name)
        yield Part("chardev", {"backend": "socket", "id": "tpm.0.socket", "path": path})


def _taps(machine: Merged) -> Iterator[Part]:
    for index, connection in enumerate(machine.connections):
        yield devices.tap(index, identity.link(machine.name, connection.name))
