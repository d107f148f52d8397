"""Realms: network namespaces, named the way ip-netns(8) finds them. Python 3.11 has no setns: libc is called."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct

from cloudme.errors import HostUnavailable, NotFound, NotPermitted

CLONE_NEWNET = 0x40000000
"""linux/sched.h."""
MS_BIND, MS_REC, MS_SHARED = 1 << 12, 1 << 14, 1 << 20
MNT_DETACH = 2
"""sys/mount.h."""
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 1
"""linux/sockios.h, linux/if.h; see netdevice(7)."""

OURS = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


def enter(path: str, realm: str) -> None:
    """From here on this thread, and threads it starts, are in the namespace `path`.

    Raises:  NotFound where it is missing (or a stale file of an earlier boot), NotPermitted.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            call("setns", fd, CLONE_NEWNET)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL):
            raise NotFound(f"no realm '{realm}'", hint=f"cmnet start --realm {realm}") from None
        raise _told(error, f"enter the realm '{realm}'") from error


def exists(path: str) -> bool:
    """True where `path` is a namespace that is mounted, not the bare file that a reboot or a crash leaves."""
    return os.path.ismount(path)


def fresh() -> None:
    """Move this thread into a namespace of its own, with `lo` up, that ends with its last process."""
    try:
        call("unshare", CLONE_NEWNET)
        up("lo")
    except OSError as error:
        raise _told(error, "make a network namespace") from error


def make(path: str) -> None:
    """Make the namespace `path` and move this thread into it. Raises NotPermitted."""
    folder = os.path.dirname(path)
    fresh()
    try:
        os.makedirs(folder, 0o755, exist_ok=True)
        _share(folder)
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0))
        call("mount", OURS.encode(), path.encode(), b"none", MS_BIND, None)
    except OSError as error:
        raise _told(error, f"make the realm {path}") from error


def remove(path: str) -> None:
    """Take the name away; the namespace ends with its last process. Missing: nothing."""
    try:
        with contextlib.suppress(FileNotFoundError):
            while exists(path):
                call("umount2", path.encode(), MNT_DETACH)
            os.unlink(path)
    except OSError as error:
        raise _told(error, f"remove the realm {path}") from error


def up(name: str) -> None:
    """Set a link up. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh22x", name.encode(), 0)
        flags = struct.unpack("16sh22x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", name.encode(), flags | IFF_UP))


def _share(folder: str) -> None:
    """As `ip netns add` does: mounts in `folder` shall be seen, and undone, in every mount namespace."""
    try:
        call("mount", b"", folder.encode(), b"none", MS_SHARED | MS_REC, None)
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: it is no mount point yet
            raise
        call("mount", folder.encode(), folder.encode(), b"none", MS_BIND | MS_REC, None)
        call("mount", b"", folder.encode(), b"none", MS_SHARED | MS_REC, None)


def call(function: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> None:
    """Call libc; raises OSError."""
    if getattr(_libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _told(error: OSError, what: str) -> NotPermitted | HostUnavailable:
    if error.errno in (errno.EPERM, errno.EACCES):
        return NotPermitted(f"may not {what}", hint="run it with sudo")
    return HostUnavailable(f"cannot {what}: {error.strerror}")
