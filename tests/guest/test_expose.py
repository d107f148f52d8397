"""Ports of the host that lead to a real guest: reached, kept over restarts and kills, closed, gone."""

from __future__ import annotations

import signal
import socket
import urllib.request
from collections.abc import Iterator

import pytest

from cloudme import layout
from cloudme.host import holders
from tests.guest.conftest import Cloud
from tests.net.test_expose import PATIENCE_S
from tests.relaying import free

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]

SERVE = """\
cat /etc/machine-id >/var/www/html/page
systemctl enable --now nginx 2>/dev/null
cat /etc/machine-id
"""


@pytest.fixture
def name(cloud: Cloud, warm: str) -> Iterator[str]:
    with cloud.instant(warm, "ports", "port") as name:
        yield name


def fetch(port: int) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/page", timeout=PATIENCE_S) as answer:
        text: bytes = answer.read()
        return text.decode().strip()


def test_a_port_leads_to_the_guest_and_is_part_of_it(cloud: Cloud, name: str) -> None:
    port = free()
    assert cloud.run("vmexpose", name, f"{port}:80").strip() == f"127.0.0.1:{port}"
    identity = cloud.run("vm", name, "--", SERVE).strip()
    assert len(identity) == 32 and fetch(port) == identity

    with socket.create_server(("127.0.0.1", 0)) as other:
        refused = cloud.call("vmexpose", name, f"{other.getsockname()[1]}:80")
        assert refused.returncode == 75 and b"is taken" in refused.stderr

    cloud.run("vmrestart", name)
    assert cloud.run("vmexpose", "--list").split()[-1] == "open"
    cloud.run("vm", name, "--", "systemctl start nginx")
    assert fetch(port) == identity

    with holders.holder(layout.lock(cloud.world.machine(name))) as qemu:
        signal.pidfd_send_signal(qemu, signal.SIGKILL)
    cloud.run("vmstop", name)
    with socket.create_server(("127.0.0.1", port)):
        taken = cloud.call("vmstart", name)
        assert taken.returncode == 75 and f"vmexpose {name} --remove {port}".encode() in taken.stderr
        assert cloud.machines()[name]["state"] == "stopped"
    cloud.run("vmstart", name)
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S):
        pass

    cloud.run("vmexpose", name, "--remove", str(port))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    cloud.run("vmexpose", name, f"{port}:22")
    cloud.run("vmstop", "-d", "-y", "--timeout", "1", name)
    with socket.create_server(("127.0.0.1", port)):
        assert cloud.run("vmexpose", "--list") == ""
