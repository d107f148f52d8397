"""The reader of qcow2 heads against files of the real qemu-img, and against what no qemu-img wrote."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest

from cloudme.errors import StoreError
from cloudme.formats import qcow2
from cloudme.formats.qcow2 import Backing
from cloudme.host.run import Programs

pytestmark = pytest.mark.contract


def backing(path: Path) -> Backing | None:
    return qcow2.backing(path.read_bytes()[:qcow2.HEAD_BYTES], str(path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is missing")
    Programs()(["qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "base.qcow2"), "1M"])
    return tmp_path


@pytest.mark.parametrize("options", [["-o", "compat=1.1"], ["-o", "compat=0.10"], ["-o", "cluster_size=512"],
                                     ["-o", "cluster_size=2M"], ["-o", "extended_l2=on"]])
@pytest.mark.parametrize("name", ["base.qcow2", "/", "../{}/base.qcow2", "ü, x.qcow2"])
def test_the_name_below_is_the_one_that_qemu_img_was_told(folder: Path, name: str, options: list[str]) -> None:
    name = f"{folder}/base.qcow2" if name == "/" else name.format(folder.name)
    top = folder / "top.qcow2"
    Programs()(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "qcow2", *options, str(top), "1M"])
    assert backing(top) == Backing(name, "qcow2")


def test_what_stands_on_nothing_or_is_no_qcow2(folder: Path) -> None:
    assert backing(folder / "base.qcow2") is None
    (folder / "raw").write_bytes(bytes(1024))
    assert backing(folder / "raw") is None
    assert qcow2.backing(b"", "empty") is None


def test_a_format_is_told_even_where_it_is_not_ours(folder: Path) -> None:
    top = folder / "top.qcow2"
    Programs()(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "secret", "-F", "raw", str(top), "1M"])
    assert backing(top) == Backing("secret", "raw")


@pytest.mark.parametrize("head", [
    qcow2.MAGIC, qcow2.MAGIC + struct.pack(">IQI", 3, 1 << 40, 5), qcow2.MAGIC + struct.pack(">IQI", 3, 8, 0),
    qcow2.MAGIC + struct.pack(">IQI", 3, 20, 2) + b"\xff\xff" + bytes(100),
    qcow2.MAGIC + struct.pack(">IQI", 3, 20, 4) + b"name"])
def test_a_damaged_head_is_said_to_be_one(head: bytes) -> None:
    with pytest.raises(StoreError, match="disk: the head of this disk is damaged"):
        qcow2.backing(head, "disk")


def test_a_disk_whose_data_is_elsewhere_is_refused(folder: Path) -> None:
    """qemu-img and QEMU would open, and resize, whatever file is named there."""
    top, data = folder / "top.qcow2", folder / "data"
    Programs()(["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data}", str(top), "1M"])
    with pytest.raises(StoreError, match="its data is in another file"):
        backing(top)
