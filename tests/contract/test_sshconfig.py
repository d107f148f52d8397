"""What cmsshconfig writes, as the real ssh understands it (ssh -G)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cloudme.formats import sshconfig
from cloudme.model.ports import Target


@pytest.mark.skipif(not shutil.which("ssh"), reason="ssh is missing")
def test_ssh_understands_it(tmp_path: Path) -> None:
    target = Target(name="web00", address="10.0.0.7", user="admin", key_file="/k 1/key%", known_hosts_file="/m/known h")
    config = tmp_path / "config"
    config.write_text(sshconfig.text([target], ["env", "A=b c%d", "/x/vm", "--proxy"], "head"), encoding="utf-8")
    said = subprocess.run(["ssh", "-G", "-F", str(config), "web00"], capture_output=True, text=True, check=True).stdout
    found = dict(line.partition(" ")[::2] for line in said.splitlines())
    assert (found["hostname"], found["user"], found["hostkeyalias"]) == ("10.0.0.7", "admin", "web00")
    assert found["identityfile"] == "/k 1/key%%"
    assert found["userknownhostsfile"] in ("/m/known h", '"/m/known h"')
    assert found["proxycommand"] == "env 'A=b c%%d' /x/vm --proxy web00"
    assert found["stricthostkeychecking"] == "accept-new"
