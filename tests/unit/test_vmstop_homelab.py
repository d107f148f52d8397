"""vmstop --homelab: who depends on others goes before these."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import pytest

from cloudme import layout
from cloudme.cli import stopping, wiring
from cloudme.errors import PeerError, TimedOut
from cloudme.formats import homelab
from cloudme.homelab import notes
from cloudme.homelab.notes import Notes
from cloudme.model.ports import Power
from cloudme.store import Store, take_lock
from tests import fakes
from tests.conftest import Ended, program
from tests.unit.test_vm import made

FILE = b"""\
hosts: {template: debian}
machines:
  db: {}
  app: {depends_on: db, replicas: 2}
  web: {depends_on: [app]}
  cron: {depends_on: [db], autostart: false}
"""


@pytest.fixture
def running() -> Iterator[None]:
    """All of the file but cron, another one, one that an earlier file had, and one made anew of that name; the file
    was applied."""
    store = Store(layout.world())
    made("cron")
    locks = []
    for name in ("db", "app00", "app01", "web", "other", "gone", "anew"):
        made(name)
        locks.append(take_lock(layout.lock(layout.world().machine(name))))
    notes.write(store, Notes(homelab=homelab.parse(FILE, "cloudme.yaml").demand(),
                             machines={"gone": store.machine("gone").uuid, "anew": "another"}))
    yield
    for lock in locks:
        os.close(lock)


def test_nothing_was_applied_nothing_stops(command: Callable[..., Ended]) -> None:
    made("web")
    assert command("vmstop", "--homelab") == Ended(0, "", "")


def test_it_says_who_would_stop_and_asks(command: Callable[..., Ended], running: None) -> None:
    ended = command("vmstop", "--homelab", "--dry-run")
    assert ended.stdout == "stop gone\nstop web\nstop app00\nstop app01\nstop db\n"
    refused = command("vmstop", "--homelab")
    assert refused.status == 64 and "Stop gone, web, app00, app01, db?" in refused.stderr


@pytest.mark.parametrize("words", [["--all"], ["-d", "-y"], ["web"]])
def test_it_goes_with_nothing_else(command: Callable[..., Ended], words: list[str]) -> None:
    assert command("vmstop", "--homelab", *words).status == 64


def test_one_that_cannot_be_stopped_keeps_no_other_from_it(running: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    class Deaf(fakes.FakeHypervisor):
        def stop(self, machines: Sequence[Power], *, timeout_s: float, say: Callable[[str], None]) -> None:
            asked.append([machine.name for machine in machines])
            if asked[-1] == ["web"]:
                raise TimedOut("web cannot be killed")
            if asked[-1] == ["db"]:
                raise PeerError("the second")

    # only a patch gives programs fakes
    monkeypatch.setattr(wiring, "host", lambda world: fakes.host(qemu=Deaf()))
    with pytest.raises(TimedOut, match="web"):
        stopping.homelab(program("vmstop").parser().parse_args(["--homelab", "-y"]))
    assert asked == [["gone"], ["web"], ["app00", "app01"], ["db"]]
