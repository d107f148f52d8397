"""Unit tests touch no process and no socket, only files of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from cloudme.layout import World
from cloudme.store import Store

settings.register_profile(
    "cloudme", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.load_profile("cloudme")  # a machine that is busy is no failure


@pytest.fixture
def store(tmp_path: Path) -> Store:
    home = str(tmp_path)
    return Store(World(data=home, run=f"{home}/run", config=f"{home}/config"))
