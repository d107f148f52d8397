"""The programs that are started."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloudme.errors import CloudMeError, CommandFailed, MissingProgram
from cloudme.formats import dhcp
from cloudme.model.confinement import Confinement


@dataclass
class FakeRun:
    """Records argv; answers by program name; `qemu-img create`, `convert` make the file. `fail` raises for a word.

    given: what came on stdin. daemons: the signals that each dnsmasq got, by its configuration file.
    """

    answers: dict[str, str] = field(default_factory=dict)
    fail: dict[str, CloudMeError] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    calls: list[list[str]] = field(default_factory=list)
    given: list[bytes] = field(default_factory=list)
    daemons: dict[str, list[int]] = field(default_factory=dict)

    def __call__(
        self, argv: Sequence[str], *, timeout_s: float = 60, stdin: bytes = b"", env: Mapping[str, str] | None = None,
        confinement: Confinement | None = None,
    ) -> str:
        if argv[0] in self.missing:
            raise MissingProgram(argv[0])
        self.calls.append(list(argv))
        self.given.append(stdin)
        for word, error in self.fail.items():
            if any(word in argument for argument in argv):
                raise error
        if argv[0] == "qemu-img" and argv[1] in ("create", "convert"):
            with open([word for word in argv[2:] if os.path.isabs(word)][-1], "w", encoding="ascii") as file:
                file.write("qcow2")
        if argv[0] == "dnsmasq":
            self.daemons[argv[1].partition("=")[2]] = []
        return self.answers.get(argv[0], "")

    def spawn(
        self, argv: Sequence[str], *, stdout: str, fds: Sequence[int] = (), confinement: Confinement | None = None,
        locked_bytes: int = 0,
    ) -> int:
        self.calls.append(list(argv))
        return 1

    def attend(
        self, argv: Sequence[str], *, confinement: Confinement, pins: bool, heed: Callable[[int], bool],
    ) -> int:
        self.calls.append(list(argv))
        return 0

    def become(self, argv: Sequence[str]) -> None:
        self.calls.append(list(argv))

    def signal(self, pid_file: str, mark: str, number: int) -> bool:
        if mark not in self.daemons:
            return number == 0 and os.path.exists(pid_file)
        if number == signal.SIGTERM:
            del self.daemons[mark]
        elif number:
            self.daemons[mark].append(number)
        return True

    def find(self, program: str) -> str | None:
        return None if program in self.missing else f"/usr/bin/{program}"


class FakeNft(FakeRun):
    """Likewise, and keeps the rules that nft was given, by table, as that lists them."""

    def __call__(self, argv: Sequence[str], *, stdin: bytes = b"", **more: Any) -> str:
        if list(argv[:3]) == ["nft", "list", "table"]:
            if argv[4] not in self.answers:
                raise CommandFailed("nft failed: No such file or directory")
            return self.answers[argv[4]]
        if list(argv[:2]) == ["nft", "-f"]:
            text = stdin.decode()
            (name,) = re.findall(r"^delete table \S+ (\S+)$", text, re.MULTILINE)
            self.answers.pop(name, None)
            if dhcp.marks(text):
                self.answers[name] = text
        return super().__call__(argv, stdin=stdin, **more)
