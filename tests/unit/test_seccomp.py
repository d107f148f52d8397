"""The filter as the kernel would run it, also on the machines that we are not on."""

from __future__ import annotations

import errno
import socket
import struct

import pytest

from cloudme.errors import HostUnavailable
from cloudme.host import seccomp

OURS = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NUMBERS = {  # as the headers have them: those of man 2 syscalls, by machine
    "x86_64": {"read": 0, "connect": 42, "socket": 41, "sendto": 44, "sendmsg": 46, "sendmmsg": 307, "setsockopt": 54},
    "aarch64": {"read": 63, "connect": 203, "socket": 198, "sendto": 206, "sendmsg": 211, "sendmmsg": 269,
                "setsockopt": 208},
}
FAST = 0x20000000
REFUSED = [("connect",), ("socket", socket.AF_NETLINK, 3, 0), ("socket", 2, 2, 0), ("socket", 10, 2, 17),
           ("socket", 2, 1, 262), ("socket", 2, 0x80802, 0), ("socket", 2, 5, 132), ("socket", 2, 2 | 1 << 32, 0),
           ("sendto", 3, 0, 1, FAST),
           ("sendmmsg", 3, 0, 1, FAST | 0x4000), ("sendmsg", 3, 0, FAST), ("setsockopt", 3, 6, 30)]
ALLOWED = [("read", 3), ("socket", socket.AF_UNIX, 2, 0), ("sendto", 3, 0, FAST, 0x4000),
           ("sendmsg", 3, 0, 0x4000, FAST), ("sendmmsg", 3, 0, 1, 0), ("setsockopt", 3, 1, 30), ("setsockopt", 3, 6, 1)]
TCP = [("socket", 2, 1, 0), ("socket", 10, 0x80801, 6)]


def answer(code: bytes, architecture: int, number: int, *arguments: int) -> int:
    data = struct.pack("<IIQ6Q", number, architecture, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    lines = list(struct.iter_unpack("HBBI", code))
    at = held = 0
    while True:
        operation, yes, no, value = lines[at]
        at += 1
        if operation == 0x06:
            return int(value)
        if operation == 0x20:
            held, = struct.unpack_from("<I", data, value)
        elif operation == 0x54:
            held &= value
        else:
            at += yes if {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[operation] else no


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("tcp", [True, False])
def test_what_is_refused_and_what_is_not(machine: str, tcp: bool) -> None:
    code = seccomp.program(machine, tcp=tcp)
    refused = 0x00050000 | errno.EPERM

    def answers(calls: list[tuple[str | int, ...]]) -> set[int]:
        return {answer(code, OURS[machine], NUMBERS[machine][str(name)], *map(int, rest)) for name, *rest in calls}

    assert answers([*REFUSED]) == {refused}
    assert answers([*ALLOWED]) == {0x7FFF0000}
    assert answers([*TCP]) == {0x7FFF0000 if tcp else refused}
    assert answer(code, OURS[machine], 425) == refused
    assert answer(code, OURS[machine], 0x40000000) == refused
    assert answer(code, 0x40000003, NUMBERS[machine]["read"]) == refused, "a 32-bit program's call"


def test_another_machine_is_not_guessed_at() -> None:
    with pytest.raises(HostUnavailable, match="no filter of system calls for riscv64"):
        seccomp.program("riscv64", tcp=False)
