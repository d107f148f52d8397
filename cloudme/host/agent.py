"""The QEMU guest agent, over the socket of its virtio port (QEMU documentation, 'QEMU Guest Agent')."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import socket as sockets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from cloudme.errors import NotPermitted, PeerError, TimedOut
from cloudme.host.sockets import reached
from cloudme.model.ports import Ended

SENTINEL = b"\xff"
"""Never part of UTF-8: the agent's parser starts anew at it, and its answer to guest-sync-delimited begins with it."""

CHUNK = 4096

FIRST_S, MOST_S = 0.02, 0.5
"""The pace of asking whether a program in the guest has ended: the agent tells of no such thing by itself."""


class GuestAgent:
    """Implements `Agent`."""

    def ping(self, socket: str, *, timeout_s: float) -> bool:
        """One request is enough: QEMU holds it back until the guest opens the port."""
        deadline = time.monotonic() + timeout_s
        try:
            with _connected(socket, deadline) as agent:
                agent.synchronize()
                return True
        except (TimedOut, PeerError):
            return False

    def execute(
        self, socket: str, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60
    ) -> Ended:
        deadline = time.monotonic() + timeout_s
        with _connected(socket, deadline) as agent:
            agent.synchronize()
            pid = agent.ask("guest-exec", {
                "path": argv[0], "arg": list(argv[1:]), "capture-output": True,
                "input-data": base64.b64encode(stdin).decode()})["pid"]
            pace_s = FIRST_S
            while not (status := agent.ask("guest-exec-status", {"pid": pid}))["exited"]:
                if time.monotonic() + pace_s > deadline:
                    raise TimedOut(f"{argv[0]} in the guest took more than {timeout_s:g} s")
                select.select([], [], [], pace_s)
                pace_s = min(pace_s * 1.5, MOST_S)
        return Ended(status=status.get("exitcode", 255), stdout=base64.b64decode(status.get("out-data", "")),
                     stderr=base64.b64decode(status.get("err-data", "")))

    @contextlib.contextmanager
    def line(self, socket: str) -> Iterator[Line]:
        with _connected(socket, time.monotonic()) as connection:
            yield connection


class Line:
    """A connection to a virtio port on which a line of JSON is answered by a line of JSON."""

    def __init__(self, client: sockets.socket, path: str, deadline: float) -> None:
        self._client = client
        self._path = path
        self._deadline = deadline
        self._rest = b""

    def tell(self, question: Any, *, timeout_s: float) -> Any:
        self._deadline = time.monotonic() + timeout_s
        self._send(json.dumps(question).encode())
        return self._read()

    def synchronize(self) -> None:
        """Answers to those who asked before us and left may come first; the number in the answer tells ours."""
        number = int.from_bytes(os.urandom(4), "big")
        request = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
        self._send(SENTINEL + json.dumps(request).encode())
        while self._read() != {"return": number}:
            pass

    def ask(self, command: str, arguments: Any) -> Any:
        """Raises PeerError where the agent says no."""
        self._send(json.dumps({"execute": command, "arguments": arguments}).encode())
        answer = self._read()
        if "error" in answer:
            raise PeerError(f"the guest agent refused '{command}': {answer['error'].get('desc')}")
        return answer["return"]

    def _send(self, line: bytes) -> None:
        try:
            self._client.settimeout(max(self._deadline - time.monotonic(), 0.1))
            self._client.sendall(line + b"\n")
        except OSError as error:
            raise PeerError(f"{self._path}: {error.strerror or 'closed'}") from error

    def _read(self) -> dict[str, Any]:
        """The next line that is an object; others are the end of what somebody else did not wait for."""
        while True:
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                self._rest = rest
                with contextlib.suppress(ValueError):
                    if isinstance(answer := json.loads(line.rpartition(SENTINEL)[2]), dict):
                        return answer
                continue
            left = self._deadline - time.monotonic()
            if left <= 0 or not select.select([self._client], [], [], left)[0]:
                raise TimedOut(f"nobody in the guest answered at {self._path}")
            try:
                got = self._client.recv(CHUNK)
            except OSError:
                got = b""
            if not got:
                raise PeerError(f"{self._path} was closed")
            self._rest += got


@contextlib.contextmanager
def _connected(path: str, deadline: float) -> Iterator[Line]:
    with contextlib.closing(sockets.socket(sockets.AF_UNIX)) as client:
        try:
            client.settimeout(max(deadline - time.monotonic(), 0.1))
            with reached(path) as own:
                client.connect(own)
        except PermissionError as error:
            raise NotPermitted(f"{path}: {error.strerror}", hint="run it with sudo") from error
        except OSError as error:
            raise PeerError(f"nobody listens on {path}") from error
        yield Line(client, path, deadline)
