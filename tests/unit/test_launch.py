"""What QEMU is told: a golden file a kind of machine, one argument a line."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from pathlib import Path

import pytest

from cloudme.formats import records
from cloudme.model.hostconfig import Settings
from cloudme.model.launch import Launch
from cloudme.model.machine import Machine
from cloudme.model.network import DEFAULT_NETWORK
from cloudme.qemu import launch

DATA = Path(__file__).parents[1] / "data"
PLACE = launch.Place(folder="/data/machines/web00", run="/run/cloudme/web00", accel="tcg",
                     networks={DEFAULT_NETWORK: Settings().network()})


def machine() -> Machine:
    return records.machine((DATA / "records/machine-v1.json").read_text(encoding="utf-8"), "golden")


def argv(made: Launch) -> list[str]:
    roles = [*(listener.role for listener in (*made.monitors, *made.chardevs)), *(tap.netdev for tap in made.taps)]
    return launch.argv(made, {role: number for number, role in enumerate(roles, 10)})


CASES = {
    "clone": (machine(), PLACE),
    "kvm": (machine(), dataclasses.replace(PLACE, accel="kvm")),
    "installation": (dataclasses.replace(machine(), cdrom="/iso/arch, linux.iso", disks=machine().disks[:1],
                                         access=dataclasses.replace(machine().access, seeded=False)), PLACE),
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
    line = argv(made)
    values = [json.loads(value) for option, value in itertools.pairwise(line) if option == "-blockdev"]
    assert values[0]["filename"] == "/data/a,id=b/disk.qcow2"
    assert "unix:/run/a,,b/vnc" in line


def test_the_number_of_a_device_never_depends_on_another() -> None:
    """A machine with one disk less has the same cards in the same slots."""
    def slots(it: Machine) -> dict[str, str]:
        return {str(part.props["id"]): f"{part.props['bus']}/{part.props.get('addr')}"
                for part in launch.of(it, PLACE).parts if part.option == "device" and "bus" in part.props}

    whole = machine()
    assert slots(dataclasses.replace(whole, disks=whole.disks[:1])).items() <= slots(whole).items()
