"""Playbooks by ansible-runner, in a folder of its own that goes when they end, with all that was started for it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloudme.errors import CommandFailed, MissingProgram, SpecError
from cloudme.formats import render
from cloudme.host.run import END_S, PATH, Programs
from cloudme.model.ports import HostReport

FORKS_PER_CPU = 10
"""Ansible waits for guests most of the time; each fork costs the controller about 0.2 s of CPU a task."""

MARK = "CLOUDME_ANSIBLE"
"""The variable by which the processes of a run are known: workers and ssh's masters lead sessions of their own."""

TAIL_LINES = 5

_ERROR = re.compile(r"^(?:\[ERROR\]: |ERROR! )(.+?)(?=\n\s*\n|\nOrigin: |\Z)", re.DOTALL | re.MULTILINE)
_ORIGIN = re.compile(r"^Origin: (.+?):(\d+)(?::\d+)?$|appears to be in '(.+)': line (\d+)", re.MULTILINE)
"""ansible-core's complaints, from 2.19 on and before."""


class Ansible:
    """Implements `Playbooks`. `config` is the folder whose templates/ win."""

    def __init__(self, run: Programs, config: str) -> None:
        self._run = run
        self._config = config
        self._cancelled = threading.Event()
        self._folders: set[str] = set()

    def cancel(self) -> None:
        self._cancelled.set()
        for folder in tuple(self._folders):
            _end(folder)

    def check(self, playbooks: Sequence[str]) -> None:
        if not playbooks:
            return
        if self._complaints(playbooks):  # Ansible ends at the first that is broken
            raise SpecError([line for playbook in playbooks for line in self._complaints([playbook])])

    def _complaints(self, playbooks: Sequence[str]) -> list[str]:
        with self._folder() as (_, env):
            try:
                self._run([_program(), "--syntax-check", "-i", "localhost,", *playbooks], env=env, timeout_s=300)
            except CommandFailed as error:
                return [_complaint(error.output or error.message, playbooks[0])]
        return []

    def run(
        self, playbook: str, inventory: Mapping[str, Any], *, hosts: Sequence[str], say: Callable[[str], None],
    ) -> Mapping[str, HostReport]:
        import ansible_runner

        _program()
        if self._run.find("ssh") is None:
            raise MissingProgram("ssh", package="openssh-client")
        heard = Heard(playbook, say)
        with self._folder() as (folder, env):
            result = ansible_runner.run(
                private_data_dir=folder, project_dir=os.path.dirname(playbook), playbook=playbook,
                inventory=dict(inventory), limit=",".join(hosts), envvars=env, event_handler=heard.event,
                cancel_callback=self._cancelled.is_set, quiet=True, suppress_env_files=True,
                settings={"suppress_output_file": True, "pexpect_timeout": 1},
            )
        return heard.reports(hosts, result.rc)

    @contextlib.contextmanager
    def _folder(self) -> Iterator[tuple[str, dict[str, str]]]:
        """A folder for one run, and the environment that keeps Ansible in it; afterwards nothing of either is left.

        On a tmpfs, since ansible-runner writes two files an event; with a short path, since ssh's sockets are in it.
        """
        folder = tempfile.mkdtemp(prefix="cm-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
        self._folders.add(folder)
        try:
            os.mkdir(os.path.join(folder, "cp"), 0o700)
            config = os.path.join(folder, "ansible.cfg")
            with open(config, "w", encoding="utf-8") as file:
                file.write(render.text("ansible.cfg.j2", self._config, folder=folder,
                                       forks=FORKS_PER_CPU * (os.cpu_count() or 1)))
            yield folder, {
                **{name: value for name, value in os.environ.items() if name.startswith("ANSIBLE_")},
                "ANSIBLE_CONFIG": config, "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8", "PATH": _path(), MARK: folder,
                "ANSIBLE_HOST_KEY_CHECKING": "True",  # ansible-runner would turn it off
            }
        finally:
            _end(folder)
            self._folders.discard(folder)
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(slots=True)
class Heard:
    """What counts in the events of one run.

    said:   host -> the message of the last task that failed there. stats: of the end: 'ok' -> host -> how many tasks.
    words:  Ansible's own lines, outside of tasks; from its last error on, once there is one.
    """

    playbook: str
    say: Callable[[str], None]
    said: dict[str, str] = field(default_factory=dict)
    stats: dict[str, dict[str, int]] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)

    def event(self, event: Mapping[str, Any]) -> bool:
        """Called by ansible-runner; False: the event shall not be kept in a file."""
        data = event.get("event_data") or {}
        match event["event"]:
            case "runner_on_failed" | "runner_on_unreachable" if not data.get("ignore_errors"):
                result = data.get("res") or {}
                # a 'reason' is why a file could not be included; where, an error has said before, if it is the same
                reason = " ".join(str(result.get("reason") or "").partition("\n\n")[0].split())
                words = self._error() if reason else ""
                self.said[data["host"]] = \
                    f"{data.get('task') or 'a task'}: {words if words and reason in words else _words(result)}"
            case "playbook_on_task_start":
                self.say(data.get("task", ""))
            case "playbook_on_stats":
                self.stats.update(data)
            case "verbose" | "error":
                lines = event.get("stdout", "").splitlines()
                if lines and _ERROR.match(lines[0]):
                    self.words.clear()
                self.words += lines
        return False

    def _error(self) -> str:
        """Ansible's last error, as 'file:line: what'; '' for none."""
        text = "\n".join(self.words)
        return _complaint(text, self.playbook) if _ERROR.search(text) else ""

    def reports(self, hosts: Sequence[str], status: int | None) -> dict[str, HostReport]:
        return {name: self._report(name, status) for name in hosts}

    def _report(self, name: str, status: int | None) -> HostReport:
        def counted(kind: str) -> bool:
            return bool(self.stats.get(kind, {}).get(name))

        if counted("failures") or counted("dark"):
            return HostReport(status="failed", message=self.said.get(name, "a task failed"))
        if status and not counted("processed"):
            if self.stats:
                return HostReport(status="failed", message="the playbook ended before it came to this machine")
            words = self._error() or " ".join(" ".join(self.words[-TAIL_LINES:]).split())
            return HostReport(status="failed", message=words or f"ansible-playbook ended with {status}")
        return HostReport(status="changed" if counted("changed") else "ok")


def _words(result: Mapping[str, Any]) -> str:
    """What a failing task said, on one line; of a loop, the first item that failed."""
    items = [item for item in result.get("results") or [] if isinstance(item, dict)]
    result = next((item for item in items if item.get("failed") or item.get("unreachable")), result)
    found = [str(result[key]).strip() for key in ("msg", "reason", "stderr", "module_stderr") if result.get(key)]
    if not (result.get("stderr") or result.get("module_stderr")) and result.get("stdout"):
        found.append(str(result["stdout"]).strip())
    return " ".join(" ".join(dict.fromkeys(found)).split()) or "it failed"


def _complaint(text: str, playbook: str) -> str:
    """What Ansible says of a file that it cannot read, as 'file:line: what'."""
    error, origin = _ERROR.search(text), _ORIGIN.search(text)
    words = " ".join((error[1] if error else text).split())
    if origin:
        return f"{origin[1] or origin[3]}:{origin[2] or origin[4]}: {words}"
    return f"{playbook}: {words}"


def _path() -> str:
    return f"{os.path.dirname(sys.executable)}:{PATH}"


def _program() -> str:
    path = shutil.which("ansible-playbook", path=_path())
    if path is None:
        raise MissingProgram("ansible-playbook", package="ansible-core")
    return path


def _end(folder: str) -> None:
    """Kill every process that was started for `folder`, and return when they are gone."""
    mark = os.fsencode(f"{MARK}={folder}")
    deadline = time.monotonic() + END_S
    while (found := [pidfd for pid in os.listdir("/proc") if pid.isdigit() for pidfd in _marked(int(pid), mark)]):
        for pidfd in found:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for pidfd in found:
            select.select([pidfd], [], [], max(deadline - time.monotonic(), 0))
            os.close(pidfd)
        if time.monotonic() >= deadline:
            return


def _marked(pid: int, mark: bytes) -> list[int]:
    """The pidfd of a process that has `mark` in its environment, opened before that is looked at; else nothing."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return []
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            if pid != os.getpid() and mark in file.read().split(b"\0"):
                return [pidfd]
    except OSError:  # another user's, or it has gone
        pass
    os.close(pidfd)
    return []
