"""Playbooks by ansible-runner, in a folder of its own that goes when they end."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cloudme.errors import CommandFailed, MissingProgram, SpecError
from cloudme.formats import render
from cloudme.host.run import PATH, Programs
from cloudme.model.ports import HostReport

FORKS_PER_CPU = 10
"""Ansible waits for guests most of the time; each fork costs the controller about 0.2 s of CPU a task."""

FAILURES = {"runner_on_failed", "runner_on_unreachable", "runner_item_on_failed"}


class Ansible:
    """Implements `Playbooks`."""

    def __init__(self, run: Programs, config: str) -> None:
        self._run = run
        self._config = config
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        self._cancelled.set()

    def check(self, playbooks: Sequence[str]) -> None:
        if not playbooks:
            return
        try:
            self._run([self._program(), "--syntax-check", "-i", "localhost,", *playbooks],
                      env={"ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_NOCOLOR": "true", "PATH": self._path()})
        except CommandFailed as error:
            raise SpecError(_complaint(error.message), hint=error.hint) from error

    def run(
        self, playbook: str, inventory: Mapping[str, Any], *, limit: str, say: Callable[[str], None],
    ) -> Mapping[str, HostReport]:
        import ansible_runner

        self._program()
        messages: dict[str, str] = {}

        def heard(event: dict[str, Any]) -> bool:
            data = event.get("event_data", {})
            if event["event"] in FAILURES and not data.get("ignore_errors"):
                messages[data["host"]] = f"{data.get('task') or 'a task'}: {_words(data.get('res', {}))}"
            if event["event"] == "playbook_on_task_start":
                say(data.get("task", ""))
            return False

        # a short path on a tmpfs: ansible-runner writes a file an event, and ssh's sockets lie in it
        folder = tempfile.mkdtemp(prefix="cm-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        try:
            os.mkdir(os.path.join(folder, "cp"), 0o700)
            config = os.path.join(folder, "ansible.cfg")
            with open(config, "w", encoding="utf-8") as file:
                file.write(render.text("ansible.cfg.j2", self._config, folder=folder,
                                       forks=FORKS_PER_CPU * (os.cpu_count() or 1)))
            result = ansible_runner.run(
                private_data_dir=folder, playbook=playbook, inventory=dict(inventory), limit=limit, quiet=True,
                envvars={"ANSIBLE_CONFIG": config, "PATH": self._path(), "LC_ALL": "C.UTF-8"}, event_handler=heard,
                cancel_callback=self._cancelled.is_set, project_dir=os.path.dirname(playbook),
                settings={"suppress_ansible_output": True}, suppress_env_files=True,
            )
            return _reports(result, messages)
        finally:
            self._end_masters(folder)
            shutil.rmtree(folder, ignore_errors=True)

    def _end_masters(self, folder: str) -> None:
        """ssh's masters would outlive us by ControlPersist."""
        for socket in os.listdir(os.path.join(folder, "cp")):
            with contextlib.suppress(CommandFailed):
                self._run(["ssh", "-o", f"ControlPath={folder}/cp/{socket}", "-O", "exit", "any"], timeout_s=10)

    def _path(self) -> str:
        return f"{os.path.dirname(sys.executable)}:{PATH}"

    def _program(self) -> str:
        path = shutil.which("ansible-playbook", path=self._path())
        if path is None:
            raise MissingProgram("ansible-playbook", package="ansible-core")
        if self._run.find("ssh") is None:
            raise MissingProgram("ssh", package="openssh-client")
        return path


def _reports(result: Any, messages: Mapping[str, str]) -> dict[str, HostReport]:
    """Every host that the play met; raises CommandFailed where Ansible itself gave up before meeting any."""
    stats: Mapping[str, Mapping[str, int]] = result.stats or {}
    hosts = {name for kind in ("ok", "changed", "failures", "dark", "processed") for name in stats.get(kind, {})}
    if not hosts:
        with result.stdout as text:
            tail = text.read().strip().splitlines()[-5:]
        raise CommandFailed("ansible-playbook failed: " + "\n".join(tail))
    return {name: _report(name, stats, messages) for name in hosts}


def _report(name: str, stats: Mapping[str, Mapping[str, int]], messages: Mapping[str, str]) -> HostReport:
    if stats.get("failures", {}).get(name) or stats.get("dark", {}).get(name):
        return HostReport(status="failed", message=messages.get(name, "a task failed"))
    return HostReport(status="changed" if stats.get("changed", {}).get(name) else "ok")


def _words(result: Mapping[str, Any]) -> str:
    """What a failing task said, on one line."""
    found = [str(result[key]).strip() for key in ("msg", "stderr", "module_stderr") if result.get(key)]
    return " ".join(" ".join(dict.fromkeys(found)).split()) or "it failed"


def _complaint(text: str) -> list[str]:
    """ansible-playbook's words without its markers."""
    return [line.removeprefix("[ERROR]: ").removeprefix("ERROR! ") for line in text.splitlines() if line.strip()]
