"""systemd, by its programs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from cloudme.errors import CommandFailed, HostUnavailable, PeerError
from cloudme.model.ports import Run
from cloudme.model.systemd import UnitState

ALIVE = "/run/systemd/system"
"""It is there where systemd is the init (sd_booted(3))."""
PROPERTIES = ("LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "MainPID", "StateChangeTimestamp")
LOG_LINES = 2
"""An error of a program of ours, and its hint."""
SYSTEMCTL = ["systemctl", "--no-ask-password"]


class Systemd:
    """Implements `Units`."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def running(self) -> bool:
        return os.path.isdir(ALIVE)

    def states(self, names: Sequence[str]) -> list[UnitState]:
        if not names:
            return []
        self._wanted()
        said = self._run(["systemctl", "show", "--timestamp=unix", f"--property={','.join(PROPERTIES)}", "--", *names])
        return [_state(name, block) for name, block in zip(names, said.strip("\n").split("\n\n"), strict=True)]

    def reload(self) -> None:
        self._call("daemon-reload")

    def enable(self, names: Sequence[str], *, root: str | None = None) -> None:
        self._files("enable", names, root)

    def disable(self, names: Sequence[str], *, root: str | None = None) -> None:
        self._files("disable", names, root)

    def start(self, names: Sequence[str], *, timeout_s: float = 120) -> None:
        with contextlib.suppress(CommandFailed):  # one that is not loaded has no former starts, and no failures
            self.reset(names)
        try:
            self._call("start", *names, timeout_s=timeout_s)
        except CommandFailed as error:
            failed = next((state.name for state in self.states(names) if state.active == "failed"), names[0])
            raise PeerError(f"systemd could not start {', '.join(names)}", hint=self.last_words(failed)) from error

    def stop(self, names: Sequence[str], *, timeout_s: float = 120) -> None:
        self._call("stop", *names, timeout_s=timeout_s)

    def reset(self, names: Sequence[str]) -> None:
        self._call("reset-failed", *names)

    def users(self, paths: Sequence[str], *, root: str | None = None) -> None:
        self._run(["systemd-sysusers", *([f"--root={root}"] if root else []), *paths])

    def last_words(self, name: str) -> str:
        try:
            self._run(["journalctl", "--sync"])
            run = self._run(["systemctl", "show", "--value", "--property=InvocationID", "--", name]).strip()
            said = self._said(f"_SYSTEMD_INVOCATION_ID={run}", LOG_LINES)
            said = said or self._said(f"_SYSTEMD_UNIT={name}", 1)  # whose run it was is not noted of who ends at once
        except CommandFailed:
            said = ""
        return said or f"journalctl --unit {name}"

    def _said(self, match: str, lines: int) -> str:
        """The last lines of the journal that match, as one."""
        said = self._run(["journalctl", "--no-pager", "--quiet", "--output=cat", f"--lines={lines}", match])
        return " ".join(said.split())

    def _files(self, verb: str, names: Sequence[str], root: str | None) -> None:
        """Links between files, for which no systemd has to run."""
        if root is None:
            self._call(verb, *names)
        else:
            self._run(["systemctl", f"--root={root}", verb, "--quiet", "--", *names])

    def _call(self, verb: str, *names: str, timeout_s: float = 60) -> None:
        self._wanted()
        self._run([*SYSTEMCTL, verb, "--quiet", "--", *names], timeout_s=timeout_s)

    def _wanted(self) -> None:
        if not self.running():
            raise HostUnavailable("this host does not run systemd", hint="vmrun runs a machine without it")


def _state(name: str, block: str) -> UnitState:
    found = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
    since = found.get("StateChangeTimestamp", "").removeprefix("@")
    return UnitState(
        name=name, load=found.get("LoadState", ""), active=found.get("ActiveState", ""), sub=found.get("SubState", ""),
        enabled=found.get("UnitFileState", ""), result=found.get("Result", ""), main_pid=int(found.get("MainPID") or 0),
        since=float(since) if since.isdigit() and since != "0" else None)
