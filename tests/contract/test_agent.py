"""The guest agent's protocol, against sockets that answer as qemu-ga and QEMU do."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudme.host.agent import GuestAgent

Answer = Callable[[int], bytes]
"""From the number in the request to what is sent back."""


@pytest.fixture
def port(home: Path) -> Iterator[Callable[[Answer], str]]:
    """Returns a socket's path, where one client is answered, and then left."""
    threads = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "agent"))
        listener.listen()

        def serve(answer: Answer) -> None:
            client, _ = listener.accept()
            with client:
                request = client.recv(4096)
                assert request.startswith(b"\xff") and request.endswith(b"\n")
                call = json.loads(request[1:])
                assert call["execute"] == "guest-sync-delimited"
                for byte in answer(call["arguments"]["id"]):
                    client.sendall(bytes([byte]))

        def answering(answer: Answer) -> str:
            threads.append(threading.Thread(target=serve, args=(answer,)))
            threads[-1].start()
            return str(home / "agent")

        yield answering
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("before", [
    b"",
    b'\xff{"return": 1}\n',
    b'{"error": {"class": "GenericError", "desc": "Invalid JSON"}}\n',
    b'half an answer{"ret',
    b"\xc3\n[]\n",
])
def test_an_agent_that_answers_lives_whatever_came_before(port: Callable[[Answer], str], before: bytes) -> None:
    path = port(lambda number: before + b"\xff" + json.dumps({"return": number}).encode() + b"\n")
    assert GuestAgent().ping(path, timeout_s=10)


def test_an_answer_to_somebody_else_is_none(port: Callable[[Answer], str]) -> None:
    assert not GuestAgent().ping(port(lambda number: b'\xff{"return": %d}\n' % (number + 1)), timeout_s=10)


def test_silence_is_no_at_the_deadline(home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "agent"))
        listener.listen()
        begun = time.monotonic()
        assert not GuestAgent().ping(str(home / "agent"), timeout_s=0.2)
        assert 0.2 <= time.monotonic() - begun < 5


def test_no_qemu_is_no_at_once(home: Path) -> None:
    assert not GuestAgent().ping(str(home / "agent"), timeout_s=60)
