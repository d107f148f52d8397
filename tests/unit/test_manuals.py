"""What the pages in docs/ show is right."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from cloudme.formats.definitions import schema
from tests.conftest import ROOT
from tests.unit.test_definitions import Machina


def test_definitions(tmp_path: Path) -> None:
    """What it shows is read, and every key that it names is one."""
    machina = Machina(tmp_path)
    manual = (ROOT / "docs/definitions.md").read_text("utf-8")
    host, web = ("    {\n" + part.partition("\n    }\n")[0] + "\n    }" for part in manual.split("    {\n")[1:3])
    machina.host(textwrap.dedent(host))
    machina.machine("web", json.loads(web))
    (machine,) = machina.read().pick(["web"])
    assert (machine.attributes.ram_mib, machine.volumes[0].path) == (1024, "/srv/machines/web/os.qcow2")
    named = {line.split("`")[1] for line in manual.splitlines() if line.startswith("| `attrs.")}
    for key in named:
        assert any(f"{setting}.".startswith(f"{key}.") for setting in schema.SETTINGS), key
