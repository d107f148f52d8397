"""A disk that a QEMU has open is not destroyed: the real one's locks are seen."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudme.cli import wiring
from tests import fakes
from tests.conftest import Ended
from tests.unit.test_definitions import Machina


@pytest.mark.parametrize("options", ["", ",read-only=on"])
def test_a_disk_that_a_qemu_has_open_stays(
    command: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str,
) -> None:
    # only a patch gives programs fakes
    monkeypatch.setattr(wiring, "host", lambda world: fakes.host())
    machina = Machina(tmp_path)
    machina.host({"storage": {"pool": {"path": "/data", "type": "qcow2"}}})
    machina.machine("vm", {"volumes": [{"name": "os", "storage": "pool"}]})
    disk = tmp_path / "data/os.qcow2"
    disk.parent.mkdir()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"], check=True)
    destroy = ("vmdestroy", "--root", str(tmp_path), "vm", "--yes-destroy", "vm")
    with subprocess.Popen(
        ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-nographic", "-qmp", "stdio",
         "-blockdev", f"driver=file,node-name=file,filename={disk}{options}",
         "-blockdev", f"driver=qcow2,node-name=disk,file=file{options}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as qemu:
        try:
            assert qemu.stdout and b"QMP" in qemu.stdout.readline()
            ended = command(*destroy)
            assert (ended.status, f"{disk} is in use" in ended.stderr, disk.exists()) == (75, True, True)
        finally:
            qemu.kill()
    assert command(*destroy).status == 0
    assert not disk.exists()
