"""A real QEMU in the foreground, as the machine's user, on a terminal of ours."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudme import index, layout
from cloudme.store import Store, take_lock
from tests.conftest import ROOT, Ended
from tests.contract.test_preparing import UID, Site, owner
from tests.contract.test_preparing import pytestmark as pytestmark
from tests.contract.test_preparing import site as site
from tests.unit.test_vmrunning import machine


@pytest.fixture
def run(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the sockets. One test at a time: the user is the same, and what he runs is ended with it."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is missing")
    folder = site.home / "m"
    monkeypatch.setenv("CLOUDME_MACHINA_RUN", str(folder))
    with open(os.path.join(tempfile.gettempdir(), "cloudme-vmrun.lock"), "wb") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        yield folder


def root(site: Site) -> list[str]:
    return ["--root", str(site.home)]


def until(happened: Callable[[], Any]) -> Any:
    while not (found := happened()):
        time.sleep(0.05)
    return found


def qemus_pid(run: Path) -> int:
    try:
        return int((run / "vm/lock").read_text() or 0)
    except FileNotFoundError:
        return 0


def greets(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as it, contextlib.suppress(OSError):
        it.connect(str(path))
        return it.recv(1) == b"{"
    return False


def test_ctrl_c_is_the_power_button_and_a_second_one_the_end(
    site: Site, run: Path, command: Callable[..., Ended],
) -> None:
    path = site.file("os")
    site.define(("os", "raw"), qmp={"enabled": True})
    seen: dict[str, Any] = {}

    def look_and_end() -> None:
        pid = until(lambda: qemus_pid(run))
        until(lambda: greets(run / "vm/systemd.0.qmp.socket"))
        seen["status"] = Path(f"/proc/{pid}/status").read_text()
        seen["folder"] = owner(run / "vm")
        seen["alive"] = index.held(str(run / "vm/lock"))
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=look_and_end)
    watcher.start()
    ended = command("vmrun", *root(site), "vm")
    watcher.join()
    assert ended.status == 0, ended.stderr
    assert "the power button is pressed" in ended.stderr and "terminating on signal" not in ended.stderr
    lines = dict(line.split(":\t", 1) for line in seen["status"].splitlines())
    assert lines["Uid"].split() == [str(UID)] * 4 and int(lines["CapEff"], 16) == 0 and lines["NoNewPrivs"] == "1"
    assert seen["folder"] == (UID, UID, 0o700) and seen["alive"]
    assert not (run / "vm").exists() and owner(path)[0] == UID


def test_without_a_monitor_it_is_told_to_end_by_a_signal(site: Site, run: Path, command: Callable[..., Ended]) -> None:
    site.define()

    def end() -> None:
        until(lambda: qemus_pid(run))
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=end)
    watcher.start()
    ended = command("vmrun", *root(site), "vm")
    watcher.join()
    assert "no monitor" in ended.stderr
    assert ended.status in (0, 128 + signal.SIGTERM) and not (run / "vm").exists()


def test_the_exit_status_is_qemus_and_a_dry_run_shows_steps_and_command(
    site: Site, run: Path, command: Callable[..., Ended],
) -> None:
    path = site.file("os")
    site.define(("os", "raw"))
    ended = command("vmrun", *root(site), "--dry-run", "vm")
    assert ended.status == 0 and owner(path)[0] == 0 and not run.exists()
    assert ended.stdout.splitlines()[0] == f"give {path} to the user machina-vm ({UID})"
    assert ended.stdout.splitlines()[-1].startswith("qemu-system-x86_64 -uuid ")
    site.machina.machine("vm", {"attrs": {"memory": {"ram": 1 << 29}}})
    ended = command("vmrun", *root(site), "vm")
    assert ended.status == 1 and "qemu-system-x86_64" in ended.stderr
    assert not (run / "vm").exists()


def test_a_terminal_that_goes_is_the_power_button_however_often_it_says_so(
    site: Site, run: Path, command: Callable[..., Ended],
) -> None:
    site.define(qmp={"enabled": True})

    def end() -> None:
        until(lambda: qemus_pid(run))
        until(lambda: greets(run / "vm/systemd.0.qmp.socket"))
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.2)
        assert index.held(str(run / "vm/lock"))  # nobody in it heeds the button
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=end)
    watcher.start()
    ended = command("vmrun", *root(site), "vm")
    watcher.join()
    assert ended.status == 0 and ended.stderr.count("the power button is pressed") == 1
    assert ended.stderr.count("ending vm") == 1 and not (run / "vm").exists()


def test_meanwhile_the_store_knows_of_it(
    site: Site, run: Path, command: Callable[..., Ended], home: Path,
) -> None:
    site.define(qmp={"enabled": True})
    (home / "config").mkdir()
    (home / "config/machina").symlink_to(site.machina.folder)
    seen: list[str] = []

    def end() -> None:
        until(lambda: greets(run / "vm/systemd.0.qmp.socket"))
        store = Store(layout.world())
        seen.extend(machine.name for machine in store.machines() if store.is_running(machine))
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=end)
    watcher.start()
    ended = command("vmrun", "--host-config", str(site.machina.folder / "machina.conf.json"), "vm")
    watcher.join()
    assert ended.status == 0, ended.stderr
    assert seen == ["vm"] and "vmrun: vm: Ctrl-C presses its power button, once more ends it\n" in ended.stderr


def test_a_machine_of_the_stores_own_that_runs_is_left_alone(
    site: Site, run: Path, command: Callable[..., Ended],
) -> None:
    path = site.file("os")
    site.define(("os", "raw"))
    store = Store(layout.world())
    os.makedirs(store.world.machine("web00"))
    store.publish(dataclasses.replace(machine("web00"), uuid=site.machina.one().uuid))
    lock = take_lock(layout.lock(store.world.machine("web00")))
    for program in ("vmprepare", "vmrun"):
        ended = command(program, *root(site), "vm")
        assert ended.status == 75 and "'web00' runs, and not by systemd" in ended.stderr
    os.close(lock)
    assert owner(path)[0] == 0


def test_a_name_that_nobody_knows_is_not_torn_down(site: Site, run: Path, command: Callable[..., Ended]) -> None:
    assert command("vmteardown", "foo") == Ended(
        66, "", "vmteardown: nothing was prepared for 'foo'\nvmteardown: (vmteardown --all undoes all that was)\n")
    site.define()
    assert command("vmprepare", *root(site), "vm").status == 0
    for _ in range(2):
        assert command("vmteardown", "vm") == Ended(0, "", "")


@pytest.mark.parametrize("program", ["vmprepare", "vmteardown", "vmrun"])
def test_an_ordinary_user_is_told_to_use_sudo(program: str) -> None:
    path = next(path for folder in ("bin", "sbin") if (path := ROOT / folder / program).exists())
    ended = subprocess.run([sys.executable, str(path), "vm"], capture_output=True, text=True, check=False, cwd="/",
                           user=65534, group=65534, extra_groups=[])
    assert ended.returncode == 77 and "run it with sudo" in ended.stderr
