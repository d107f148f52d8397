"""Prints what tests need, from setup.cfg: `python3 -m tools.packaging`. Standard library only."""

from __future__ import annotations

import configparser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def requirements() -> list[str]:
    """What the package and its tests need, as pip takes it."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    wanted = setup["options"]["install_requires"] + setup["options.extras_require"]["test"]
    return [line for line in wanted.splitlines() if line]


if __name__ == "__main__":
    print("\n".join(requirements()))
