"""Waits on real guests: each trouble is brought about, and named."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudme import layout
from cloudme.host import keys, qemu
from cloudme.host.run import Programs
from cloudme.store import Store
from tests import fakes
from tests.guest.conftest import Cloud

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

BACK_S = 12
"""After so many seconds a guest mends by itself what a test broke in it."""


@pytest.fixture(scope="module")
def guest(cloud: Cloud, template: str) -> Iterator[str]:
    cloud.run("vminstantiate", "--cold", "-n", template, "-g", "waits", "--name", "wait")
    cloud.run("vmwait", "wait00")
    yield "wait00"
    cloud.run("vmstop", "-g", "waits", "-d", "-y", "--timeout", "10")


def broken(cloud: Cloud, guest: str, breaking: str, mending: str) -> subprocess.CompletedProcess[bytes]:
    """Break something in the guest for a while; how `vmwait` ended meanwhile. It is mended on return."""
    cloud.run("vm", guest, "--", f"systemd-run -q --on-active={BACK_S} --timer-property=AccuracySec=100ms "
              f"sh -c '{mending}'; {breaking}")
    for _ in range(20):  # until it has broken
        ended = cloud.call("vmwait", guest, "--timeout", "4")
        if ended.returncode:
            break
    cloud.run("vmwait", guest)
    return ended


def test_a_guest_that_is_ready_is_not_waited_for(cloud: Cloud, guest: str) -> None:
    for goal in ("booted", "address", "ssh", "agent"):
        cloud.run("vmwait", guest, "--for", goal, "--timeout", "20")


def test_a_closed_port_is_named(cloud: Cloud, guest: str) -> None:
    ended = broken(cloud, guest, "systemctl stop ssh.service", "systemctl start ssh.service")
    assert ended.returncode == 75 and b"the ssh port is closed" in ended.stderr, ended.stderr
    assert b"vmconsole wait00" in ended.stderr


def test_a_refused_key_is_named(cloud: Cloud, guest: str) -> None:
    ended = broken(cloud, guest, "mv /root/.ssh/authorized_keys /root/away",
                   "mv /root/away /root/.ssh/authorized_keys")
    assert ended.returncode == 75 and b"the guest refuses the ssh key" in ended.stderr, ended.stderr


def test_a_guest_without_its_link_is_named(cloud: Cloud, guest: str) -> None:
    card = "$(ls /sys/class/net | grep ^e)"
    ended = broken(cloud, guest, f"systemd-run -q --on-active=1 ip link set {card} down", f"ip link set {card} up")
    assert ended.returncode == 75 and b"it was given its address, but" in ended.stderr, ended.stderr


def test_another_host_key_than_the_pinned_one_is_named_and_refused(cloud: Cloud, guest: str) -> None:
    pinned = Path(cloud.world.machine(guest), "known_hosts")
    text = pinned.read_text(encoding="ascii")
    _, other = keys.SshKeys().ed25519("other")
    pinned.write_text(f"{text.split()[0]} {other}\n", encoding="ascii")
    try:
        ended = cloud.call("vmwait", guest, "--timeout", "4")
        assert ended.returncode in (75, 76) and b"another ssh host key" in ended.stderr, ended.stderr
        ended = cloud.call("vm", guest, "--", "true")
        assert ended.returncode == 76 and os.fsencode(pinned) in ended.stderr, ended.stderr
    finally:
        pinned.write_text(text, encoding="ascii")


def test_a_dead_dnsmasq_is_named_and_started_again(cloud: Cloud, guest: str) -> None:
    os.kill(int(Path(cloud.world.dnsmasq("default", "pid")).read_text(encoding="ascii")), signal.SIGKILL)
    (name,) = cloud.run("vminstantiate", "-n", "debian", "-g", "waits", "--name", "thirsty").split()
    cloud.run("vmwait", name, "--for", "booted")
    ended = cloud.call("vmwait", name, "--for", "address", "--timeout", "3")
    assert ended.returncode == 75 and b"dnsmasq has ended" in ended.stderr, ended.stderr
    assert b"cmnet start" in ended.stderr
    cloud.run("cmnet", "start")
    cloud.run("vmwait", name)


def test_a_qemu_that_goes_ends_the_wait_at_once(cloud: Cloud, guest: str) -> None:
    (name,) = cloud.run("vminstantiate", "--cold", "-n", "debian", "-g", "waits", "--name", "doomed").split()
    wait = cloud.popen("vmwait", "-v", name, "--timeout", "300", stderr=subprocess.PIPE)
    assert wait.stderr is not None
    wait.stderr.readline()  # it is at it
    store = Store(cloud.world)
    qemu.Qemu(Programs(), fakes.FakeNet()).kill(layout.lock(store.folder(store.machine(name))))
    _, words = wait.communicate(timeout=100)
    assert wait.returncode == 76 and b"QEMU has gone" in words, words
