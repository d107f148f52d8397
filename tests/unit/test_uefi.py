"""Firmware and TPM of definitions: what the manual shows is right, and the TPM's unit does what its commands say."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from cloudme.formats.definitions import units
from cloudme.model.definitions import tpm
from cloudme.qemu.definitions import command
from tests import unitfiles
from tests.conftest import ROOT
from tests.unit.test_definitions import Machina

RAM = {"memory": {"ram": 64}}
DATA = {"data": {"name": "t", "storage": "tpm-data"}}
SOCKET = "/run/machina-swtpm/vm/control.socket"


@pytest.fixture
def machina(tmp_path: Path) -> Machina:
    made = Machina(tmp_path)
    made.host({"storage": {"tpm-data": {"path": "/srv/a $b %c", "pattern": "t", "type": "tpm-data"}}})
    return made


@pytest.mark.parametrize(("attrs", "folder"), [
    ({}, None), ({"enabled": False, **DATA}, None),
    ({"enabled": True, **DATA}, "/srv/a $b %c/t"),
    ({"enabled": True, **DATA, "socket": {"path": "/somebody/elses"}}, None),
])
def test_a_tpm_of_our_own_is_one_that_nobody_else_serves(
        machina: Machina, attrs: dict[str, Any], folder: str | None) -> None:
    machina.machine("vm", {"attrs": RAM | {"tpm": attrs}})
    assert tpm.of(machina.one(), "/run/machina") == (
        tpm.Tpm(folder, SOCKET) if folder else None)


def test_its_unit_runs_these_commands(machina: Machina) -> None:
    machina.machine("vm", {"attrs": RAM | {"tpm": DATA | {"enabled": True}}})
    made = units.texts(machina.one(), machina.read().host, [["qemu"]], run="/run/machina", config="/none")
    lines = unitfiles.assignments(made["machina-swtpm-vm.service"])
    its = tpm.Tpm("/srv/a $b %c/t", SOCKET)
    commands = {key: [unitfiles.words(value, command=True) for _, found, value in lines if found == key]
                for key in ("ExecStart", "ExecStartPre")}
    assert commands["ExecStart"] == [its.daemon]
    assert commands["ExecStartPre"][1:] == its.setup
    assert ("Service", "Type", "forking") in lines


@pytest.mark.parametrize(("tag", "code", "variables", "locked"), [
    ("uefi", "OVMF_CODE_4M.fd", "", False), ("secure-boot", "OVMF_CODE_4M.ms.fd", "OVMF_VARS_4M.ms.fd", True)])
def test_the_manuals_host(machina: Machina, tag: str, code: str, variables: str, locked: bool) -> None:
    manual = (ROOT / "docs/uefi.md").read_text("utf-8")
    machina.host(textwrap.dedent("    {\n" + manual.partition("    {\n")[2].partition("\n\nA machine says")[0]))
    machina.machine("web", {"tags": [tag, "tpm"], "attrs": RAM})
    site = machina.read()
    (machine,) = site.pick(["web"])
    template = machine.attributes.firmware_template
    assert (template.path if template else "").removeprefix("/usr/share/OVMF/") == variables
    lines = [" ".join(option) for option in command.options(machine, site.host, command.Ground(run="/run/machina"))]
    files = [line.partition("filename=")[2] for line in lines if line.startswith("-blockdev")]
    assert files == [f"/usr/share/OVMF/{code}", "/srv/machines/web.vars.fd"]
    assert any("property=secure,value=on" in line for line in lines) == locked
    assert "-device tpm-crb,tpmdev=tpm.0" in lines
