"""What QEMU is told of a definition: the seed's own unit option by option, and what its example does not show."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudme.errors import SpecError, UsageError
from cloudme.qemu.definitions import command
from cloudme.qemu.definitions.places import PLACES, Kind, allot
from tests.conftest import Ended
from tests.unit.test_definitions import SEED, Machina

GROUND = command.Ground(run="/run/machina")
POOLS = {kind: {"path": "/p", "type": kind} for kind in (
    "raw", "raw-scsi", "raw-block", "qcow2", "qcow2-block", "vvfat-block", "iso-ahci", "iso-scsi", "iso-usb",
    "firmware", "tpm-data")}
RAM = {"memory": {"ram": 64}}
OURS = ["-pidfile /run/machina/test-vm/lock",
        "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
NETDEV = "-netdev tap,id=net.0,ifname=test-vm.0,"
DIFFERENCES = {
    "-boot menu=on,reboot-timeout=5000": ["-boot menu=on,reboot-timeout=5000", *OURS],
    f"{NETDEV}script=/usr/bin/machina-ifup,downscript=/usr/bin/machina-ifdown": [f"{NETDEV}script=no,downscript=no"],
}
"""Line of the seed's -> ours. All of them stand in docs/design/0020-definitions.md."""


@pytest.fixture
def machina(tmp_path: Path) -> Machina:
    made = Machina(tmp_path)
    made.host({"storage": POOLS, "network": {"lan": {}, "wan": {"up": "/up,1", "down": "/down"}},
               "pci": {"gpu": {"address": "c1:00.0", "class": "gpu"}},
               "processor": {"epyc": {"brand": "AMD"}, "xeon": {"brand": "Intel", "default": True}}})
    return made


def told(machina: Machina, attrs: dict[str, Any] | None = None, *, name: str = "vm", **more: Any) -> list[str]:
    machina.machine(name, {"attrs": RAM | (attrs or {}), **more})
    site = machina.read()
    return [" ".join(option) for option in command.options(site.pick([name])[0], site.host, GROUND)]


def volumes(*kinds: str, **more: Any) -> list[dict[str, Any]]:
    return [{"name": f"v{number}", "storage": kind, "serial": "S", "wwn": f"0x500000000000000{number + 1}", **more}
            for number, kind in enumerate(kinds)]


def of(lines: list[str], *options: str) -> list[str]:
    return [line for line in lines if line.split()[0] in options]


def test_the_seeds_example_is_the_seeds_unit(command: Callable[..., Ended], tmp_path: Path) -> None:
    shutil.copytree(SEED, tmp_path / "etc/machina")
    unit = (SEED / "test-vm.unit").read_text("utf-8")
    golden = unit.partition("ExecStart=qemu-system-x86_64 \\\n")[2].partition("\nExecStartPre=")[0].split(" \\\n")
    golden = [ours for line in golden for ours in DIFFERENCES.get(line, [line])]
    assert command("vmargs", "--root", str(tmp_path), "--lines", "test-vm").stdout.splitlines() == golden
    assert command("vmargs", "--root", str(tmp_path)).stdout == " ".join(golden) + "\n"
    (found,) = json.loads(command("vmargs", "--root", str(tmp_path), "--json").stdout)
    assert found == {"name": "test-vm", "argv": ["qemu-system-x86_64", *shlex.split(" ".join(golden))]}


def test_the_smallest_machine(machina: Machina) -> None:
    assert told(machina) == [
        f"-uuid {machina.one().uuid}", "-name vm", "-enable-kvm", "-nodefaults", "-nographic", "-machine type=q35",
        "-cpu host", "-m size=64M", "-rtc base=utc,clock=host,driftfix=slew", "-boot menu=on,reboot-timeout=5000",
        "-pidfile /run/machina/vm/lock", OURS[1]]


@pytest.mark.parametrize(("kind", "nodes", "device"), [
    ("raw", ["driver=file,node-name=vm-v0-file,filename=/p/v0.raw", "driver=raw,node-name=vm-v0,file=vm-v0-file"],
     "scsi-hd,id=scsi.0.0,bus=scsi.0,channel=0,scsi-id=0,lun=0,drive=vm-v0,wwn=0x5000000000000001,serial=S,bootindex=1"),
    ("qcow2", ["driver=file,node-name=vm-v0-file,filename=/p/v0.qcow2", "driver=qcow2,node-name=vm-v0,file=vm-v0-file"],
     "scsi-hd,id=scsi.0.0,bus=scsi.0,channel=0,scsi-id=0,lun=0,drive=vm-v0,wwn=0x5000000000000001,serial=S,bootindex=1"),
    ("raw-block", ["driver=file,node-name=vm-v0-file,filename=/p/v0.raw-block",
                   "driver=raw,node-name=vm-v0,file=vm-v0-file"],
     "virtio-blk-pci,id=block.0,bus=pcie.1.0,num-queues=4,drive=vm-v0,serial=S,bootindex=1"),
    ("qcow2-block", ["driver=file,node-name=vm-v0-file,filename=/p/v0.qcow2-block",
                     "driver=qcow2,node-name=vm-v0,file=vm-v0-file"],
     "virtio-blk-pci,id=block.0,bus=pcie.1.0,num-queues=4,drive=vm-v0,serial=S,bootindex=1"),
    ("vvfat-block", ["driver=vvfat,node-name=vm-v0,read-only=on,dir=/p/v0.vvfat-block"],
     "virtio-blk-pci,id=block.0,bus=pcie.1.0,num-queues=4,drive=vm-v0,serial=S,bootindex=1"),
    ("iso-ahci", ["driver=file,node-name=v0,read-only=on,filename=/p/v0.iso-ahci"],
     "ide-cd,id=sata.0,bus=ide.1,drive=v0"),
    ("iso-scsi", ["driver=file,node-name=v0,read-only=on,filename=/p/v0.iso-scsi"],
     "scsi-cd,id=scsi.0.0,bus=scsi.0,channel=0,scsi-id=0,lun=0,drive=v0"),
    ("iso-usb", ["driver=file,node-name=v0,read-only=on,filename=/p/v0.iso-usb"],
     "usb-storage,id=usb.0.1,bus=usb.0,port=1,drive=v0"),
    ("firmware", ["driver=file,node-name=vm-v0,filename=/p/v0.firmware"], None),
    ("tpm-data", [], None),
])
def test_a_volume_of_each_kind(machina: Machina, kind: str, nodes: list[str], device: str | None) -> None:
    lines = told(machina, volumes=volumes(kind, bootable=True))
    assert of(lines, "-blockdev") == [f"-blockdev {node}" for node in nodes]
    assert of(lines, "-device")[-1:] == ([f"-device {device}"] if device else [])
    assert bool(of(lines, "-object")) == ("scsi" in (device or ""))


def test_what_cannot_be_written_to_is_so_at_every_level(machina: Machina) -> None:
    machina.host({"storage": {"raw": POOLS["raw"] | {"readonly": True}}})
    assert of(told(machina, volumes=volumes("raw")), "-blockdev") == [
        "-blockdev driver=file,node-name=vm-v0-file,read-only=on,filename=/p/v0.raw",
        "-blockdev driver=raw,node-name=vm-v0,read-only=on,file=vm-v0-file"]


def test_the_order_on_the_bus_and_the_place_that_a_sata_drive_leaves_empty(machina: Machina) -> None:
    spice = {"enabled": True, "port": 5900, "displays": 9}
    lines = told(machina, {"agent": {"qemu": {"enabled": True}}, "spice": spice},
                 volumes=volumes("raw-block", "iso-ahci", "iso-usb", "raw", "iso-ahci", "iso-scsi"),
                 connections=[{"name": "0", "network": "lan"}], devices=[{"name": "x", "class": "gpu"}])
    on_root = [line.split()[1].split(",")[0] + " " + line.partition("addr=")[2].split(",")[0]
               for line in of(lines, "-device") if "bus=pcie.0" in line]
    assert on_root == ["ioh3420 1.0", "qxl-vga 1.1", "qxl 1.2", "qxl 1.3", "qxl 1.4", "ioh3420 1.5", "ioh3420 1.6",
                       "ioh3420 2.0", "ioh3420 2.2", "ioh3420 2.3"]
    assert [line.partition("bus=")[2].split(",")[0] for line in lines if "ide-cd" in line] == ["ide.1", "ide.2"]
    assert "-device usb-storage,id=usb.0.4,bus=usb.0,port=4,drive=v2" in lines
    assert "-device vfio-pci,id=vfio.0,bus=pcie.2.3,host=0000:c1:00.0" in lines


def test_taps_are_there_before_qemu_is(machina: Machina) -> None:
    lines = told(machina, connections=[{"name": "0", "network": "wan"}, {"name": "1", "network": "lan"}])
    assert of(lines, "-netdev") == [
        f"-netdev tap,id=net.{number},ifname=vm.{number},script=no,downscript=no" for number in range(2)]


def test_an_emulated_processor_has_no_enlightenments(machina: Machina) -> None:
    machina.host({"accelerator": "tcg"})
    lines = told(machina, {"enlightenments": {"enabled": True}})
    assert of(lines, "-enable-kvm", "-accel", "-cpu") == ["-accel tcg", "-cpu max"]


def test_an_agent_without_a_port_has_a_socket(machina: Machina) -> None:
    assert of(told(machina, {"agent": {"qemu": {"enabled": True}}}), "-chardev") == [
        "-chardev socket,id=guestagent,server=on,wait=off,path=/run/machina/vm/agent.socket"]


def test_a_tpm_is_a_socket_a_backend_and_a_device(machina: Machina) -> None:
    lines = told(machina, {"tpm": {"enabled": True, "data": {"name": "t", "storage": "tpm-data"}}})
    assert of(lines, "-chardev", "-tpmdev", "-device") == [
        "-chardev socket,id=tpm.0.socket,path=/run/machina-swtpm/vm/control.socket",
        "-tpmdev emulator,id=tpm.0,chardev=tpm.0.socket", "-device tpm-crb,tpmdev=tpm.0"]


@pytest.mark.parametrize(("code", "locked"), [({}, True), ({"secure": True}, True), ({"secure": False}, False)])
def test_variables_are_locked_for_firmware_that_writes_them_in_smm(
        machina: Machina, code: dict[str, Any], locked: bool) -> None:
    """Firmware that does not could not write them, either: what it kept would be gone with QEMU."""
    lines = told(machina, {"firmware": {"code": {"name": "code", "storage": "firmware", **code},
                                        "vars": {"name": "vars", "storage": "firmware"}}})
    assert of(lines, "-global") == ["-global driver=cfi.pflash01,property=secure,value=on"] * locked
    assert of(lines, "-machine") == ["-machine type=q35,pflash0=vm-code,pflash1=vm-vars"]


@pytest.mark.parametrize(("cpu", "wanted"), [
    ({"threads": 2}, "host"), ({"threads": 2, "processor": "epyc"}, "host,topoext=on"), ({"processor": "epyc"}, "host"),
])
def test_threads_of_amd_are_shown(machina: Machina, cpu: dict[str, Any], wanted: str) -> None:
    assert of(told(machina, {"cpu": cpu}), "-cpu") == [f"-cpu {wanted}"]


@pytest.mark.parametrize("name", ["a-machine-with-a-very-long-name", "0vm", "vm,1"])
def test_nodes_have_names_that_qemu_takes(machina: Machina, name: str) -> None:
    if "," in name:
        lines = told(machina, volumes=[{"name": name, "storage": "iso-scsi"}])
        assert "node-name=volume.0,read-only=on,filename=/p/vm,,1.iso-scsi" in of(lines, "-blockdev")[0]
    else:
        lines = told(machina, name=name, volumes=volumes("raw"))
        assert "node-name=volume.0-file" in of(lines, "-blockdev")[0]


def test_two_nodes_never_have_one_name(machina: Machina) -> None:
    lines = told(machina, volumes=[{"name": "x", "storage": "raw"}, {"name": "vm-x", "storage": "iso-scsi"},
                                   {"name": "x-file", "storage": "firmware"}])
    names = [line.partition("node-name=")[2].split(",")[0] for line in of(lines, "-blockdev")]
    assert names == ["vm-x-file", "vm-x", "volume.1", "volume.2"]


@pytest.mark.parametrize(("document", "what"), [
    ({"attrs": {"memory": {"ram": 0}}}, "name: neither vm nor its tags set attrs.memory.ram"),
    ({"attrs": RAM | {"tpm": {"enabled": True}}}, "attrs.tpm.enabled: attrs.tpm.data is not set"),
    ({"attrs": RAM | {"tpm": {"enabled": True, "data": {"name": "a,b", "storage": "tpm-data"}}}},
     "attrs.tpm.data: swtpm takes no path with a comma: '/p/a,b.tpm-data'"),
    ({"attrs": RAM, "volumes": [{"name": "os", "storage": "raw", "wwn": "6" * 32}]},
     "volumes.os.wwn: QEMU's disks have names of 16 digits"),
    ({"attrs": RAM, "volumes": [{"name": str(n), "storage": "iso-ahci"} for n in range(7)]},
     "7 volumes are too many for one controller (iso-ahci): 6 at most"),
    ({"attrs": RAM, "connections": [{"name": str(n), "network": "lan"} for n in range(PLACES + 1)]},
     "more than 240 devices have no place on the PCI Express bus"),
])
def test_what_qemu_cannot_do_is_said(machina: Machina, document: dict[str, Any], what: str) -> None:
    machina.machine("vm", document)
    site = machina.read()
    with pytest.raises(SpecError) as caught:
        command.options(site.pick(["vm"])[0], site.host, GROUND)
    assert caught.value.lines == (f"{machina.machines}/vm.conf.json: {what}",)


def test_vmargs_wants_a_host(command: Callable[..., Ended], machina: Machina) -> None:
    (machina.folder / "machina.conf.json").unlink()
    ended = command("vmargs", "--root", str(machina.folder.parents[1]))
    assert (ended.status, ended.stderr.splitlines()[-1]) == (66, "vmargs: (--host-config FILE names another)")


KINDS: st.SearchStrategy[list[Kind]] = st.lists(st.sampled_from(["port", "integrated", "sata"]), max_size=100)


@given(KINDS, KINDS)
def test_what_comes_later_moves_nothing(first: list[Kind], later: list[Kind]) -> None:
    assert allot([*first, *later])[:len(first)] == allot(first)


@given(KINDS)
def test_no_two_devices_have_one_place_and_function_0_is_never_empty(kinds: list[Kind]) -> None:
    used = [place for place, kind in zip(allot(kinds), kinds, strict=True) if kind != "sata"]
    assert len({place.address for place in used}) == len(used)
    assert {place.number // 8 for place in used} == {place.number // 8 for place in used if place.function == 0}


def test_slots_are_written_as_qemu_reads_them() -> None:
    places = allot(["port"] * PLACES)
    assert [(place.name, place.address) for place in places[71:73]] == [("9.7", "9.7"), ("10.0", "a.0")]
    with pytest.raises(UsageError):
        allot(["port"] * (PLACES + 1))
