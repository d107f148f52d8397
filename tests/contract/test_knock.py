"""Knocks at real ports of the loopback."""

from __future__ import annotations

import socket
import threading

from cloudme.host import ssh
from cloudme.model.ports import Target


def knock(port: int, greeting: bytes = b"") -> str:
    target = Target(name="it", address="127.0.0.1", user="root", key_file="", known_hosts_file="", port=port)
    return ssh.Ssh().knock(target, greeting=greeting, timeout_s=0.3)


def test_a_port_is_open_closed_or_silent() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert knock(port) == "closed"
        listener.listen(8)
        assert knock(port) == "open"
        assert knock(port, b"SSH-") == "silent"


def test_a_server_is_known_by_what_it_says_first() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def serve() -> None:
            for words in (b"SSH-2.0-x\r\n", b"HTTP/1.1 400\r\n"):
                peer, _ = listener.accept()
                with peer:
                    peer.sendall(words)

        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        assert [knock(port, b"SSH-"), knock(port, b"SSH-")] == ["open", "silent"]
        thread.join()
