"""What is done in the host's own namespaces, by a command that has left them for its realm."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import threading
from collections.abc import Sequence
from typing import Any, Literal

from cloudme import errors
from cloudme.errors import CloudMeError, CommandFailed, HostUnavailable
from cloudme.host import bridgehelper, rootless, sockets
from cloudme.host.run import Programs

ANSWER_BYTES = 1 << 16
NET = "NET"
READY_S = 10
"""What a program gets to serve: it does in moments."""


class Here:
    """Implements `Outside` where nothing was left."""

    def __init__(self, run: Programs) -> None:
        self._run = run

    def listen(self, protocol: Literal["tcp", "udp"], address: str, port: int) -> int:
        return sockets.listen(protocol, address, port)

    def tap(self, bridge: str) -> int:
        return bridgehelper.tap(self._run, bridge)

    def run(self, argv: Sequence[str], *, timeout_s: float = 60) -> str:
        return self._run(argv, timeout_s=timeout_s)

    def spawn(self, argv: Sequence[str], *, stdout: str, ready: str, among: int) -> int:
        reading, writing = os.pipe()
        number, told = os.pipe()
        child = os.fork()
        if child == 0:  # setns(2) cannot be taken back
            try:
                net = os.open(f"/proc/{among}/ns/net", os.O_RDONLY)
                rootless.enter_user(among)
                words = [f"/proc/self/fd/{net}" if word == NET else word for word in argv[1:]]
                pid = self._run.spawn([argv[0], f"{ready}{writing}", *words], stdout=stdout, fds=[writing, net])
                os.write(told, str(pid).encode())
            finally:
                os._exit(0)
        for descriptor in (writing, told):
            os.close(descriptor)
        os.waitpid(child, 0)
        with open(reading, "rb", buffering=0) as pipe, open(number, encoding="ascii") as pid_pipe:
            if select.select([pipe], [], [], READY_S)[0] and pipe.read(1):
                return int(pid_pipe.read())
        raise CommandFailed(f"{os.path.basename(argv[0])} does not serve: {_tail(stdout)}", hint=f"see {stdout}")


class Twin:
    """Implements `Outside` by a fork of this process, made before it leaves; it ends with us.

    A request is a line of JSON; so is the answer, which brings the descriptor along, if there is one.
    """

    def __init__(self, here: Here) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            ours.close()
            _serve(theirs, here)
        theirs.close()
        self._line = ours
        atexit.register(_end, ours, pid)
        self._one_at_a_time = threading.Lock()

    def listen(self, protocol: Literal["tcp", "udp"], address: str, port: int) -> int:
        return self._descriptor("listen", protocol, address, port)

    def tap(self, bridge: str) -> int:
        return self._descriptor("tap", bridge)

    def run(self, argv: Sequence[str], *, timeout_s: float = 60) -> str:
        said, _ = self._ask("run", list(argv), timeout_s=timeout_s)
        return str(said)

    def spawn(self, argv: Sequence[str], *, stdout: str, ready: str, among: int) -> int:
        pid, _ = self._ask("spawn", list(argv), stdout=stdout, ready=ready, among=among)
        return int(pid)

    def _descriptor(self, what: str, *arguments: Any) -> int:
        _, descriptors = self._ask(what, *arguments)
        os.set_inheritable(descriptors[0], False)
        return descriptors[0]

    def _ask(self, what: str, *arguments: Any, **more: Any) -> tuple[Any, list[int]]:
        with self._one_at_a_time:
            self._line.send(json.dumps([what, arguments, more]).encode())
            text, descriptors, _, _ = socket.recv_fds(self._line, ANSWER_BYTES, 1)
        if not text:
            raise HostUnavailable("the part of this command that stayed outside of the realm has ended")
        answer = json.loads(text)
        if "error" in answer:
            kind = getattr(errors, answer["error"], CloudMeError)
            failure = CloudMeError.__new__(kind)
            CloudMeError.__init__(failure, answer["message"], hint=answer["hint"])
            raise failure
        return answer["said"], descriptors


def _end(line: socket.socket, pid: int) -> None:
    line.close()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _serve(line: socket.socket, here: Here) -> None:
    """Never returns. The terminal's signals are for the other one, who may have something to undo."""
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        while request := line.recv(ANSWER_BYTES):
            what, arguments, more = json.loads(request)
            _answer(line, here, what, arguments, more)
        status = 0
    finally:
        os._exit(status)


def _answer(line: socket.socket, here: Here, what: str, arguments: Sequence[Any], more: dict[str, Any]) -> None:
    descriptors = []
    try:
        said = getattr(here, what)(*arguments, **more)
        answer = {"said": said}
        if what in ("listen", "tap"):
            descriptors = [said]
    except CloudMeError as error:
        answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    text = json.dumps(answer).encode()[:ANSWER_BYTES]
    socket.send_fds(line, [text], descriptors)
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _tail(path: str) -> str:
    if not os.path.exists(path):
        return "it did not start"
    with open(path, encoding="utf-8", errors="replace") as file:
        return next(iter(file.read().splitlines()[-1:]), "it said nothing")
