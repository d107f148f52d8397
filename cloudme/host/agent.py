"""The QEMU guest agent, over the socket of its virtio port (QEMU documentation, 'QEMU Guest Agent')."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket as sockets
import time

from cloudme.errors import NotPermitted

SENTINEL = b"\xff"
"""Never part of UTF-8: the agent's parser starts anew at it, and its answer to guest-sync-delimited begins with it."""

CHUNK = 4096


class GuestAgent:
    """Implements `Agent`."""

    def ping(self, socket: str, *, timeout_s: float) -> bool:
        """One request is enough: QEMU holds it back until the guest opens the port.

        Answers to those who asked before us and left may come first; the number in the answer tells ours.
        """
        deadline = time.monotonic() + timeout_s
        number = int.from_bytes(os.urandom(4), "big")
        request = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
        with contextlib.closing(sockets.socket(sockets.AF_UNIX)) as client:
            try:
                client.settimeout(timeout_s)
                client.connect(socket)
                client.sendall(SENTINEL + json.dumps(request).encode() + b"\n")
                return _answered(client, number, deadline)
            except PermissionError as error:
                raise NotPermitted(f"{socket}: {error.strerror}", hint="run it with sudo") from error
            except OSError:
                return False


def _answered(client: sockets.socket, number: int, deadline: float) -> bool:
    poller = select.poll()
    poller.register(client, select.POLLIN)
    rest = b""
    while (left := deadline - time.monotonic()) > 0 and poller.poll(left * 1000):
        if not (got := client.recv(CHUNK)):
            return False
        *lines, rest = (rest + got).split(b"\n")
        if any(_says(line.rpartition(SENTINEL)[2], number) for line in lines):
            return True
    return False


def _says(line: bytes, number: int) -> bool:
    try:
        answer = json.loads(line)
    except ValueError:  # the end of an answer that somebody else did not wait for
        return False
    return isinstance(answer, dict) and answer.get("return") == number
