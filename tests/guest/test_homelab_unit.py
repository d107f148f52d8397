"""A homelab comes back with its host, and is powered down in order when that goes: a real boot of systemd's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudme.host.cgroup import STOPPER as UNIT
from tests.guest.conftest import Cloud
from tests.guest.test_units import IN_ORDER
from tests.systemd import Booted, booted

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]

FILE = "/etc/cloudme/cloudme.yaml"
TEXT = "hosts: {image: debian, mem: 640}\nmachines:\n  db: {}\n  spare: {autostart: false}\n"
UP_S, DOWN_S = 400, 150


@pytest.fixture(scope="module")
def host(image: str, cloud: Cloud) -> Iterator[Booted]:
    """A host that was told what it is to have."""
    with booted() as it:
        it.install()
        images = it.path("/var/lib/cloudme/images")
        images.mkdir(parents=True)
        for suffix in ("qcow2", "json"):
            shutil.copyfile(f"{cloud.home}/images/{image}.{suffix}", images / f"debian.{suffix}")
        it.path("/etc/cloudme").mkdir()
        it.path(FILE).write_text(TEXT, encoding="utf-8")
        it.path("/root/.ssh").mkdir(mode=0o700, exist_ok=True)
        it.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/.ssh/id_ed25519")
        it.run("systemctl", "enable", UNIT)
        yield it


@pytest.fixture(autouse=True)
def told(evidence: Path, host: Booted) -> Iterator[None]:
    """What the host's journal says is evidence where a test fails."""
    yield
    said = host.call("journalctl", "--no-pager", "--output=short-precise", "--lines=300").stdout
    (evidence / "journal").write_text(said, encoding="utf-8")


def boot(host: Booted) -> str:
    return host.run("vm", "db", "--", "cat", "/proc/sys/kernel/random/boot_id")


def running(host: Booted) -> list[str]:
    return [it["name"] for it in json.loads(host.run("vmrunning", "--json"))]


def test_machines_come_and_go_with_their_host(host: Booted) -> None:
    host.stop()
    host.start(UP_S)
    assert (host.show(UNIT, "ActiveState"), running(host)) == ("active", ["db"]), host.journal(UNIT)
    first = boot(host)
    host.stop(DOWN_S)
    host.start(UP_S)
    assert boot(host) != first
    log = host.run("vm", "db", "--", "sudo", "journalctl", "--boot=-1", "--output=cat", "--no-pager")
    at = [log.find(words) for words in IN_ORDER]
    assert at == sorted(at) and at[0] > 0, log[-3000:]


def test_who_stops_the_unit_stops_the_machines_of_the_file_and_no_network(host: Booted) -> None:
    host.run("systemctl", "stop", UNIT, timeout_s=DOWN_S)
    assert (host.show(UNIT, "ActiveState"), host.show(UNIT, "Result"), running(host)) == ("inactive", "success", [])
    assert "started" in host.run("cmnet", "status")
