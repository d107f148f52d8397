"""What pulling an image does: a download that may take several calls, and the proof that it is what it should be."""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from cloudme import layout
from cloudme.errors import Busy, CommandFailed, ConfigError, PeerError
from cloudme.formats import checksums
from cloudme.model.catalogue import INLINE, Entry
from cloudme.model.ports import Host, Progress
from cloudme.operations.images.steps import Done, Work, known_image
from cloudme.store import reported, take_lock

GPGV_TIMEOUT_S = 600


@dataclass(slots=True)
class Part(Work):
    """The work folder of a download. Its undo keeps what came, and says so; one command at a time has it."""

    say: Callable[[str], None] = field(default=lambda line: None)
    lock: int = field(default=-1)

    @property
    def folder(self) -> str:
        return os.path.join(self.store.world.images, f".{self.name}.part")

    @property
    def download(self) -> str:
        return os.path.join(self.folder, "download")

    def do(self, host: Host) -> None:
        lock = layout.lock(self.folder)
        with reported(self.folder):
            os.makedirs(self.folder, exist_ok=True)
            try:
                self.lock = take_lock(lock)
                if not os.path.samestat(os.fstat(self.lock), os.stat(lock)):
                    raise Busy("its holder has just removed it")
                if known_image(self.store, self.name):
                    raise Busy("its holder has just published it")
            except (Busy, FileNotFoundError):
                self._leave()
                raise Busy(f"image '{self.name}' is being pulled by somebody else", hint="wait for it") from None
        self.begun = True

    def undo(self, host: Host) -> None:
        if not self.begun:
            return
        try:
            if os.path.exists(self.download):
                self.say(f"what came of image '{self.name}' is kept: cmimage pull {self.name} goes on from there "
                         f"(or: rm -r {self.folder})")
            else:
                Work.remove(self)
        finally:
            self._leave()

    def remove(self) -> None:
        Work.remove(self)
        self._leave()

    def drop(self) -> None:
        """What came is of no use."""
        with reported(self.folder):
            for path in (self.download, f"{self.download}.json"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def _leave(self) -> None:
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


@dataclass(frozen=True, slots=True)
class Fetch(Done):
    """The download, until its digest is right. sealed: the signature is one of the image, and can be looked at."""

    work: Part
    entry: Entry
    digest: str
    sealed: bool
    room: Callable[[int], None]
    progress: Progress

    def describe(self) -> str:
        return f"download {self.entry.url}"

    def do(self, host: Host) -> None:
        path, algorithm = self.work.download, checksums.ALGORITHMS[len(self.digest)]
        host.download.file(self.entry.url, path, mark=f"{self.entry.url} {self.digest}", room=self.room,
                           progress=self.progress)
        with reported(path), open(path, "rb") as content:
            found = hashlib.file_digest(content, algorithm).hexdigest()
        try:
            if found != self.digest:
                raise PeerError(f"{self.entry.url}: its {algorithm} is {found}, {self.entry.checksums} says "
                                f"{self.digest}", hint=f"it is dropped; cmimage pull {self.work.name} begins anew")
            if self.sealed:
                verify(host, self.entry, path, signature=host.download.text(self.entry.signature))
        except PeerError:
            self.work.drop()
            raise


@dataclass(frozen=True, slots=True)
class Adopt(Done):
    """The download as it is: a qcow2 needs no copy."""

    work: Part

    def describe(self) -> str:
        return "check it, and take it as it is"

    def do(self, host: Host) -> None:
        with reported(self.work.disk):
            os.replace(self.work.download, self.work.disk)


def promised(host: Host, entry: Entry, *, verifiable: bool) -> str:
    """The digest that the image has by its checksum file.

    Raises:  PeerError where the file has none, or one whose signature is bad; what `Download` raises.
    """
    raw = host.download.text(entry.checksums)
    text = raw.decode(errors="replace")
    if verifiable and entry.signature == INLINE:
        text = verify(host, entry, "-", stdin=raw)
    elif verifiable and not entry.seals_image:
        verify(host, entry, "-", stdin=raw, signature=host.download.text(entry.signature))
    file = posixpath.basename(unquote(urlsplit(entry.url).path))
    if not (digest := checksums.digest(text, file, alone=entry.own_checksums)):
        raise PeerError(f"{entry.checksums}: has no SHA-256 or SHA-512 of {file}, or several")
    return digest


def verifiable(host: Host, entry: Entry, say: Callable[[str], None]) -> bool:
    """Whether there is a signature that can be looked at here; says why not."""
    if not entry.signature:
        return False
    missing = "gpgv is not installed (apt install gpgv)" if host.run.find("gpgv") is None else (
        f"there is no {entry.keyring}" if not os.path.exists(entry.keyring) else "")
    if missing:
        say(f"the signature of {entry.name} is not verified, only its digest: {missing}")
    return not missing


def verify(host: Host, entry: Entry, data: str, *, stdin: bytes = b"", signature: bytes | None = None) -> str:
    """Verify what the file `data`, '-' for stdin, holds, and return what is signed if it is clear-signed.

    Raises:  PeerError where none of the keys signed it, ConfigError where the keyring is none.
    """
    with tempfile.TemporaryDirectory(prefix="cloudme-") as folder:
        keyring, seal = os.path.join(folder, "keyring.gpg"), os.path.join(folder, "signature")
        with reported(entry.keyring), open(entry.keyring, "rb") as source, open(keyring, "wb") as target:
            try:
                target.write(checksums.dearmored(source.read()))
            except ValueError as error:
                raise ConfigError(f"{entry.keyring}: {error}") from error
        if signature is not None:
            with open(seal, "wb") as target:
                target.write(signature)
        what = ["--output", "-", data] if signature is None else [seal, data]
        try:
            return host.run(["gpgv", "--keyring", keyring, *what], stdin=stdin, timeout_s=GPGV_TIMEOUT_S)
        except CommandFailed as error:
            words = (error.output.splitlines() or [error.message])[-1].removeprefix("gpgv: ")
            of = entry.checksums if entry.signature == INLINE else entry.signature
            raise PeerError(f"{of}: {words}", hint=f"the keys are those of {entry.keyring}") from error
