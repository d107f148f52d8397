"""Adding disks with the real qemu-img."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cloudme.errors import AlreadyExists, NotFound, SpecError
from cloudme.host.run import Programs
from cloudme.layout import World
from cloudme.model import recipe as recipes
from cloudme.model.machine import Image
from cloudme.model.names import Name
from cloudme.model.steps import Transaction
from cloudme.operations import images
from cloudme.store import Store
from tests import fakes
from tests.pulling import left

pytestmark = pytest.mark.contract

run = Programs()
SIZE = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Store:
    home = str(tmp_path / "home")
    return Store(World(data=home, run=f"{home}/run", config=f"{home}/config"))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A raw disk that a PC would boot."""
    path = tmp_path / "disk.raw"
    path.write_bytes((bytes(510) + b"\x55\xaa").ljust(SIZE, b"x"))
    return path


@pytest.fixture
def qcow2(raw: Path) -> Path:
    path = raw.with_name("disk.qcow2")
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(path)])
    return path


def add(store: Store, file: Path) -> Image:
    host = replace(fakes.host(), run=run, now=time.time)
    with Transaction(host, lambda line: None) as transaction:
        return images.add(transaction, store, Name("mine"), str(file))


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_a_disk_becomes_a_frozen_qcow2_with_the_same_contents(
    store: Store, kind: str, request: pytest.FixtureRequest, raw: Path,
) -> None:
    image = add(store, request.getfixturevalue(kind))
    disk = store.world.image_disk("mine")
    info = json.loads(run(["qemu-img", "info", "--output=json", disk]))
    assert (info["format"], info["virtual-size"], image.size_bytes) == ("qcow2", SIZE, SIZE)
    assert os.stat(disk).st_mode & 0o777 == 0o444
    run(["qemu-img", "compare", str(raw), disk])
    assert store.image("mine") == image
    assert left(store) == ["mine.json", "mine.qcow2"]


def test_the_same_disk_twice_is_nothing_to_do_and_another_one_finds_the_name_taken(
    store: Store, raw: Path, qcow2: Path,
) -> None:
    first = add(store, qcow2)
    assert add(store, qcow2) == first
    with pytest.raises(AlreadyExists):
        add(store, raw)


def test_a_corrupt_qcow2_is_refused_and_nothing_is_left(store: Store, qcow2: Path) -> None:
    with qcow2.open("r+b") as file:
        file.seek(0x20000)  # the refcount block of a fresh image: all clusters become unaccounted for
        file.write(bytes(0x10000))
    with pytest.raises(SpecError, match="a corrupt qcow2") as caught:
        add(store, qcow2)
    assert caught.value.exit_status == 65
    assert left(store) == []


def test_a_truncated_qcow2_is_refused(store: Store, qcow2: Path) -> None:
    os.truncate(qcow2, 70000)
    with pytest.raises(SpecError):
        add(store, qcow2)


def test_a_text_and_a_disk_that_does_not_boot_are_refused(store: Store, tmp_path: Path) -> None:
    for content in (b"not a disk", bytes(SIZE)):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(SpecError, match="neither a qcow2 nor a disk that boots"):
            add(store, tmp_path / "x")


def test_a_disk_of_another_format_is_refused_with_the_command_that_converts_it(store: Store, raw: Path) -> None:
    other = raw.with_name("disk.vmdk")
    run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", str(raw), str(other)])
    with pytest.raises(SpecError, match="a disk of format vmdk") as caught:
        add(store, other)
    assert "qemu-img convert" in str(caught.value.hint)


def test_a_disk_that_stands_on_another_file_is_refused(store: Store, qcow2: Path, tmp_path: Path) -> None:
    overlay, outside = str(tmp_path / "overlay"), str(tmp_path / "outside")
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(qcow2), "-F", "qcow2", overlay])
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path}/data", outside, "1M"])
    for file in (overlay, outside):
        with pytest.raises(SpecError, match="needs the file"):
            add(store, Path(file))
    assert left(store) == []


def test_no_file_is_told(store: Store, tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(NotFound):
            add(store, path)


def test_nodes_of_dev_are_made_without_root(tmp_path: Path) -> None:
    """An image that a user builds has them, too: the kernel opens /dev/console before anything is mounted there."""
    recipe = replace(recipes.debian(), disk_bytes=32 << 20)
    tree, raw = tmp_path / "tree", str(tmp_path / "raw")
    (tree / "dev").mkdir(parents=True)
    with open(raw, "wb") as disk:
        disk.truncate(recipe.disk_bytes)
    run(recipes.mke2fs_argv(recipe, str(tree), raw))
    run(recipes.debugfs_argv(raw), stdin=recipes.nodes_script(recipes.NODES).encode())
    name = recipes.debugfs_argv(raw)[-1]
    for node, (major, minor) in recipes.NODES.items():
        said = run(["debugfs", "-R", f"stat /dev/{node}", name])
        assert "Type: character special    Mode:  0666" in said
        assert f"{major:02}:{minor:02}" in said
