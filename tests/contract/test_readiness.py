"""Waits over a real QEMU, whose guest is a boot sector that says one thing on the serial port and halts."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudme import layout
from cloudme.errors import CloudMeError, PeerError, TimedOut
from cloudme.host.agent import GuestAgent
from cloudme.host.qemu import Qemu
from cloudme.host.run import Programs
from cloudme.model.machine import Access, Disk, Machine, Shape
from cloudme.model.names import Name
from cloudme.model.ports import Host
from cloudme.operations import readiness
from cloudme.qemu import launch
from cloudme.store import Store
from tests import fakes

SAY = bytes.fromhex("31c0 8ed8 be157c baf803 ac 84c0 7403 ee ebf8 f4 ebfd")
"""xor ax,ax; mov ds,ax; mov si,0x7c15; mov dx,0x3f8; 1: lodsb; test al,al; jz 2f; out dx,al; jmp 1b; 2: hlt; jmp 2b"""

SHOW = bytes.fromhex("31c0 8ed8 be157c b40e ac 84c0 7404 cd10 ebf7 f4 ebfd")
"""The same on the screen: mov ah,0x0e; 1: lodsb; test al,al; jz 2f; int 0x10; jmp 1b; 2: hlt; jmp 2b"""


def boot_sector(words: str, program: bytes = SAY) -> bytes:
    return (program + words.encode() + b"\0").ljust(510, b"\0") + b"\x55\xaa"


@pytest.fixture
def host() -> Host:
    return dataclasses.replace(fakes.host(), qemu=Qemu(Programs(), fakes.FakeNet()), agent=GuestAgent())


@pytest.fixture
def start(home: Path, host: Host) -> Iterator[Callable[[bytes], tuple[Store, Machine]]]:
    """Starts a machine whose disk begins with the bytes given."""
    store = Store(layout.world())
    machine = Machine(
        name=Name("web00"), uuid="5d5c1a52-6d0b-4a55-8b8e-000000000001", group="pf1", type=Name("web"), template=None,
        shape=Shape(vcpus=1, ram_mib=64), disks=(Disk(file="disk.qcow2", size_bytes=1 << 20),), nics=(),
        access=Access(user="root", key_of=Name("debian"), seeded=False), created="2025-11-20T22:00:00Z",
    )
    folder = store.folder(machine)

    def begin(sector: bytes) -> tuple[Store, Machine]:
        os.makedirs(folder, exist_ok=True)
        raw = Path(folder, "disk.raw")
        raw.write_bytes(sector.ljust(1 << 20, b"\0"))
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, Path(folder, "disk.qcow2")], check=True)
        host.qemu.start(launch.of(machine, launch.Place(
            folder=folder, run=store.run_folder(machine), accel="tcg", networks={})))
        return store, machine

    yield begin
    host.qemu.kill(layout.lock(folder))


def failure(host: Host, store: Store, machine: Machine, *, timeout_s: float = 120) -> CloudMeError:
    with pytest.raises(CloudMeError) as caught:
        readiness.wait(host, store, [machine], "booted", timeout_s=timeout_s, say=lambda line: None)
    return caught.value


@pytest.mark.parametrize(("sector", "why"), [
    (b"", "the firmware found no disk to boot"),
    (boot_sector("[    1.8] Kernel panic - not syncing: VFS: no root\r\n"), "the kernel panicked: VFS: no root"),
    (boot_sector("GNU GRUB  version 2.06\r\ngrub> "), "the boot loader finds nothing to start: grub>"),
    (boot_sector("error: no such device: 6f.\r\nEntering rescue mode...\r\ngrub rescue> ", SHOW),
     "the boot loader finds nothing to start: grub rescue>"),
    (boot_sector("You are in emergency mode.\r\n"), "the guest went into emergency mode"),
])
def test_a_guest_that_will_never_boot_ends_the_wait_with_the_reason(
    host: Host, start: Callable[[bytes], tuple[Store, Machine]], sector: bytes, why: str,
) -> None:
    error = failure(host, *start(sector))
    assert isinstance(error, PeerError)
    assert why in error.message


def test_a_login_prompt_ends_the_wait(host: Host, start: Callable[[bytes], tuple[Store, Machine]]) -> None:
    store, machine = start(boot_sector("web00 login: "))
    readiness.wait(host, store, [machine], "booted", timeout_s=120, say=lambda line: None)


def test_a_disk_that_says_nothing_is_told_apart_from_none(
    host: Host, start: Callable[[bytes], tuple[Store, Machine]],
) -> None:
    error = failure(host, *start(boot_sector("Missing operating system", SHOW)), timeout_s=4)
    assert isinstance(error, TimedOut)
    assert "says nothing on the serial console; its screen: " in error.message
    assert error.message.endswith("Missing operating system")


def test_what_was_said_before_a_restart_is_forgotten(
    host: Host, start: Callable[[bytes], tuple[Store, Machine]],
) -> None:
    store, machine = start(boot_sector("Kernel panic - not syncing: old\r\n"))
    failure(host, store, machine)
    host.qemu.kill(layout.lock(store.folder(machine)))
    store, machine = start(boot_sector("web00 login: "))
    readiness.wait(host, store, [machine], "booted", timeout_s=120, say=lambda line: None)


def test_a_killed_qemu_ends_the_wait_at_once(host: Host, start: Callable[[bytes], tuple[Store, Machine]]) -> None:
    store, machine = start(boot_sector(""))
    host.qemu.kill(layout.lock(store.folder(machine)))
    error = failure(host, store, machine)
    assert isinstance(error, PeerError)
    assert "did not reach 'process'" in error.message
