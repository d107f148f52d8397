"""Playbooks: the real Ansible, over a real sshd on the loopback."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloudme import layout
from cloudme.errors import SpecError
from cloudme.formats import inventory
from cloudme.host.playbook import Ansible
from cloudme.host.run import Programs
from cloudme.model.machine import Machine
from cloudme.model.ports import HostReport, Target
from tests.conftest import ROOT
from tests.sshd import Sshd
from tests.unit.test_vmrunning import Made, machine

pytest.importorskip("ansible_runner")
SCRIPTS = Path(sys.executable).parent
MACHINES = [machine("web00"), machine("web01"), machine("sql00", type="sql")]


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    sshd = Sshd(tmp_path_factory.mktemp("sshd"))
    sshd.start()
    yield sshd
    sshd.stop()


@dataclass
class Guests:
    """Machines that are all the same sshd, each with a pinned key of its own; a folder for playbooks."""

    sshd: Sshd
    folder: Path

    def target(self, machine: Machine) -> Target:
        return Target(name=machine.name, address="127.0.0.1", user=self.sshd.target.user, port=self.sshd.port,
                      key_file=str(self.sshd.key), known_hosts_file=str(self.folder / machine.name))

    def pin(self, name: str, public_key: str) -> None:
        kind, key = public_key.split()[:2]
        (self.folder / name).write_text(f"{name} {kind} {key}\n", encoding="ascii")

    @property
    def inventory(self) -> dict[str, Any]:
        return inventory.static({m: inventory.variables(m, self.target(m)) for m in MACHINES})

    def playbook(self, tasks: str, *, head: str = "") -> str:
        path = self.folder / "play.yml"
        path.write_text(f"- hosts: all\n  gather_facts: false\n{head}  tasks:\n{tasks}", encoding="ascii")
        return str(path)

    def run(self, playbook: str, *hosts: str) -> Mapping[str, HostReport]:
        self.said: list[str] = []
        return Ansible(Programs(), str(self.folder)).run(
            playbook, self.inventory, hosts=hosts or ("web00",), say=self.said.append)


@pytest.fixture
def guests(sshd: Sshd, tmp_path: Path) -> Guests:
    guests = Guests(sshd, tmp_path)
    for one in MACHINES:
        guests.pin(one.name, Path(sshd.folder, "host_key.pub").read_text("ascii"))
    return guests


def left(mark: str) -> list[str]:
    """The command lines of processes that have `mark` in their environment, ours left out."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if int(pid) != os.getpid() and mark.encode() in Path("/proc", pid, "environ").read_bytes():
                found.append(Path("/proc", pid, "cmdline").read_text("utf-8").replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.fixture
def tidy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing of this test may be left behind: no process, no folder."""
    monkeypatch.setenv("CLOUDME_TEST", str(tmp_path))
    yield
    assert left(f"CLOUDME_TEST={tmp_path}") == []
    inventories = Path("/dev/shm").glob("cm-*/inventory/*")
    assert [path for path in inventories if str(tmp_path) in path.read_text("utf-8")] == []


def test_a_playbook_reaches_its_hosts_and_no_other(guests: Guests, tidy: None) -> None:
    path = guests.playbook(
        "    - name: leave a note\n"
        "      ansible.builtin.copy: {content: '{{ groups.pf1_sql }}', dest: '" + str(guests.folder) +
        "/note-{{ inventory_hostname }}'}\n")
    assert guests.run(path, "web00", "web01") == dict.fromkeys(["web00", "web01"], HostReport(status="changed"))
    assert sorted(path.name for path in guests.folder.glob("note-*")) == ["note-web00", "note-web01"]
    assert "sql00" in (guests.folder / "note-web00").read_text("ascii")
    assert guests.said == ["leave a note"]
    assert guests.run(path, "web00", "web01") == dict.fromkeys(["web00", "web01"], HostReport(status="ok"))


@pytest.mark.parametrize(("task", "message"), [
    ("ansible.builtin.fail: {msg: no moon tonight}", "break: no moon tonight"),
    ("ansible.builtin.command: sh -c 'echo went wrong >&2; exit 3'", "break: non-zero return code went wrong"),
    ("ansible.builtin.command: sh -c 'echo only this; exit 3'", "break: non-zero return code only this"),
    ("ansible.builtin.command: \"sh -c 'echo no {{ item }} >&2; test {{ item }} != two'\"\n"
     "      loop: [one, two]", "break: non-zero return code no two"),
])
def test_a_failing_task_is_named_with_what_it_said(guests: Guests, tidy: None, task: str, message: str) -> None:
    path = guests.playbook(f"    - name: break\n      {task}\n      when: inventory_hostname == 'web01'\n")
    assert guests.run(path, "web00", "web01") == {
        "web00": HostReport(status="ok"), "web01": HostReport(status="failed", message=message)}


def test_a_failure_that_the_playbook_bears_is_none(guests: Guests) -> None:
    path = guests.playbook(
        "    - ansible.builtin.command: 'false'\n      ignore_errors: true\n"
        "    - block: [{ansible.builtin.command: 'false'}]\n      rescue: [{ansible.builtin.command: 'true'}]\n")
    assert guests.run(path) == {"web00": HostReport(status="changed")}


def test_machines_that_a_failed_playbook_did_not_come_to_are_failed_too(guests: Guests) -> None:
    path = guests.playbook("    - ansible.builtin.fail: {msg: no}\n", head="  serial: 1\n")
    reports = guests.run(path, "web00", "web01")
    assert {report.status for report in reports.values()} == {"failed"}
    assert "before it came to this machine" in reports["web01"].message


def test_a_playbook_with_no_play_for_a_machine_leaves_it_as_it_is(guests: Guests) -> None:
    path = Path(guests.playbook("    - ansible.builtin.command: 'true'\n"))
    path.write_text(path.read_text("ascii").replace("hosts: all", "hosts: sql"), encoding="ascii")
    assert guests.run(str(path)) == {"web00": HostReport(status="ok")}


def test_roles_and_files_lie_beside_the_playbook(guests: Guests) -> None:
    for folder in ("roles/note/tasks", "files"):
        (guests.folder / folder).mkdir(parents=True)
    (guests.folder / "files/note").write_text("hello\n", encoding="ascii")
    (guests.folder / "roles/note/tasks/main.yml").write_text(
        f"- ansible.builtin.copy: {{src: files/note, dest: {guests.folder}/copied}}\n", encoding="ascii")
    assert guests.run(guests.playbook("    - ansible.builtin.import_role: {name: note}\n"))["web00"].status == "changed"
    assert (guests.folder / "copied").read_text("ascii") == "hello\n"


def test_a_host_key_that_is_not_the_pinned_one_is_refused(guests: Guests, tidy: None) -> None:
    guests.pin("web01", Path(f"{guests.sshd.key}.pub").read_text("ascii"))
    reports = guests.run(guests.playbook("    - ansible.builtin.command: 'true'\n"), "web00", "web01")
    assert reports["web00"].status == "changed"
    assert reports["web01"].status == "failed" and "Host key verification failed" in reports["web01"].message


def test_a_cancelled_playbook_ends_at_once_and_leaves_nothing(guests: Guests, tidy: None) -> None:
    ansible = Ansible(Programs(), str(guests.folder))
    begun = threading.Event()
    where = "{{ 'localhost' if inventory_hostname == 'web00' else 'web01' }}"
    path = guests.playbook("    - name: sleep\n      ansible.builtin.command: sleep 600\n"
                           f"      delegate_to: \"{where}\"\n")
    thread = threading.Thread(target=ansible.run, args=(path, guests.inventory), kwargs={
        "hosts": ["web00", "web01"], "say": lambda task: begun.set()})
    thread.start()
    assert begun.wait(60)
    ansible.cancel()
    thread.join(30)
    assert not thread.is_alive()


INTERRUPTED = """
import sys
from cloudme import cli
from cloudme.host.playbook import Ansible
from cloudme.operations import playbooks
from tests.contract.test_playbooks import MACHINES
from tests.fakes import host

class There:
    machines = lambda self, group: []
    target = lambda self, machine: Target(**{**TARGET, "name": machine.name})

from cloudme.host.run import Programs
from cloudme.model.ports import Target
TARGET = dict(address="127.0.0.1", user=sys.argv[1], port=int(sys.argv[2]), key_file=sys.argv[3],
              known_hosts_file=sys.argv[4])
real = host(playbooks=Ansible(Programs(), "/nonexistent"))
say = lambda line: print(line, flush=True)
sys.exit(cli.run("test", lambda args: playbooks.configure(
    real, There(), MACHINES, {"web": sys.argv[5], "sql": sys.argv[6]}, say), None))
"""


def test_ctrl_c_ends_all_playbooks_and_leaves_nothing(guests: Guests, tidy: None) -> None:
    path = guests.playbook("    - name: sleep\n      ansible.builtin.command: sleep 600\n")
    other = shutil.copy(path, guests.folder / "sql.yml")
    sshd = guests.sshd
    argv = [sys.executable, "-c", INTERRUPTED, sshd.target.user, str(sshd.port), str(sshd.key),
            str(guests.folder / "all"), path, other]
    public = Path(sshd.folder, "host_key.pub").read_text("ascii").split()
    (guests.folder / "all").write_text(f"* {public[0]} {public[1]}\n", encoding="ascii")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout
        lines = {process.stdout.readline().strip() for _ in range(4)}
        assert {"play.yml: sleep", "sql.yml: sleep"} <= lines
        process.send_signal(signal.SIGINT)
        assert (process.wait(30), process.communicate()[1]) == (130, "test: interrupted\n")


BROKEN = pytest.mark.parametrize(("text", "complaint"), [
    ("- hosts: all\n  tasks:\n    - ansible.builtin.debug: {msg: hi\n", r":[34]: .*YAML"),
    ("- hosts: all\n  tasks:\n    - nosuchmodule: {}\n", r":3: .*nosuchmodule"),
    ("- hosts: all\n  taskz: []\n", r":[12]: .*taskz"), ("hosts: all\n", r":(1:)? .*list"), ("", r": .*mpty"),
    ("- hosts: all\n  roles: [nosuch]\n", r":2: .*nosuch"),
])


@BROKEN
def test_a_broken_playbook_is_told_as_file_line_what(tmp_path: Path, tidy: None, text: str, complaint: str) -> None:
    path = tmp_path / "broken.yml"
    path.write_text(text, encoding="ascii")
    with pytest.raises(SpecError, match=str(path) + complaint):
        Ansible(Programs(), str(tmp_path)).check([str(path)])


@BROKEN
def test_a_broken_playbook_that_is_applied_says_the_same(
    guests: Guests, tidy: None, text: str, complaint: str,
) -> None:
    path = guests.folder / "broken.yml"
    path.write_text(text, encoding="ascii")
    report = guests.run(str(path))["web00"]
    assert report.status == "failed" and re.match(str(path) + complaint, report.message)


@pytest.mark.parametrize(("task", "message"), [
    ("include_role: {name: nosuch}", "ansible.builtin.include_role: {}/play.yml:4: the role 'nosuch' was not found"),
    ("include_tasks: more.yml", "{}/more.yml:1: couldn't resolve module/action 'nosuchmodule'"),
])
def test_what_is_included_as_it_runs_and_is_broken_is_told_with_its_place(
    guests: Guests, tidy: None, task: str, message: str,
) -> None:
    (guests.folder / "more.yml").write_text("- nosuchmodule: {}\n", encoding="ascii")
    report = guests.run(guests.playbook(f"    - ansible.builtin.{task}\n"))["web00"]
    assert report.status == "failed" and report.message.startswith(message.format(guests.folder))


def test_every_broken_playbook_is_told(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{name}.yml") for name in ("a", "b", "c")]
    for path, text in zip(paths, ("hosts: all\n", "- hosts: all\n", "- hosts: [\n"), strict=True):
        Path(path).write_text(text, encoding="ascii")
    with pytest.raises(SpecError) as caught:
        Ansible(Programs(), str(tmp_path)).check(paths)
    assert [line.split(":")[0] for line in caught.value.lines] == [paths[0], paths[2]]


def test_our_own_playbooks_are_right(tmp_path: Path, tidy: None) -> None:
    ours = [*sorted((ROOT / "examples/playbooks").glob("*.yml")), ROOT / "templates/upgrade.yml"]
    assert len(ours) == 3
    Ansible(Programs(), str(tmp_path)).check([str(path) for path in ours])


@pytest.fixture
def running(home: Path) -> Iterator[Callable[..., str]]:
    """A machine that runs, in a home with an awkward name; calls a program of Ansible's with vminventory."""
    awkward = home / "50% of it"
    world = layout.World(data=str(awkward), run=f"{awkward}/run", config=f"{awkward}/config", realm="demo")
    made = Made(world)
    made.machine(machine("web00"), held=True)
    made.machine(machine("dns00", group="pf-2"), held=True)
    env = {"CLOUDME_HOME": str(awkward), "CLOUDME_REALM": "demo", "HOME": str(home), "LC_ALL": "C.UTF-8",
           "PATH": f"{SCRIPTS}:{os.environ['PATH']}"}

    def call(*words: str) -> str:
        ended = subprocess.run([str(SCRIPTS / words[0]), "-i", str(ROOT / "bin/vminventory"), *words[1:]], env=env,
                               capture_output=True, check=True, timeout=120, cwd=home)
        assert b"WARNING" not in ended.stderr
        return ended.stdout.decode()

    yield call
    for fd in made.locks:
        os.close(fd)


def test_ansible_reads_vminventory(running: Callable[..., str]) -> None:
    listed = json.loads(running("ansible-inventory", "--list"))
    assert listed["pf1_web"] == {"hosts": ["web00"]}
    assert listed["pf_2_web"] == {"hosts": ["dns00"]}
    assert set(listed["web"]["hosts"]) == {"web00", "dns00"}
    assert listed["_meta"]["hostvars"]["web00"]["ansible_host"] == "198.51.100.7"


def test_ssh_understands_what_vminventory_says(running: Callable[..., str], home: Path) -> None:
    words = json.loads(running("ansible-inventory", "--host", "web00"))["ansible_ssh_common_args"]
    ended = subprocess.run(["ssh", "-F", "none", "-G", *shlex.split(words), "198.51.100.7"], capture_output=True,
                           check=True, timeout=60)
    said = dict(line.split(" ", 1) for line in ended.stdout.decode().splitlines())
    assert said["userknownhostsfile"].replace("%%", "%") == f"{home}/50% of it/realms/demo/machines/web00/known_hosts"
    assert said["stricthostkeychecking"] in ("yes", "true")
    command = shlex.split(said["proxycommand"].replace("%%", "%"))
    assert command == ["env", f"CLOUDME_HOME={home}/50% of it", str(ROOT / "bin/vm"), "--realm", "demo", "--proxy",
                       "web00"]
