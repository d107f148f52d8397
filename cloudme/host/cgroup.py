"""Cgroups of machines (cgroups(7), version 2): systemd's transient scopes, or, where it is not, folders of our own.

systemd is the only one to write below its tree: there we ask it over D-Bus. An ordinary user's scopes end with his last
session, and his machines with them, unless he lingers (loginctl(1)).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import select
import time
from collections.abc import Iterator
from typing import Protocol

from cloudme.errors import CloudMeError, CommandFailed, HostUnavailable, NotPermitted
from cloudme.model.groups import Group
from cloudme.model.limits import UNLIMITED
from cloudme.model.machine import Limits
from cloudme.model.ports import Run
from cloudme.model.units import MIB

NEEDS = {"cpus": "cpu", "cpu_weight": "cpu", "memory_mib": "memory", "tasks": "pids", "io_bps": "io"}
"""The controller of each limit."""
PERIOD_US = 100_000
SECOND_US = 1_000_000
INFINITY = (1 << 64) - 1
"""systemd's CGROUP_LIMIT_MAX: no limit."""
ANSWER_S = 10
"""What systemd gets to answer: it does in a hundredth of a second."""

STOPPER = "cloudme-homelab.service"
"""What powers machines down when the host does: after it only systemd may end their scopes (systemd.unit(5))."""

GONE_S = 2
"""What systemd gets to hear that a scope has no process any more."""


class Tree(Protocol):
    """One of the two ways."""

    def controllers(self) -> set[str]:
        """Those that a group may have here."""

    def lacking(self, controller: str) -> CloudMeError:
        """Why it may not have that one."""

    def hold(self, group: Group, pid: int) -> None: ...

    def change(self, group: Group) -> bool: ...

    def sweep(self) -> None: ...


class Groups:
    """Implements the port of the same name. root: '/' but in tests."""

    def __init__(self, run: Run, root: str = "/") -> None:
        self._run = run
        self._root = root

    def check(self, own: Limits, folder: str) -> None:
        wanted = {controller for field, controller in NEEDS.items() if getattr(own, field)}
        if not wanted:
            return
        tree = self._tree()
        for controller in sorted(wanted - tree.controllers()):
            raise tree.lacking(controller)
        if own.io_bps and device(folder) is None:
            raise HostUnavailable(f"no single disk is below {folder}: what is read and written there cannot be limited",
                                  hint="leave out io")

    def hold(self, group: Group, pid: int) -> None:
        try:
            self.check(group.own, group.folder)
            self._tree().hold(self._possible(group), pid)
        except (CloudMeError, OSError) as error:
            if not any(getattr(group.own, field) for field in NEEDS) or _ended(pid):
                return
            if isinstance(error, CloudMeError):
                raise
            raise HostUnavailable(f"'{group.name}' gets no cgroup: {error.filename or ''} {error.strerror}") from error

    def change(self, group: Group) -> bool:
        try:
            tree = self._tree()
        except CloudMeError:
            return False
        try:
            return tree.change(self._possible(group))
        except OSError as error:
            raise HostUnavailable(f"the limits of '{group.name}' stay: {error.filename} {error.strerror}") from error

    def sweep(self) -> None:
        with contextlib.suppress(CloudMeError, OSError):
            self._tree().sweep()

    def _possible(self, group: Group) -> Group:
        """Without the limits of the host's settings that cannot be held here, or would kill who does nothing wrong."""
        controllers, limits = self._tree().controllers(), {}
        for field, controller in NEEDS.items():
            value = getattr(group.limits, field)
            impossible = controller not in controllers or (field == "io_bps" and device(group.folder) is None)
            lethal = field == "memory_mib" and getattr(group.own, field) is None and in_memory(group.folder)
            limits[field] = None if impossible or lethal else value
        return Group(name=group.name, limits=Limits(**limits), own=group.own, folder=group.folder)

    def _tree(self) -> Tree:
        """Raises HostUnavailable, NotPermitted."""
        top = self._mounted()
        if os.path.isdir(os.path.join(self._root, "run/systemd/system")):  # sd_booted(3)
            return Scopes(self._run, top, self._root)
        return Folders(top, self._own(top))

    def _mounted(self) -> str:
        """Where the cgroups of version 2 are, if any controller of ours is in them (proc_pid_mountinfo(5))."""
        with contextlib.suppress(OSError):
            for line in _read(self._root, "proc/self/mountinfo").splitlines():
                fields, _, kind = line.partition(" - ")
                if kind.startswith("cgroup2 "):
                    path = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields.split()[4])
                    folder = os.path.join(self._root, path.lstrip("/"))
                    if {*_read(folder, "cgroup.controllers").split()} & {*NEEDS.values()}:
                        return folder
        raise HostUnavailable("this host has no cgroups of version 2: nothing holds a machine to limits",
                              hint="boot it with systemd.unified_cgroup_hierarchy=1, or, without systemd: "
                                   "mount -t cgroup2 none /sys/fs/cgroup")

    def _own(self, top: str) -> str:
        """The cgroup that we are in."""
        for line in _read(self._root, "proc/self/cgroup").splitlines():
            if line.startswith("0::"):
                path = line.removeprefix("0::/")
                return top if path.startswith("..") else os.path.normpath(os.path.join(top, path))
        return top


class Scopes:
    """systemd's: a scope a machine, in a slice of ours (org.freedesktop.systemd1(5))."""

    def __init__(self, run: Run, top: str, root: str) -> None:
        """Raises NotPermitted for a user who does not linger, HostUnavailable where he has no bus."""
        self._run = run
        self._uid = os.geteuid()
        self._top = top
        if self._uid:
            user = pwd.getpwuid(self._uid).pw_name
            self._top = os.path.join(top, f"user.slice/user-{self._uid}.slice/user@{self._uid}.service")
            if not os.path.exists(os.path.join(root, "var/lib/systemd/linger", user)):
                raise NotPermitted("your machines would end with your session if systemd held them to limits",
                                   hint="loginctl enable-linger")
            if not os.path.exists(os.path.join(os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{self._uid}"), "bus")):
                raise HostUnavailable("you have no bus on which your systemd could be asked to hold machines to limits",
                                      hint="apt install dbus-user-session, and log in again")

    def controllers(self) -> set[str]:
        with contextlib.suppress(OSError):
            return set(_read(self._top, "cgroup.controllers").split())
        return set()

    def lacking(self, controller: str) -> CloudMeError:
        if self._uid:
            return NotPermitted(
                f"the controller '{controller}' was not delegated to you",
                hint="/etc/systemd/system/user@.service.d/cloudme.conf: [Service] Delegate=cpu cpuset io memory pids")
        return _absent(controller)

    def hold(self, group: Group, pid: int) -> None:
        """The scope of a machine that ended a moment ago goes when systemd has heard of it."""
        patience = time.monotonic() + GONE_S
        while True:
            try:
                self._tell("StartTransientUnit", "ssa(sv)a(sa(sv))", [_unit(group), "fail"], [
                    ["PIDs", "au", "1", str(pid)], ["Slice", "s", "cloudme.slice"],
                    ["CollectMode", "s", "inactive-or-failed"], ["Before", "as", "1", STOPPER],
                    ["Description", "s", f"cloudMe machine {group.name}"], *_properties(group)], ["0"])
                return
            except CommandFailed as error:
                if "already" not in error.message or time.monotonic() > patience:
                    raise

    def change(self, group: Group) -> bool:
        try:
            self._tell("SetUnitProperties", "sba(sv)", [_unit(group), "true"], _properties(group), [])
        except CommandFailed as error:
            if f"Unit {_unit(group)} not" in error.message:  # loaded, or found
                return False
            raise
        return True

    def sweep(self) -> None:
        """systemd takes a scope away when its last process has ended."""

    def _tell(
        self, method: str, signature: str, first: list[str], properties: list[list[str]], last: list[str],
    ) -> None:
        manager = "org.freedesktop.systemd1"
        words = [word for one in properties for word in one]
        self._run(["busctl", "--user" if self._uid else "--system", "--quiet", "call", manager,
                   "/org/freedesktop/systemd1", f"{manager}.Manager", method, signature, *first,
                   str(len(properties)), *words, *last], timeout_s=ANSWER_S)


def _unit(group: Group) -> str:
    return f"cloudme-{group.name}.scope"


def _properties(group: Group) -> list[list[str]]:
    """The limits of a group as busctl(1) wants them: name, type, value."""
    def numbered(name: str, value: float | None) -> list[list[str]]:
        return [] if value is None else [[name, "t", str(INFINITY if value == UNLIMITED else round(value))]]

    limits = group.limits
    memory = None if limits.memory_mib is None else limits.memory_mib * MIB
    found = numbered("CPUQuotaPerSecUSec", None if limits.cpus is None else limits.cpus * SECOND_US)
    found += numbered("CPUWeight", limits.cpu_weight)
    found += numbered("MemoryMax", memory) + numbered("MemorySwapMax", memory) + numbered("TasksMax", limits.tasks)
    if limits.io_bps is not None:
        rate = str(limits.io_bps or INFINITY)
        found += [[f"IO{way}BandwidthMax", "a(st)", "1", group.folder, rate] for way in ("Read", "Write")]
    return found


class Folders:
    """Our own, below the topmost cgroup that we may write to: for root the uppermost, for others what was delegated."""

    def __init__(self, top: str, own: str) -> None:
        """Raises NotPermitted where nothing was delegated, HostUnavailable where root may write nothing."""
        mine = ""
        while _writable(own):
            mine = own
            if own == top:
                break
            own = os.path.dirname(own)
        if not mine and os.geteuid() == 0:
            raise HostUnavailable(f"the cgroups in {top} cannot be changed from here",
                                  hint=f"in a container: mount -o remount,rw {top}")
        if not mine:
            raise NotPermitted("no cgroup was delegated to you: nothing holds your machines to limits", hint=(
                "let root make a folder there that is yours, with its cgroup.procs and cgroup.subtree_control, and "
                "start your shell in a cgroup below it"))
        self._above = mine
        self._base = os.path.join(mine, "cloudme")

    def controllers(self) -> set[str]:
        there = set(_read(self._above, "cgroup.controllers").split())
        inner = os.path.exists(os.path.join(self._above, "cgroup.type"))  # the root of all has no such file
        if inner and _read(self._above, "cgroup.procs").strip():  # cgroups(7): no internal processes
            there &= set(_read(self._above, "cgroup.subtree_control").split())
        return there

    def lacking(self, controller: str) -> CloudMeError:
        if controller in _read(self._above, "cgroup.controllers").split():
            return HostUnavailable(f"processes live in {self._above}: it cannot hand '{controller}' down",
                                   hint="move them into a cgroup below it")
        return _absent(controller)

    def hold(self, group: Group, pid: int) -> None:
        """Under a lock on the folder of all: nobody sweeps the new one before somebody is in it."""
        with self._locked(make=True):
            self._sweep()
            self._hand_down()
            folder = os.path.join(self._base, group.name)
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder)
            _limit(folder, group)
            _write(folder, "cgroup.procs", str(pid))

    def change(self, group: Group) -> bool:
        folder = os.path.join(self._base, group.name)
        try:
            if not _read(folder, "cgroup.procs").strip():
                return False
        except FileNotFoundError:
            return False
        _limit(folder, group)
        return True

    def sweep(self) -> None:
        with self._locked(make=False):
            self._sweep()

    def _sweep(self) -> None:
        for name in os.listdir(self._base):
            if os.path.isdir(folder := os.path.join(self._base, name)):
                with contextlib.suppress(OSError):  # EBUSY: somebody is in it
                    os.rmdir(folder)

    @contextlib.contextmanager
    def _locked(self, *, make: bool) -> Iterator[None]:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._base)
        fd = os.open(self._base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _hand_down(self) -> None:
        """Let groups have the controllers; one that the kernel keeps back keeps back no other."""
        for folder in (self._above, self._base):
            there = set(_read(folder, "cgroup.subtree_control").split())
            for controller in sorted(set(NEEDS.values()) & set(_read(folder, "cgroup.controllers").split()) - there):
                with contextlib.suppress(OSError):
                    _write(folder, "cgroup.subtree_control", f"+{controller}")


def _limit(folder: str, group: Group) -> None:
    """Write a group's limits into its files (kernel, Documentation/admin-guide/cgroup-v2.rst)."""
    def most(value: float) -> str:
        return "max" if value == UNLIMITED else str(round(value))

    limits = group.limits
    if limits.cpus is not None:
        _write(folder, "cpu.max", f"{most(limits.cpus * PERIOD_US)} {PERIOD_US}")
    if limits.cpu_weight is not None:
        _write(folder, "cpu.weight", str(limits.cpu_weight))
    if limits.memory_mib is not None:
        _write(folder, "memory.max", most(limits.memory_mib * MIB))
        with contextlib.suppress(OSError):  # a kernel without swap
            _write(folder, "memory.swap.max", most(limits.memory_mib * MIB))
    if limits.tasks is not None:
        _write(folder, "pids.max", most(limits.tasks))
    if limits.io_bps is not None and (disk := device(group.folder)):
        _write(folder, "io.max", f"{disk} rbps={most(limits.io_bps)} wbps={most(limits.io_bps)}")


def device(folder: str) -> str | None:
    """The disk below `folder`, or below where it will be, as 'major:minor'; None where it is no single one (btrfs)."""
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    number = os.stat(folder).st_dev
    node = f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"
    try:
        if os.path.exists(f"{node}/partition"):
            node = os.path.dirname(os.path.realpath(node))
        return _read(node, "dev").strip()
    except OSError:
        return None


def in_memory(folder: str) -> bool:
    """Whether the files in `folder` are memory, and count as that of who writes them (tmpfs)."""
    number = os.stat(folder).st_dev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        return any(line.split(" ", 3)[2] == wanted and line.partition(" - ")[2].startswith(("tmpfs ", "ramfs "))
                   for line in mounts)


def _absent(controller: str) -> HostUnavailable:
    return HostUnavailable(f"this host's cgroups have no controller '{controller}'",
                           hint="a kernel has it; where version 1 has it too, it is taken there")


def _writable(folder: str) -> bool:
    return all(os.access(os.path.join(folder, name), os.W_OK, effective_ids=True)
               for name in (".", "cgroup.procs", "cgroup.subtree_control"))


def _ended(pid: int) -> bool:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], 0)[0])
    finally:
        os.close(fd)


def _read(folder: str, name: str) -> str:
    with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
        return file.read()


def _write(folder: str, name: str, text: str) -> None:
    """A file of the kernel's: it is there, and takes what it is told in one go."""
    with open(os.path.join(folder, name), "w", encoding="ascii") as file:
        file.write(text)
