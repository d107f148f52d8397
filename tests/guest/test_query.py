"""A real guest that is asked, listened to, unplugged: what it says itself is what the host is told."""

from __future__ import annotations

import contextlib
import errno
import json
import queue
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudme import layout
from cloudme.host import agent, qmp
from tests.guest.conftest import Cloud
from tests.net.conftest import inside as there

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]

PATIENCE_S = 120


@pytest.fixture(scope="module")
def name(cloud: Cloud, warm: str) -> Iterator[str]:
    with cloud.instant(warm, "asked", "ask") as name:
        yield name


class Heard:
    """What a vmobserve prints, as it comes."""

    def __init__(self, cloud: Cloud, *words: str) -> None:
        self.process = cloud.popen("vmobserve", "--json", *words, stdout=subprocess.PIPE)
        self.lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.put(json.loads(line))

    def event(self, name: str) -> dict[str, Any]:
        """The next of this name."""
        while (found := self.lines.get(timeout=PATIENCE_S))["event"] != name:
            pass
        return found

    def end(self) -> int:
        """It ends by itself."""
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.thread.join()
        assert self.process.stdout
        self.process.stdout.close()


@contextlib.contextmanager
def listening(cloud: Cloud, name: str) -> Iterator[Heard]:
    """A vmobserve that listens already: it has told of a pause."""
    it = Heard(cloud, name)
    try:
        for _ in range(PATIENCE_S):
            with qmp.connected(layout.socket(cloud.world.machine_run(name), "qmp.0"), 5) as monitor:
                for word in ("stop", "cont"):
                    monitor.execute(word)
            with contextlib.suppress(queue.Empty):
                it.lines.get(timeout=1)
                break
        yield it
    finally:
        it.close()


def inside(cloud: Cloud, name: str, script: str) -> str:
    """What the guest prints, asked through its agent: that needs no network."""
    ended = agent.GuestAgent().execute(layout.socket(cloud.world.machine_run(name), "agent"), ["/bin/sh"],
                                       stdin=script.encode(), timeout_s=PATIENCE_S)
    assert ended.status == 0, ended.stderr
    return ended.stdout.decode()


def test_pci_is_what_the_guests_lspci_says(cloud: Cloud, name: str) -> None:
    assert cloud.run("vmquery", "pci", name, "--tree") == inside(cloud, name, "lspci -t")
    rows = json.loads(cloud.run("vmquery", "pci", name, "--json"))
    said = [line.split()[:3] for line in inside(cloud, name, "lspci -n").splitlines()]
    assert said == [[row["address"], f"{row['class']}:", f"{row['vendor']}:{row['device']}"] for row in rows]
    assert {row["id"]: row["bridge"] for row in rows}["nic0"] == "00:10.0"


def test_the_other_questions_are_answered_by_the_same_machine(cloud: Cloud, name: str) -> None:
    cpus = json.loads(cloud.run("vmquery", "cpu", name, "--json"))
    assert len(cpus) == int(inside(cloud, name, "nproc"))
    disks = {row["device"]: row for row in json.loads(cloud.run("vmquery", "block", name, "--json"))}
    assert disks["vd0"]["size_bytes"] == int(inside(cloud, name, "blockdev --getsize64 /dev/vda"))
    assert disks["vd0"]["file"] == f"{cloud.world.machine(name)}/disk.qcow2" and disks["seed"]["read_only"]
    written = disks["vd0"]["written_bytes"]
    inside(cloud, name, "head -c 1000000 /dev/urandom >/root/some; sync")
    (after,) = (row for row in json.loads(cloud.run("vmquery", "block", name, "--json")) if row["device"] == "vd0")
    assert after["written_bytes"] >= written + 1_000_000
    (memory,) = json.loads(cloud.run("vmquery", "memory", name, "--json"))
    assert memory["base_bytes"] == 640 << 20
    (migration,) = json.loads(cloud.run("vmquery", "migrate", name, "--json"))
    assert migration["status"] == "completed"  # an instant clone was restored from memory


def reachable(cloud: Cloud, name: str) -> bool:
    """Whether the guest's ssh takes a connection, or refuses it."""
    address = cloud.machines()[name]["address"]

    def connect() -> bool:
        with socket.socket() as client:
            client.settimeout(2)
            try:
                return client.connect_ex((address, 22)) in (0, errno.ECONNREFUSED)
            except TimeoutError:
                return False

    return there(cloud.world.namespace, connect)


def eventually(true: Callable[[], bool]) -> bool:
    """For what takes as long as the guest does; each try waits by itself."""
    return any(true() for _ in range(PATIENCE_S // 2))


def test_a_guest_is_cut_off_and_comes_back_and_who_listens_sees_it(cloud: Cloud, name: str) -> None:
    assert eventually(lambda: reachable(cloud, name))
    with listening(cloud, name) as heard:
        cut_off(cloud, name, heard)
    assert eventually(lambda: reachable(cloud, name))
    cloud.run("vm", name, "--", "true")


def cut_off(cloud: Cloud, name: str, heard: Heard) -> None:
    carrier = "cat /sys/class/net/e*/carrier"
    assert cloud.run("vmdisconnect", name) == f"{name}.0: disabled\n"
    assert not reachable(cloud, name)
    assert inside(cloud, name, carrier).strip() == "0"
    assert heard.event("NIC_RX_FILTER_CHANGED")["data"]["name"] == "nic0"
    assert cloud.run("vmdisconnect", f"{name}.default") == f"{name}.0: disabled\n"
    assert not reachable(cloud, name)
    assert cloud.run("vmconnect", f"{name}.0") == f"{name}.0: enabled\n"
    assert inside(cloud, name, carrier).strip() == "1"
    assert heard.event("NIC_RX_FILTER_CHANGED")["data"]["name"] == "nic0"


def test_a_listener_is_in_nobodys_way_and_sees_the_end(cloud: Cloud, name: str) -> None:
    with listening(cloud, name) as heard:
        second = cloud.call("vmobserve", name)
        assert second.returncode == 75 and b"observes it already" in second.stderr
        assert cloud.run("vmquery", "cpu", name)
        cloud.run("vmstop", name)
        assert heard.event("POWERDOWN")["machine"] == name
        shutdown = heard.event("SHUTDOWN")
        assert shutdown["data"]["guest"] is True and shutdown["time"] > 1_700_000_000
        assert heard.end() == 0
    gone = cloud.call("vmquery", "pci", name)
    assert gone.returncode == 75 and f"'{name}' does not run".encode() in gone.stderr
    assert cloud.call("vmdisconnect", name).returncode == 75


def test_an_interrupted_listener_says_so(cloud: Cloud, name: str) -> None:
    cloud.run("vmstart", name)
    with listening(cloud, name) as heard:
        heard.process.send_signal(signal.SIGINT)
        assert heard.end() == 130
