"""vmdisconnect and vmconnect of a machine that is defined: a real QEMU, stopped, with a real tap in a real bridge."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudme import layout
from cloudme.host import netlink, outside, run
from cloudme.model.definitions import identity
from tests.conftest import ROOT
from tests.net.conftest import Apart

NAME = "a-rather-long-machine"
ID = "8b18191a-234f-45ce-b43c-b46e28cd2f70"
PATIENCE_S = 60


def defined(root: Path) -> None:
    folder = root / "etc/machina"
    (folder / "machine.conf.d").mkdir(parents=True)
    (folder / "machina.conf.json").write_text(json.dumps({"network": {"lan": {"device": "bridge0"}}}), "utf-8")
    (folder / f"machine.conf.d/{NAME}.conf.json").write_text(json.dumps({
        "id": ID, "attrs": {"memory": {"ram": 64}, "qmp": {"enabled": True}},
        "connections": [{"name": "0", "network": "lan"}]}), "utf-8")


@contextlib.contextmanager
def running(link: str) -> Iterator[None]:
    path = Path(layout.machina_run(), NAME, "command.0.qmp.socket")
    path.parent.mkdir(parents=True)
    process = subprocess.Popen([
        "qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "q35", "-accel", "tcg", "-m", "64", "-S",
        "-netdev", f"tap,id=net.0,ifname={link},script=no,downscript=no", "-device", "virtio-net-pci,netdev=net.0",
        "-qmp", f"unix:{path},server=on,wait=off"])
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not path.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        yield
    finally:
        process.kill()
        process.wait()


def test_a_tap_leaves_its_bridge_and_comes_back(
    apart: Apart, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is missing")
    monkeypatch.setenv("CLOUDME_MACHINA_RUN", f"{home}/machina")
    runner = run.Programs()
    links = netlink.Links(outside.Here(runner), runner)
    link = identity.link(NAME, "0")
    assert "." not in link
    defined(tmp_path)

    def call(program: str, *words: str) -> str:
        ended = subprocess.run([sys.executable, str(ROOT / "bin" / program), *words, "--root", str(tmp_path)],
                               capture_output=True, text=True, check=False)
        return f"{ended.returncode} {ended.stdout}{ended.stderr}"

    def look() -> None:
        links.add_bridge("bridge0", "52:54:00:00:00:01")
        runner(["ip", "tuntap", "add", link, "mode", "tap", "vnet_hdr"])
        links.plug(link, "bridge0")
        with running(link):
            for word in (NAME, f"{NAME}.0", link):
                assert call("vmdisconnect", word) == f"0 {link}: disabled\n"
                assert (links.links()[link].master, links.links()[link].up) == ("", False)
                assert call("vmconnect", word) == f"0 {link}: enabled\n"
                assert (links.links()[link].master, links.links()[link].up) == ("bridge0", True)
            links.remove_link("bridge0")
            assert call("vmconnect", NAME).startswith(f"69 vmconnect: {link}: 'bridge0' is no bridge here")
        assert call("vmdisconnect", NAME).startswith(f"75 vmdisconnect: {link}: '{NAME}' does not run")

    apart(look)
