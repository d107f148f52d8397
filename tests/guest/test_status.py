"""Warm clones, and one that was booted: what the daily verbs say of them, and what they do to them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.guest.conftest import Cloud
from tests.panes import Pane
from tests.sshd import Sshd

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]

MIB = 1 << 20
PATH = f"{os.path.dirname(sys.executable)}:/usr/bin:/bin"


@pytest.fixture(scope="module")
def pair(cloud: Cloud, warm: str) -> Iterator[tuple[str, str]]:
    """Two warm clones; the second one was booted since."""
    first, second = cloud.run("vminstantiate", "-n", warm, "-g", "daily", "--name", "day", "-C", "2",
                              "--instant").split()
    try:
        cloud.run("vmrestart", second)
        cloud.run("vmwait", first, second, "--timeout", "600")
        cloud.run("vmwait", second, "--for", "agent", "--timeout", "600")
        yield first, second
    finally:
        cloud.call("vmstop", "-d", "-y", "--timeout", "1", first, second)


def status(cloud: Cloud, *words: str) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in json.loads(cloud.run("vmstatus", "--json", *words))}


def meminfo(cloud: Cloud, name: str) -> dict[str, int]:
    """In bytes."""
    lines = cloud.run("vm", name, "--", "cat", "/proc/meminfo").splitlines()
    return {line.partition(":")[0]: int(line.split()[1]) << 10 for line in lines}


def test_each_machine_tells_what_it_uses_and_what_it_costs(cloud: Cloud, pair: tuple[str, str]) -> None:
    first, second = pair
    found = status(cloud, "daily", "--agent")
    assert sorted(found) == sorted(pair)
    for name in pair:
        one, own = found[name], meminfo(cloud, name)
        assert (one["state"], one["error"]) == ("running", "")
        assert one["since"] and one["cpu_percent"] is not None
        used = own["MemTotal"] - own["MemAvailable"]
        assert abs(one["used_bytes"] - used) < 128 * MIB
        assert 0 < one["allocated_bytes"] < one["disk_bytes"]
        assert 0 < one["host_bytes"] < 4 * one["ram_bytes"]
    assert found[first]["left_bytes"] is None
    assert found[second]["left_bytes"] == found[second]["ram_bytes"] == 640 * MIB
    assert found[first]["host_bytes"] < found[second]["host_bytes"]  # it shares most of its memory


def test_memory_is_taken_from_a_guest_and_given_back(cloud: Cloud, pair: tuple[str, str]) -> None:
    _, second = pair
    before = meminfo(cloud, second)
    assert cloud.run("vmmem", second, "400M").split() == [second, "640M", "->", "400M"]
    during = meminfo(cloud, second)
    assert before["MemFree"] - during["MemFree"] > 100 * MIB
    assert status(cloud, second)[second]["left_bytes"] == 400 * MIB
    assert cloud.call("vmmem", second, "32M").returncode == os.EX_USAGE
    assert cloud.call("vmmem", second, "2G").returncode == os.EX_USAGE
    (back,) = json.loads(cloud.run("vmmem", second, "640M", "--json"))
    assert (back["old_bytes"], back["new_bytes"]) == (400 * MIB, 640 * MIB)
    assert meminfo(cloud, second)["MemFree"] - during["MemFree"] > 100 * MIB


def test_a_clone_that_shares_its_memory_has_no_balloon_and_says_so(cloud: Cloud, pair: tuple[str, str]) -> None:
    first, _ = pair
    refused = cloud.call("vmmem", first, "400M")
    assert refused.returncode == os.EX_UNAVAILABLE
    assert f"vmrestart {first}" in refused.stderr.decode()


def test_a_live_table_in_a_terminal_follows_what_happens(
    cloud: Cloud, pair: tuple[str, str], tmp_path: Path,
) -> None:
    first, second = pair
    with Pane(tmp_path, cloud.argv("vmstatus", "daily", "--watch"), cloud.env, columns=110, rows=12) as pane:
        def line(screen: str, name: str) -> str:
            return next((line for line in screen.splitlines() if line.split()[:1] == [name]), "")

        screen = pane.expect(lambda screen: line(screen, first) and "/640M" in line(screen, second))
        assert screen.split()[:9] == ["name", "state", "address", "up", "cpu", "guest", "host", "disk", "error"]
        assert all(line(screen, name).split()[1] == "running" for name in pair)
        cloud.run("vmmem", second, "400M")
        pane.expect(lambda screen: "/400M" in line(screen, second))
        pane.resize(140, 30)
        cloud.run("vmmem", second, "640M")
        assert len(pane.expect(lambda screen: "/640M" in line(screen, second)).splitlines()) == 30
        assert "\033[" in pane.screen(colours=True)
        pane.keys("C-c")
        assert pane.ended() == 128 + signal.SIGINT
        assert first not in pane.screen()  # the screen is what it was


def test_a_booted_machine_is_forked_and_keeps_its_balloon(cloud: Cloud, pair: tuple[str, str]) -> None:
    """Its clone, which shares memory, has none; what the source gives back is not the clone's."""
    _, second = pair
    cloud.run("vmmem", second, "500M")
    (fork,) = cloud.run("vmfork", second, "--name", "forked").split()
    try:
        found = status(cloud, second, fork)
        assert (found[second]["left_bytes"], found[fork]["left_bytes"]) == (500 * MIB, None)
        ram = Path(cloud.world.forks, f"{second}.1", "ram")
        blocks = ram.stat().st_blocks
        cloud.run("vmmem", second, "400M")
        cloud.run("vmmem", second, "640M")
        cloud.run("vm", fork, "--", "sh", "-c", "'head -c 100M /dev/zero | tail -c 1 | wc -c'")
        assert ram.stat().st_blocks == blocks
    finally:
        cloud.call("vmstop", "-d", "-y", "--timeout", "1", fork)


def resident(folder: Path) -> list[str]:
    """What a command line begins with for which root's home is that folder: ssh and sshd go by passwd(5), not HOME."""
    users = folder / "passwd"
    others = Path("/etc/passwd").read_text(encoding="utf-8").partition("\n")[2]  # root's line is the first
    users.write_text(f"root:x:0:0::{folder}:/bin/sh\n{others}", encoding="utf-8")
    return ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/passwd && exec "$@"', str(users)]


def at_home(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*resident(folder), *words], env={"PATH": PATH, "HOME": str(folder)}, capture_output=True,
                          text=True, check=False, timeout=120, stdin=subprocess.DEVNULL, cwd=folder)


def test_ssh_scp_and_rsync_find_machines_by_their_names(
    cloud: Cloud, pair: tuple[str, str], tmp_path: Path,
) -> None:
    """In a realm: only `vm --proxy` leads there. Nothing but the name is typed, and what was written is read."""
    if not shutil.which("rsync"):
        pytest.skip("rsync is missing")
    first, second = pair
    said = subprocess.run(cloud.argv("cmsshconfig", "--include"), env={**cloud.env, "HOME": str(tmp_path)},
                          capture_output=True, text=True, check=True)
    assert said.stdout.strip() == f"{tmp_path}/.ssh/config.d/cloudme-{cloud.realm}"

    def run(*words: str) -> str:
        ended = at_home(tmp_path, *words)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    assert [run("ssh", name, "hostname") for name in pair] == [f"{first}\n", f"{second}\n"]
    (tmp_path / "file").write_text("by scp", encoding="utf-8")
    run("scp", "-q", "file", f"{first}:/tmp/by-scp")
    run("scp", "-q", f"{first}:/etc/machine-id", "its-own")
    assert cloud.run("vm", first, "--", "cat /tmp/by-scp") == "by scp"
    assert cloud.run("vm", first, "--", "cat /etc/machine-id") == (tmp_path / "its-own").read_text(encoding="utf-8")
    site = tmp_path / "site"
    site.mkdir()
    site.joinpath("index.html").write_text("a page", encoding="utf-8")
    site.joinpath("link").symlink_to("index.html")
    run("rsync", "-a", "site/", f"{second}:/srv/site/")
    cloud.run("vm", second, "--", "echo another >/srv/site/other")
    changes = run("rsync", "-a", "--itemize-changes", f"{second}:/srv/site/", "site")
    assert [line for line in changes.splitlines() if "f" in line.split()[0]] == [">f+++++++++ other"]
    assert cloud.run("vm", second, "--", "readlink /srv/site/link; cat /srv/site/link") == "index.html\na page"


def test_a_machine_is_reached_by_another_host_on_which_cloudme_is(
    cloud: Cloud, pair: tuple[str, str], tmp_path: Path,
) -> None:
    """This side knows of no machine; what it has is an ssh configuration of that host."""
    via = (str(ROOT / "bin/vm"), "--via", "lab")
    there = tmp_path / "there"
    there.mkdir()
    host = Sshd(there, prefix=resident(there), env={
        "CLOUDME_HOME": cloud.home, "CLOUDME_REALM": cloud.realm, "PATH": f"{ROOT}/bin:{PATH}"})
    (tmp_path / ".ssh").mkdir(0o700)
    (tmp_path / ".ssh/config").write_text(
        f"Host lab\nHostName 127.0.0.1\nPort {host.port}\nUser root\nIdentityFile {host.key}\n"
        f"StrictHostKeyChecking accept-new\nUserKnownHostsFile {tmp_path}/known\n", encoding="utf-8")
    host.start()
    try:
        for name in pair:
            ended = at_home(tmp_path, *via, name, "--", "hostname")
            assert (ended.returncode, ended.stdout) == (0, f"{name}\n"), ended.stderr
        ended = at_home(tmp_path, *via, pair[0], "--", "printf '%s.' 'a  b' \"$HOME\"; exit 3")
        assert (ended.returncode, ended.stdout) == (3, "a  b./root."), ended.stderr
        assert at_home(tmp_path, *via, "nobody").returncode == os.EX_NOINPUT
    finally:
        host.stop()


def test_the_journals_of_several_machines_come_line_by_line(cloud: Cloud, pair: tuple[str, str]) -> None:
    for name in pair:
        cloud.run("vm", name, "--", f"logger said-by-{name}")
    lines = cloud.run("vmlogs", "--journal", "--tail", "20", *pair).splitlines()
    for name in pair:
        assert any(line.startswith(f"{name}  ") and line.endswith(f"said-by-{name}") for line in lines)


def test_each_way_to_a_machine_is_tried(cloud: Cloud, pair: tuple[str, str]) -> None:
    first, second = pair
    port = str(20000 + os.getpid() % 20000)
    cloud.run("vmexpose", first, f"{port}:22")
    try:
        found = {one["name"]: one for one in json.loads(cloud.run("vmping", "daily", "--json"))}
        assert found[first]["ports"] == {"tcp/22": "open"}
        for name in pair:
            ways = {way: found[name][way] for way in ("ok", "arp", "ssh", "agent")}
            assert ways == {"ok": True, "arp": "ok", "ssh": "open", "agent": "ok"}
        cloud.run("vm", second, "--", "systemctl stop ssh.socket ssh.service")  # for good: this is the last test
        failed = cloud.call("vmping", first, second)
        assert failed.returncode == 1
        assert [line.split()[2] for line in failed.stdout.decode().splitlines()] == ["ok", "fails"]
        assert "ssh:closed" in failed.stdout.decode()
    finally:
        cloud.call("vmexpose", first, "--remove", port)
