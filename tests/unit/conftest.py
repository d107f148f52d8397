"""Unit tests touch no process and no socket, only files of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudme.layout import World
from cloudme.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    home = str(tmp_path)
    return Store(World(data=home, run=f"{home}/run", config=f"{home}/config"))
