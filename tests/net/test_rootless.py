"""Realms of ordinary users, with the real dnsmasq, nft and pasta; nobody in these tests has a right of root's."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloudme import index, layout
from cloudme.model.machine import Nic
from cloudme.model.names import Name
from cloudme.store import Store, take_lock
from tests.net.conftest import ip
from tests.unit.test_vmrunning import machine
from tests.users import User

NET_CAPABILITIES = 1 << 10 | 1 << 12 | 1 << 13
"""CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW (linux/capability.h)."""
PAGE = "from outside"


def keeper(user: User) -> int:
    return int(Path(user.world.dnsmasq("default", "pid")).read_text())


def inside(user: User, *argv: str) -> str:
    """As root, in the namespaces of the user's realm."""
    return subprocess.run(["nsenter", f"--target={keeper(user)}", "--net", *argv], check=True, capture_output=True,
                          text=True, timeout=60).stdout


def test_a_user_has_a_network_of_his_own_and_the_host_sees_nothing_of_it(users: list[User], outside: str) -> None:
    user = users[0]
    links = ip("-n", outside, "-brief", "link")
    user.run("cmnet", "start")
    assert user.call("cmnet", "start", "-v").stderr == ""
    assert "state     started" in user.run("cmnet", "status")
    assert ip("-n", outside, "-brief", "link") == links
    assert "10.210.0.1/24" in inside(user, "ip", "-brief", "address", "show", "bridge0")
    assert "cloudme-bridge0" in inside(user, "nft", "list", "tables")
    status = dict(line.split(":", 1) for line in Path(f"/proc/{keeper(user)}/status").read_text().splitlines())
    assert status["Uid"].split() == [str(user.uid)] * 4
    assert int(status["CapEff"], 16) == NET_CAPABILITIES
    user.run("cmnet", "stop")
    assert user.call("cmnet", "status").returncode == os.EX_NOINPUT


def test_a_named_realm_is_another_one(users: list[User]) -> None:
    user = users[0]
    user.run("cmnet", "start")
    user.run("cmnet", "start", "--realm", "other")
    namespaces = {os.readlink(f"/proc/{pid}/ns/net") for pid in (
        keeper(user), int((user.home / "run/realms.other/networks.default/own/dnsmasq.pid").read_text()))}
    assert len(namespaces) == 2
    user.run("cmnet", "stop", "--realm", "other")
    assert "started" in user.run("cmnet", "status")


def test_networks_of_a_user_are_kept_apart(users: list[User]) -> None:
    user = users[0]
    user.run("cmnet", "start")
    user.run("cmnet", "create", "lab", "--cidr", "10.44.0.0/24", "--reaches", "default")
    user.run("cmnet", "status", "lab")
    assert '"cm-lab" . "bridge0"' in inside(user, "nft", "list", "ruleset")
    inside(user, "nft", "flush", "ruleset")
    assert "amiss     cmnet start would keep networks apart" in user.call("cmnet", "status", "lab").stdout
    user.run("cmnet", "start")
    user.run("cmnet", "status", "lab")


def test_a_failed_start_leaves_nothing(users: list[User]) -> None:
    user = users[0]
    folder = user.home / "config/templates"
    user.run("mkdir", "-p", str(folder))
    user.run("sh", "-c", f"echo nonsense >{folder}/dnsmasq.conf.j2")
    assert user.call("cmnet", "start").returncode == os.EX_OSERR
    assert user.processes() == {}


def test_what_changes_the_host_is_refused_with_its_reason(users: list[User]) -> None:
    ended = users[0].call("cmnet", "start", "--resolve", "hosts")
    assert ended.returncode == os.EX_NOPERM
    assert "that is root's" in ended.stderr


def test_two_users_do_not_meet(users: list[User]) -> None:
    """Each has the same bridge, the same addresses and the same names."""
    for user in users:
        user.run("cmnet", "start")
    one, other = users
    assert os.readlink(f"/proc/{keeper(one)}/ns/net") != os.readlink(f"/proc/{keeper(other)}/ns/net")
    pid, home = keeper(other), str(other.home)
    enter = f"from cloudme.host import rootless; print(rootless.enter({pid}))"
    entered = one.call(sys.executable, "-c", enter, more={"PYTHONPATH": str(one.programs)})
    assert entered.stdout != "True\n"
    assert one.call("kill", str(pid)).returncode != 0
    for attempt in (["cmnet", "stop"], ["cmnet", "status"], ["vmrunning", "-a"], ["vmstop", "x"]):
        ended = one.call(*attempt, more={"CLOUDME_HOME": home})
        assert ended.returncode in (os.EX_NOPERM, os.EX_CONFIG), (attempt, ended.stdout, ended.stderr)
    assert keeper(other) == pid
    assert "started" in other.run("cmnet", "status")


@pytest.mark.parametrize("program", ["pasta", "slirp4netns"])
def test_the_uplink_leads_out_and_nobody_to_the_loopback(users: list[User], outside: str, program: str) -> None:
    """Both the router's page and one on the host's loopback are asked for from within the realm."""
    user, router = users[0], f"{outside.rpartition('-')[0]}-{int(outside.rpartition('-')[2]) + 1}"
    only = f"""
import sys
from cloudme.operations.networks import uplink
uplink.PROGRAMS = {{{program!r}: uplink.PROGRAMS[{program!r}]}}
sys.argv = ["cmnet", *sys.argv[1:]]
import runpy
runpy.run_path({str(user.programs / "sbin/cmnet")!r}, run_name="__main__")
"""
    def cmnet(word: str) -> str:
        ended = user.call(sys.executable, "-c", only, word, more={"PYTHONPATH": str(user.programs)})
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    serve = f"""
import http.server, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b{PAGE!r})
    def log_message(self, *words): pass
http.server.HTTPServer((sys.argv[1], 8000), Page).serve_forever()
"""
    fetch = ("import sys, urllib.request as u\n"
             "print(u.urlopen(f'http://{sys.argv[1]}:8000/', timeout=2).read().decode())")
    cmnet("start")
    assert f"way out   {program}" in cmnet("status")
    servers = [subprocess.Popen(["nsenter", f"--net=/run/netns/{name}", sys.executable, "-c", serve, address])
               for name, address in ((router, "203.0.113.1"), (outside, "127.0.0.1"))]
    try:
        for _ in range(50):
            with contextlib.suppress(subprocess.CalledProcessError):
                if inside(user, sys.executable, "-c", fetch, "203.0.113.1").strip() == PAGE:
                    break
        else:
            pytest.fail("the page was not served")
        for address in ("127.0.0.1", "203.0.113.2", "10.0.2.2"):
            with pytest.raises(subprocess.CalledProcessError):
                inside(user, sys.executable, "-c", fetch, address)
    finally:
        for server in servers:
            server.kill()
            server.wait()
    cmnet("stop")
    assert user.processes() == {}


def test_a_realm_whose_dnsmasq_was_killed_is_made_again(users: list[User]) -> None:
    user = users[0]
    user.run("cmnet", "start")
    os.kill(keeper(user), signal.SIGKILL)
    assert user.call("cmnet", "status").returncode in (os.EX_NOINPUT, os.EX_CONFIG)
    user.run("cmnet", "start")
    assert "started" in user.run("cmnet", "status")


def test_a_port_of_the_host_leads_into_a_users_realm(users: list[User], outside: str) -> None:
    """A process in the realm stands for a machine's QEMU, a server at the bridge for what is in it."""
    user, store = users[0], Store(users[0].world)
    user.run("cmnet", "start")
    made = dataclasses.replace(machine("web00"), nics=(Nic(network=Name("default"), mac="52:54:00:00:00:01",
                                                           address="10.210.0.1"),))
    user.run("mkdir", "-p", store.folder(made), store.run_folder(made))
    store.publish(made)
    shutil.chown(store.world.machine_record("web00"), user.name)
    user.run("touch", layout.lock(store.folder(made)))
    lock = take_lock(layout.lock(store.folder(made)))
    enter = ["nsenter", f"--target={keeper(user)}", "--user", "--net", "--preserve-credentials"]
    answer = "import socket; s = socket.create_server(('10.210.0.1', 8000)); print(flush=True)\nwhile 1: " \
             "s.accept()[0].sendall(b'from inside')"
    ask = "import socket, sys; print(socket.create_connection(('127.0.0.1', int(sys.argv[1]))).recv(100).decode())"
    with (subprocess.Popen(user.argv(*enter, "sleep", "infinity"), pass_fds=[lock]) as qemu,
          subprocess.Popen(user.argv(*enter, sys.executable, "-c", answer), stdout=subprocess.PIPE) as guest):
        os.close(lock)
        try:
            assert guest.stdout and guest.stdout.readline()
            assert user.run("vmexpose", "web00", "8080:8000") == "127.0.0.1:8080\n"
            assert user.run(sys.executable, "-c", ask, "8080") == "from inside\n"
            assert user.run("vmexpose", "--list") == "web00  tcp  127.0.0.1:8080  8000  open\n"
            taken = user.call("vmexpose", "web00", "8080:22", "--address", "0.0.0.0")
            assert taken.returncode == os.EX_CANTCREAT
            refused = user.call("vmexpose", "web00", "80")
            assert refused.returncode == os.EX_NOPERM and "from 1024 on" in refused.stderr
            user.run("vmexpose", "web00", "--remove", "8080")
            assert "ConnectionRefusedError" in user.call(sys.executable, "-c", ask, "8080").stderr
            user.run("vmexpose", "web00", "8080:8000")
        finally:
            qemu.kill()
            guest.kill()
    while index.held(layout.forward(store.run_folder(made), "tcp", "127.0.0.1", 8080)):
        os.sched_yield()
    assert user.run("vmexpose", "--list").endswith("waiting\n")
