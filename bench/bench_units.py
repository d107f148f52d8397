"""What units of 500 definitions cost, against those of 50: all read, merged, made and written by one command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.ratios import race

ROOT = Path(__file__).resolve().parent.parent
SEED = ROOT / "tests/data/definitions/seed"
MANY, FEW = 500, 50
MADE = ("etc/systemd", "etc/sysusers.d")


def site(count: int) -> Path:
    """A host that is off, with so many machines like the seed's."""
    root = Path(tempfile.mkdtemp(prefix="cm-bench-"))
    machines = root / "etc/machina/machine.conf.d"
    machines.mkdir(parents=True)
    shutil.copy(SEED / "machina.conf.json", machines.parent)
    like = json.loads((SEED / "machine.conf.d/test-vm.conf.json").read_text("utf-8"))
    for number in range(count):
        mine = {"id": f"8b18191a-234f-45ce-b43c-{number:012}", "vars": {"employee-id": f"{number:04}"}}
        (machines / f"vm{number:03}.conf.json").write_text(json.dumps(like | mine), "utf-8")
    return root


def generate(root: Path) -> float:
    for folder in MADE:
        shutil.rmtree(root / folder, ignore_errors=True)
    argv = [sys.executable, str(ROOT / "sbin/vmunit"), "generate", "--all", "--root", str(root)]
    began = time.perf_counter()
    subprocess.run(argv, check=True, capture_output=True, env=os.environ | {"CLOUDME_HOME": str(root)})
    return time.perf_counter() - began


def main() -> None:
    many, few = site(MANY), site(FEW)
    try:
        race(f"vmunit generate --all, {MANY} machines", lambda: generate(many), f"{FEW} machines",
             lambda: generate(few), most=5, aim=4)
    finally:
        for root in (many, few):
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
