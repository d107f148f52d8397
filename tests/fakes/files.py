"""The host's files, and what makes files: downloads, ISO disks, keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cloudme.errors import CloudMeError, NotFound
from cloudme.model.ports import Progress


@dataclass
class FakeFiles:
    """Files in memory, with modes; `closed` are those that this process may not open."""

    texts: dict[str, str] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    free: int = 100 << 30
    changed: dict[str, float] = field(default_factory=dict)

    def read(self, path: str) -> str | None:
        return self.texts.get(path)

    def mode(self, path: str) -> int | None:
        return self.modes.get(path, 0o100644 if path in self.texts else None)

    def openable(self, path: str) -> bool:
        return self.mode(path) is not None and path not in self.closed

    def names(self, path: str) -> list[str]:
        return sorted({text[len(path) + 1:].split("/")[0] for text in self.texts if text.startswith(f"{path}/")})

    def free_bytes(self, path: str) -> int:
        return self.free

    def changed_s(self, path: str) -> float:
        return self.changed.get(path, 0)

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        self.texts[path] = text
        self.modes[path] = mode

    def device(self, path: str, major: int, minor: int) -> None:
        self.texts[path] = f"{major}:{minor}"
        self.modes[path] = 0o020666

    def remove(self, path: str) -> None:
        del self.texts[path]
        self.modes.pop(path, None)

    def chmod(self, path: str, mode: int) -> None:
        self.modes[path] = mode
        self.closed.discard(path)

    def allows(self, path: str, uid: int, gid: int, mode: int) -> bool:
        return not any(path == closed or path.startswith(f"{closed}/") for closed in self.closed)


@dataclass
class FakeDownload:
    """Serves `files`, by URL; `fail` raises for a URL. asked: every URL, in order."""

    files: dict[str, bytes] = field(default_factory=dict)
    fail: dict[str, CloudMeError] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def text(self, url: str) -> bytes:
        self.asked.append(url)
        if url in self.fail:
            raise self.fail[url]
        if url not in self.files:
            raise NotFound(f"{url}: 404")
        return self.files[url]

    def file(self, url: str, path: str, *, mark: str, room: Callable[[int], None], progress: Progress) -> None:
        content = self.text(url)
        room(len(content))
        with open(path, "wb") as file:
            file.write(content)
        progress(os.path.basename(url), len(content), len(content))


@dataclass
class FakeIso:
    """fails: what the next writes raise, in turn; None: nothing."""

    fails: list[BaseException | None] = field(default_factory=list)

    def write(self, path: str, label: str, files: Mapping[str, bytes]) -> None:
        if self.fails and (error := self.fails.pop(0)):
            raise error
        with open(path, "wb") as file:
            file.write(label.encode())


@dataclass
class FakeKeys:
    made: int = 0

    def ed25519(self, comment: str) -> tuple[str, str]:
        self.made += 1
        return f"PRIVATE {self.made}\n", f"ssh-ed25519 KEY{self.made} {comment}"
