"""Folders of the host's that machines share: there, or made; and whether somebody serves them."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from cloudme import index, layout
from cloudme.disk import reported
from cloudme.errors import Busy, CommandFailed, NotFound, NotPermitted, StoreError, UsageError
from cloudme.formats import render, seeds
from cloudme.layout import World
from cloudme.model import identity
from cloudme.model.machine import Machine
from cloudme.model.ports import Host
from cloudme.model.share import Share
from cloudme.store import Store, everywhere

MODE = 0o755
"""Of a folder that is made, where none is said."""

NOBODY = (1 << 32) - 1
"""From here on numbers are no user's (chown(2): -1 leaves it)."""

OWN = ("forks", "images", "machines", "networks", "realms", "templates")
"""Below a world's `data`."""

MOUNT_S, IN_USE = 60, 5
"""What a guest gets to mount shares, whose devices appear within moments; how templates/mount.sh ends where one that is
to be unmounted is in use."""


def check(host: Host, store: Store, machines: Sequence[Machine]) -> None:
    """Whether machines that are to start can have their shares.

    Raises:  NotFound for a folder that is gone, NotPermitted for one that QEMU's user cannot use, who serves 9p.
    """
    nine = any(machine.shares for machine in machines) and not host.qemu.virtiofs()
    for machine in machines:
        for share in machine.shares:
            _there(share.source, f"vmupdate {machine.name} --no-share {share.tag}")
            uid = identity.uid(machine.uuid)
            mode = os.R_OK | os.X_OK | (0 if share.readonly else os.W_OK)
            if nine and not store.world.rootless and not host.files.allows(share.source, uid, uid, mode):
                raise NotPermitted(f"without virtiofsd QEMU serves {share.source}, as user {uid}, who may not use it",
                                   hint="apt install virtiofsd (before Debian 13 it is in qemu-system-common)")


def making(world: World, shares: Iterable[Share], of: Machine | None = None) -> list[MakeFolder]:
    """The steps that make those folders that are missing, and may be made. of: a machine that is there, as it is to be.

    Raises:  NotFound for others, and for owners that nobody is; UsageError for what is no folder, is ours, or is within
             another share.
    """
    steps, shares = {}, list(shares)
    _check_nested(world, shares, of)
    for share in shares:
        _apart(world, share.source)
        owner = _owner(share.owner) if share.owner else (-1, -1)
        if share.made and not os.path.lexists(share.source):
            steps[share.source] = MakeFolder(share.source, owner, MODE if share.mode is None else share.mode)
        else:
            _there(share.source, "with owner= or mode= it would be made")
    return list(steps.values())


def _apart(world: World, path: str) -> None:
    """What is in our own folders goes with machines, and whoever can write there is root."""
    real = os.path.realpath(path)
    for own in (world.run, *(os.path.join(world.data, name) for name in OWN)):
        if f"{real}/".startswith(f"{os.path.realpath(own)}/"):
            raise UsageError(f"{path} is cloudMe's own: machines are kept there, and removed",
                             hint="share a folder of yours, as /srv/data")


def _check_nested(world: World, shares: Sequence[Share], of: Machine | None) -> None:
    """Whoever is root in a guest may put a link, to /etc say, where a folder of his share was: what is within is not
    shared again. Raises UsageError."""
    others = everywhere(world, lambda it: bool(it.shares) and (of is None or it.uuid != of.uuid)) if shares else {}
    known = [*shares, *(of.shares if of else ()), *(one for machine in others.values() for one in machine.shares)]
    for one, other in product(shares, known):
        for outer, inner in ((one, other), (other, one)):
            if not outer.readonly and any(path != above and f"{path}/".startswith(f"{above.rstrip('/')}/")
                                          for path, above in product(_paths(inner), _paths(outer))):
                raise UsageError(f"{inner.source} is within {outer.source}, which is shared to be changed: who puts a "
                                 "link there leads out of it", hint="share folders beside each other, or that one ro")


def _paths(share: Share) -> set[str]:
    return {share.source, os.path.realpath(share.source)}


def _there(path: str, hint: str) -> None:
    if not os.path.exists(path):
        raise NotFound(f"there is no folder {path}", hint=hint)
    if not os.path.isdir(path):
        raise UsageError(f"{path} is no folder", hint="a share is a folder")


def _owner(text: str) -> tuple[int, int]:
    """uid and gid of user, or user:group, as names or numbers; a group that is not said stays who makes it."""
    user, _, group = text.partition(":")
    return _number(user, "user", lambda name: pwd.getpwnam(name).pw_uid), \
        _number(group, "group", lambda name: grp.getgrnam(name).gr_gid) if group else -1


def _number(name: str, what: str, look: Callable[[str], int]) -> int:
    try:
        number = int(name) if name.isdecimal() else look(name)
    except KeyError:
        number = NOBODY
    if number >= NOBODY:
        raise NotFound(f"this host has no {what} '{name}'")
    return number


@dataclass(slots=True)
class MakeFolder:
    """Makes a folder, with those above it. Undone while it is empty. owner: uid and gid, -1 for who makes it."""

    path: str
    owner: tuple[int, int]
    mode: int
    made: bool = False

    def describe(self) -> str:
        return f"make the folder {self.path}, mode {self.mode:04o}"

    def do(self, host: Host) -> None:
        with reported(self.path):
            above, name = os.path.split(self.path)
            os.makedirs(above, exist_ok=True)
            with contextlib.ExitStack() as mine:  # folders above may be somebody's who puts others, or links, there
                parent = os.open(above, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                mine.callback(os.close, parent)
                os.mkdir(name, 0o700, dir_fd=parent)
                self.made = True
                fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                mine.callback(os.close, fd)
                if os.listdir(fd):
                    raise StoreError(f"{self.path} is not the folder that was made there a moment ago")
                os.fchown(fd, *self.owner)
                os.fchmod(fd, self.mode)

    def undo(self, host: Host) -> None:
        if self.made:
            with contextlib.suppress(OSError):
                os.rmdir(self.path)


def down(store: Store, machine: Machine) -> list[Share]:
    """Those shares of a machine that runs that nobody serves any more."""
    return _served(store, machine, False)


def awaited(store: Store, machine: Machine) -> list[Share]:
    """Those that it has from its next start on."""
    return _served(store, machine, None)


def _served(store: Store, machine: Machine, how: bool | None) -> list[Share]:
    run = store.run_folder(machine)
    return [share for share in machine.shares if store.is_running(machine)
            and index.served(layout.share(run, share.tag)) is how]


def mount(host: Host, store: Store, machine: Machine) -> None:
    """Have the guest agent of a machine that runs mount its shares, and unmount what was told it before.

    Raises:  Busy where the guest uses one that is to go, CommandFailed.
    """
    argv = ["/bin/sh", "-s", "--", *seeds.mounts(machine, int(host.now()))]
    ended = host.agent.execute(layout.socket(store.run_folder(machine), "agent"), argv, timeout_s=MOUNT_S,
                               stdin=render.script("mount.sh", store.world.config).encode())
    said = ended.stderr.decode(errors="replace").strip() or f"exit status {ended.status}"
    if ended.status == IN_USE:
        raise Busy(f"'{machine.name}' uses what is to go: {said}", hint=f"vm {machine.name} -- fuser -vm FOLDER")
    if ended.status:
        raise CommandFailed(f"'{machine.name}' cannot mount what it shares: {said}",
                            hint="its kernel knows virtiofs, or where the host has no virtiofsd, 9p")
