"""Images: the recipe as a value, sources of packages, and the steps over a host of fakes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cloudme.errors import AlreadyExists, Busy, CommandFailed, NotFound, NotPermitted, StoreError, UsageError
from cloudme.formats import aptsources
from cloudme.model import recipe as recipes
from cloudme.model.machine import Access, Disk, Image, Nic, Shape, Template
from cloudme.model.names import Name
from cloudme.model.steps import Transaction
from cloudme.operations import images
from cloudme.store import Store
from tests import fakes

DEBIAN = recipes.debian()


class BuildingRun(fakes.FakeRun):
    """mmdebstrap leaves a tree with GRUB in it; grub-mkimage a core image; qemu-img a disk."""

    def __call__(self, argv: Any, **more: Any) -> str:
        answer = super().__call__(argv, **more)
        if "mmdebstrap" in argv:
            tree = Path(argv[argv.index(DEBIAN.suite) + 1])
            (tree / "usr/lib/grub/i386-pc").mkdir(parents=True)
            (tree / "usr/lib/grub/i386-pc/boot.img").write_bytes(b"B" * 512)
            (tree / "etc/ssh").mkdir(parents=True)
            (tree / "etc/ssh/ssh_host_rsa_key").write_text("secret")
            (tree / "etc/hostname").symlink_to("/etc/passwd")
        if "grub-mkimage" in argv:
            (Path(argv[1]) / "boot/grub/i386-pc/core.img").write_bytes(b"C" * 1000)
        if list(argv[:2]) == ["qemu-img", "convert"]:
            with Path(argv[-2]).open("rb") as raw:
                self.first = raw.read(2000)
            Path(argv[-1]).write_bytes(b"qcow2")
        return answer


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def build(store: Store, run: fakes.FakeRun, *, recipe: recipes.Recipe = DEBIAN, cache: str | None = None) -> list[str]:
    """What was said."""
    said: list[str] = []
    with Transaction(fakes.host(run=run, now=lambda: 0.0), said.append) as transaction:
        images.build(transaction, store, Name("debian"), recipe, sources=["deb http://a/debian bookworm main"],
                     cache=cache)
    return said


def files(store: Store) -> list[str]:
    return sorted(os.listdir(store.world.images)) if os.path.isdir(store.world.images) else []


def test_the_digest_of_a_recipe_is_the_same_in_every_process_and_changes_with_what_is_in_it() -> None:
    assert recipes.digest(recipes.debian()) == recipes.digest(DEBIAN)
    assert recipes.digest(recipes.debian(include=["b", "a"])) == recipes.digest(recipes.debian(include=["a", "b", "a"]))
    others = [recipes.debian("trixie"), recipes.debian(include=["nginx-light"])]
    assert len({recipes.digest(recipe) for recipe in (DEBIAN, *others)}) == 3


@pytest.mark.parametrize("word", ["", "a b", "a;b", "../x", "A"])
def test_what_is_no_name_of_a_package_is_refused(word: str) -> None:
    with pytest.raises(UsageError):
        recipes.debian(include=[word])


def test_the_command_lines_of_a_build_are_these() -> None:
    recipe = recipes.debian(include=["nginx-light"])
    argv = recipes.mmdebstrap_argv(recipe, "/w/tree", "/w/early", ["deb http://a/debian bookworm main"])
    assert argv[-3:] == ["bookworm", "/w/tree", "deb http://a/debian bookworm main"]
    assert "--mode=root" in argv
    assert argv[:argv.index("mmdebstrap")] == [
        "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    assert next(word for word in argv if word.startswith("--include=")).endswith("qemu-guest-agent,sudo,nginx-light")
    assert recipes.mke2fs_argv(recipe, "/w/tree", "/w/raw")[-4:] == ["-d", "/w/tree", "/w/raw", "4193280k"]
    assert "start=2048, type=83, bootable" in recipes.sfdisk_script(recipe)
    assert recipes.grub_argv("/core.img")[:7] == [
        "grub-mkimage", "-O", "i386-pc", "-o", "/core.img", "-p", "(,msdos1)/boot/grub"]


def test_the_first_menu_finds_the_root_by_the_uuid_of_the_file_system() -> None:
    uuid = recipes.filesystem_uuid(DEBIAN)
    assert f"--set=root {uuid}\n" in recipes.grub_cfg(DEBIAN)
    assert f"root=UUID={uuid} ro console=tty0 console=ttyS0" in recipes.grub_cfg(DEBIAN)
    assert uuid in recipes.mke2fs_argv(DEBIAN, "t", "r")


def test_a_built_image_has_boot_code_a_core_and_a_frozen_disk_and_a_record(store: Store) -> None:
    run = BuildingRun()
    said = build(store, run)
    assert run.first[:512] == b"B" * 440 + bytes(72)
    assert run.first[512:1512] == b"C" * 1000
    assert files(store) == ["debian.json", "debian.qcow2"]
    assert os.stat(store.world.image_disk("debian")).st_mode & 0o777 == 0o444
    assert store.image("debian").digest == recipes.digest(DEBIAN)
    assert said[1] == f"install {len(DEBIAN.packages)} packages of bookworm and what they depend on"


def test_the_same_build_twice_does_nothing_and_another_recipe_finds_the_name_taken(store: Store) -> None:
    build(store, BuildingRun())
    run = BuildingRun()
    assert build(store, run) == []
    assert run.calls == []
    with pytest.raises(AlreadyExists, match="there is another image 'debian'"):
        build(store, run, recipe=recipes.debian("trixie"))


@pytest.mark.parametrize("word", ["mmdebstrap", "grub-mkimage", "mke2fs", "sfdisk", "convert"])
def test_a_build_that_fails_anywhere_leaves_nothing(store: Store, word: str) -> None:
    with pytest.raises(CommandFailed):
        build(store, BuildingRun(fail={word: CommandFailed("no")}))
    assert files(store) == []


def test_a_name_that_was_taken_meanwhile_is_left_alone(store: Store) -> None:
    class Overtaken(BuildingRun):
        def __call__(self, argv: Any, **more: Any) -> str:
            if argv[0] == "sfdisk":
                store.publish_image(Image(name=Name("debian"), size_bytes=1, digest="x", source="s", created="c"))
                Path(store.world.image_disk("debian")).write_text("theirs")
            return super().__call__(argv, **more)

    with pytest.raises(AlreadyExists):
        build(store, Overtaken())
    assert files(store) == ["debian.json", "debian.qcow2"]
    assert Path(store.world.image_disk("debian")).read_text() == "theirs"


def test_a_disk_in_the_cache_is_taken_instead_of_built(store: Store, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    build(store, BuildingRun(), cache=cache)
    assert os.listdir(cache) == [f"{recipes.digest(DEBIAN)}.qcow2"]
    remove(store)
    run = BuildingRun(missing={"mmdebstrap"})
    build(store, run, cache=cache)
    assert [call[:2] for call in run.calls] == [["qemu-img", "check"]]
    assert files(store) == ["debian.json", "debian.qcow2"]


def test_who_is_not_root_becomes_it_first_in_a_namespace_or_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    refused = NotPermitted("no ids", hint="usermod")

    def refuse() -> None:
        raise refused

    run = BuildingRun()
    with pytest.raises(NotPermitted, match="no ids"), \
            Transaction(fakes.host(run=run, become_root=refuse), lambda line: None) as transaction:
        images.build(transaction, store, Name("debian"), DEBIAN, sources=[], cache=None)
    assert files(store) == []
    assert run.calls == []
    said = build(store, BuildingRun())
    assert said.index("be root in a user namespace, over this user's subordinate ids") == 1
    assert files(store) == ["debian.json", "debian.qcow2"]


def test_device_nodes_that_only_root_can_make_are_written_into_the_disk() -> None:
    script = recipes.nodes_script(["console", "null"])
    assert script == ("cd /dev\nmknod console c 5 1\nset_inode_field console mode 020666\n"
                      "mknod null c 1 3\nset_inode_field null mode 020666\n")


def test_too_little_room_is_told_before_anything_is_done(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=10, f_frsize=4096))
    with pytest.raises(StoreError, match="2G are wanted, 40K are free"):
        build(store, BuildingRun())


def remove(store: Store) -> None:
    with Transaction(fakes.host(), lambda line: None) as transaction:
        images.remove(transaction, store, Name("debian"))


def test_an_image_on_which_a_template_stands_is_not_removed(store: Store) -> None:
    build(store, BuildingRun())
    os.makedirs(store.world.template("web"))
    store.publish_template(Template(
        name=Name("web"), uuid="u", shape=Shape(vcpus=1, ram_mib=512), disk=Disk(file="disk.qcow2", size_bytes=1),
        nic=Nic(network=Name("cloudme"), mac="m", address=None),
        access=Access(user="root", key_of=Name("web"), seeded=True), created="c", image=Name("debian")))
    with pytest.raises(Busy, match="carries the template web"):
        remove(store)
    assert [(image.name, templates) for image, templates in images.listed(store)] == [("debian", ["web"])]
    store.remove(store.world.template("web"), "template.json")
    remove(store)
    assert files(store) == []
    with pytest.raises(NotFound):
        remove(store)


DEB822 = """\
# a comment: not a field
Types: deb
URIs: http://one/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://one/debian-security/
Suites: bookworm-security
Components: main contrib
"""


@pytest.mark.parametrize(("files", "suite", "wanted"), [
    ({"debian.sources": DEB822}, "bookworm", [
        "deb http://one/debian bookworm main", "deb http://one/debian bookworm-updates main",
        "deb http://one/debian-security/ bookworm-security main"]),
    ({"debian.sources": DEB822}, "trixie", [
        "deb http://one/debian trixie main", "deb http://one/debian trixie-updates main",
        "deb http://one/debian-security/ trixie-security main"]),
    ({"sources.list": "deb [signed-by=/k] http://two/debian bookworm main contrib # x\n"
                      "#deb http://no/debian bookworm main"}, "bookworm", ["deb http://two/debian bookworm main"]),
    ({"x.list": "deb http://docker/linux/debian bookworm stable\ndeb http://other/repo bookworm main\n"
                "deb-src http://two/debian bookworm main\ndeb file:/mnt/debian bookworm main"}, "bookworm", []),
    ({"off.sources": "Enabled: no\n" + DEB822.split("\n\n")[0].partition("\n")[2]}, "bookworm", []),
    ({}, "bookworm", []),
])
def test_packages_come_from_where_the_host_has_its_own(files: dict[str, str], suite: str, wanted: list[str]) -> None:
    assert aptsources.lines(files, "bookworm", suite) == wanted


def test_the_clock_of_the_host_dates_an_image(store: Store) -> None:
    build(store, BuildingRun())
    assert store.image("debian").created == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(0))
