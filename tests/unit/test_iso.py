"""Seed disks."""

from __future__ import annotations

import io
import stat
from pathlib import Path

import pycdlib
import pytest

from cloudme.errors import StoreError
from cloudme.host.iso import IsoWriter

FILES = {"user-data": b"#cloud-config\n", "meta-data": b"", "network-config": b"x" * 5000}


def test_a_disk_has_its_label_and_its_files_under_their_own_names(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    IsoWriter().write(str(path), "cidata", FILES)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    disk = pycdlib.PyCdlib()
    disk.open(str(path))
    try:
        assert disk.pvd.volume_identifier.decode().strip() == "cidata"
        for name, content in FILES.items():
            for how in ({"rr_path": f"/{name}"}, {"joliet_path": f"/{name}"}):
                got = io.BytesIO()
                disk.get_file_from_iso_fp(got, **how)
                assert got.getvalue() == content
    finally:
        disk.close()


def test_a_disk_is_replaced_as_a_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    path.write_text("old", encoding="ascii")
    IsoWriter().write(str(path), "cidata", FILES)
    assert path.stat().st_size > 5000
    assert [entry.name for entry in tmp_path.iterdir()] == ["seed.iso"]


def test_a_disk_that_cannot_be_written_is_an_error_of_the_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        IsoWriter().write(str(tmp_path / "missing" / "seed.iso"), "cidata", FILES)
