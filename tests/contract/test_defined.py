"""A machine that is defined, as systemd runs it: the real QEMU, alive by its lock, powered down by its socket alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloudme import index, layout
from cloudme.errors import Busy, NotFound
from cloudme.host import holders, qmp
from cloudme.qemu.definitions import command
from tests.conftest import ROOT
from tests.unit.test_definitions import Machina

pytestmark = [pytest.mark.contract,
              pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="qemu-system-x86_64 is missing")]
UID = 0x70001234
"""Of nobody: as the one that a machine has of its own."""


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is /run/machina elsewhere, with a folder for each machine that is its user's."""
    folder = home / "machina"
    monkeypatch.setenv("CLOUDME_MACHINA_RUN", str(folder))
    home.chmod(0o711)
    for name in ("vm", "other"):
        (folder / name).mkdir(0o700, parents=True)
        if os.geteuid() == 0:
            os.chown(folder / name, UID, UID)
    return folder


@contextmanager
def living(home: Path, run: Path, name: str, number: int) -> Iterator[subprocess.Popen[bytes]]:
    """The QEMU of a definition, stopped before its first instruction; it has ended afterwards."""
    machina = Machina(home / name)
    machina.host({"accelerator": "tcg"})
    machina.machine(name, {"id": f"00000000-0000-0000-0000-00000000000{number}",
                           "attrs": {"memory": {"ram": 32}, "qmp": {"enabled": True}}})
    site = machina.read()
    (machine,) = site.pick([name])
    words = command.argv(command.options(machine, site.host, command.Ground(run=str(run))))
    argv = [word.replace("/run/machina", str(run)) for word in words]
    user = {"user": UID, "group": UID, "extra_groups": []} if os.geteuid() == 0 else {}
    process = subprocess.Popen([*argv, "-S"], stdin=subprocess.DEVNULL, **user)  # type: ignore[call-overload]
    try:
        while not (index.held(layout.machina_lock(name)) and (run / name / "systemd.0.qmp.socket").exists()):
            assert process.poll() is None
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


def vmstop(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ROOT / "bin/vmstop", *words], capture_output=True, text=True, check=False,
                          timeout=120)


def test_its_lock_says_that_it_lives_and_when_it_began(home: Path, run: Path) -> None:
    link = home / "lock"
    link.symlink_to(layout.machina_lock("vm"))
    assert not index.held(str(link)) and index.started(str(link)) is None
    with living(home, run, "vm", 1) as process:
        assert index.held(str(link)) and holders.open_by(str(link)) == process.pid
        assert index.started(str(link)) == os.stat(layout.machina_lock("vm")).st_mtime
        link.unlink()
        link.symlink_to(run / "vm/systemd.0.qmp.socket")
        assert not index.held(str(link))


def test_all_are_powered_down_at_once_by_their_sockets_alone(home: Path, run: Path) -> None:
    """Machines that are stopped heed no button: they are told to quit."""
    with living(home, run, "vm", 1) as one, living(home, run, "other", 2) as two:
        ended = vmstop("--system", "--timeout", "1s", "vm", "other", "gone")
        assert (ended.returncode, ended.stdout) == (0, "")
        assert one.wait(60) == two.wait(60) == 0
    said = ended.stderr.splitlines()
    for name in ("vm", "other"):
        assert f"vmstop: {name} does not heed the power button: ending it" in said
        assert any(line.startswith(f"vmstop: {name}: POWERDOWN") for line in said)
        assert any(line.startswith(f"vmstop: {name}: SHUTDOWN {{") and "host-qmp-quit" in line for line in said)
    assert not index.held(layout.machina_lock("vm"))


def test_a_socket_that_somebody_else_has_is_told_and_is_a_failure(home: Path, run: Path) -> None:
    with living(home, run, "vm", 1) as process, qmp.connected(str(run / "vm/systemd.0.qmp.socket"), 5):
        ended = vmstop("--system", "--timeout", "1s", "vm")
        assert process.poll() is None
    assert ended.returncode == 75 and "does not answer" in ended.stderr and "vm could not be powered" in ended.stderr


def test_a_link_to_the_socket_of_another_is_not_followed(home: Path, run: Path) -> None:
    """The machine's user may put one there, and root would stop whom he likes."""
    planted = run / "vm/systemd.0.qmp.socket"
    with living(home, run, "other", 2) as process:
        planted.symlink_to(run / "other/systemd.0.qmp.socket")
        with pytest.raises(NotFound), qmp.connected(str(planted), 5):
            pass
        assert vmstop("--system", "--timeout", "1s", "vm").returncode == 0
        assert process.poll() is None


def test_our_own_link_to_a_socket_is_followed_once(home: Path, run: Path) -> None:
    link = home / "qmp.1"
    link.symlink_to(run / "vm/command.1.qmp.socket")
    with living(home, run, "vm", 1), qmp.connected(str(link), 5) as monitor:
        assert monitor.execute("query-name") == {"name": "vm"}
        with pytest.raises(Busy), qmp.connected(str(link), 0.2):
            pass


@pytest.mark.parametrize("words", [["vm", "--system", "-d"], ["--system"], ["--system", "-g", "x"],
                                   ["--system", "../x"], ["--system", "a b"], ["--system", "vm", "--realm", "r"]])
def test_it_takes_names_and_a_time_and_nothing_else(words: list[str]) -> None:
    assert vmstop(*words).returncode == 64
