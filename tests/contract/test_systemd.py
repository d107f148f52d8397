"""What is asked of systemd, asked of the real one and of its fake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from cloudme.errors import PeerError
from cloudme.host.run import Programs
from cloudme.host.systemd import Systemd
from cloudme.model.systemd import Units
from tests.fakes import FakeUnits
from tests.systemd import Booted, booted

pytestmark = pytest.mark.contract

UNIT, BAD = "cm-test.service", "cm-bad.service"
LIMITED = "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=1\n"
TEXTS = {UNIT: "ExecStart=sleep infinity", BAD: "Type=oneshot\nExecStart=sh -c 'echo it is bad >&2; exit 3'"}


class Within(Programs):
    """Programs that are started in a container."""

    def __init__(self, host: Booted) -> None:
        self._host = host

    def __call__(self, argv: Sequence[str], **how: Any) -> str:
        return super().__call__(self._host.argv(*argv), **how)


class Inside(Systemd):
    """That of a container."""

    def __init__(self, host: Booted) -> None:
        super().__init__(Within(host))

    def running(self) -> bool:
        return True


@pytest.fixture(scope="module")
def host() -> Iterator[Booted]:
    with booted() as it:
        for name, text in TEXTS.items():
            it.path(f"/etc/systemd/system/{name}").write_text(
                f"{LIMITED}[Service]\n{text}\n[Install]\nWantedBy=multi-user.target\n", encoding="utf-8")
        yield it


@pytest.fixture(params=["fake", "real"])
def units(request: pytest.FixtureRequest) -> Units:
    if request.param == "fake":
        return FakeUnits(files=dict.fromkeys(TEXTS, False))
    return Inside(request.getfixturevalue("host"))


def seen(units: Units, name: str) -> tuple[str, ...]:
    (state,) = units.states([name])
    assert state.name == name
    return state.load, state.active, state.sub, state.enabled


def test_units_are_enabled_started_stopped_disabled(units: Units) -> None:
    units.reload()
    assert units.running() and units.states([]) == []
    assert [state.load for state in units.states([UNIT, "cm-none.service"])] == ["loaded", "not-found"]
    assert seen(units, UNIT) == ("loaded", "inactive", "dead", "disabled")
    for change in (on, on, off, off, on, off):  # more often than the unit's limit lets systemd start it by itself
        change(units)


def on(units: Units) -> None:
    units.enable([UNIT])
    units.start([UNIT])
    assert seen(units, UNIT) == ("loaded", "active", "running", "enabled")


def off(units: Units) -> None:
    units.stop([UNIT])
    units.disable([UNIT])
    assert seen(units, UNIT) == ("loaded", "inactive", "dead", "disabled")


def test_a_unit_that_fails_says_why(host: Booted) -> None:
    units = Inside(host)
    units.reload()
    for _ in range(2):
        with pytest.raises(PeerError, match=BAD) as caught:
            units.start([BAD])
    assert caught.value.hint == units.last_words(BAD) == "it is bad"
    assert units.states([BAD])[0].active == "failed"
    units.reset([BAD])
    assert units.states([BAD])[0].active == "inactive"
    assert units.last_words("cm-none.service") == "journalctl --unit cm-none.service"


def test_users_are_made_once(host: Booted) -> None:
    host.path("/etc/sysusers.d").mkdir(exist_ok=True)
    host.path("/etc/sysusers.d/cm.conf").write_text('u cm-test 54321 "a user"\n', encoding="utf-8")
    for _ in range(2):
        Inside(host).users(["/etc/sysusers.d/cm.conf"])
    assert host.run("id", "-u", "cm-test").strip() == "54321"
