"""Real taps in a real bridge: made by vmprepare for a user who may make none, opened by his QEMU, then gone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloudme.host import holders
from cloudme.host.run import Programs
from cloudme.model.confinement import Confinement
from cloudme.model.definitions import accounts
from cloudme.model.definitions.nouns import Merged
from tests.conftest import ROOT
from tests.net.conftest import PATIENCE_S, Realm, inside
from tests.unit.test_definitions import Machina

RAM = {"memory": {"ram": 64}}
UUIDS = {"one": "8b18191a-234f-45ce-b43c-b46e28cd2f70", "two": "00000000-0000-0000-0000-000000000001"}
PORTS = {"one": (5101, 5201), "two": (5102, 5202)}
"""On the loopback of the realm: QEMU's own, ours. What comes to QEMU's it sends by its tap, and the other way."""
BROADCAST, TYPE = "ff:ff:ff:ff:ff:ff", b"\x88\xb5"
"""A type for experiments (IEEE 802a): nobody else sends such frames."""


@pytest.fixture
def machina(tmp_path: Path) -> Machina:
    """Two machines on bridge0, the second with an address."""
    made = Machina(tmp_path)
    made.host({"accelerator": "tcg", "network": {"lan": {"device": "bridge0"}, "none": {"device": "lo"}}})
    made.machine("one", {"id": UUIDS["one"], "attrs": RAM, "connections": [{"name": "0", "network": "lan"}]})
    made.machine("two", {"id": UUIDS["two"], "attrs": RAM, "connections": [
        {"name": "0", "network": "lan", "ip": "10.210.0.9"}]})
    return made


def told(realm: Realm, machina: Machina, program: str, *words: str, status: int = 0) -> str:
    root = [] if program == "vmteardown" else ["--root", str(machina.folder.parent.parent)]
    ended = subprocess.run([sys.executable, str(ROOT / "sbin" / program), "--realm", realm.name, *root, *words],
                           capture_output=True, text=True, check=False, cwd=realm.home,
                           env=os.environ | {"CLOUDME_HOME": str(realm.home)})
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def tap(realm: Realm, name: str) -> dict[str, object]:
    return dict(json.loads(realm.run("ip", "-json", "-details", "link", "show", name))[0])


def state(realm: Realm) -> tuple[object, str]:
    """Links, but whether they have a carrier, which comes and goes for moments; rules with their numbers."""
    links = [[link.get(key) for key in ("ifindex", "ifname", "master", "mtu", "address")] + ["UP" in link["flags"]]
             for link in json.loads(realm.run("ip", "-json", "link"))]
    return links, realm.run("nft", "-a", "list", "ruleset")


@contextmanager
def qemu(realm: Realm, machine: Merged, folder: Path) -> Iterator[int]:
    """A QEMU without a guest, as the machine's user without any capability, that passes frames between tap and port."""
    account = accounts.of(machine)
    own, ours = PORTS[machine.name]
    argv = ["qemu-system-x86_64", "-machine", "none", "-display", "none", "-nodefaults",
            "-netdev", f"tap,id=t,ifname={machine.name}.0,script=no,downscript=no",
            "-netdev", "hubport,id=a,hubid=0,netdev=t",
            "-netdev", f"socket,id=s,udp=127.0.0.1:{ours},localaddr=127.0.0.1:{own}",
            "-netdev", "hubport,id=b,hubid=0,netdev=s"]
    log = str(folder / f"{machine.name}.log")
    pid = inside(realm.namespace, lambda: Programs().spawn(
        argv, stdout=log, confinement=Confinement(uid=account.uid, gid=account.gid)))
    with holders.pidfd_of(pid) as pidfd:
        try:
            yield pid
        finally:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitpid(pid, 0)


def frame(source: str, payload: bytes) -> bytes:
    return bytes.fromhex(BROADCAST.replace(":", "") + source.replace(":", "")) + TYPE + payload.ljust(46, b"\0")


def opened(realm: Realm, name: str) -> socket.socket:
    def bound() -> socket.socket:
        it = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        it.bind(("127.0.0.1", PORTS[name][1]))
        it.settimeout(PATIENCE_S)
        return it

    return inside(realm.namespace, bound)


def until_running(pid: int, folder: Path, name: str, realm: Realm) -> None:
    """Its tap has a carrier once it has it open."""
    for _ in range(200):
        if "LOWER_UP" in tap(realm, f"{name}.0")["flags"]:  # type: ignore[operator]
            return
        assert os.waitpid(pid, os.WNOHANG)[0] == 0, (folder / f"{name}.log").read_text()
        time.sleep(0.05)
    raise AssertionError((folder / f"{name}.log").read_text())


def test_a_machines_own_user_opens_its_tap_and_frames_pass_the_bridge(
    realm: Realm, machina: Machina, tmp_path: Path,
) -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is missing")
    assert "make the tap one.0" in told(realm, machina, "vmprepare", "--all", "--dry-run")
    assert "one.0" not in realm.run("ip", "link")
    told(realm, machina, "vmprepare", "--all")
    one, two = machina.read().pick(["one", "two"])
    found = tap(realm, "one.0")
    assert str(found["address"]).startswith("fe:")  # the bridge keeps its own
    assert found["master"] == "bridge0" and found["linkinfo"]["info_data"]["user"] == accounts.of(one).uid  # type: ignore[index]
    notes = Path(realm.store.world.prepared("one"))
    assert stat.S_IMODE(notes.stat().st_mode) == 0o600 and '"one.0"' in notes.read_text()
    before = state(realm)
    assert told(realm, machina, "vmprepare", "--all", "-v") == ""
    assert state(realm) == before
    with opened(realm, "one") as first, opened(realm, "two") as second, \
            qemu(realm, one, tmp_path) as left, qemu(realm, two, tmp_path) as right:
        for pid, name in ((left, "one"), (right, "two")):
            until_running(pid, tmp_path, name, realm)
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            assert [int(status[key], 16) for key in ("CapEff", "CapPrm", "CapBnd")] == [0, 0, 0]
        mine = one.connections[0].mac
        for source, payload in (("52:54:00:00:00:99", b"forged"), (mine, b"hello")):
            first.sendto(frame(source, payload), ("127.0.0.1", PORTS["one"][0]))
        came = iter(lambda: second.recv(2048), b"")
        assert next(data for data in came if data[12:14] == TYPE)[14:19] == b"hello"
    told(realm, machina, "vmteardown", "--all")
    told(realm, machina, "vmteardown", "one")
    assert "one.0" not in realm.run("ip", "link") and "two.0" not in realm.run("ip", "link")
    assert "in-one.0" not in realm.run("nft", "list", "ruleset")
    assert not notes.exists()


def test_the_tap_of_another_is_refused(realm: Realm, machina: Machina) -> None:
    realm.run("ip", "tuntap", "add", "one.0", "mode", "tap", "user", "4711")
    assert "one.0" in told(realm, machina, "vmprepare", "one", status=73)
    told(realm, machina, "vmteardown", "one")
    assert tap(realm, "one.0")["linkinfo"]["info_data"]["user"] == 4711  # type: ignore[index]


def test_what_was_done_is_undone_where_a_program_of_the_host_fails(
    realm: Realm, machina: Machina, tmp_path: Path,
) -> None:
    up = tmp_path / "up"
    up.write_text('#!/bin/sh\necho "$1" >&2\nexit 3\n')
    up.chmod(0o755)
    machina.host({"accelerator": "tcg", "network": {"lan": {"device": "bridge0"}, "own": {"up": str(up)}}})
    machina.machine("one", {"id": UUIDS["one"], "attrs": RAM, "connections": [
        {"name": "0", "network": "lan"}, {"name": "1", "network": "own"}]})
    assert "one.1" in told(realm, machina, "vmprepare", "one", status=71)
    assert "one." not in realm.run("ip", "link")
    assert not Path(realm.store.world.prepared("one")).exists()


def test_the_programs_of_a_network_put_its_taps_where_they_belong(
    realm: Realm, machina: Machina, tmp_path: Path,
) -> None:
    for name, verb in (("up", 'ip link set "$1" master bridge0 up'), ("down", 'echo "$1" >> "$0.said"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{verb}\n")
        (tmp_path / name).chmod(0o755)
    machina.host({"accelerator": "tcg", "network": {
        "lan": {"up": str(tmp_path / "up"), "down": str(tmp_path / "down")}}})
    told(realm, machina, "vmprepare", "one")
    assert tap(realm, "one.0")["master"] == "bridge0"
    assert told(realm, machina, "vmprepare", "-v", "one") == ""
    shutil.rmtree(machina.folder)
    told(realm, machina, "vmteardown", "one")
    assert (tmp_path / "down.said").read_text() == "one.0\n"
    assert "one.0" not in realm.run("ip", "link")


def test_what_is_no_bridge_is_told_with_a_hint(realm: Realm, machina: Machina) -> None:
    for device, what in (("br9", "there is no bridge 'br9'"), ("lo", "'lo' is no bridge")):
        machina.host({"network": {"lan": {"device": device}}})
        said = told(realm, machina, "vmprepare", "one", status=78)
        assert what in said and "ip link add" in said


def test_vmrun_runs_a_whole_machine_with_its_tap_and_leaves_nothing(
    realm: Realm, machina: Machina, tmp_path: Path,
) -> None:
    realm.home.chmod(0o755)
    folder = realm.home / "m"
    machina.host({"accelerator": "tcg", "network": {"lan": {"device": "bridge0"}},
                  "storage": {"tpm": {"path": str(realm.home), "pattern": "${volume}", "type": "tpm-data"}}})
    machina.machine("one", {"id": UUIDS["one"], "connections": [{"name": "0", "network": "lan"}], "attrs": RAM | {
        "qmp": {"enabled": True}, "tpm": {"enabled": True, "data": {"name": "chip", "storage": "tpm"}}}})
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "bin/vmrun"), "--realm", realm.name, "--root", str(machina.folder.parent.parent),
         "one"], stderr=subprocess.PIPE, text=True, cwd=realm.home,
        env=os.environ | {"CLOUDME_HOME": str(realm.home), "CLOUDME_MACHINA_RUN": str(folder)})
    with process:
        while "one.0" not in realm.run("ip", "link") or "LOWER_UP" not in tap(realm, "one.0")["flags"]:  # type: ignore[operator]
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        while not (folder / "one/command.1.qmp.socket").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    assert "the power button is pressed" in said and "ending one" in said
    assert "one.0" not in realm.run("ip", "link") and not (folder / "one").exists()
    assert (realm.home / "chip/state/tpm2-00.permall").stat().st_uid == accounts.of(machina.one("one")).uid
    assert not (realm.home / "m-swtpm/one").exists()
