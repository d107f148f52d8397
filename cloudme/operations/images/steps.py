"""What building, adding and removing an image do, one after the other."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field

from cloudme.errors import AlreadyExists, Busy, CommandFailed, NotFound, SpecError
from cloudme.model import recipe as recipes
from cloudme.model.machine import Image
from cloudme.model.names import Name
from cloudme.model.ports import Host
from cloudme.model.recipe import Files, Recipe, TextFile
from cloudme.model.units import human
from cloudme.store import FROZEN, Store, reported

BUILD_TIMEOUT_S = 3600


@dataclass(slots=True)
class Work:
    """A folder beside the images, so that the result is there by a rename. Its undo takes away all that was made."""

    store: Store
    name: Name
    begun: bool = field(default=False)

    @property
    def folder(self) -> str:
        return os.path.join(self.store.world.images, f".{self.name}.{os.getpid()}")

    @property
    def tree(self) -> str:
        return os.path.join(self.folder, "tree")

    @property
    def raw(self) -> str:
        return os.path.join(self.folder, "disk.raw")

    @property
    def disk(self) -> str:
        return os.path.join(self.folder, "disk.qcow2")

    def describe(self) -> str:
        return f"make the folder {self.folder}"

    def do(self, host: Host) -> None:
        with reported(self.folder):
            os.makedirs(self.store.world.images, exist_ok=True)
            shutil.rmtree(self.folder, ignore_errors=True)
            self.begun = True
            os.mkdir(self.folder)
            os.chmod(self.folder, 0o755)  # apt fetches as the user _apt

    def undo(self, host: Host) -> None:
        if self.begun:
            self.remove()

    def remove(self) -> None:
        """Raises Busy while something is mounted in it: a removal would go through to it."""
        with open("/proc/self/mounts", encoding="utf-8") as mounts:
            inside = [line.split()[1] for line in mounts if line.split()[1].startswith(self.folder + "/")]
        if inside:
            raise Busy(f"{inside[-1]} is mounted", hint=f"umount {' '.join(reversed(inside))}; rm -r {self.folder}")
        with reported(self.folder):
            shutil.rmtree(self.folder)


@dataclass(frozen=True, slots=True)
class Done:
    """A step whose undo is that of the work folder."""

    work: Work

    def undo(self, host: Host) -> None:
        """Nothing outside of the work folder was made."""


@dataclass(frozen=True, slots=True)
class BecomeRoot:
    """Packages are unpacked and configured as root would."""

    def describe(self) -> str:
        return "be root in a user namespace, over this user's subordinate ids"

    def do(self, host: Host) -> None:
        host.become_root()

    def undo(self, host: Host) -> None:
        """The namespace ends with this command."""


@dataclass(frozen=True, slots=True)
class Packages(Done):
    recipe: Recipe
    sources: tuple[str, ...]

    def describe(self) -> str:
        return f"install {len(self.recipe.packages)} packages of {self.recipe.suite} and what they depend on"

    def do(self, host: Host) -> None:
        early = os.path.join(self.work.folder, "early")
        with reported(early):
            _write(early, self.recipe.early)
        host.run(recipes.mmdebstrap_argv(self.recipe, self.work.tree, early, self.sources), timeout_s=BUILD_TIMEOUT_S,
                 env={"DEBIAN_FRONTEND": "noninteractive"})


@dataclass(frozen=True, slots=True)
class Finish(Done):
    """Files, services, GRUB; then everything that must differ between machines goes."""

    recipe: Recipe

    def describe(self) -> str:
        return "write the files of the recipe, make GRUB, forget every identity"

    def do(self, host: Host) -> None:
        tree, grub = self.work.tree, os.path.join(self.work.tree, "boot/grub/i386-pc")
        with reported(tree):
            _write(tree, self.recipe.late)
            _write(tree, {"/boot/grub/grub.cfg": TextFile(recipes.grub_cfg(self.recipe))})
            shutil.copytree(os.path.join(tree, "usr/lib/grub/i386-pc"), grub, dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("*.image", "*.module", "gdb*", "*.exec"))
        for argv in (*self.recipe.commands, recipes.grub_argv("/boot/grub/i386-pc/core.img")):
            host.run(["chroot", tree, *argv])
        with reported(tree):
            for pattern in self.recipe.leftovers:
                for path in glob.iglob(os.path.join(tree, pattern), recursive=True, include_hidden=True):
                    if os.path.islink(path) or not os.path.isdir(path):
                        os.unlink(path)


@dataclass(frozen=True, slots=True)
class MakeDisk(Done):
    """A file system from a folder, a partition table and GRUB in the first MiB: no loop device is needed."""

    recipe: Recipe

    def describe(self) -> str:
        return f"make the disk, {human(self.recipe.disk_bytes)}"

    def do(self, host: Host) -> None:
        raw, grub = self.work.raw, os.path.join(self.work.tree, "boot/grub/i386-pc")
        with reported(raw), open(raw, "wb") as disk:
            disk.truncate(self.recipe.disk_bytes)
        host.run(recipes.mke2fs_argv(self.recipe, self.work.tree, raw), timeout_s=BUILD_TIMEOUT_S)
        if missing := [name for name in recipes.NODES if not os.path.exists(os.path.join(self.work.tree, "dev", name))]:
            host.run(recipes.debugfs_argv(raw), stdin=recipes.nodes_script(missing).encode())
        host.run(["sfdisk", "--quiet", "--no-tell-kernel", raw], stdin=recipes.sfdisk_script(self.recipe).encode())
        with reported(raw), open(raw, "r+b") as disk:
            with open(os.path.join(grub, "boot.img"), "rb") as boot:
                disk.write(boot.read(recipes.BOOT_CODE_BYTES))
            with open(os.path.join(grub, "core.img"), "rb") as core:
                disk.seek(recipes.SECTOR_BYTES)  # boot.img loads this sector, which says that the rest follows it
                disk.write(core.read((recipes.FIRST_SECTOR - 1) * recipes.SECTOR_BYTES))
        host.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, self.work.disk], timeout_s=BUILD_TIMEOUT_S)


@dataclass(frozen=True, slots=True)
class Copy(Done):
    file: str
    kind: str

    def describe(self) -> str:
        return f"copy {self.file}"

    def do(self, host: Host) -> None:
        host.run(["qemu-img", "convert", "-f", self.kind, "-O", "qcow2", self.file, self.work.disk],
                 timeout_s=BUILD_TIMEOUT_S)


@dataclass(frozen=True, slots=True)
class Take(Done):
    """The disk from the cache."""

    kept: str

    def describe(self) -> str:
        return f"take {self.kept}"

    def do(self, host: Host) -> None:
        check_qcow2(host, self.kept)
        with reported(self.kept):
            _link(self.kept, self.work.disk)


@dataclass(frozen=True, slots=True)
class Keep(Done):
    """The disk into the cache. It may stay there whatever happens next."""

    kept: str

    def describe(self) -> str:
        return f"keep it as {self.kept}"

    def do(self, host: Host) -> None:
        temporary = f"{self.kept}.{os.getpid()}"
        with reported(self.kept):
            os.makedirs(os.path.dirname(self.kept), exist_ok=True)
            os.chmod(self.work.disk, FROZEN)
            try:
                _link(self.work.disk, temporary)
                os.replace(temporary, self.kept)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)


@dataclass(slots=True)
class Publish:
    """The disk under its name, then the record."""

    work: Work
    image: Image
    begun: bool = field(default=False)

    def describe(self) -> str:
        size = f", {human(self.image.size_bytes)}" if self.image.size_bytes else ""
        return f"publish image {self.image.name}{size}"

    def do(self, host: Host) -> None:
        store, disk = self.work.store, self.work.store.world.image_disk(self.image.name)
        with store.locked():
            if other := known_image(store, self.image.name):
                raise taken(other)
            self.begun = True
            with reported(disk):
                os.chmod(self.work.disk, FROZEN)
                os.replace(self.work.disk, disk)
            store.publish_image(self.image)

    def undo(self, host: Host) -> None:
        if self.begun:
            _forget(self.work.store, self.image)


@dataclass(frozen=True, slots=True)
class Clean(Done):
    def describe(self) -> str:
        return "clean up"

    def do(self, host: Host) -> None:
        self.work.remove()


@dataclass(frozen=True, slots=True)
class Remove:
    store: Store
    image: Image

    def describe(self) -> str:
        return f"remove image {self.image.name}"

    def do(self, host: Host) -> None:
        with self.store.locked():
            unused(self.store, self.image)
            _forget(self.store, self.image)

    def undo(self, host: Host) -> None:
        """Nothing can bring a disk back."""


def unused(store: Store, image: Image) -> None:
    """Raises Busy while templates or machines stand on the image."""
    if machines := store.machines_on(image.name):
        raise Busy(f"image '{image.name}' carries {', '.join(machines)}", hint=f"vmstop -d {machines[0]}")
    if templates := store.templates_of(image.name):
        which = "templates" if templates[1:] else "template"
        raise Busy(f"image '{image.name}' carries the {which} {', '.join(templates)}",
                   hint=f"vmcreate --remove {templates[0]}")


def _forget(store: Store, image: Image) -> None:
    """The record first: a crash leaves a disk without a record, which the next one of that name replaces."""
    for path in (store.world.image_record(image.name), store.world.image_disk(image.name)):
        with reported(path), contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _link(source: str, target: str) -> None:
    """A second name for a frozen file, or a copy where the two are on different disks."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        os.chmod(target, FROZEN)


def _write(root: str, files: Files) -> None:
    """Write files below `root`; what is there is replaced, not followed: it may be a link to a file of the host."""
    for path, file in files.items():
        target = root + path
        _make_folders(root, os.path.dirname(path).split("/")[1:])
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target)
        with open(target, "x", encoding="utf-8") as out:
            out.write(file.text)
        os.chmod(target, file.mode)


def _make_folders(root: str, parts: Iterable[str]) -> None:
    os.makedirs(root, exist_ok=True)
    for part in parts:
        root = os.path.join(root, part)
        if not os.path.isdir(root):
            os.mkdir(root)
            os.chmod(root, 0o755)


def check_qcow2(host: Host, file: str) -> None:
    """Leaked clusters waste room in the original only, and are no reason to refuse (qemu-img(1), check)."""
    try:
        host.run(["qemu-img", "check", "-q", "-f", "qcow2", file], timeout_s=BUILD_TIMEOUT_S)
    except CommandFailed as error:
        if not all("Leaked cluster" in line for line in error.message.splitlines()):
            raise SpecError([f"{file}: a corrupt qcow2: {error.message}"],
                            hint=f"qemu-img check {file} shows more; fetch it again") from error


def known_image(store: Store, name: Name) -> Image | None:
    try:
        return store.image(name)
    except NotFound:
        return None


def taken(image: Image) -> AlreadyExists:
    return AlreadyExists(f"there is another image '{image.name}', from {image.source}",
                         hint=f"cmimage remove {image.name}")
