"""A template that cannot be upgraded stays as it was; a machine that is restarted stays what it is."""

from __future__ import annotations

import subprocess

import pytest

from tests.guest.conftest import Cloud

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]


def test_an_upgrade_without_a_mirror_fails_and_leaves_the_template_as_it_was(cloud: Cloud, template: str) -> None:
    """Guests reach no mirror here: apt fails in the middle of the playbook."""
    ended = cloud.call("vmupgrade", template)
    assert ended.returncode == 71 and b"Upgrade by apt" in ended.stderr, ended.stderr
    assert cloud.machines()[template]["state"] == "stopped"
    disk = f"{cloud.world.template(template)}/disk.qcow2"
    assert subprocess.run(["qemu-img", "snapshot", "-l", disk], capture_output=True, check=True).stdout == b""
    subprocess.run(["qemu-img", "check", "-q", disk], check=True)


def test_a_restart_boots_anew_and_keeps_the_identity(cloud: Cloud, template: str) -> None:
    (name,) = cloud.run("vminstantiate", "-n", template, "-g", "again", "--name", "again").split()
    try:
        cloud.run("vmwait", name)
        asked = "cat /proc/sys/kernel/random/boot_id /etc/machine-id; ip -4 -br address show | grep ^e"
        before = cloud.run("vm", name, "--", asked).split()
        cloud.run("vmrestart", name)
        after = cloud.run("vm", name, "--", asked).split()
        assert before[0] != after[0] and before[1:] == after[1:]
        console = cloud.call("vmconsole", name, "--timeout", "20", stdin=b"\n")
        assert console.returncode == 0 and b"login:" in console.stdout, console
    finally:
        cloud.run("vmstop", "-g", "again", "-d", "-y", "--timeout", "10")
