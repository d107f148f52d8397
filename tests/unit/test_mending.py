"""What cmcheck --fix and --persist change, and take back when they fail."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from cloudme.model.check import Level
from cloudme.model.steps import Transaction
from cloudme.operations import checks
from cloudme.operations.checks import mend
from tests import fakes
from tests.unit.test_cmcheck import Root, driven, levels, plain, root, trapped

__all__ = ["root"]


def test_fix_mends_what_is_safe_and_a_second_time_there_is_nothing(root: Root) -> None:
    trapped(root)
    root.put("/proc/sys/net/ipv4/ip_forward", "0\n")
    root.put("/proc/sys/fs/inotify/max_user_instances", "8\n")
    root.fix()
    assert [result.check for result in root.results() if result.level != Level.ok] == ["firewall"]  # not ours to change
    assert not (root.folder / "etc/sysctl.d").exists()
    assert mend.steps(root.results(), root.look(), persist=False) == []


@pytest.mark.parametrize(("breaks", "told"), [
    (driven, ["mknod -m 666 /dev/net/tun c 10 200"]),
    (lambda root: root.gone("/dev/net/tun"), ["modprobe tun", "mknod -m 666 /dev/net/tun c 10 200"]),
])
def test_a_tun_that_is_missing_is_loaded_and_made_and_unmade_again(
    root: Root, breaks: Callable[[Root], object], told: list[str],
) -> None:
    breaks(root)
    files = fakes.FakeFiles(texts={"/proc/misc": root.text("/proc/misc")})
    look = dataclasses.replace(root.look(), host=fakes.host(files=files, run=root.run))
    said: list[str] = []
    with pytest.raises(RuntimeError), Transaction(look.host, said.append) as transaction:
        transaction.apply(mend.steps(checks.all_of(look, ["tun"]), look, persist=False))
        assert levels(checks.all_of(dataclasses.replace(look), ["tun"])) == [Level.ok]
        raise RuntimeError
    assert said == told
    assert files.mode("/dev/net/tun") is None


def test_the_setuid_bit_of_the_helper_is_for_the_administrator_to_give(root: Root) -> None:
    plain(root)
    assert [result.mends for result in root.results("bridge-helper")] == [()]


def test_what_was_mended_before_can_be_made_to_last_later(root: Root) -> None:
    trapped(root)
    root.fix()
    root.fix(persist=True)
    assert "net.bridge.bridge-nf-call-iptables = 0\n" in root.text("/etc/sysctl.d/90-cloudme.conf")


@pytest.mark.parametrize("built_in", [
    {"/proc/modules": "", "/lib/modules/6.1/modules.builtin": "kernel/net/bridge/br_netfilter.ko\n"}, {},
])
def test_what_is_part_of_the_kernel_is_not_loaded_at_boot(root: Root, built_in: dict[str, str]) -> None:
    for path, text in {"/proc/sys/kernel/osrelease": "6.1\n", **built_in}.items():
        root.put(path, text)
    root.fix(persist=True)
    assert root.path("/etc/sysctl.d/90-cloudme.conf").exists()
    assert not root.path("/etc/modules-load.d").exists()


def test_alpine_is_told_which_services_read_what_was_written(root: Root) -> None:
    assert mend.to_enable(root.look()) == ""
    root.put("/etc/os-release", "ID=alpine\n")
    root.put("/etc/runlevels/boot/modules", "")
    assert mend.to_enable(root.look()) == "rc-update add sysctl boot"


@pytest.mark.parametrize(("os_release", "modules"), [
    ("ID=debian\n", "/etc/modules-load.d/cloudme.conf"), ("ID=alpine\n", "/etc/modules"),
    ('ID=pop\nID_LIKE="ubuntu debian"\n', "/etc/modules-load.d/cloudme.conf"),
])
def test_persist_writes_what_the_next_boot_reads(root: Root, os_release: str, modules: str) -> None:
    trapped(root)
    root.put("/etc/os-release", os_release)
    root.put("/etc/sysctl.d/90-cloudme.conf", "# mine\nnet.bridge.bridge-nf-call-iptables = 1\n")
    root.fix(persist=True)
    assert root.text("/etc/sysctl.d/90-cloudme.conf") == (
        "# mine\nnet.bridge.bridge-nf-call-iptables = 0\nnet.bridge.bridge-nf-call-ip6tables = 0\n"
        "net.bridge.bridge-nf-call-arptables = 0\nnet.ipv4.ip_forward = 1\n")
    assert root.text(modules) == "br_netfilter\n"
    assert mend.steps(root.results(), root.look(), persist=True) == []


def test_a_mend_that_fails_takes_the_others_back(root: Root) -> None:
    trapped(root)
    with pytest.raises(RuntimeError), Transaction(root.host, print) as transaction:
        transaction.apply(mend.steps(root.results(), root.look(), persist=True))
        raise RuntimeError
    assert root.text("/proc/sys/net/bridge/bridge-nf-call-iptables") == "1"
    assert not (root.folder / "etc/sysctl.d/90-cloudme.conf").exists()
