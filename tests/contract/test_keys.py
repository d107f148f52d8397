"""ssh keys, as OpenSSH sees them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cloudme.host.keys import SshKeys


def test_ssh_keygen_finds_the_same_public_key_in_the_private_one(tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is missing")
    private, public = SshKeys().ed25519("web00.cloudme")
    path = tmp_path / "key"
    path.write_text(private, encoding="ascii")
    path.chmod(0o600)
    found = subprocess.run(["ssh-keygen", "-y", "-f", str(path)], check=True, capture_output=True, text=True).stdout
    assert found.split()[:2] == public.split()[:2]
    assert public.startswith("ssh-ed25519 ") and public.endswith(" web00.cloudme")


def test_no_two_keys_are_the_same() -> None:
    assert SshKeys().ed25519("a") != SshKeys().ed25519("a")
