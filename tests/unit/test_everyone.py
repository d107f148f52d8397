"""vmrunning --all-users: every home, and none of the traps that a user may lay in his."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudme import everyone, index, layout, store
from cloudme.formats import records
from cloudme.layout import World
from tests.conftest import Ended
from tests.unit.test_vmrunning import Made, machine


@pytest.fixture
def made(home: Path) -> Iterator[Made]:
    it = Made(layout.world())
    yield it
    for fd in it.locks:
        os.close(fd)


def found(path: str, *, own: str = "", every: bool = True) -> list[dict[str, object]]:
    return everyone.listing([everyone.Home(path, "bob", own=own)], every=every)


def test_a_home_is_listed_as_its_user_would_see_it(made: Made, home: Path) -> None:
    made.machine(machine("web00"), held=True)
    made.machine(machine("web01"), held=False)
    made.folder(made.world.machine("web02"), held=True)
    made.folder(made.world.machine("web03"), held=False)
    made.template("debian", held=False)
    own = index.listing(made.world, every=True)
    assert [{**one, "user": "bob", "realm": None, "home": str(home)} for one in own] == found(str(home))
    assert [one["name"] for one in found(str(home), every=False)] == ["web00"]


def test_every_realm_of_a_home_is_listed(made: Made, home: Path) -> None:
    made.machine(machine("web00"), held=True)
    made.world.realm = "r1"
    made.machine(machine("web00"), held=True)
    assert [(one["realm"], one["name"]) for one in found(str(home))] == [(None, "web00"), ("r1", "web00")]


def test_links_are_not_followed(made: Made, home: Path, tmp_path: Path) -> None:
    """Neither a record, nor a machine, nor a folder of them, nor what the home is in."""
    made.machine(machine("web00"), held=False)
    record = Path(made.world.machine_record("web00"))
    record.rename(tmp_path / "secret.json")
    record.symlink_to(tmp_path / "secret.json")
    (one,) = found(str(home))
    assert (one["group"], one["address"], one["state"]) == (None, None, "stopped")
    other = tmp_path / "home/.local"
    other.parent.mkdir()
    other.symlink_to(home.parent)
    assert found(f"{tmp_path}/home/.local/{home.name}", own=f".local/{home.name}") == []
    linked = World(data=str(tmp_path / "b"), run="", config="")
    os.makedirs(linked.machines)
    os.symlink(made.world.machine("web00"), linked.machine("web00"))
    assert found(linked.data) == []
    os.symlink(made.world.machines, tmp_path / "machines")
    assert found(str(tmp_path)) == []


def test_what_would_wait_or_is_no_word_is_passed_over(made: Made, home: Path) -> None:
    made.folder(made.world.machine("fifo"), held=False)
    os.mkfifo(made.world.machine_record("fifo"))
    made.folder(made.world.machine("\033[2Jbad"), held=False)
    for name, text in (("deep", "[" * 100_000), ("odd", records.dump(machine("odd", group="\033[2J", address="x y")))):
        made.folder(made.world.machine(name), held=False)
        Path(made.world.machine_record(name)).write_text(text, encoding="utf-8")
    Path(made.world.machine_record("odd")).write_text('{"nics": 7, "group": ["a"], "type": "web"}', encoding="utf-8")
    assert [(one["name"], one["group"], one["type"]) for one in found(str(home))] == [
        ("deep", None, None), ("fifo", None, None), ("odd", None, "web")]


@pytest.mark.parametrize(("lock", "home"), [
    ("/h/machines/web00/lock", "/h"), ("/h/realms/r1/machines/web00/lock", "/h"),
    ("/h/templates/debian/lock", "/h"), ("/h/machines/web00/lock (deleted)", ""), ("/h/machines/lock", ""),
    ("/machines/web00/lock", ""), ("/h\n/machines/web00/lock", ""), ("lock", ""), ("/dev/null", ""),
])
def test_a_lock_tells_its_home(lock: str, home: str) -> None:
    assert everyone.home_of(lock) == home


def test_homes_are_found_by_the_qemu_that_runs_in_them(home: Path, tmp_path: Path) -> None:
    """As /proc shows it: a QEMU, and something else that has the same open."""
    for pid, comm, path in (("7", "qemu-system-x86", "/h/machines/a/lock"), ("8", "vi", "/other/machines/a/lock")):
        (tmp_path / pid / "fd").mkdir(parents=True)
        (tmp_path / pid / "comm").write_text(f"{comm}\n")
        (tmp_path / pid / "fd/3").symlink_to(path)
    (tmp_path / "self").mkdir()
    homes = everyone.homes(str(tmp_path))
    assert {"/h", layout.ROOT_DATA, str(home)} <= {home.path for home in homes}
    assert "/other" not in {home.path for home in homes}


def test_the_command_puts_the_user_first(made: Made, home: Path, command: Callable[..., Ended]) -> None:
    made.machine(machine("web00"), held=True)
    ended = command("vmrunning", "--all-users", "web00", "-g", "pf1", "--json")
    if os.geteuid():
        assert (ended.status, "only root" in ended.stderr) == (77, True)
        return
    (one,) = (one for one in json.loads(ended.stdout) if one["home"] == str(home))
    assert list(one)[:4] == ["user", "realm", "home", "name"]
    line = next(line for line in command("vmrunning", "--all-users").stdout.splitlines() if str(home) in line)
    assert line.split()[:4] == ["root", "-", str(home), "web00"]


def test_a_lock_that_was_taken_long_ago_is_held(made: Made, home: Path) -> None:
    made.folder(made.world.machine("web00"), held=False)
    fd = store.take_lock(layout.maker(made.world.machine("web00")))
    os.utime(fd, (0, 0))
    assert [one["state"] for one in found(str(home))] == ["being-made"]
    os.close(fd)
