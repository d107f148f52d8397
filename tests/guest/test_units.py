"""A real systemd runs machines that are defined: it starts them, stops them in order, and needs no cloudMe for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudme.formats import render, seeds
from cloudme.host.iso import IsoWriter
from cloudme.model import identity
from tests.guest.conftest import Cloud
from tests.systemd import Booted, booted

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

UNIT, CRASH = "machina-web.service", "machina-crash.service"
ID = "a7c0b7de-94a8-4b35-8d5e-2f0f6d1f5a21"
"""No other test has it: as root, what prepares or runs a machine ends what is left of its user."""
ADDRESS, GATEWAY = "192.168.77.10", "192.168.77.1"
KEY = "/root/key"
BOOTED_S = 120
VOLUMES = "/srv/machines"
HOST = {
    "accelerator": "tcg",
    "storage": {
        "disks": {"path": VOLUMES, "pattern": "${machine-name}/${volume}.qcow2", "type": "qcow2"},
        "seeds": {"path": VOLUMES, "pattern": "${machine-name}/${volume}.iso", "type": "raw-block", "readonly": True},
    },
    "network": {"lan": {"device": "br0"}},
    "tag": {"small": {"attrs": {"memory": {"ram": 64}, "qmp": {"enabled": True}}}},
}
MACHINES = {
    "web": {
        "id": ID,
        "description": "a guest",
        "attrs": {"memory": {"ram": 640}, "qmp": {"enabled": True}, "agent": {"qemu": {"enabled": True}},
                  "limits": {"tasks": "200"}, "access": {"user": "debian", "key": KEY}},
        "volumes": [{"name": "os", "storage": "disks", "bootable": True}, {"name": "seed", "storage": "seeds"}],
        "connections": [{"name": "0", "network": "lan", "ip": ADDRESS}],
    },
    "crash": {"id": "5c6f0a04-9c9f-4f6c-8a3e-6d3f1b0c7a11", "tags": ["small"]},
    "broken": {"id": "0f2f7c1e-55d1-4a1c-9d59-9a8f6a2d3b22", "tags": ["small"],
               "volumes": [{"name": "os", "storage": "disks"}]},
    "empty": {"id": "b8c5a3d2-7d0e-4c39-9a52-1d7e0c6f4e33", "tags": ["small"],
              "volumes": [{"name": "os", "storage": "disks"}]},
}
"""crash has no disk, and idles in its firmware. The disk of broken is rubbish, that of empty is not there."""
IN_ORDER = ("Power key pressed", "System is powering down", "Reached target poweroff.target", "Journal stopped")
"""What the guest's own journal says of a boot that ended by its power button."""
BACKUPS = tuple(f"/etc/{name}-" for name in ("passwd", "shadow", "group", "gshadow"))
"""What programs that change users leave beside the files that they change."""
SHARED = {"/etc/sysusers.d", "/run/cloudme", "/run/cloudme/machina.prepared", "/run/machina", "/var/lib/cloudme",
          "/var/lib/cloudme/machines", "/var/lib/cloudme/store.lock"}
"""What all machines have in common, and none takes away."""


@pytest.fixture(scope="module")
def host(image: str, cloud: Cloud) -> Iterator[Booted]:
    """A host with cloudMe, a bridge, and definitions."""
    with booted() as it:
        it.install()
        for words in ("link add br0 address 52:54:00:00:00:01 type bridge forward_delay 0",
                      f"address add {GATEWAY}/24 dev br0", "link set br0 up", "link set lo up"):
            it.run("ip", *words.split())
        folder = it.path("/etc/machina/machine.conf.d")
        folder.mkdir(parents=True)
        (folder.parent / "machina.conf.json").write_text(json.dumps(HOST), encoding="utf-8")
        for name, machine in MACHINES.items():
            (folder / f"{name}.conf.json").write_text(json.dumps(machine), encoding="utf-8")
        _volumes(it, f"{cloud.home}/images/{image}.qcow2")
        yield it


@pytest.fixture(autouse=True)
def told(evidence: Path, host: Booted) -> Iterator[None]:
    """What the host's journal says is evidence where a test fails."""
    yield
    said = host.run("journalctl", "--no-pager", "--output=short-precise", "--boot", "--lines=200")
    (evidence / "journal").write_text(said, encoding="utf-8")


def _volumes(host: Booted, image: str) -> None:
    for name in ("web", "broken"):
        host.path(f"{VOLUMES}/{name}").mkdir(parents=True)
    host.path(f"{VOLUMES}/broken/os.qcow2").write_bytes(b"rubbish" * 1000)
    folder = host.path(f"{VOLUMES}/web")
    shutil.copyfile(image, folder / "os.qcow2")
    for name in ("key", "host_key"):
        host.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"/root/{name}")
    said = {name: host.path(f"/root/{name}").read_text(encoding="utf-8")
            for name in ("key.pub", "host_key", "host_key.pub")}
    mac = json.loads(host.run("vmcat", "--json", "web"))[0]["connections"][0]["mac"]
    values = {
        "name": "web", "fqdn": "web.lan", "user": "debian", "instance_id": ID, "public_keys": [said["key.pub"].strip()],
        "bootcmd": [], "host_key_private": said["host_key"], "host_key_public": said["host_key.pub"].strip(),
        "cards": [{"mac": mac, "domain": "lan", "gateway": GATEWAY, "dns": [GATEWAY], "address": f"{ADDRESS}/24"}]}
    seed = folder / "seed.iso"
    IsoWriter().write(str(seed), seeds.LABEL, {
        name: render.text(template, "", **values).encode() for name, template in seeds.FILES.items()})
    seed.chmod(0o644)
    host.path("/root/known_hosts").write_text(f"{ADDRESS} {said['host_key.pub']}", encoding="utf-8")


def guest(host: Booted, command: str) -> str:
    """What a command prints in the guest, once that lets us in."""
    deadline = time.monotonic() + BOOTED_S
    while (ended := host.call("ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=2", "-o",
                              "UserKnownHostsFile=/root/known_hosts", "-i", KEY, f"debian@{ADDRESS}",
                              command)).returncode == 255:
        assert time.monotonic() < deadline, ended.stderr
        time.sleep(0.5)
    assert ended.returncode == 0, ended
    return ended.stdout


def assert_in_order(host: Booted) -> None:
    """The boot before ended so."""
    log = guest(host, "sudo journalctl --boot=-1 --output=cat --no-pager")
    at = [log.find(words) for words in IN_ORDER]
    assert at == sorted(at) and at[0] > 0, log[-3000:]


def boot(host: Booted) -> str:
    return guest(host, "cat /proc/sys/kernel/random/boot_id")


def listed(host: Booted) -> list[dict[str, str]]:
    """The machines that run."""
    found: list[dict[str, str]] = json.loads(host.run("vmrunning", "--json"))
    return found


def files(host: Booted) -> set[str]:
    """All that machines may leave on a host: files, links with their targets, users and groups."""
    said = host.run("find", "/etc", "/srv", "/var/lib", "/run", "-xdev", "-path", "/run/systemd", "-prune",
                    "-o", "-path", "/var/lib/systemd", "-prune", "-o", "-type", "d", "-print",
                    "-o", "-printf", "%p %l\n")
    said += host.run("cat", "/etc/passwd", "/etc/group")
    return {line.strip() for line in said.splitlines() if not line.startswith(BACKUPS)}


@pytest.fixture(scope="module")
def before(host: Booted) -> set[str]:
    return files(host)


def test_machines_are_enabled_and_started(host: Booted, before: set[str]) -> None:
    host.run("vmunit", "generate", "--all")
    assert host.run("vmunit", "generate", "--all", "--check") == ""
    host.run("vmunit", "enable", "web")
    host.run("vmstart", "web")
    assert [host.show(UNIT, name) for name in ("UnitFileState", "ActiveState", "SubState")] == [
        "enabled", "active", "running"]
    said = json.loads(host.run("vmunit", "status", "--json", "web"))[0]
    assert (said["machine"], said["active"], said["main_pid"]) == ("web", "active", int(host.show(UNIT, "MainPID")))


@pytest.mark.parametrize(("name", "why"), [("broken", "not in qcow2 format"), ("empty", "there is no /srv/")])
def test_what_is_broken_is_not_started_again_and_again(host: Booted, before: set[str], name: str, why: str) -> None:
    ended = host.call("vmstart", name)
    assert (ended.returncode, why in ended.stderr) == (76, True), ended
    assert host.show(f"machina-{name}.service", "ActiveState") in ("failed", "inactive")
    assert host.show(f"machina-{name}.service", "NRestarts") == "0"


def test_a_machine_that_crashes_is_started_again_within_limits(host: Booted, before: set[str]) -> None:
    own = host.path(f"/etc/systemd/system/{CRASH}.d")
    own.mkdir()
    (own / "fast.conf").write_text("[Service]\nRestartSec=100ms\n", encoding="utf-8")
    host.run("systemctl", "daemon-reload")
    host.run("vmstart", "crash")
    kill(host, CRASH)
    host.wait(CRASH, "NRestarts", "1")
    host.wait(CRASH, "SubState", "running")
    kill(host, CRASH)
    host.wait(CRASH, "ActiveState", "failed")
    (own / "fast.conf").unlink()
    own.rmdir()
    host.run("systemctl", "daemon-reload")
    host.run("vmstart", "crash")
    host.run("systemctl", "kill", "--signal=TERM", CRASH)
    host.wait(CRASH, "ActiveState", "inactive")  # who ends QEMU itself means it


def kill(host: Booted, unit: str) -> None:
    """End QEMU as the kernel does when memory is short."""
    host.run("kill", "-KILL", host.show(unit, "MainPID"))


def test_it_runs_without_systemd_too(host: Booted, before: set[str]) -> None:
    with subprocess.Popen(host.argv("vmrun", "crash"), stdin=subprocess.DEVNULL) as vmrun:
        wait_for(lambda: "crash" in [it["name"] for it in listed(host)])
        refused = host.call("vmrun", "crash")
        assert (refused.returncode, "runs" in refused.stderr) == (75, True), refused
        host.run("vmstop", "--timeout", "1", "crash")  # its firmware does not heed the button
        assert vmrun.wait(60) == 0
    assert not host.call("ls", "/run/machina/crash").stdout


def wait_for(true: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_qemu_has_no_right_but_to_its_own(host: Booted, before: set[str]) -> None:
    uid = str(identity.uid(ID))
    pid = host.show(UNIT, "MainPID")
    status = dict(line.split(":\t", 1) for line in host.run("cat", f"/proc/{pid}/status").splitlines())
    assert (set(status["Uid"].split()), set(status["Gid"].split())) == ({uid}, {uid})
    assert {int(status[name], 16) for name in status if name.startswith("Cap")} == {0}
    assert (status["Groups"].split(), status["NoNewPrivs"], status["Seccomp"]) == ([uid], "1", "2")
    assert host.run("stat", "--format=%u %a", "/run/machina/web").split() == [uid, "700"]
    assert host.run("cat", "/sys/class/net/web.0/owner").strip() == uid
    assert host.show(UNIT, "TasksMax") == "200"
    host.run("systemd-analyze", "security", "--threshold=30", UNIT, CRASH)


def test_it_is_a_machine_as_any_other(host: Booted, before: set[str]) -> None:
    assert boot(host)
    assert [(it["name"], it["state"], it["address"]) for it in listed(host)] == [("web", "running", ADDRESS)]
    assert host.run("vm", "web", "--", "hostname") == "web\n"


def test_it_is_powered_down_in_order(host: Booted, before: set[str]) -> None:
    first = boot(host)
    host.run("systemctl", "stop", UNIT)
    assert (host.show(UNIT, "ActiveState"), host.show(UNIT, "Result")) == ("inactive", "success")
    assert not host.call("ls", "/run/machina/web").stdout
    assert "web.0" not in host.run("ip", "-brief", "link")
    host.run("systemctl", "start", UNIT)
    assert boot(host) != first
    assert_in_order(host)


def test_what_runs_and_what_starts_again_needs_no_cloudme(host: Booted, before: set[str]) -> None:
    first, pid = boot(host), host.show(UNIT, "MainPID")
    host.uninstall()
    assert host.call("vmrunning").returncode == 127
    host.run("systemctl", "daemon-reload")
    assert (boot(host), host.show(UNIT, "MainPID")) == (first, pid)
    host.run("systemctl", "reset-failed", UNIT)  # it was started twice: where guests boot fast, that was in this minute
    kill(host, UNIT)
    host.wait(UNIT, "NRestarts", "1")
    host.wait(UNIT, "SubState", "running")
    assert (second := boot(host)) != first
    host.run("systemctl", "reset-failed", UNIT)
    host.run("systemctl", "restart", UNIT)
    assert boot(host) != second
    assert_in_order(host)
    host.install()
    assert [it["name"] for it in listed(host)] == ["web"]


def test_nothing_is_left(host: Booted, before: set[str]) -> None:
    host.run("vmunit", "disable", "web")
    assert host.show(UNIT, "UnitFileState") == "disabled"
    refused = host.call("vmunit", "remove", "web")
    assert (refused.returncode, host.show(UNIT, "ActiveState")) == (75, "active"), refused
    host.run("vmstop", "web")
    assert host.show(UNIT, "ActiveState") == "inactive"
    host.run("vmunit", "remove", "--all")
    after = files(host)
    assert (after - before - SHARED, before - after) == (set(), set())
    assert host.show(UNIT, "LoadState") == "not-found"
