"""The host's files: its own, or those below a folder that stands for it."""

from __future__ import annotations

import os
import stat

from cloudme.host import confine
from cloudme.model.confinement import Confinement
from cloudme.store import reported, write_atomic


class Below:
    """Implements `Files`. root: '/' for the host itself."""

    def __init__(self, root: str = "/") -> None:
        self.root = os.path.abspath(root)

    def _at(self, path: str) -> str:
        return os.path.join(self.root, path.lstrip("/"))

    def read(self, path: str) -> str | None:
        try:
            with open(self._at(path), encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return None

    def mode(self, path: str) -> int | None:
        try:
            return os.stat(self._at(path)).st_mode
        except OSError:
            return None

    def openable(self, path: str) -> bool:
        try:
            os.close(os.open(self._at(path), os.O_RDWR | os.O_CLOEXEC))
        except OSError:
            return False
        return True

    def names(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(self._at(path)))
        except OSError:
            return []

    def free_bytes(self, path: str) -> int:
        while not os.path.isdir(self._at(path)):
            path = os.path.dirname(path)
        found = os.statvfs(self._at(path))
        return found.f_bavail * found.f_frsize

    def changed_s(self, path: str) -> float:
        try:
            return os.stat(self._at(path)).st_mtime
        except OSError:
            return 0

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        where = self._at(path)
        with reported(where):
            if path.startswith("/proc/"):
                with open(where, "w", encoding="ascii") as file:
                    file.write(text)
                return
            os.makedirs(os.path.dirname(where), exist_ok=True)
            write_atomic(where, text, mode=mode)

    def device(self, path: str, major: int, minor: int) -> None:
        where = self._at(path)
        with reported(where):
            os.makedirs(os.path.dirname(where), exist_ok=True)
            os.mknod(where, stat.S_IFCHR | 0o666, os.makedev(major, minor))
            os.chmod(where, 0o666)  # mknod(2) goes by the umask

    def remove(self, path: str) -> None:
        with reported(path):
            os.unlink(self._at(path))

    def allows(self, path: str, uid: int, gid: int, mode: int) -> bool:
        if not confine.foreign(uid):
            return True
        return confine.within(Confinement(uid=uid, gid=gid), lambda: os.access(self._at(path), mode))

    def chmod(self, path: str, mode: int) -> None:
        with reported(path):
            os.chmod(self._at(path), mode)
