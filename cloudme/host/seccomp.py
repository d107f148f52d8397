"""The filter of system calls: no connection, by whatever call, and of sockets only unix ones, or TCP's to listen on.

Landlock knows plain TCP's bind and connect only. So what else could speak to a network is refused by its call.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence

from cloudme.errors import HostUnavailable

CALLS = {  # asm/unistd_64.h, asm-generic/unistd.h
    "x86_64": {"socket": 41, "connect": 42, "sendto": 44, "sendmsg": 46, "setsockopt": 54, "sendmmsg": 307},
    "aarch64": {"socket": 198, "connect": 203, "sendto": 206, "sendmsg": 211, "setsockopt": 208, "sendmmsg": 269},
}
IO_URING_SETUP = 425
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""linux/audit.h."""
X32 = 0x40000000
"""From here on the numbers of x86-64's other, 32-bit calls; aarch64 has none as high."""
TYPE_MASK = 0xF
"""linux/net.h: what of a socket's type is not a flag."""
FASTOPEN, FASTOPEN_CONNECT = 0x20000000, 30
"""linux/socket.h: MSG_FASTOPEN, which connects as it sends; linux/tcp.h: the option that makes any sending do so."""

LOAD, AND, ANSWER = 0x20, 0x54, 0x06
EQUAL, AT_LEAST, ANY_BIT = 0x15, 0x35, 0x45
"""linux/bpf_common.h: LD|W|ABS, ALU|AND|K, RET|K; JMP|K with JEQ, JGE, JSET."""
REFUSED, ALLOWED = 0x00050001, 0x7FFF0000
"""linux/seccomp.h: SECCOMP_RET_ERRNO with EPERM, SECCOMP_RET_ALLOW."""
NUMBER, ARCHITECTURE = 0, 4
"""linux/seccomp.h: where they are in what a filter is given."""

Line = tuple[int, int] | tuple[int, int, str] | tuple[int, int, str, str] | str
"""Operation, value, for a comparison where to go if it holds, and if not (else: on); or the name of the next line."""


def program(machine: str, *, tcp: bool) -> bytes:
    """What the kernel shall run at each system call, as an array of struct sock_filter (linux/filter.h).

    machine:  as uname(2) has it.
    tcp:      TCP's sockets, too: it connects with none of them.
    """
    if machine not in CALLS:
        raise HostUnavailable(f"no filter of system calls for {machine} is known", hint="x86-64, or ARM of 64 bits")
    call = CALLS[machine]
    internet = [(EQUAL, family, "internet") for family in (socket.AF_INET, socket.AF_INET6) if tcp]
    return _assembled([
        (LOAD, ARCHITECTURE), (EQUAL, AUDIT_ARCH[machine], "", "refuse"),
        (LOAD, NUMBER),
        (AT_LEAST, X32, "refuse"),
        (EQUAL, call["connect"], "refuse"),
        (EQUAL, IO_URING_SETUP, "refuse"),
        (EQUAL, call["socket"], "socket"),
        (EQUAL, call["setsockopt"], "option"),
        (EQUAL, call["sendmsg"], "flags in 2"),
        (EQUAL, call["sendto"], "flags in 3"),
        (EQUAL, call["sendmmsg"], "flags in 3", "allow"),

        "flags in 2", (LOAD, _argument(2)), (ANY_BIT, FASTOPEN, "refuse", "allow"),
        "flags in 3", (LOAD, _argument(3)), (ANY_BIT, FASTOPEN, "refuse", "allow"),

        "option", (LOAD, _argument(1)), (EQUAL, socket.IPPROTO_TCP, "", "allow"),
        (LOAD, _argument(2)), (EQUAL, FASTOPEN_CONNECT, "refuse", "allow"),

        "socket", (LOAD, _argument(0)), (EQUAL, socket.AF_UNIX, "allow"), *internet, (ANSWER, REFUSED),
        "internet", (LOAD, _argument(1)), (AND, TYPE_MASK), (EQUAL, socket.SOCK_STREAM, "", "refuse"),
        (LOAD, _argument(2)), (EQUAL, 0, "allow"), (EQUAL, socket.IPPROTO_TCP, "allow", "refuse"),

        "refuse", (ANSWER, REFUSED),
        "allow", (ANSWER, ALLOWED),
    ])


def here(*, tcp: bool) -> bytes:
    """That of this host."""
    return program(os.uname().machine, tcp=tcp)


def _argument(number: int) -> int:
    """Where the lower half of an argument is. All that are looked at are ints: the kernel ignores the upper one."""
    return 16 + 8 * number


def _assembled(lines: Sequence[Line]) -> bytes:
    """Where to go is counted from the next instruction on, and only ever ahead."""
    at: dict[str, int] = {}
    instructions: list[Sequence[int | str]] = []
    for line in lines:
        if isinstance(line, str):
            at[line] = len(instructions)
        else:
            instructions.append(line)

    def encoded() -> Iterator[bytes]:
        for following, (operation, value, *names) in enumerate(instructions, 1):
            yes, no = (at[str(name)] - following if name else 0 for name in (*names, "", "")[:2])
            yield struct.pack("HBBI", operation, yes, no, value)

    return b"".join(encoded())
