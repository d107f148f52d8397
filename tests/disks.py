"""A host with volumes that can be destroyed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.unit.test_definitions import OTHER, Machina


class Disks(Machina):
    """A host with pools of most kinds, whose paths are real ones; the machine vm with a file in each."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.data = folder / "data"
        self.pools: dict[str, Any] = {
            kind: {"path": f"{self.data}/{kind}", "pattern": "${machine-name}/os/${volume}." + kind, "type": kind}
            for kind in ("raw", "qcow2", "firmware", "tpm-data")}
        self.pools |= {name: {"path": f"{self.data}/{name}", "type": kind, "readonly": readonly}
                       for name, kind, readonly in (("iso", "iso-scsi", False), ("golden", "raw", True),
                                                    ("code", "firmware", True))}
        self.host({"storage": self.pools})
        self.machine("vm", {"attrs": {
            "firmware": {"code": {"name": "ovmf", "storage": "code"}, "vars": {"name": "vars", "storage": "firmware"}},
            "tpm": {"enabled": True, "data": {"name": "tpm", "storage": "tpm-data"}}},
            "volumes": [{"name": "os", "storage": "raw"}, {"name": "data", "storage": "qcow2"}]})
        for path in ("code/ovmf.firmware", "firmware/vm/os/vars.firmware", "raw/vm/os/os.raw", "qcow2/vm/os/data.qcow2",
                     "tpm-data/vm/os/tpm.tpm-data/tpm2-00.permall", "raw/bystander.raw"):
            self.put(path)

    def put(self, path: str, content: bytes = b"x" * 2048) -> Path:
        whole = self.data / path
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_bytes(content)
        return whole

    def other(self, volumes: list[dict[str, Any]], name: str = "other") -> None:
        self.machine(name, {"id": OTHER, "volumes": volumes})

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder.parents[1])) for path in self.folder.parents[1].rglob("*")
                      if not path.is_dir() or path.is_symlink())


def based(name: str) -> bytes:
    """The head of a qcow2 file that stands on another."""
    head = bytearray(1024)
    head[:4] = b"QFI\xfb"
    head[4:8], head[8:16], head[16:20] = (2).to_bytes(4), (512).to_bytes(8), len(name.encode()).to_bytes(4)
    head[512:512 + len(name.encode())] = name.encode()
    return bytes(head)
