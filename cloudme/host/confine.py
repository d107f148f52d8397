"""A thread that gives up what a program shall not have, and then starts it.

In Linux users, capabilities, no_new_privs, seccomp filters and Landlock domains belong to a thread (credentials(7)),
and a child has those of the thread that made it. So a thread of its own confines itself, starts the program, and ends;
the others stay what they are. That is why libc's setresuid is not called: it changes all threads (nptl(7)).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from cloudme.errors import HostUnavailable, NotPermitted
from cloudme.host import seccomp
from cloudme.model.confinement import Capability, Confinement, Reach

T = TypeVar("T")

SYSCALLS = {  # asm/unistd_64.h, asm-generic/unistd.h
    "x86_64": {"setgroups": 116, "setresuid": 117, "setresgid": 119},
    "aarch64": {"setgroups": 159, "setresuid": 147, "setresgid": 149},
}
SAME_EVERYWHERE = {"mount_setattr": 442, "landlock_create_ruleset": 444, "landlock_add_rule": 445,
                   "landlock_restrict_self": 446}

PR_SET_KEEPCAPS, PR_SET_SECCOMP, PR_CAPBSET_READ, PR_CAPBSET_DROP = 8, 22, 23, 24
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 38, 47
AMBIENT_RAISE, AMBIENT_CLEAR_ALL = 2, 4
"""linux/prctl.h."""
CLONE_NEWNS, AT_FDCWD, AT_RECURSIVE = 0x20000, -100, 0x8000
MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE, ATTR_RDONLY = 1 << 12, 1 << 14, 1 << 18, 1 << 19, 1
"""linux/sched.h, linux/fcntl.h, linux/mount.h."""
SECCOMP_MODE_FILTER, INSTRUCTION_BYTES = 2, 8
"""linux/seccomp.h, linux/filter.h."""
CAPABILITY_VERSION_3 = 0x20080522
SETPCAP = 8
"""linux/capability.h."""

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_FILE, MAKE_SOCK = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 9
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
READS = EXECUTE | READ_FILE | READ_DIR
WRITES = READ_FILE | READ_DIR | WRITE_FILE | REMOVE_FILE | MAKE_SOCK | TRUNCATE | IOCTL_DEV
REMOVE_DIR, MAKE_DIR, MAKE_REG, MAKE_FIFO, MAKE_SYM, REFER = 1 << 4, 1 << 7, 1 << 8, 1 << 10, 1 << 12, 1 << 13
TREES = WRITES | EXECUTE | REMOVE_DIR | MAKE_DIR | MAKE_REG | MAKE_FIFO | MAKE_SYM | REFER
FS_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""From which ABI on how many rights to files are known; all of them are handled."""
BIND_TCP, CONNECT_TCP = 1, 2
ABSTRACT_UNIX, SIGNAL = 1, 2
RULE_PATH, RULE_PORT = 1, 2
"""linux/landlock.h."""

_libc = ctypes.CDLL(None, use_errno=True)


def within(confinement: Confinement, work: Callable[[], T]) -> T:
    """Call `work` in a thread that is confined so, and return what it returns, or raise what it raises.

    Raises:  NotPermitted, HostUnavailable where a right could not be given up: then nothing was called.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            try:
                _confine(confinement)
            except OSError as error:
                raise NotPermitted(f"cannot give up rights: {error.strerror}",
                                   hint="in a container: allow it CAP_SETUID, CAP_SETGID, CAP_SETPCAP") from error
            done.append(work())
        except BaseException as error:  # it is raised in the thread that waits
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def foreign(uid: int) -> bool:
    """Whether we may become the user `uid`: we are root, and where users have other numbers outside, it has one."""
    if os.geteuid() != 0:
        return False
    with open("/proc/self/uid_map", encoding="ascii") as file:
        ranges = [[int(number) for number in line.split()] for line in file]
    return any(first <= uid < first + count for first, _, count in ranges)


def landlock_abi() -> int:
    """The version of Landlock that the kernel has; 0: none."""
    with contextlib.suppress(OSError):
        return _syscall("landlock_create_ruleset", None, 0, 1)
    return 0


def _confine(it: Confinement) -> None:
    """The order matters: rules are made while their paths can be reached; the bounding set needs a capability."""
    if it.frozen:
        _freeze(it.frozen)
    rules = _landlock(it.reach) if it.reach else -1
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    if rules >= 0:
        try:
            _syscall("landlock_restrict_self", rules, 0)
        finally:
            os.close(rules)
    _drop_bounding(it.keeps)
    _prctl(PR_CAP_AMBIENT, AMBIENT_CLEAR_ALL)
    if it.uid is not None:
        _become(it.uid, it.uid if it.gid is None else it.gid, it.groups)
    kept = _mask(it.keeps)
    _call("capset", _header(), struct.pack("6I", kept, kept, kept, 0, 0, 0))
    for capability in it.keeps:
        _prctl(PR_CAP_AMBIENT, AMBIENT_RAISE, capability)
    if it.reach:
        _filter(it.reach)


def _freeze(folders: tuple[str, ...]) -> None:
    """In mounts of this thread's own. What the host unmounts goes here, too, but in these folders."""
    _call("unshare", CLONE_NEWNS)
    _mount(None, "/", MS_SLAVE | MS_REC)
    for folder in folders:
        if folder != "/":  # which is a mount, and would not be covered by another
            _mount(folder, folder, MS_BIND | MS_REC)
        _mount(None, folder, MS_PRIVATE | MS_REC)
        attributes = struct.pack("QQQQ", ATTR_RDONLY, 0, 0, 0)
        _syscall("mount_setattr", AT_FDCWD, os.fsencode(folder), AT_RECURSIVE, attributes, len(attributes))


def _mount(source: str | None, target: str, flags: int) -> None:
    _call("mount", source and os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(flags), None)


def _become(uid: int, gid: int, groups: tuple[int, ...]) -> None:
    """Capabilities stay, so that some can be kept."""
    _prctl(PR_SET_KEEPCAPS, 1)
    _syscall("setgroups", len(groups), (ctypes.c_uint32 * len(groups))(*groups))
    _syscall("setresgid", gid, gid, gid)
    _syscall("setresuid", uid, uid, uid)


def _drop_bounding(keeps: tuple[Capability, ...]) -> None:
    """Who has no CAP_SETPCAP may not; no_new_privs keeps him from ever using what is in it."""
    sets = ctypes.create_string_buffer(24)
    _call("capget", _header(), sets)
    effective, = struct.unpack_from("I", sets)
    if not effective & 1 << SETPCAP:
        return
    for number in range(64):
        try:
            there = _prctl(PR_CAPBSET_READ, number)
        except OSError:
            return  # EINVAL: the kernel knows no more
        if there and number not in keeps:
            _prctl(PR_CAPBSET_DROP, number)


def _landlock(reach: Reach) -> int:
    """The descriptor of a ruleset; -1 where the kernel has no Landlock: all else is done without it."""
    abi = landlock_abi()
    if not abi:
        return -1
    handled = (1 << max(count for since, count in FS_RIGHTS.items() if since <= abi)) - 1
    attributes = struct.pack("QQQ", handled, BIND_TCP | CONNECT_TCP, ABSTRACT_UNIX | SIGNAL)
    attributes = attributes[:8 if abi < 4 else 16 if abi < 6 else 24]
    rules = _syscall("landlock_create_ruleset", attributes, len(attributes), 0)
    try:
        for path in reach.readable:
            with contextlib.suppress(FileNotFoundError):
                _allow(rules, path, READS & handled)
        _allow(rules, "/proc", READ_DIR)  # no file of it: subprocess looks into /proc/self/fd for what to close
        for path in reach.writable:
            _allow(rules, path, WRITES & handled)
        for path in reach.trees:
            _allow(rules, path, TREES & handled)
        for port in reach.ports if abi >= 4 else ():
            _syscall("landlock_add_rule", rules, RULE_PORT, struct.pack("QQ", BIND_TCP, port), 0)
    except BaseException:
        os.close(rules)
        raise
    return rules


def _allow(rules: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= FILE_RIGHTS
        _syscall("landlock_add_rule", rules, RULE_PATH, struct.pack("=Qi", rights, fd), 0)
    finally:
        os.close(fd)


def _filter(reach: Reach) -> None:
    """No new connections, which Landlock knows for TCP only: a machine's user reaches sockets of others by their paths,
    and, where it is ours, those of our session. io_uring goes past such filters (io_uring_enter(2)).
    """
    program = seccomp.here(tcp=bool(reach.ports))
    code = ctypes.create_string_buffer(program, len(program))
    _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER,
           struct.pack("HP", len(program) // INSTRUCTION_BYTES, ctypes.addressof(code)))


def _mask(capabilities: tuple[Capability, ...]) -> int:
    return sum(1 << capability for capability in capabilities)


def _header() -> bytes:
    return struct.pack("Ii", CAPABILITY_VERSION_3, 0)


def _prctl(option: int, *arguments: Any) -> int:
    return _call("prctl", option, *(ctypes.c_ulong(it) if isinstance(it, int) else it
                                    for it in (*arguments, 0, 0, 0, 0)[:4]))


def _syscall(name: str, *arguments: Any) -> int:
    number = SAME_EVERYWHERE.get(name) or SYSCALLS.get(os.uname().machine, {}).get(name)
    if number is None:
        raise HostUnavailable(f"the system call {name} of {os.uname().machine} is not known here")
    return _call("syscall", ctypes.c_long(number), *(ctypes.c_long(it) if isinstance(it, int) else it
                                                     for it in arguments))


def _call(function: str, *arguments: Any) -> int:
    """Call libc, which passes these on as they are, for this thread alone; raises OSError."""
    answer: int = getattr(_libc, function)(*arguments)
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer
