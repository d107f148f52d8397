"""Realms of ordinary users: a user namespace, in which they may have a network namespace (user_namespaces(7)).

Nobody has to keep them open: dnsmasq lives in them as long as a network is started, and so does every machine. A user
keeps his own number inside, so that what he starts is not root there either, and loses with its exec all that the
namespace would permit, but for three capabilities that nft and dnsmasq need.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pwd
import struct
from collections.abc import Iterator

from cloudme import index, layout
from cloudme.errors import HostUnavailable, NotFound, NotPermitted
from cloudme.host import holders, realm
from cloudme.host.confine import AMBIENT_RAISE, CAPABILITY_VERSION_3, PR_CAP_AMBIENT
from cloudme.layout import World
from cloudme.model.confinement import SERVES_A_NETWORK, Capability
from cloudme.model.ports import Outside

CLONE_NEWUSER = 0x10000000
"""linux/sched.h."""
IDS_MIN = 65535
"""Debian's own users, nobody (65534) among them, but for root (Debian Policy, 9.2.2)."""


def keepers(world: World) -> Iterator[int]:
    """The processes that live in the user's realm: each dnsmasq of its networks, else the machines that run."""
    folders = os.listdir(world.realm_run) if os.path.isdir(world.realm_run) else []
    for folder in sorted(folders):
        prefix, _, name = folder.partition(".")
        if prefix == "networks":
            conf = world.dnsmasq(name, "conf")
            with contextlib.suppress(OSError, ValueError):
                with open(world.dnsmasq(name, "pid"), encoding="ascii") as file:
                    pid = int(file.read())
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    if os.fsencode(conf) in file.read():
                        yield pid
    for things, folder_of in ((world.machines, world.machine), (world.templates, world.template)):
        for lock in (layout.lock(folder_of(name)) for name in index.names(things)):
            with contextlib.suppress(NotFound, NotPermitted):
                if not os.path.islink(lock) and index.held(lock):  # what systemd runs is in the host's network
                    yield holders.open_by(lock)


def enter(pid: int) -> bool:
    """From here on this process is in the namespaces of process `pid`; False where that has ended, or is in no such.

    It may have one thread only (setns(2)). Raises NotPermitted.
    """
    try:
        user, net = (os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("user", "net"))
    except OSError:
        return False
    try:
        if os.path.sameopenfile(user, own := os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)):
            os.close(own)
            return False
        os.close(own)
        realm.call("setns", user, CLONE_NEWUSER)
        realm.call("setns", net, realm.CLONE_NEWNET)
        _keep(*SERVES_A_NETWORK)
    except OSError as error:
        raise _told(error) from error
    finally:
        os.close(user)
        os.close(net)
    return True


def enter_user(pid: int) -> None:
    """Only the user namespace of process `pid`, with what a program needs to make links in its network namespace.

    Raises:  OSError.
    """
    user = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    realm.call("setns", user, CLONE_NEWUSER)
    os.close(user)
    _keep(Capability.net_admin, Capability.sys_admin)


def fresh() -> None:
    """Move this process, which has one thread, into namespaces of its own, with `lo` up. They end with their last
    process. Raises NotPermitted, HostUnavailable."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        realm.call("unshare", CLONE_NEWUSER | realm.CLONE_NEWNET)
        for file, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{file}", "w", encoding="ascii") as proc:
                proc.write(text)
        _keep(*SERVES_A_NETWORK)
        realm.up("lo")
    except OSError as error:
        raise _told(error) from error


def become_root(outside: Outside) -> None:
    """Make this process, which has one thread, root in a user namespace of its own, over the user's subordinate ids.

    It stays in the network that it is in. Nothing for who is root. Raises NotPermitted, MissingProgram.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        return
    user = pwd.getpwuid(uid).pw_name
    ranges = [_subordinate(f"/etc/sub{kind}", user, uid) for kind in ("uid", "gid")]
    try:
        realm.call("unshare", CLONE_NEWUSER)
        for program, own, (first, count) in zip(("newuidmap", "newgidmap"), (uid, gid), ranges, strict=True):
            outside.run([program, *map(str, (os.getpid(), 0, own, 1, 1, first, count))])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError as error:
        raise _told(error) from error


def _subordinate(path: str, user: str, uid: int) -> tuple[int, int]:
    """First and number of a user's subordinate ids (subuid(5)). Raises NotPermitted where there are too few."""
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        for line in file:
            name, first, count = line.strip().split(":")
            if name in (user, str(uid)) and int(count) >= IDS_MIN:
                return int(first), int(count)
    raise NotPermitted(f"{path} gives '{user}' no {IDS_MIN} ids: packages have files of several users",
                       hint=f"an administrator gives them: usermod --add-subuids 100000-165535 "
                            f"--add-subgids 100000-165535 {user}")


def _keep(*capabilities: Capability) -> None:
    """Let programs that are started inside keep these capabilities (capabilities(7), ambient)."""
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    sets = ctypes.create_string_buffer(24)
    realm.call("capget", header, sets)
    effective, permitted, _, *high = struct.unpack("6I", sets.raw)
    inheritable = sum(1 << capability for capability in capabilities)
    realm.call("capset", header, struct.pack("6I", effective, permitted, inheritable, *high))
    for capability in capabilities:
        realm.call("prctl", PR_CAP_AMBIENT, AMBIENT_RAISE, capability, 0, 0)


def _told(error: OSError) -> NotPermitted | HostUnavailable:
    if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EUSERS):
        return NotPermitted(
            "this host does not let ordinary users have namespaces of their own",
            hint="an administrator permits it: sysctl kernel.unprivileged_userns_clone=1 (Debian), "
                 "kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), user.max_user_namespaces=65536")
    return HostUnavailable(f"cannot make or enter namespaces: {error.strerror}")
