"""What templates/mount.sh does in a guest: a real shell, in which mounts are lines of a file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudme import layout

pytestmark = pytest.mark.contract

PROGRAMS = {
    "mount": 'grep -q "$(cat late 2>/dev/null || echo no-such-tag)" fstab && rm late && exit 32\n'
             'grep " $1 " fstab | sed "s/,.*//" >>mounts; echo "mount $1" >>did',
    "umount": 'test "$1" != "$(cat busy)" || { echo busy >&2; exit 32; }\n'
              'grep -v " $1 " mounts >left; mv left mounts; echo "umount $1" >>did',
    "mountpoint": 'grep -q " $2 " mounts',
    "sleep": "",
}
Guest = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    """Call it with the words; returns the exit status, and what was mounted and unmounted."""
    (tmp_path / "bin").mkdir()
    for name, text in PROGRAMS.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\n{text}\n", encoding="ascii")
        program.chmod(0o755)
    for name, text in (("fstab", "/dev/vda1 / ext4 defaults 0 1\n"), ("mounts", ""), ("busy", ""),
                       ("device", "0x001a\n")):
        (tmp_path / name).write_text(text, encoding="ascii")
    script = Path(layout.text_templates(), "mount.sh").read_text(encoding="utf-8")
    for path, ours in (("/etc/fstab", "fstab"), ("/proc/mounts", "mounts"), ("mkdir -p", ":"),
                       ("/sys/bus/virtio/devices/*/device", "device")):
        assert path in script
        script = script.replace(path, ours)

    def run(*words: str) -> tuple[int, list[str]]:
        (tmp_path / "did").write_text("", encoding="ascii")
        env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
        ended = subprocess.run(["/bin/sh", "-s", "--", *words], input=script, text=True, cwd=tmp_path, env=env,
                               capture_output=True, check=False, timeout=60)
        return ended.returncode, (tmp_path / "did").read_text(encoding="ascii").splitlines()

    return run


def lines(tmp_path: Path) -> list[str]:
    return (tmp_path / "fstab").read_text(encoding="ascii").splitlines()[1:]


ONE, TWO = ("one", "/srv/one", "rw"), ("two", "/srv/one/two", "ro")


def test_shares_are_mounted_once_and_kept_for_the_next_boot(guest: Guest, tmp_path: Path) -> None:
    assert guest("7", *ONE, *TWO) == (0, ["mount /srv/one", "mount /srv/one/two"])
    kept = ["# x-cloudme.share=7", "one /srv/one virtiofs rw,nofail,x-cloudme.share 0 0",
            "two /srv/one/two virtiofs ro,nofail,x-cloudme.share 0 0"]
    assert lines(tmp_path) == kept
    assert guest("7", *ONE, *TWO) == (0, []) and lines(tmp_path) == kept


def test_what_is_no_longer_said_is_unmounted_the_inner_one_first(guest: Guest, tmp_path: Path) -> None:
    guest("7", *ONE, *TWO)
    assert guest("8") == (0, ["umount /srv/one/two", "umount /srv/one"])
    assert lines(tmp_path) == ["# x-cloudme.share=8"]
    assert guest("9", "one", "/srv/one", "ro") == (0, ["mount /srv/one"])
    assert guest("9", *ONE) == (0, ["umount /srv/one", "mount /srv/one"])


def test_an_older_seed_changes_nothing(guest: Guest, tmp_path: Path) -> None:
    guest("7", *ONE)
    guest("8", *TWO)
    (tmp_path / "mounts").write_text("", encoding="ascii")
    assert guest("7", *ONE) == (0, ["mount /srv/one/two"])
    guest("9")
    assert guest("8", *TWO) == (0, []) and lines(tmp_path) == ["# x-cloudme.share=9"]


def test_what_is_in_use_stays_and_so_does_what_was_told(guest: Guest, tmp_path: Path) -> None:
    guest("7", *ONE)
    kept = lines(tmp_path)
    (tmp_path / "busy").write_text("/srv/one", encoding="ascii")
    assert guest("8", *TWO) == (5, []) and lines(tmp_path) == kept


def test_a_device_that_comes_late_is_waited_for_and_9p_is_told_from_virtiofs(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "late").write_text("one", encoding="ascii")
    (tmp_path / "device").write_text("0x0009\n", encoding="ascii")
    assert guest("7", *ONE) == (0, ["mount /srv/one"])
    assert lines(tmp_path)[1].startswith("one /srv/one 9p rw,nofail,x-cloudme.share,trans=virtio")


def test_who_never_had_a_share_is_left_alone(guest: Guest, tmp_path: Path) -> None:
    assert guest("7") == (0, []) and lines(tmp_path) == []


def test_a_last_line_without_an_end_stays_a_line(guest: Guest, tmp_path: Path) -> None:
    root = "/dev/vda1 / ext4 defaults 0 1"
    (tmp_path / "fstab").write_text(root, encoding="ascii")
    guest("7", *ONE)
    guest("8")
    assert (tmp_path / "fstab").read_text(encoding="ascii") == f"{root}\n# x-cloudme.share=8\n"


def test_a_tag_may_look_like_an_option(guest: Guest) -> None:
    guest("7", "-v", "/srv/one", "rw")
    assert guest("8") == (0, ["umount /srv/one"])
