"""What vm, vmcopy, vmconsole and vmlogs make of their options."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudme import cli, layout
from cloudme.cli import chooser, copies, display, elsewhere, logs
from cloudme.errors import HostUnavailable, NotFound, TimedOut, UsageError
from cloudme.formats import records
from cloudme.model.machine import Access, Disk, Machine, Nic, Shape
from cloudme.model.names import Name
from cloudme.model.ports import Ended as GuestEnded
from cloudme.model.ports import Host
from cloudme.store import Store, take_lock
from tests import fakes
from tests.conftest import Ended, program


def made(name: str, *, group: str = "pf1", address: str | None = "127.0.0.1") -> Machine:
    machine = Machine(
        name=Name(name), uuid="u", group=group, type=Name("web"), template=Name("debian"),
        shape=Shape(vcpus=1, ram_mib=512), disks=(Disk(file="disk.qcow2", size_bytes=1),),
        nics=(Nic(network=Name("default"), mac="52:54:00:00:00:01", address=address),),
        access=Access(user="root", key_of=Name("debian"), seeded=True), created="2025-11-20T22:00:00Z",
    )
    folder = Path(layout.world().machine(name))
    folder.mkdir(parents=True)
    (folder / "machine.json").write_text(records.dump(machine), encoding="utf-8")
    (folder / "lock").touch()
    return machine


# options

@pytest.mark.parametrize("words, name, command", [
    (["web00"], "web00", []),
    (["web00", "--", "ls", "-l"], "web00", ["ls", "-l"]),
    (["-n", "web00", "-g", "pf1", "-t", "web", "--", "ls"], "web00", ["ls"]),
    (["--", "ls"], None, ["ls"]),
    (["web00", "--", "echo", "--", "-h"], "web00", ["echo", "--", "-h"]),
    ([], None, []),
])
def test_what_follows_two_dashes_is_the_command(words: list[str], name: str | None, command: list[str]) -> None:
    args = program("vm").parser().parse_args(words)
    assert (cli.named(args), args.command) == (name, command)


@pytest.mark.parametrize("text, chosen", [("2", "web01"), ("web00", "web00"), ("s", "sql00"), ("3", "3")])
def test_a_choice_is_a_number_or_the_start_of_a_name(text: str, chosen: str) -> None:
    assert chooser.picked(["web00", "web01", "sql00", "3"], text, "machine") == chosen


@pytest.mark.parametrize("text, error", [("web", UsageError), ("9", NotFound), ("x", NotFound), ("0", NotFound)])
def test_a_choice_that_is_none_is_an_error(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        chooser.picked(["web00", "web01"], text, "machine")


@pytest.mark.parametrize("words, status, said", [
    (["vm"], 64, "vm: a name is wanted\nvm: (see --help)\n"),
    (["vm", "x"], 66, "vm: no machine 'x'\nvm: (vmrunning -a lists them)\n"),
    (["vm", "web"], 64, "vm: 'web' may be web00, web01\n"),
    (["vm", "sql", "--no-start"], 66, "vm: 'sql00' does not run\n"
     "vm: (vm sql00 starts it, vmlogs sql00 shows what it said last)\n"),
    (["vm", "--proxy", "sql"], 66, "vm: 'sql00' does not run\n"
     "vm: (vm sql00 starts it, vmlogs sql00 shows what it said last)\n"),
    (["vm", "-g", "templates", "x"], 66, "vm: no template 'x'\nvm: (vmrunning -a lists them)\n"),
    (["vmconsole", "sql"], 66, "vmconsole: 'sql00' does not run\n"
     "vmconsole: (vm sql00 starts it, vmlogs sql00 shows what it said last)\n"),
    (["vmconsole", "web", "--timeout", "x"], 64, "vmconsole: 'x' is no time\nvmconsole: (for instance 90, 90s, 2m)\n"),
    (["vmcopy", "sql00:x", "."], 66, "vmcopy: 'sql00' does not run\n"
     "vmcopy: (vm sql00 starts it, vmlogs sql00 shows what it said last)\n"),
])
def test_what_is_off_is_said_in_a_line_and_a_hint(
    command: Callable[..., Ended], words: list[str], status: int, said: str,
) -> None:
    for name in ("web00", "web01", "sql00"):
        made(name)
    assert command(*words) == Ended(status, "", said)


# copies

@pytest.mark.parametrize("text, parts", [
    ("web00:/etc/hosts", ("web00", "/etc/hosts")),
    ("web00:", ("web00", ".")),
    ("web00:~/x", ("web00", "x")),
    ("web00:a:b", ("web00", "a:b")),
    ("./a:b", (None, "./a:b")),
    ("/a", (None, "/a")),
    ("a", (None, "a")),
])
def test_a_colon_before_the_first_slash_names_a_machine(text: str, parts: tuple[str | None, str]) -> None:
    assert copies.split(text) == parts


def test_sources_of_several_machines_are_several_copies(tmp_path: Path) -> None:
    here = str(tmp_path)
    assert copies.plan(["web00:a", "web00:b", "sql00:c", here]) == [
        copies.Copy("web00", ["a", "b"], here, False), copies.Copy("sql00", ["c"], here, False)]
    assert copies.plan(["a", "b", "web00:"]) == [copies.Copy("web00", ["a", "b"], ".", True)]


@pytest.mark.parametrize("paths", [
    ["a"], ["a", "b"], ["web00:a", "web01:b"], ["web00:a", "b", "c"], ["web00:a", "web00:b", "nowhere"],
    ["web00:a/x", "web01:b/x", "."],
])
def test_a_copy_that_makes_no_sense_is_refused(paths: list[str]) -> None:
    with pytest.raises(UsageError):
        copies.plan(paths)


# the display

def test_the_first_viewer_that_is_there_gets_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    run = fakes.FakeRun(missing={"remote-viewer"})
    display.show(run, "/run/cloudme/web00/vnc")
    assert run.calls == [["xtigervncviewer", "/run/cloudme/web00/vnc"]]


def test_without_a_viewer_or_a_screen_the_hint_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    with pytest.raises(HostUnavailable) as caught:
        display.show(fakes.FakeRun(missing=set(display.VIEWERS)), "/s/vnc")
    assert "remote-viewer vnc+unix:///s/vnc" in str(caught.value.hint)
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(HostUnavailable) as caught:
        display.show(fakes.FakeRun(), "/s/vnc")
    assert "ssh -L 5900:/s/vnc" in str(caught.value.hint)


# logs

def test_vmlogs_prints_the_log_as_it_is(command: Callable[..., Ended]) -> None:
    machine = made("web00")
    assert command("vmlogs", "web").status == 66
    Path(Store(layout.world()).folder(machine), "console.log").write_bytes(b"\x1b[1mboot\x1b[0m\r\n")
    assert command("vmlogs", "web") == Ended(0, "\x1b[1mboot\x1b[0m\r\n", "")


def test_vmlogs_follow_ends_when_the_machine_has_stopped(command: Callable[..., Ended]) -> None:
    machine = made("web00")
    Path(Store(layout.world()).folder(machine), "console.log").write_bytes(b"last words\n")
    assert command("vmlogs", "-f", "web00") == Ended(0, "last words\n", "")


def test_a_machine_that_runs_is_found_by_its_prefix(home: Path) -> None:
    machine = made("web00")
    store = Store(layout.world())
    lock = take_lock(layout.lock(store.folder(machine)))
    try:
        args = program("vmconsole").parser().parse_args(["we"])
        assert chooser.running(args, store, "we") == machine
    finally:
        import os

        os.close(lock)


# other hosts

@pytest.mark.parametrize(("words", "remote"), [
    (["web00", "--via", "homelab"], "vm web00"),
    (["--via", "homelab", "-g", "pf1", "web00", "--no-start", "--", "ls", "'a  b'"],
     "vm --group pf1 --no-start web00 -- 'ls '\"'\"'a  b'\"'\"''"),
])
def test_a_machine_of_another_host_is_reached_by_vm_there(words: list[str], remote: str) -> None:
    run = fakes.FakeRun()
    args = program("vm").parser().parse_args(words)
    assert elsewhere.vm(args, run) == 0
    assert run.calls == [["ssh", "--", "homelab", remote]]


def test_a_terminal_is_asked_for_where_a_command_wants_one() -> None:
    run = fakes.FakeRun()
    elsewhere.vm(program("vm").parser().parse_args(["web00", "-T", "--via", "h", "--", "top"]), run)
    assert run.calls == [["ssh", "-t", "--", "h", "vm --tty web00 -- top"]]


@pytest.mark.parametrize("words", [["--via", "", "web00"], ["--via=-oProxyCommand=x", "web00"], ["--via", "h"]])
def test_what_is_no_host_or_no_machine_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        elsewhere.vm(program("vm").parser().parse_args(words), fakes.FakeRun())


# several logs

def log(name: str, text: str) -> None:
    (Path(layout.world().machine(name)) / "console.log").write_bytes(text.encode())


def test_lines_of_several_machines_begin_with_their_names(command: Callable[..., Ended]) -> None:
    for name, text in (("web00", "one\r\ntwo\nthree"), ("sql0", "four\n")):
        made(name)
        log(name, text)
    said = command("vmlogs", "web00", "sql0", "web00")
    assert sorted(said.stdout.splitlines()) == ["sql0   four", "web00  one", "web00  three", "web00  two"]
    assert sorted(command("vmlogs", "-g", "pf1", "--tail", "1").stdout.splitlines()) == ["sql0   four", "web00  three"]
    assert sorted(command("vmlogs", "-f", "-g", "pf1").stdout.splitlines()) == sorted(said.stdout.splitlines())


def test_one_that_has_no_log_keeps_nobody_from_the_others(command: Callable[..., Ended]) -> None:
    for name in ("web00", "web01"):
        made(name)
    log("web01", "x\n")
    said = command("vmlogs", "web00", "web01")
    assert (said.status, said.stdout) == (66, "web01  x\n")
    assert said.stderr.startswith("vmlogs: web00: 'web00' has said nothing yet")


@pytest.mark.parametrize(("lines", "start"), [(1, 8), (2, 6), (3, 4), (4, 0), (9, 0)])
def test_the_last_lines_are_found_from_the_end(tmp_path: Path, lines: int, start: int) -> None:
    ended, open_end = tmp_path / "a", tmp_path / "b"
    ended.write_bytes(b"abc\nd\n\nx\n"[:4] + b"d\n" + b"e\n" + b"f\n")
    open_end.write_bytes(b"abc\nd\ne\nf")
    assert logs._start(str(ended), lines) == logs._start(str(open_end), lines) == start


def test_a_long_log_is_not_read_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 200_000 + b"\n" + b"y" * 100_000 + b"\n")
    assert logs._start(str(path), 1) == 200_001
    (tmp_path / "empty").touch()
    assert logs._start(str(tmp_path / "empty"), 1) == 0


@pytest.fixture
def living(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str]]]:
    """Calls vmlogs for web00, which runs, and a host."""
    made("web00")
    lock = take_lock(layout.lock(layout.world().machine("web00")))

    def call(host: Host, *words: str) -> tuple[int, str]:
        args = program("vmlogs").parser().parse_args(words)
        return logs.run(args, Store(layout.world()), lambda: host), capfd.readouterr().out

    yield call
    os.close(lock)


def test_the_journal_comes_by_ssh(living: Callable[..., tuple[int, str]]) -> None:
    shell = fakes.FakeShell(answers={"web00": GuestEnded(status=0, stdout=b"Nov 1 x\n", stderr=b"")})
    assert living(fakes.host(shell=shell), "web00", "--journal", "-f", "--tail", "3") == (0, "Nov 1 x\n")
    assert shell.commands[0][1].endswith("journalctl --no-pager --boot --lines=3 --follow")


def test_where_ssh_fails_the_agent_is_asked(living: Callable[..., tuple[int, str]]) -> None:
    class Shut(fakes.FakeShell):
        def stream(self, *_: object, **__: object) -> int:
            raise TimedOut("no")

    agent = fakes.FakeAgent(ended={"": GuestEnded(status=0, stdout=b"by agent\n", stderr=b"")})
    host = fakes.host(shell=Shut(), agent=agent)
    assert living(host, "web00", "--journal") == (0, "by agent\n")
    with pytest.raises(TimedOut):
        living(host, "web00", "--journal", "-f")


@pytest.mark.parametrize("words", [["--journal", "--qemu"], ["--tail", "0"]])
def test_options_that_make_no_sense_are_refused(living: Callable[..., tuple[int, str]], words: list[str]) -> None:
    with pytest.raises(UsageError):
        living(fakes.host(), "web00", *words)


# all of them

def test_all_that_run_are_stopped_by_who_says_yes(command: Callable[..., Ended]) -> None:
    made("web00")
    made("web01")
    assert command("vmstop", "--all") == Ended(0, "", "")
    lock = take_lock(layout.lock(layout.world().machine("web00")))
    try:
        assert command("vmstop", "--all", "--dry-run").stdout == "stop web00\n"
        refused = command("vmstop", "--all")
        assert refused.status == 64 and "Stop web00?" in refused.stderr
        assert command("vmstop", "--all", "-d", "-y").status == command("vmstop", "--all", "web00").status == 64
    finally:
        os.close(lock)


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("a bug")])
def test_what_fails_as_no_log_does_ends_the_reading_of_all(error: Exception) -> None:
    over = threading.Event()

    def read(machine: Machine, heard: logs.Heard) -> None:
        if machine.name == "web00":
            raise error
        over.wait()

    with pytest.raises(type(error)):
        logs._each([made("web00"), made("web01")], read)
    over.set()
