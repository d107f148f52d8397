"""Copies between this host and a guest over sftp: planned first, each file atomic, mode and time kept.

The two sides have the same few operations, so that a copy is one function in both directions.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol

import paramiko

from cloudme import store
from cloudme.errors import NotFound, NotPermitted, PeerError, UsageError
from cloudme.host.connection import LOST
from cloudme.model.ports import Progress

CHUNK = 32768
"""What every sftp server takes in one request (draft-ietf-secsh-filexfer-02, 3)."""

WINDOW = 64 * CHUNK
"""What is asked for at once: 2 MiB, as much as fits into paramiko's channel."""

PERMISSIONS = 0o777
"""Not set-uid and its kin: a guest's files are not trusted so far."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is there: the st_mode, the size in bytes, the time of change in seconds since 1970, the owner."""

    mode: int
    size: int
    mtime: float
    owner: tuple[int, int]

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)


class Side(Protocol):
    """Files here or there. `reported` turns what the others raise into errors for the user."""

    def reported(self, path: str) -> contextlib.AbstractContextManager[None]: ...
    def stat(self, path: str) -> Found: ...
    def entries(self, path: str) -> list[tuple[str, Found]]:
        """The names in a folder, and what they are; links are not followed."""
    def real(self, path: str) -> str: ...
    def make_folder(self, path: str) -> None: ...
    def reader(self, path: str, size: int) -> IO[bytes]: ...
    def writer(self, path: str) -> IO[bytes]:
        """A new file, 0600."""
    def like(self, path: str, model: Found) -> None:
        """Give `path` mode and time of `model`."""
    def own(self, path: str, owner: tuple[int, int]) -> None: ...
    def rename(self, old: str, new: str) -> None: ...
    def remove(self, path: str) -> None: ...


class Local:
    """Files of this host."""

    remove = staticmethod(os.unlink)
    rename = staticmethod(os.replace)

    @contextlib.contextmanager
    def reported(self, path: str) -> Iterator[None]:
        with store.reported(path):
            try:
                yield
            except FileNotFoundError:
                raise NotFound(f"no file or folder {path}") from None

    def real(self, path: str) -> str:
        return os.path.realpath(path)

    def stat(self, path: str) -> Found:
        return _found(os.stat(path))

    def entries(self, path: str) -> list[tuple[str, Found]]:
        with os.scandir(path) as entries:
            return sorted(((entry.name, _found(entry.stat(follow_symlinks=False))) for entry in entries), key=_name)

    def make_folder(self, path: str) -> None:
        os.mkdir(path, 0o700)

    def reader(self, path: str, size: int) -> IO[bytes]:
        return open(path, "rb", buffering=0)

    def writer(self, path: str) -> IO[bytes]:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")

    def like(self, path: str, model: Found) -> None:
        os.chmod(path, model.mode & PERMISSIONS)
        os.utime(path, (model.mtime, model.mtime))

    def own(self, path: str, owner: tuple[int, int]) -> None:
        os.chown(path, *owner)


class Remote:
    """Files of a guest."""

    def __init__(self, transport: paramiko.Transport, name: str) -> None:
        self._sftp = _client(transport, name)
        self._name = name
        self.remove = self._sftp.remove
        self.rename = self._sftp.posix_rename
        self.real = self._sftp.normalize

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self._sftp.close()

    @contextlib.contextmanager
    def reported(self, path: str) -> Iterator[None]:
        where = f"{self._name}:{path}"
        try:
            yield
        except FileNotFoundError:
            raise NotFound(f"no file or folder {where}") from None
        except PermissionError:
            raise NotPermitted(f"{where}: the guest does not permit it") from None
        except OSError as error:  # the protocol has no more to say than 'Failure', a full disk included
            raise PeerError(f"{where}: {error.strerror or error}") from error

    def stat(self, path: str) -> Found:
        return _found(self._sftp.stat(path))

    def entries(self, path: str) -> list[tuple[str, Found]]:
        """A name that is none is an attack on this host (CVE-2019-6111)."""
        found = sorted(((entry.filename, _found(entry)) for entry in self._sftp.listdir_attr(path)), key=_name)
        for name, _ in found:
            if "/" in name or name in ("", ".", ".."):
                raise PeerError(f"'{self._name}' says that there is a file '{name}' in {path}")
        return found

    def make_folder(self, path: str) -> None:
        self._sftp.mkdir(path, 0o700)

    def reader(self, path: str, size: int) -> IO[bytes]:
        return Ahead(self._sftp.open(path, "rb"), size)  # type: ignore[return-value]  # no more than this is wanted

    def writer(self, path: str) -> IO[bytes]:
        file = self._sftp.open(path, "wx")
        file.chmod(0o600)
        file.set_pipelined(True)
        return file  # type: ignore[return-value]

    def like(self, path: str, model: Found) -> None:
        self._sftp.chmod(path, model.mode & PERMISSIONS)
        self._sftp.utime(path, (int(model.mtime), int(model.mtime)))

    def own(self, path: str, owner: tuple[int, int]) -> None:
        self._sftp.chown(path, *owner)


class Ahead:
    """Reads a guest's file, asking for many pieces at once.

    paramiko asks in a thread, which would outlive an interrupted copy and complain of the closed connection: it is
    awaited here. It has only to send what is asked, which always fits.
    """

    def __init__(self, file: paramiko.SFTPFile, size: int) -> None:
        self._file = file
        self._size = size
        self._asked = 0
        self.close = file.close

    def read(self, size: int) -> bytes:
        if self._asked < self._size and self._file.tell() >= self._asked:
            self._asked = min(self._asked + WINDOW, self._size)
            others = set(threading.enumerate())
            self._file.prefetch(self._asked)
            for thread in set(threading.enumerate()) - others:
                thread.join()
        return self._file.read(size)


def _client(transport: paramiko.Transport, name: str) -> paramiko.SFTPClient:
    try:
        client = paramiko.SFTPClient.from_transport(transport)
    except LOST:
        client = None
    if client is None:
        raise PeerError(f"'{name}' offers no sftp", hint="its sshd wants a line 'Subsystem sftp internal-sftp'")
    return client


@dataclass(frozen=True, slots=True)
class Item:
    """One file or folder to copy: from, to, what it is."""

    source: str
    sink: str
    found: Found


def copy(
    source: Side, paths: Sequence[str], sink: Side, destination: str, *, recursive: bool, progress: Progress,
) -> list[str]:
    """Returns what was left out; see `Shell.put`."""
    items: list[Item] = []
    left_out: list[str] = []
    for path, to in _targets(source, paths, sink, destination):
        with source.reported(path):
            found = source.stat(path)
        if not found.is_file and not (found.is_folder and recursive):
            raise UsageError(f"{path} is {'a folder' if found.is_folder else 'neither file nor folder'}",
                             hint="-r copies folders" if found.is_folder else None)
        items += _tree(source, Item(path, to, found), left_out)
    _transfer(source, sink, items, progress)
    return left_out


def _targets(source: Side, paths: Sequence[str], sink: Side, destination: str) -> Iterator[tuple[str, str]]:
    """Each source with the name of its copy."""
    there = _look(sink, destination)
    into = there is not None and there.is_folder
    if not into and (len(paths) > 1 or (there is None and destination.endswith("/"))):
        raise NotFound(f"no folder {destination}")
    for path in paths:
        name = os.path.basename(path.rstrip("/"))
        if name in ("", ".", ".."):
            with source.reported(path):
                name = os.path.basename(source.real(path))
        yield path, os.path.join(destination, name) if into else destination


def _tree(source: Side, top: Item, left_out: list[str]) -> Iterator[Item]:
    """The item, and all that is in it. A link to a file is followed; one to a folder might lead in a circle."""
    waiting = [top]
    while waiting:
        item = waiting.pop()
        yield item
        if not item.found.is_folder:
            continue
        with source.reported(item.source):
            entries = source.entries(item.source)
        for name, found in entries:
            path = os.path.join(item.source, name)
            entry: Found | None = found
            if stat.S_ISLNK(found.mode):
                entry = _look(source, path)
            if entry is None or not (entry.is_file or (entry is found and entry.is_folder)):
                left_out.append(path)
            else:
                waiting.append(Item(path, os.path.join(item.sink, name), entry))


def _transfer(source: Side, sink: Side, items: Sequence[Item], progress: Progress) -> None:
    total = sum(item.found.size for item in items if item.found.is_file)
    done = 0
    made = []
    for item in items:
        if item.found.is_file:
            done = _file(source, sink, item, lambda count, name=item.source: progress(name, count, total), done)
        elif _look(sink, item.sink) is None:
            with sink.reported(item.sink):
                sink.make_folder(item.sink)
            made.append(item)
    for item in reversed(made):  # last: a folder may be read-only, and changes as files come into it
        with sink.reported(item.sink):
            sink.like(item.sink, item.found)


def _file(source: Side, sink: Side, item: Item, progress: Any, done: int) -> int:
    """Copy beside the name, then rename; returns the bytes done so far."""
    with sink.reported(item.sink):
        path = sink.real(item.sink)
    there = _look(sink, path)
    if there is not None and not there.is_file:
        raise UsageError(f"{item.sink} is there, and is no file")
    temporary = os.path.join(os.path.dirname(path), f".vmcopy-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        with contextlib.ExitStack() as files:
            with source.reported(item.source):
                reader = files.enter_context(contextlib.closing(source.reader(item.source, item.found.size)))
            with sink.reported(item.sink):
                writer = sink.writer(temporary)
            files.callback(writer.close)
            while data := _read(source, item, reader):
                with sink.reported(item.sink):
                    writer.write(data)
                done += len(data)
                progress(done)
            with sink.reported(item.sink):
                writer.close()
        with sink.reported(item.sink):
            sink.like(temporary, item.found)
            if there is not None:
                with contextlib.suppress(OSError):  # only root can
                    sink.own(temporary, there.owner)
            sink.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError, *LOST):
            sink.remove(temporary)
        raise
    return done


def _read(source: Side, item: Item, reader: IO[bytes]) -> bytes:
    with source.reported(item.source):
        return reader.read(CHUNK)


def _look(side: Side, path: str) -> Found | None:
    with side.reported(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return side.stat(path)
    return None


def _found(stats: Any) -> Found:
    return Found(stats.st_mode or 0, stats.st_size or 0, stats.st_mtime or 0, (stats.st_uid or 0, stats.st_gid or 0))


def _name(entry: tuple[str, Found]) -> str:
    return entry[0]
