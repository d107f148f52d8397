"""Powering down over QMP where the one that is asked is no QEMU that behaves."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from cloudme.host import shutdown
from cloudme.model.ports import Power

pytestmark = pytest.mark.contract
GREETING = {"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}


def test_one_that_is_stuck_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers nothing once it is to quit. The patience is shortened, not what is done with it."""
    monkeypatch.setattr(shutdown, "QUIT_S", 0.2)
    monkeypatch.setattr(shutdown, "AGAIN_S", 0.1)
    heard: list[str] = []
    said: list[str] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "q"))
        listener.listen(1)
        thread = threading.Thread(target=_answer, args=(listener, heard))
        thread.start()
        deaf = shutdown.all_down([Power(name="vm", lock="", monitor=str(tmp_path / "q"))], timeout_s=0.3,
                                 say=said.append)
        thread.join()
    assert deaf == ["vm"] and said == ["vm does not heed the power button: ending it"]
    assert heard[:2] == ["qmp_capabilities", "system_powerdown"] and heard[-1] == "quit"


def _answer(listener: socket.socket, heard: list[str]) -> None:
    peer, _ = listener.accept()
    with peer:
        _send(peer, GREETING)
        while text := peer.recv(4096):
            message = json.loads(text)
            heard.append(message["execute"])
            if message["execute"] != "quit":
                _send(peer, {"return": {}, **({"id": message["id"]} if "id" in message else {})})


def _send(peer: socket.socket, message: dict[str, Any]) -> None:
    peer.sendall(json.dumps(message).encode() + b"\n")
