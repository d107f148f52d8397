"""What vm, vmcopy, vmconsole and vmlogs make of their options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cloudme import cli, layout
from cloudme.cli import chooser, copies, display, elsewhere
from cloudme.errors import HostUnavailable, NotFound, UsageError
from cloudme.formats import records
from cloudme.model.machine import Access, Disk, Machine, Nic, Shape
from cloudme.model.names import Name
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
