"""Cgroups that hold: real processes in our groups, under Debian's kernel and its systemd, in a guest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.guest.conftest import ROOT, Cloud

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

BEGIN = {"scopes": "", "folders": "systemd-run -q --scope -p Delegate=yes "}


@pytest.fixture(scope="module")
def inner(cloud: Cloud, warm: str) -> Iterator[str]:
    """A machine with our package in it."""
    name = cloud.run("vminstantiate", "--instant", "-n", warm, "--name", "inner").strip()
    cloud.run("vmwait", name, "--timeout", "300")
    cloud.run("vm", name, "--", "mkdir -p -m 755 /opt/probe")
    cloud.run("vmcopy", "-r", str(ROOT / "cloudme"), str(ROOT / "tests/guest/limits_probe.py"), f"{name}:/opt/probe")
    yield name
    cloud.run("vmstop", "-d", "-y", "--timeout", "1", name)


@pytest.fixture(scope="module", params=["scopes", "folders"])
def seen(request: pytest.FixtureRequest, cloud: Cloud, inner: str) -> dict[str, Any]:
    said = cloud.run("vm", inner, "--", f"{BEGIN[request.param]}python3 /opt/probe/limits_probe.py {request.param}")
    found: dict[str, Any] = json.loads(said)
    assert ("cloudme.slice/cloudme-web00:0a.scope" in found["folders"][0]) == (request.param == "scopes")
    return found


def test_every_limit_is_in_the_kernels_files(seen: dict[str, Any]) -> None:
    files = seen["files"]
    assert (files["cpu.max"], files["cpu.weight"]) == ("150000 100000", "50")
    assert (files["memory.max"], files["pids.max"]) == (str(256 << 20), "20")
    assert f"rbps={50 << 20} wbps={50 << 20}" in files["io.max"]


def test_a_process_makes_no_more_threads_than_it_may(seen: dict[str, Any]) -> None:
    assert 0 < seen["threads"] < 20


def test_a_change_takes_effect_while_it_runs_and_changes_nothing_else(seen: dict[str, Any]) -> None:
    assert seen["changed"] is True
    assert seen["threads_after"] == 300
    assert {**seen["files_after"], "pids.max": "20"} == seen["files"]


def test_who_takes_too_much_memory_is_killed_and_nobody_else(seen: dict[str, Any]) -> None:
    assert (seen["hog_said"], seen["hog_ended"]) == ("", -9)


def test_who_spins_gets_no_more_time_than_it_may(seen: dict[str, Any]) -> None:
    assert 0 < seen["cpus"] < 0.4


def test_a_group_is_gone_after_its_last_process(seen: dict[str, Any]) -> None:
    assert (seen["left"], seen["nobody"]) == ([], False)
