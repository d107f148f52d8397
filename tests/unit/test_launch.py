"""What QEMU is told: a golden file a kind of machine, one argument a line."""

from __future__ import annotations

import dataclasses
import itertools
import os
from ipaddress import IPv6Interface
from pathlib import Path

import pytest

from cloudme.errors import UsageError
from cloudme.formats import records
from cloudme.model.hostconfig import Settings
from cloudme.model.launch import Launch
from cloudme.model.machine import Kernel, Machine
from cloudme.model.network import DEFAULT_NETWORK
from cloudme.qemu import files, launch

DATA = Path(__file__).parents[1] / "data"
PLACE = launch.Place(folder="/data/machines/web00", run="/run/cloudme/web00", accel="tcg",
                     networks={DEFAULT_NETWORK: Settings().network(IPv6Interface("fd12:3456:789a:1::1/64"))})


def machine() -> Machine:
    return records.machine((DATA / "records/machine-v1.json").read_text(encoding="utf-8"), "golden")


def argv(made: Launch) -> list[str]:
    return launch.argv(made, {role: number for number, role in enumerate(launch.roles(made), 10)})


CASES = {
    "clone": (machine(), PLACE),
    "kvm": (machine(), dataclasses.replace(PLACE, accel="kvm")),
    "installation": (dataclasses.replace(machine(), cdrom="/iso/arch, linux.iso", disks=machine().disks[:1],
                                         access=dataclasses.replace(machine().access, seeded=False)), PLACE),
    "devices": (dataclasses.replace(machine(), devices=("0000:01:00.0", "0000:01:00.1")),
                dataclasses.replace(PLACE, accel="kvm", iommu=("7",))),
}


@pytest.mark.parametrize("case", CASES)
def test_the_command_line_is_the_golden_one(case: str) -> None:
    golden = DATA / f"launch/{case}.argv"
    text = "\n".join(argv(launch.of(*CASES[case]))) + "\n"
    if os.environ.get("REGOLD"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_no_name_of_a_file_can_become_an_option() -> None:
    made = launch.of(machine(), dataclasses.replace(PLACE, folder="/data/a,id=b", run="/run/a,b"))
    sets = [value for option, value in itertools.pairwise(argv(made)) if option == "-add-fd"]
    assert [value.partition("opaque=")[2] for value in sets[:3]] == [
        "write:/data/a,,id=b/console.log", "write:/data/a,,id=b/firmware.log", "write:/data/a,,id=b/disk.qcow2"]


def test_qemu_is_told_no_path_but_of_what_it_shall_open_itself() -> None:
    """Those in -add-fd are for people; /dev/urandom is everybody's."""
    words = [value for option, value in itertools.pairwise(argv(launch.of(machine(), PLACE))) if option != "-add-fd"]
    assert not [word for word in words if "/data/" in word or "/run/" in word]


def test_the_disks_below_a_disk_are_nodes_of_their_own() -> None:
    made = files.chained(launch.of(machine(), PLACE), {"disk0": ["/warm/disk.qcow2", "/t/disk.qcow2"]})
    nodes = {str(part.props["node-name"]): part.props for part in made.parts if part.option == "blockdev"}
    order = list(nodes)
    assert nodes["disk0"]["backing"] == "disk0-base1" and nodes["disk0-base1"]["backing"] == "disk0-base2"
    assert "backing" not in nodes["disk0-base2"] and "backing" not in nodes["disk1"]
    assert nodes["disk0-base1-file"]["filename"] == "/warm/disk.qcow2"
    assert order.index("disk0-base2") < order.index("disk0-base1") < order.index("disk0")
    below = {file.role: file.flags for file in files.of(made) if "base" in file.role}
    assert below == {"disk0-base1-file": (os.O_RDONLY,), "disk0-base2-file": (os.O_RDONLY,)}


def test_the_memory_is_opened_anew_through_its_descriptor() -> None:
    made = launch.of(machine(), PLACE, launch.Ram(path="/warm/ram", qemu="7.2.22", use="clone"))
    line = argv(made)
    number = 10 + launch.roles(made).index(files.RAM)
    assert any(f'"mem-path":"/proc/self/fd/{number}"' in word for word in line)
    assert "/warm/ram" in files.reach(made, "/usr/bin/qemu", "/run/own").writable


def test_the_number_of_a_device_never_depends_on_another() -> None:
    """A machine with one disk less has the same cards in the same slots."""
    def slots(it: Machine) -> dict[str, str]:
        return {str(part.props["id"]): f"{part.props['bus']}/{part.props.get('addr')}"
                for part in launch.of(it, PLACE).parts if part.option == "device" and "bus" in part.props}

    whole = machine()
    assert slots(dataclasses.replace(whole, disks=whole.disks[:1])).items() <= slots(whole).items()


def small() -> Machine:
    kernel = Kernel(cmdline="root=/dev/vda1 quiet, x=1", initrd=True)
    return dataclasses.replace(machine(), board="microvm", kernel=kernel)


def test_a_kernel_is_handed_over_open_and_its_line_is_one_word() -> None:
    made = launch.of(small(), PLACE)
    line = argv(made)
    numbers = {role: 10 + launch.roles(made).index(role) for role in ("kernel", "initrd")}
    for role, number in numbers.items():
        assert line[line.index(f"-{role}") + 1] == f"/proc/self/fd/{number}"
    assert line[line.index("-append") + 1] == "root=/dev/vda1 quiet, x=1"
    assert {"/data/machines/web00/kernel", "/data/machines/web00/initrd"} <= set(
        files.reach(made, "/usr/bin/qemu", "/own").readable)
    plain = argv(launch.of(dataclasses.replace(small(), kernel=Kernel(cmdline="x")), PLACE))
    assert "-initrd" not in plain and "-kernel" in plain


def test_a_microvm_has_less_of_a_pc() -> None:
    made = launch.of(small(), PLACE)
    line = argv(made)
    assert line[line.index("-machine") + 1].startswith("microvm,memory-backend=ram0,acpi=on,pcie=on")
    drivers = [part.props["driver"] for part in made.parts if part.option == "device"]
    assert {"virtio-net-pci", "virtio-balloon-pci", "virtio-blk-pci", "virtserialport"} <= set(drivers)
    assert not {"pcie-root-port", "VGA", "vmgenid"} & set(drivers)
    assert all(part.props["bus"] == "pcie.0" for part in made.parts if str(part.props.get("driver")).endswith("-pci"))


@pytest.mark.parametrize("change", [{"kernel": None}, {"cdrom": "/x.iso"}, {"board": "pc"}])
def test_a_board_that_cannot_boot_so_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        dataclasses.replace(small(), **change)  # type: ignore[arg-type]


def test_a_command_line_is_a_line() -> None:
    for text in ("a\nb", "x" * 2048):
        with pytest.raises(UsageError):
            Kernel(cmdline=text)


def test_a_vsock_is_the_kernels_end_handed_over_and_not_in_a_saved_state() -> None:
    it = dataclasses.replace(machine(), vsock_cid=42)
    made = launch.of(it, PLACE)
    number = 10 + launch.roles(made).index("vsock")
    assert any(f'"vhostfd":"{number}"' in word and '"guest-cid":42' in word for word in argv(made))
    assert files.devices(made) == {"vsock": "/dev/vhost-vsock"}
    assert not files.devices(launch.of(it, PLACE, launch.Ram(path="/r", qemu="7.2.22", use="clone")))
    assert not files.devices(launch.of(machine(), PLACE))


@pytest.mark.parametrize("cid", [0, 2, (1 << 32) - 1])
def test_some_numbers_are_no_machines(cid: int) -> None:
    with pytest.raises(UsageError):
        dataclasses.replace(machine(), vsock_cid=cid)
