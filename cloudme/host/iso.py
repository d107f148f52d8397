"""Small ISO 9660 disks."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping

from cloudme.store import reported, sync_folder

PRIVATE = 0o100400
"""st_mode of the files on the disk (inode(7)): a seed holds the host key."""


class IsoWriter:
    """Implements `Iso`."""

    def write(self, path: str, label: str, files: Mapping[str, bytes]) -> None:
        """The names are in Rock Ridge and Joliet; those of plain ISO 9660, which nobody reads, are only numbers."""
        import pycdlib

        iso = pycdlib.PyCdlib()
        iso.new(interchange_level=1, rock_ridge="1.09", joliet=3, vol_ident=label)
        try:
            for number, (name, content) in enumerate(files.items()):
                iso.add_fp(io.BytesIO(content), len(content), f"/FILE{number}.;1", rr_name=name,
                           joliet_path=f"/{name}", file_mode=PRIVATE)
            _replace(path, iso)
        finally:
            iso.close()


def _replace(path: str, iso: object) -> None:
    """Write beside `path`, then rename: a machine never boots from half a disk."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with reported(path):
        try:
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w+b") as file:
                iso.write_fp(file)  # type: ignore[attr-defined]
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(os.path.dirname(path) or ".")
