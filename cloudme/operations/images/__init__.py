"""Images: built from packages, added from a file, pulled from a server, listed, removed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from cloudme.errors import (
    AlreadyExists,
    Busy,
    CommandFailed,
    MissingProgram,
    NotFound,
    SpecError,
    StoreError,
)
from cloudme.model import recipe as recipes
from cloudme.model.catalogue import Entry
from cloudme.model.machine import Image
from cloudme.model.names import Name
from cloudme.model.ports import Host, Progress
from cloudme.model.recipe import Recipe
from cloudme.model.steps import Step, Transaction
from cloudme.model.units import GIB, human
from cloudme.operations.images.pulling import Adopt, Fetch, Part, promised, verifiable
from cloudme.operations.images.steps import (
    BecomeRoot,
    Clean,
    Copy,
    Finish,
    Keep,
    MakeDisk,
    Packages,
    Publish,
    Remove,
    Take,
    Work,
    check_qcow2,
    known_image,
    taken,
    unused,
)
from cloudme.store import Store, reported

BUILD_BYTES = 2 * GIB
"""The tree, the raw disk and the image of the plain recipe take 1.3 GiB while they stand side by side."""

PROGRAMS = {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "sfdisk": "fdisk", "qemu-img": "qemu-utils"}
BOOT_SIGNATURE = b"\x55\xaa"
"""Of a disk from which a PC boots, at byte 510."""


def listed(store: Store) -> list[tuple[Image, list[str]]]:
    """Every image with the names of the templates that stand on it."""
    return [(image, store.templates_of(image.name)) for image in store.images()]


def remove(transaction: Transaction, store: Store, name: Name) -> None:
    """Raises NotFound, and Busy while templates stand on the image."""
    image = store.image(name)
    unused(store, image)
    transaction.apply([Remove(store, image)])


def build(
    transaction: Transaction, store: Store, name: Name, recipe: Recipe, *, sources: Sequence[str], cache: str | None,
) -> Image:
    """Return the image `name`, made by `recipe` unless it is there already.

    sources:  lines of sources.list(5). cache: a folder of finished disks, named by the recipe's digest, or None.
    Raises:   AlreadyExists where the name belongs to another image; NotPermitted, MissingProgram, StoreError where
              it cannot be built here.
    """
    digest = recipes.digest(recipe)
    if known := known_image(store, name):
        if known.digest == digest:
            return known
        raise taken(known)
    kept = os.path.join(cache, f"{digest}.qcow2") if cache else None
    image = Image(name=name, size_bytes=recipe.disk_bytes, digest=digest, source=f"Debian {recipe.suite}",
                  created=_now(transaction.host), user=recipes.USER)
    work = Work(store, name)
    plan: list[Step] = [work]
    if kept and os.path.exists(kept):
        plan.append(Take(work, kept))
    else:
        _check_build(transaction.host, store)
        plan += [BecomeRoot()] if os.geteuid() else []
        plan += [Packages(work, recipe, tuple(sources)), Finish(work, recipe), MakeDisk(work, recipe)]
        plan += [Keep(work, kept)] if kept else []
    transaction.apply([*plan, Publish(work, image), Clean(work)])
    return image


def add(transaction: Transaction, store: Store, name: Name, file: str, *, user: str = "root") -> Image:
    """Return the image `name`, a flat copy of the disk `file`, raw or qcow2.

    Raises:  NotFound (no file), SpecError (no disk, a broken one, one that needs other files), AlreadyExists.
    """
    size, kind = examine(transaction.host, file)
    with reported(file), open(file, "rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if known := known_image(store, name):
        if known.digest == digest:
            return known
        raise taken(known)
    _check_room(store, os.stat(file).st_blocks * 512)
    image = Image(name=name, size_bytes=size, digest=digest, source=os.path.abspath(file),
                  created=_now(transaction.host), user=user)
    work = Work(store, name)
    transaction.apply([work, Copy(work, os.path.abspath(file), kind), Publish(work, image), Clean(work)])
    return image


def pull(
    transaction: Transaction, store: Store, entry: Entry, *, say: Callable[[str], None], progress: Progress,
) -> Image:
    """Return the image with the entry's name, downloaded unless it is there and still what the server offers.

    say:     told what the user should know though it is no error.
    Raises:  AlreadyExists where the name belongs to another image, or an older one; PeerError where the digest or the
             signature is wrong; Busy where somebody else pulls it, or the server cannot be reached; SpecError where
             what came is no disk; StoreError where it has no room.
    """
    host = transaction.host
    known = known_image(store, entry.name)
    can_verify = verifiable(host, entry, (lambda line: None) if known else say)
    try:
        digest = promised(host, entry, verifiable=can_verify)
    except Busy as error:
        if known and known.source == entry.url:
            say(f"{error.message}; image '{known.name}' of {known.created} is there, whether it is the newest or not")
            return known
        raise
    if known:
        _check_same(known, entry, digest)
        say(f"image '{known.name}' is there already")
        return known
    part = Part(store, entry.name, say=say)
    transaction.apply([part, Fetch(part, entry, digest, can_verify and entry.seals_image,
                                   lambda count: _check_room(store, count), progress)])
    size, kind = (0, "qcow2") if transaction.dry_run else _examine_part(host, part)
    image = Image(name=entry.name, size_bytes=size, digest=digest, source=entry.url, created=_now(host),
                  user=entry.user)
    take = Adopt(part) if kind == "qcow2" else Copy(part, part.download, kind)
    transaction.apply([take, Publish(part, image), Clean(part)])
    return image


def _check_same(known: Image, entry: Entry, digest: str) -> None:
    if known.digest == digest:
        return
    if known.source != entry.url:
        raise taken(known)
    raise AlreadyExists(f"{entry.url} has changed since image '{known.name}' was pulled, {known.created}",
                        hint=f"cmimage remove {known.name}, then pull it again")


def _examine_part(host: Host, part: Part) -> tuple[int, str]:
    """Like `examine`; what is no disk is not kept."""
    try:
        return examine(host, part.download)
    except SpecError:
        part.drop()
        raise


def examine(host: Host, file: str) -> tuple[int, str]:
    """Return the size in bytes that a guest sees of the disk `file`, and its format. Raises like `add`."""
    if not os.path.isfile(file):
        raise NotFound(f"no file '{file}'")
    with reported(file), open(file, "rb") as content:
        first = content.read(recipes.SECTOR_BYTES)
    try:
        info: dict[str, Any] = json.loads(host.run(["qemu-img", "info", "--output=json", file]))
    except CommandFailed as error:
        raise SpecError([f"{file}: {error.message}"]) from error
    kind = info["format"]
    specific = info.get("format-specific", {}).get("data", {})
    if kind not in ("raw", "qcow2"):
        raise SpecError([f"{file}: a disk of format {kind}"], hint=f"qemu-img convert -O qcow2 {file} {file}.qcow2")
    if kind == "raw" and first[510:] != BOOT_SIGNATURE:
        raise SpecError([f"{file}: neither a qcow2 nor a disk that boots"])
    if other := info.get("backing-filename") or specific.get("data-file"):
        raise SpecError([f"{file}: needs the file {other}, which may change or go"],
                        hint=f"qemu-img convert -O qcow2 {file} {file}.flat")
    if info.get("encrypted"):
        raise SpecError([f"{file}: is encrypted"])
    if kind == "qcow2":
        check_qcow2(host, file)
    return info["virtual-size"], kind


def _now(host: Host) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(host.now()))


def _check_build(host: Host, store: Store) -> None:
    for program, package in PROGRAMS.items():
        if host.run.find(program) is None:
            raise MissingProgram(program, package=package)
    _check_room(store, BUILD_BYTES)


def _check_room(store: Store, wanted_bytes: int) -> None:
    """Raises StoreError where the file system of the images has no such room. The store may not exist yet."""
    folder = os.path.abspath(store.world.images)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    with reported(folder):
        room = os.statvfs(folder)
    free_bytes = room.f_bavail * room.f_frsize
    if free_bytes < wanted_bytes:
        raise StoreError(f"{store.world.images}: {human(wanted_bytes)} are wanted, {human(free_bytes)} are free",
                         hint="make room, or set CLOUDME_HOME to another disk")
