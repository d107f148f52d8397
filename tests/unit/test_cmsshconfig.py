"""The ssh configuration that is written; ssh's own view of it is in tests/contract."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudme import layout
from cloudme.formats import sshconfig
from cloudme.model.ports import Target
from cloudme.store import Store
from tests.conftest import Ended
from tests.unit.test_vm import made


def target(name: str = "web00", **more: object) -> Target:
    fields = {"address": "10.0.0.7", "user": "root", "key_file": "/t/ssh_key", "known_hosts_file": "/m/known_hosts"}
    return Target(name=name, **{**fields, **more})  # type: ignore[arg-type]


def test_a_block_names_address_user_key_and_host_key() -> None:
    assert sshconfig.text([target()], None, "x") == """\
# x

Host web00
  HostName 10.0.0.7
  User root
  IdentityFile /t/ssh_key
  IdentitiesOnly yes
  UserKnownHostsFile /m/known_hosts
  HostKeyAlias web00
  StrictHostKeyChecking accept-new
"""


def test_a_private_world_is_reached_by_vm_and_roots_network_is_not() -> None:
    proxy = ["env", "CLOUDME_HOME=/a b%", "vm", "--proxy"]
    text = sshconfig.text([target(), target("web01", outside=True)], proxy, "x")
    assert "  ProxyCommand env 'CLOUDME_HOME=/a b%%' vm --proxy web00\n" in text
    assert text.count("ProxyCommand") == 1


def test_names_of_files_may_have_blanks_and_a_machine_may_have_no_key() -> None:
    text = sshconfig.text([target(key_file="", known_hosts_file="/a b/%h", port=2222)], None, "x")
    assert 'UserKnownHostsFile "/a b/%%h"' in text and "Identit" not in text and "Port 2222" in text


@pytest.mark.parametrize(("text", "found"), [
    ("Include config.d/*\n", True), ("# mine\n\n include ~/.ssh/config.d/* other\n", True),
    ("Include config.d/cloudme\nHost x\n", True), ("", False), ("Include others/*\n", False),
    ("Host x\n  User y\nInclude config.d/*\n", False), ("#Include config.d/*\n", False),
])
def test_the_line_counts_only_where_it_holds_for_every_host(text: str, found: bool) -> None:
    assert sshconfig.includes(text) == found
    assert sshconfig.includes(sshconfig.including(text))
    assert sshconfig.including(text).endswith(text)


@pytest.fixture
def me(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home."""
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    return tmp_path / "me"


def test_it_is_written_once_and_again_when_something_changed(command: Callable[..., Ended], me: Path) -> None:
    for name in ("web00", "web01"):
        made(name)
    file = me / ".ssh/config.d/cloudme"
    assert command("cmsshconfig", "--dry-run").stdout == f"write {file}\n"
    assert not me.exists()
    first = command("cmsshconfig")
    assert (first.status, first.stdout) == (0, f"{file}\n")
    assert "--include" in first.stderr
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    text = file.read_text(encoding="utf-8")
    assert "Host web00\n" in text and "Host web01\n" in text
    when = file.stat().st_mtime_ns
    assert "so already" in command("cmsshconfig").stderr
    assert file.stat().st_mtime_ns == when
    made("sql00")
    command("cmsshconfig")
    assert "Host sql00\n" in file.read_text(encoding="utf-8")


def test_the_users_own_file_gets_one_line_and_is_left_alone(command: Callable[..., Ended], me: Path) -> None:
    made("web00")
    own = me / ".ssh/config"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"# mine \xff\r\nHost x\n  User y")
    own.chmod(0o640)
    assert command("cmsshconfig", "--include").stderr == ""
    assert own.read_bytes() == b"Include config.d/*\n\n# mine \xff\r\nHost x\n  User y"
    assert own.stat().st_mode & 0o777 == 0o640
    command("cmsshconfig", "--include")
    assert own.read_bytes().count(b"Include") == 1
    assert command("cmsshconfig", "--remove").stdout == ""
    assert not (me / ".ssh/config.d/cloudme").exists()
    assert own.read_bytes().count(b"Include") == 1
    assert command("cmsshconfig", "--remove").status == 0
    assert command("cmsshconfig", "--remove", "--include").status == os.EX_USAGE


def test_a_link_to_the_users_own_file_stays_one(command: Callable[..., Ended], me: Path) -> None:
    (me / ".ssh").mkdir(parents=True)
    (me / "dotfiles").write_text("Host x\n", encoding="utf-8")
    (me / ".ssh/config").symlink_to("../dotfiles")
    command("cmsshconfig", "--include")
    assert (me / ".ssh/config").is_symlink()
    assert (me / "dotfiles").read_text(encoding="utf-8") == "Include config.d/*\n\nHost x\n"


def test_each_realm_has_a_file_of_its_own(command: Callable[..., Ended], me: Path) -> None:
    assert command("cmsshconfig", "--realm", "r1").stdout == f"{me}/.ssh/config.d/cloudme-r1\n"
    assert layout.world("r1").private and Store(layout.world("r1")).machines() == []
