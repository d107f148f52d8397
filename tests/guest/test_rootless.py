"""The whole cloud by ordinary users, without any right of root's; two of them at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.guest.conftest import CACHE
from tests.users import User

PACKAGES = "nginx-light,postgresql,pciutils"
PLAYBOOK = """\
- hosts: all
  tasks:
    - copy: {content: "{{ cloudme_type }} of {{ inventory_hostname }}", dest: /root/said}
"""


def template(user: User) -> None:
    user.run("cmnet", "start")
    user.run("cmimage", "build", "debian", "--include", PACKAGES, "--cache", f"{CACHE}/images")


def qemu(user: User, machine: str) -> int:
    """The pid of a machine of the user's."""
    lock = os.stat(user.world.machine(machine) + "/lock")
    for entry in filter(str.isdigit, os.listdir("/proc")):
        for fd in Path(f"/proc/{entry}/fd").iterdir() if os.path.exists(f"/proc/{entry}/cmdline") else ():
            try:
                if (found := os.stat(fd)).st_ino == lock.st_ino and found.st_dev == lock.st_dev and \
                        b"qemu" in Path(f"/proc/{entry}/cmdline").read_bytes():
                    return int(entry)
            except OSError:
                continue
    raise AssertionError(f"{machine} does not run")


def test_a_user_has_all_of_it_and_another_one_cannot_get_at_it(users: list[User], outside: str) -> None:
    one, other = users
    template(one)
    one.run("vmcreate", "-n", "debian", "--image", "debian", "-m", "640")
    (one.home / "config/playbooks").mkdir(parents=True)
    (one.home / "config/playbooks/web.yml").write_text(PLAYBOOK)
    (one.home / "group").write_text("debian:2:pf1:web\n")
    assert one.run("vminstantiate", "-f", "group") == "web00\nweb01\n"
    assert [line.split()[-1] for line in one.run("vmlaunch", "pf1").splitlines()[-2:]] == ["changed", "changed"]
    assert one.run("vm", "web01", "--", "cat", "/root/said") == "web of web01"
    assert one.run("vm", "web00", "--", "getent", "ahostsv4", "web01.cloudme").startswith("10.210.0.3")
    _reach_by_ssh(one)
    _exposed(one, outside)
    _instant(one)
    _apart(one, other)
    for user in (one, other):
        names = [machine["name"] for machine in json.loads(user.run("vmrunning", "-a", "--json"))
                 if machine["group"] != "templates"]
        user.run("vmstop", "-d", "-y", "--timeout", "1", *names)
        user.run("cmnet", "stop")
        assert user.processes() == {}


def _reach_by_ssh(user: User) -> None:
    """Plain ansible and plain ssh, from outside of the realm, by the ProxyCommand."""
    ended = user.call("ansible", "-i", f"{user.programs}/bin/vminventory", "web01", "-m", "command", "-a", "hostname",
                      more={"ANSIBLE_SSH_ARGS": "-o ControlMaster=no"})  # which would outlive the test by a minute
    assert ended.stdout.splitlines()[-1] == "web01", ended.stderr
    host = json.loads(user.run("vminventory", "--host", "web00"))
    options = ["-o", "ProxyCommand=vm --proxy web00", "-o", "StrictHostKeyChecking=yes",
               "-i", host["ansible_ssh_private_key_file"]]
    known = next(word for word in host["ansible_ssh_common_args"].split() if word.startswith("UserKnownHostsFile="))
    assert user.run("ssh", *options, "-o", known, f"root@{host['ansible_host']}", "hostname") == "web00\n"
    (user.home / "file").write_text("there and back\n")
    user.run("vmcopy", "file", "web00:/tmp/file")
    assert user.run("vm", "web00", "--", "cat", "/tmp/file") == "there and back\n"


def _exposed(user: User, host: str) -> None:
    """From the host's loopback to the guest's ssh port, and no more once it is removed."""
    greeting = ("import socket; c = socket.create_connection(('127.0.0.1', 2222), 5); c.settimeout(20)\n"
                "print(c.recv(7).decode())")

    def greeted() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["nsenter", f"--net=/run/netns/{host}", sys.executable, "-c", greeting],
                              capture_output=True, text=True, check=False, timeout=60)

    user.run("vmexpose", "web00", "2222:22")
    assert greeted().stdout == "SSH-2.0\n"
    user.run("vmexpose", "web00", "--remove", "2222")
    assert greeted().returncode != 0


def _instant(user: User) -> None:
    user.run("vmwarm", "debian")
    assert user.run("vminstantiate", "-n", "debian", "-C", "2", "-g", "fast", "--name", "fast") == "fast00\nfast01\n"
    assert user.run("vm", "fast01", "--", "hostname") == "fast01\n"
    assert user.run("vmfork", "fast00") == "fast02\n"
    assert user.run("vm", "fast02", "--", "hostname") == "fast02\n"


def _apart(one: User, other: User) -> None:
    """Whatever `one` tries on a machine of `other`."""
    template(other)
    other.run("vmcreate", "-n", "mine", "--image", "debian", "-m", "256", "--no-prepare")
    assert other.run("vminstantiate", "-n", "mine", "--ip", "10.210.0.77", "--name", "secret") == "secret00\n"
    pid, folder = qemu(other, "secret00"), other.world.machine("secret00")
    assert "secret00" not in one.run("vmrunning", "-a")
    assert one.call("vmstop", "secret00").returncode == os.EX_NOINPUT
    for words in (["vmstop", "secret00"], ["vm", "secret00", "--", "id"], ["vmrunning", "-a"]):
        ended = one.call(*words, more={"CLOUDME_HOME": str(other.home)})
        assert ended.returncode in (os.EX_NOPERM, os.EX_CONFIG), (words, ended.stderr)
    for words in (["kill", "-9", str(pid)], ["cat", f"{folder}/disk.qcow2"], ["cat", f"/proc/{pid}/environ"],
                  ["head", "-c1", f"/proc/{pid}/mem"], ["ls", f"/proc/{pid}/fd"],
                  ["nsenter", f"--target={pid}", "--user", "--net", "true"],
                  ["cat", f"{other.world.template('mine')}/ssh_key"]):
        assert one.call(*words).returncode != 0, words
    socket_path = f"{other.world.machine_run('secret00')}/qmp.1"
    assert os.path.exists(socket_path)
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect({socket_path!r})"
    assert "PermissionError" in one.call(sys.executable, "-c", connect).stderr
    assert "100% packet loss" in one.call("vm", "web00", "--", "ping", "-c1", "-W2", "10.210.0.77").stdout
    assert qemu(other, "secret00") == pid
    assert "web00" not in other.run("vmrunning", "-a")
