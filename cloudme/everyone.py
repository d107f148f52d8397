"""The machines of all users, as root sees them: every home, and what runs in it.

A home is its user's, and root only looks: no symbolic link in it is followed (he may point it anywhere), nothing is
opened that could make who opens it wait, and nothing of a record is passed on that is not a plain word.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import stat
import struct

from cloudme import index, layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

RECORD_BYTES = 1 << 20
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.:")
_LENGTH = 63
_DATA = ".local/share/cloudme"
"""Below a user's home, where he has not set XDG_DATA_HOME (layout.world)."""


class Home:
    """A folder with machines, and whose it is. own: what of its path, at the end, is his to make links of."""

    __slots__ = ("own", "path", "user")

    def __init__(self, path: str, user: str = "", *, own: str = "") -> None:
        self.path = path
        self.user = user
        self.own = own


def listing(homes: Iterable[Home], *, every: bool = False) -> list[dict[str, Any]]:
    """As `index.listing`, of every realm of these homes, with user, realm (None: the host's own) and home."""
    found = []
    for home in homes:
        with _top(home) as top:
            for realm, folder, record in _folders(top):
                with folder:
                    for name in _words(folder):
                        with _Folder(name, _LOOK, folder.fd) as machine:
                            known = _known(machine, record)
                            if known and (every or known["state"] == "running"):
                                found.append({"user": home.user, "realm": realm, "home": home.path,
                                              "name": name, **known})
    return found


def homes(proc: str = "/proc") -> list[Home]:
    """Root's own, the default one of every user, and those that a QEMU runs in. One path comes once."""
    found = {home.path: home for home in (Home(layout.ROOT_DATA, "root"), Home(layout.world().data))}
    for one in pwd.getpwall():
        path = os.path.join(os.path.realpath(one.pw_dir), _DATA)
        if one.pw_uid:
            found.setdefault(path, Home(path, one.pw_name, own=_DATA))
    for path in sorted(set(_running(proc))):
        found.setdefault(path, Home(path, own=path[1:]))
    for home in found.values():
        with _top(home) as top:
            home.user = home.user or _owner(top.fd)
    return list(found.values())


def usual(path: str) -> bool:
    """Whether it is a user's home, or root's, by default."""
    return path == layout.ROOT_DATA or path.endswith(f"/{_DATA}")


def _top(home: Home) -> _Folder:
    """The folder of a home, with no link of its user's on the way."""
    folder = _Folder(home.path.removesuffix(home.own), os.O_RDONLY)
    for name in filter(None, home.own.split("/")):
        with folder:
            folder = _Folder(name, _LOOK, folder.fd)
    return folder


def _running(proc: str) -> Iterator[str]:
    """The homes of the locks that a QEMU has open: HOME/machines/NAME/lock, HOME/realms/REALM/machines/NAME/lock."""
    for pid in os.listdir(proc):
        if not pid.isdecimal():
            continue
        try:
            with open(f"{proc}/{pid}/comm", encoding="utf-8", errors="replace") as file:
                if not file.read().startswith("qemu-system"):
                    continue
            links = [os.readlink(f"{proc}/{pid}/fd/{fd}") for fd in os.listdir(f"{proc}/{pid}/fd")]
        except OSError:  # it has ended
            continue
        for link in links:
            if home := home_of(link):
                yield home


def home_of(lock: str) -> str:
    """The home that the path of a lock is in; '' for what is no lock of a machine's."""
    parts = lock.split("/")
    if len(parts) < 5 or parts[-1] != "lock" or parts[-3] not in ("machines", "templates"):
        return ""
    end = -5 if parts[-3] == "machines" and parts[-5] == "realms" else -3
    home = "/".join(parts[:end])
    return home if home.startswith("/") and home.isprintable() else ""


def _folders(top: _Folder) -> Iterator[tuple[str | None, _Folder, str]]:
    """The folders of a home with machines in them: (realm, folder, name of the records)."""
    yield None, _Folder("machines", _LOOK, top.fd), layout.MACHINE_RECORD
    with _Folder("realms", _LOOK, top.fd) as realms:
        for realm in _words(realms):
            with _Folder(realm, _LOOK, realms.fd) as folder:
                yield realm, _Folder("machines", _LOOK, folder.fd), layout.MACHINE_RECORD
    yield None, _Folder("templates", _LOOK, top.fd), layout.TEMPLATE_RECORD


def _known(machine: _Folder, record: str) -> dict[str, Any]:
    """What `index.listing` says of a machine; nothing where its folder has gone."""
    if machine.fd < 0:
        return {}
    raw = _record(machine.fd, record)
    lock = _held(machine.fd, "lock")
    if raw is None:
        state = "debris" if _held(machine.fd, "maker") is None else "being-made"
        return {"group": None, "type": None, "address": None, "address6": None, "state": state, "since": None,
                "shares": []}
    nics = [raw.get("nic")] if record == layout.TEMPLATE_RECORD else raw.get("nics")
    nic = nics[0] if isinstance(nics, list) and nics and isinstance(nics[0], dict) else {}
    template = record == layout.TEMPLATE_RECORD
    return {"group": index.TEMPLATES if template else _plain(raw.get("group")),
            "type": "default" if template else _plain(raw.get("type")),
            "address": _plain(nic.get("address") or raw.get("elsewhere")),
            "address6": None if template else _plain(nic.get("address6")),
            "state": "stopped" if lock is None else "running", "since": lock, "shares": _shares(raw)}


def _shares(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """Whether they are served is seen in the run folder, which is not looked into."""
    shares = raw.get("shares")
    return [{**{key: _plain(share.get(key)) for key in ("tag", "source", "mount_point")},
             "readonly": share.get("readonly") is True, "served": None}
            for share in (shares if isinstance(shares, list) else []) if isinstance(share, dict)]


def _record(folder: int, name: str) -> dict[str, Any] | None:
    """The record in a folder, empty where it cannot be read; None where there is none."""
    try:
        fd = os.open(name, _LOOK, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError:
        return {}
    with os.fdopen(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return {}
        return index.parsed(file.read(RECORD_BYTES))


def _held(folder: int, name: str) -> float | None:
    """When the lock was taken, in seconds since 1970; None where nobody holds it."""
    try:
        fd = _defined(name, folder) if stat.S_ISLNK(os.lstat(name, dir_fd=folder).st_mode) else \
            os.open(name, _LOOK, dir_fd=folder)
    except OSError:
        return None
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, index.READ_LOCK)
        held = struct.unpack_from("h", answer)[0] != fcntl.F_UNLCK
        return (index.plausible(os.fstat(fd).st_mtime) or 0) if held else None
    except OSError:
        return None
    finally:
        os.close(fd)


def _defined(name: str, folder: int) -> int:
    """The lock of a machine that systemd runs, where the link `name` leads to one, as it may. Raises OSError."""
    target = os.readlink(name, dir_fd=folder)
    machine = os.path.basename(os.path.dirname(target))
    if target != layout.machina_lock(machine) or machine in ("", ".", ".."):
        raise FileNotFoundError(name)
    return os.open(target, _LOOK)


def _plain(text: object) -> str | None:
    """A word that a terminal shows as it is; None for anything else."""
    return text if isinstance(text, str) and 0 < len(text) <= _LENGTH and set(text) <= _PLAIN else None


def _words(folder: _Folder) -> list[str]:
    """The names in a folder that are such words, sorted."""
    try:
        return sorted(name for name in os.listdir(folder.fd) if _plain(name)) if folder.fd >= 0 else []
    except OSError:
        return []


def _owner(fd: int) -> str:
    if fd < 0:
        return ""
    uid = os.fstat(fd).st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


class _Folder:
    """A folder that is open, by its name in another; fd is -1 where it is missing, or a link, or no folder."""

    def __init__(self, name: str, flags: int, within: int | None = None) -> None:
        try:
            self.fd = -1 if within == -1 else os.open(name, flags | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=within)
        except OSError:
            self.fd = -1

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *_: object) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
