"""A machine's TPM: the real swtpm is made, serves the real QEMU, and ends when it should."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloudme.errors import CommandFailed
from cloudme.host import confine
from cloudme.host.companions import Beside
from cloudme.host.run import Programs
from cloudme.model import identity
from cloudme.model.confinement import Confinement
from cloudme.model.definitions.tpm import Tpm

pytestmark = [pytest.mark.contract, *(pytest.mark.skipif(not shutil.which(program), reason=f"{program} is missing")
                                      for program in ("qemu-system-x86_64", "swtpm", "swtpm_setup"))]

UID = identity.uid("8b18191a-234f-45ce-b43c-b46e28cd2f70")
END_S = 30


@pytest.fixture
def tpm() -> Iterator[Tpm]:
    """Its data is in a folder of its user's, as vmprepare makes it; a socket's path has 108 bytes at most."""
    folder = tempfile.mkdtemp(prefix="cm-")
    os.chmod(folder, 0o755)
    data = Path(folder, "data")
    data.mkdir(0o700)
    if confine.foreign(UID):
        os.chown(data, UID, UID)
    yield Tpm(str(data), f"{folder}/run/vm/control.socket")
    shutil.rmtree(folder)


@contextmanager
def qemu(tpm: Tpm) -> Iterator[subprocess.Popen[str]]:
    """One that has connected, and holds its machine still; it says what TPM it has."""
    with subprocess.Popen(
            ["qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-nodefaults", "-nographic", "-S",
             "-chardev", f"socket,id=tpm.0.socket,path={tpm.socket}", "-tpmdev",
             "emulator,id=tpm.0,chardev=tpm.0.socket", "-device", "tpm-crb,tpmdev=tpm.0", "-qmp", "stdio"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdin and process.stdout and process.stdout.readline()
            ask(process, "qmp_capabilities")
            (found,) = ask(process, "query-tpm")
            assert (found["model"], found["options"]["type"]) == ("tpm-crb", "emulator")
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[str], command: str) -> Any:
    """The answer; events may come before it."""
    assert process.stdin and process.stdout
    process.stdin.write(json.dumps({"execute": command}) + "\n")
    process.stdin.flush()
    for line in process.stdout:
        if "event" not in (answer := json.loads(line)):
            return answer["return"]
    raise AssertionError(f"no answer to {command}")


def made(tpm: Tpm) -> bytes:
    return Path(tpm.folder, "state/tpm2-00.permall").read_bytes()


def test_it_is_made_once_and_lives_no_longer_than_its_qemu(tpm: Tpm) -> None:
    beside = Beside(Programs())
    with beside.tpm(tpm, UID), qemu(tpm):
        first = made(tpm)
    assert not os.path.exists(os.path.dirname(tpm.socket))
    with beside.tpm(tpm, UID):
        assert os.stat(tpm.socket).st_mode & 0o777 == 0o600
        assert made(tpm) == first
    with beside.tpm(tpm, UID), qemu(tpm):
        pass


def test_all_that_it_keeps_is_its_users_and_nobody_elses(tpm: Tpm) -> None:
    with Beside(Programs()).tpm(tpm, UID):
        owners = {path.lstat().st_uid for path in Path(tpm.folder).rglob("*")}
    assert owners == {UID if confine.foreign(UID) else os.getuid()}
    assert {path.name: path.stat().st_mode & 0o777 for path in Path(tpm.folder).iterdir() if path.is_dir()} == {
        "state": 0o700, "config": 0o700}
    assert Path(tpm.folder, "config/var/lib/swtpm-localca/issuercert.pem").is_file()


def test_what_is_wrong_is_said_and_nothing_is_left(tpm: Tpm) -> None:
    Path(tpm.folder, "state").write_text("no folder", "utf-8")
    with pytest.raises(CommandFailed, match="mkdir failed"), Beside(Programs()).tpm(tpm, UID):
        pass
    assert not os.path.exists(tpm.socket)


def test_one_in_the_background_outlives_a_qemu_that_was_killed_and_ends_with_one_that_ends(tpm: Tpm) -> None:
    """So a unit is up when it listens, a machine that fails is started again, and one that is off leaves nothing."""
    pid_file = Path(tpm.folder, "pid")
    tpm = Tpm(tpm.folder, f"{tpm.folder}/socket")
    for argv in (*tpm.setup, [*tpm.daemon, "--pid", f"file={pid_file}"]):
        Programs()(argv, confinement=Confinement(uid=UID if confine.foreign(UID) else None))
    pidfd = os.pidfd_open(int(pid_file.read_text("utf-8")))
    try:
        with qemu(tpm) as process:
            process.kill()
        with qemu(tpm) as process:
            ask(process, "quit")
            assert process.wait(END_S) == 0
        assert select.select([pidfd], [], [], END_S)[0]
    finally:
        os.close(pidfd)
