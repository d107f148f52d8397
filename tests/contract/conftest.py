"""What pulls of images share: a disk, and a site that serves it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudme import layout
from cloudme.host.run import Programs
from cloudme.store import Store
from tests.pulling import publish
from tests.site import Site, served


@pytest.fixture
def store(home: Path) -> Store:
    return Store(layout.world())


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A qcow2 of about a megabyte, every part of which is different."""
    folder = tmp_path_factory.mktemp("disk")
    content = b"".join(hashlib.sha512(bytes([n % 256, n // 256])).digest() for n in range(16384))
    (folder / "raw").write_bytes(content)
    Programs()(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(folder / "raw"), str(folder / "disk")])
    return (folder / "disk").read_bytes()


@pytest.fixture
def site(disk: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with served() as site:
        publish(site, disk)
        yield site
