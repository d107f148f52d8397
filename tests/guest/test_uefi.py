"""Definitions with firmware and a TPM: real guests by OVMF, with secure boot as Debian ships it, and without."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloudme.formats import definitions
from cloudme.host import qmp
from cloudme.host.agent import GuestAgent
from cloudme.host.companions import Beside
from cloudme.host.run import Programs
from cloudme.model.definitions import accounts, tpm
from tests import uefi
from tests.guest.conftest import CACHE, ROOT, Cloud

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]

SECURE = {"code": {"name": "OVMF_CODE_4M.ms", "storage": "ovmf"}}
"""Debian's build for secure boot; its template of variables has Microsoft's keys, by which shim is signed."""
PLAIN = {"code": {"name": "OVMF_CODE_4M", "storage": "ovmf", "secure": False}}
NONCE = os.urandom(8).hex()
VARIABLE = f"/sys/firmware/efi/efivars/CloudMe-{uuid.uuid4()}"
BOOT_S = 300
KEEP, KEPT = f"printf '\\007\\000\\000\\000{NONCE}' >{VARIABLE}; sync", f"cat {VARIABLE} | tail -c +5"
"""A variable of our own: four bytes of attributes (not volatile, both services), then the value (efivars)."""


@dataclass(frozen=True)
class Site:
    """A host with firmware in a short folder: a socket's path has 108 bytes at most."""

    folder: Path

    @property
    def run(self) -> str:
        return f"{self.folder}/run"

    def define(self, name: str, firmware: dict[str, Any], template: str, *, esp: str) -> None:
        machine = {
            "id": str(uuid.uuid4()), "volumes": [{"name": esp, "storage": "raw", "bootable": True},
                                                 {"name": "root", "storage": "os", "bootable": True}],
            "attrs": {"memory": {"ram": 768}, "cpu": {"sockets": 1, "cores": 2}, "qmp": {"enabled": True},
                      "agent": {"qemu": {"enabled": True}},
                      "firmware": {**firmware, "vars": {"name": f"{name}-vars", "storage": "variables"}},
                      "tpm": {"enabled": True, "data": {"name": f"{name}-tpm", "storage": "tpm"}}}}
        (self.folder / f"etc/machina/machine.conf.d/{name}.conf.json").write_text(json.dumps(machine), "utf-8")
        shutil.copyfile(uefi.FIRMWARE / template, self.folder / f"{name}-vars.fd")

    @contextlib.contextmanager
    def booted(self, name: str) -> Iterator[Guest]:
        """A machine that runs, with the command line that vmargs prints and a serial console."""
        said = subprocess.run([sys.executable, ROOT / "bin/vmargs", "--root", self.folder, "--json", name],
                              capture_output=True, text=True, check=True).stdout
        argv = [word.replace("/run/machina", self.run) for word in json.loads(said)[0]["argv"]]
        site = definitions.read(f"{self.folder}/etc/machina/machina.conf.json",
                                f"{self.folder}/etc/machina/machine.conf.d", run=self.run)
        (machine,) = site.pick([name])
        its, uid = tpm.of(machine, self.run), accounts.of(machine).uid
        assert its
        for folder in (Path(its.folder), Path(self.run, name)):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.chown(folder, uid, uid)
        console = self.folder / f"{name}.console.log"
        with Beside(Programs()).tpm(its, uid):
            process = subprocess.Popen([*argv, "-serial", f"file:{console}"], stdin=subprocess.DEVNULL)
            try:
                yield Guest(process, console, f"{self.run}/{name}")
            finally:
                process.kill()
                process.wait()


@dataclass(frozen=True)
class Guest:
    process: subprocess.Popen[bytes]
    console: Path
    run: str

    def said(self) -> str:
        return self.console.read_text("utf-8", "replace")

    def sh(self, script: str) -> str:
        """Run a script in the guest, once it answers."""
        agent, socket = GuestAgent(), f"{self.run}/agent.socket"
        deadline = time.monotonic() + BOOT_S
        while not os.path.exists(socket) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert agent.ping(socket, timeout_s=BOOT_S), self.said()[-4000:]
        ended = agent.execute(socket, ["/bin/sh", "-c", script], timeout_s=BOOT_S)
        assert ended.status == 0, ended.stderr.decode()
        return ended.stdout.decode()

    def end(self) -> None:
        """Let QEMU end in order, as one does that is told to quit."""
        with qmp.connected(f"{self.run}/command.0.qmp.socket", 30) as monitor:
            monitor.execute("quit")
        assert self.process.wait(60) == 0


@pytest.fixture(scope="module")
def site(cloud: Cloud, image: str) -> Iterator[Site]:
    """With a disk that has Debian's signed kernel, one whose kernel has lost its signature, and the root of both."""
    folder = Path(tempfile.mkdtemp(prefix="cm-"))
    folder.chmod(0o755)
    (folder / "etc/machina/machine.conf.d").mkdir(parents=True)
    own = {"path": str(folder)}
    (folder / "etc/machina/machina.conf.json").write_text(json.dumps({"accelerator": "tcg", "storage": {
        "ovmf": {"path": str(uefi.FIRMWARE), "pattern": "${volume}.fd", "type": "firmware", "readonly": True},
        "variables": own | {"pattern": "${volume}.fd", "type": "firmware"},
        "tpm": own | {"pattern": "${volume}", "type": "tpm-data"},
        "raw": own | {"pattern": "${volume}.raw", "type": "raw"},
        "os": own | {"pattern": "${volume}.raw", "type": "raw-block"}}}), "utf-8")
    try:
        subprocess.run(["qemu-img", "convert", "-O", "raw", f"{cloud.home}/images/{image}.qcow2", folder / "root.raw"],
                       check=True)
        kernel, loaders = uefi.kernel(folder / "root.raw", folder), uefi.loaders(Path(CACHE, "loaders"))
        uefi.esp(folder / "signed.raw", {**loaders, **kernel}, folder / "grub.cfg")
        bare = folder / "bare"
        bare.write_bytes(uefi.unsigned(kernel["vmlinuz"].read_bytes()))
        uefi.esp(folder / "unsigned.raw", {**loaders, **kernel, "vmlinuz": bare}, folder / "grub.cfg")
        yield Site(folder)
    finally:
        shutil.rmtree(folder)


def test_shim_boots_under_secure_boot_with_a_tpm_and_variables_are_kept(site: Site) -> None:
    site.define("secure", SECURE, "OVMF_VARS_4M.ms.fd", esp="signed")
    with site.booted("secure") as guest:
        found = guest.sh("tail -c 1 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c |"
                         " od -An -tu1; cat /sys/class/tpm/tpm0/tpm_version_major; dmesg | grep -i secure;"
                         f" cat /sys/class/tpm/tpm0/pcr-sha256/7; {KEEP}")
        secure, version, *log, measured = found.splitlines()
        assert (secure.strip(), version) == ("1", "2")
        assert any("Secure boot enabled" in line for line in log)
        assert int(measured, 16), "the firmware has measured the state of secure boot into the TPM"
        guest.end()
    with site.booted("secure") as guest:
        assert guest.sh(f"{KEPT}; cat /sys/class/tpm/tpm0/pcr-sha256/7") == f"{NONCE}{measured}\n"


def test_secure_boot_refuses_a_kernel_without_a_signature(site: Site) -> None:
    site.define("refused", SECURE, "OVMF_VARS_4M.ms.fd", esp="unsigned")
    with site.booted("refused") as guest:
        guest.process.wait(BOOT_S)
        assert "bad shim signature" in guest.said() and "refused" in guest.said()
        assert "Linux version" not in guest.said()


def test_firmware_without_secure_boot_takes_that_kernel_and_keeps_its_variables(site: Site) -> None:
    """So it is the signature for which the other one refused it."""
    site.define("plain", PLAIN, "OVMF_VARS_4M.fd", esp="unsigned")
    with site.booted("plain") as guest:
        assert "secureboot: Secure boot enabled" not in guest.sh(f"dmesg; {KEEP}")
        assert guest.sh(KEPT) == NONCE
        guest.end()
    assert NONCE.encode() in (site.folder / "plain-vars.fd").read_bytes()
