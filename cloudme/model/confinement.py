"""What a program may do, as values; `host/confine.py` makes them true in the thread that starts it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Capability(IntEnum):
    """Those of capabilities(7) that a program of ours keeps, by their numbers in linux/capability.h."""

    chown = 0
    dac_override = 1
    dac_read_search = 2
    fowner = 3
    fsetid = 4
    setgid = 6
    setuid = 7
    setpcap = 8
    net_bind_service = 10
    net_admin = 12
    net_raw = 13
    sys_chroot = 18
    sys_admin = 21


SERVES_A_NETWORK = (Capability.net_bind_service, Capability.net_admin, Capability.net_raw)
"""What DHCP and DNS need: low ports, the neighbour table, replies to clients that have no address yet."""


SERVES_FILES = (Capability.chown, Capability.dac_override, Capability.fowner, Capability.fsetid, Capability.setgid,
                Capability.setuid, Capability.setpcap, Capability.sys_chroot)
"""What root's virtiofsd needs to do as the users of a guest do; no device is made, and no file gets capabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What a program gets at by name. What it inherits open is its own in any case.

    readable:  files, and folders with all that is in them, to be read and run; those that are missing are left out.
    writable:  likewise to be read and written, and in folders to make sockets and remove files.
    trees:     likewise to be read and written, and in folders to make, rename and remove everything but devices.
    ports:     TCP ports that it may listen on. It connects to nothing, and without ports it has unix sockets only.
    """

    readable: tuple[str, ...]
    writable: tuple[str, ...]
    trees: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What a program is from its first instruction on; nothing that it starts can become more (no_new_privs).

    uid:     whose it is; None: ours, with our groups.
    gid:     its group where it has a uid of its own; None: the same number.
    groups:  its other groups then.
    keeps:   its capabilities, all in all.
    reach:   None: what its user gets at.
    frozen:  folders that nobody changes through it, whatever its rights: it has them, with all that is mounted below,
             read-only. Landlock keeps it from no chmod, chown or setxattr.
    """

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()
    keeps: tuple[Capability, ...] = ()
    reach: Reach | None = None
    frozen: tuple[str, ...] = ()
