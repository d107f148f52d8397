"""The example's six machines on two VLANs, by cmapply: brought there, edited, written back. The order matters."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloudme.formats import homelab
from cloudme.model.homelab.nouns import Homelab
from tests.guest.conftest import ROOT, Cloud

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]

MIB = 1 << 20
ADDRESSES = {"vault": "10.20.10.10", "jenkins": "10.20.10.11", "registry": "10.20.20.10", "k8s-master": "10.20.20.20",
             "k8s-worker-1": "10.20.20.21", "k8s-worker-2": "10.20.20.22"}
TAPS = {"vm-vault": "cm-management", "vm-jenkins": "cm-management", "vm-registry": "cm-services",
        "vm-k8s-master": "cm-services", "vm-k8s-worker1": "cm-services", "vm-k8s-worker2": "cm-services"}
UNLISTED = 9999
PLAYBOOK = """\
- hosts: all
  gather_facts: false
  vars:
    listed: {vault: 8200, jenkins: 8080, registry: 5000, k8s-worker-1: 30001}
    script: |
      import os, select, socket, sys
      ports = [socket.create_server(("", int(port))) for port in sys.argv[1:]]
      if os.fork():
          sys.exit()
      while True:
          for port in select.select(ports, [], [])[0]:
              with port.accept()[0] as stream:
                  stream.send(socket.gethostname().encode())
  tasks:
    - name: listen
      ansible.builtin.command:
        argv: [systemd-run, --unit, listening, --service-type, forking, python3, -c, "{{ script }}", "9999",
               "{{ listed[inventory_hostname] | default(9998) }}"]
"""
"""Each machine tells its name on a port that is listed, and on one that is not."""

ASK = """\
import errno, json, socket, sys
def ask(where):
    address, _, port = where.partition(":")
    try:
        with socket.create_connection((address, int(port)), 30) as stream:
            return stream.recv(100).decode()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
print(json.dumps({where: ask(where) for where in sys.argv[1:]}))
"""
NO = ("EHOSTUNREACH", "EPERM")
"""How a rule's no is told: by ICMP (icmp(7), admin-prohibited), and to who sends here himself."""

SEVENTH = """
  wiki:
    vlan: services
    ip: 10.20.20.30
    mem: 640
    ports: {ssh: 22, web: 80}
    depends_on: vault
"""
THREE = """
  beside: {vlan: services, ip: 10.20.20.42}
  after: {vlan: services, ip: 10.20.20.41, depends_on: broken}
  broken: {vlan: services, ip: 10.20.20.40, tap_id: vm-taken, ports: {ssh: 22}}
"""


@dataclass(frozen=True)
class Lab:
    """A file, and the world in which it is applied."""

    cloud: Cloud
    file: Path

    @property
    def folder(self) -> Path:
        return self.file.parent

    def edit(self, old: str, new: str) -> None:
        text = self.file.read_text(encoding="utf-8")
        assert text.count(old) == 1, old
        self.file.write_text(text.replace(old, new), encoding="utf-8")

    def apply(self, *words: str, status: int = 0, file: str = "") -> tuple[dict[str, str], str, list[str]]:
        """What is said of each machine, what on stderr, and the lines before the table."""
        ended = self.cloud.call("cmapply", file or str(self.file), *words)
        out, err = ended.stdout.decode(), ended.stderr.decode()
        assert ended.returncode == status, f"{words}: {ended.returncode}\n{out}\n{err}"
        rows = [line.split(None, 2) for line in out.splitlines()]
        table = [row for row in rows if len(row) == 3 and re.fullmatch(r"-|10\.20(\.\d+){2}", row[1])]
        return ({name: word.strip() for name, _, word in table}, err,
                [line for line, row in zip(out.splitlines(), rows, strict=True) if row not in table])

    def state(self) -> dict[str, Any]:
        """All that an application of the file may change."""
        world = self.cloud.world
        paths = [*Path(world.machines).glob("*/machine.json"), *Path(world.networks).glob("*.json"),
                 Path(world.homelab)]
        found: dict[str, Any] = {path.parent.name if path.name == "machine.json" else path.name:
                                 (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
        pids = [Path(world.dnsmasq(name, "pid")).read_text("ascii") for name in ("management", "services")]
        return found | {"nft": self.cloud.inside_run(["nft", "-s", "list", "ruleset"]), "dnsmasq": pids}

    def changed(self, before: dict[str, Any]) -> set[str]:
        after = self.state()
        return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}

    def guest(self, name: str, command: str) -> str:
        return self.cloud.run("vm", name, "--", command).strip()

    def asked(self, source: str, *where: str) -> list[str]:
        """Who answers at each 'name:port', or why nobody does. source: a machine; '' is the host."""
        there = [f"{ADDRESSES[one.partition(':')[0]]}:{one.partition(':')[2]}" for one in where]
        said = self.cloud.run("vm", source, "--", "python3", "-", *there, stdin=ASK.encode()) if source else \
            self.cloud.inside_run(["python3", "-c", ASK, *there])
        return ["no" if answer in NO else "ssh" if answer.startswith("SSH-") else answer
                for answer in json.loads(said).values()]

    def said(self) -> Homelab:
        return homelab.read(str(self.file)).demand()


@pytest.fixture(scope="module")
def lab(cloud: Cloud, warm: str) -> Iterator[Lab]:
    """The example, applied once; shared folders are below the test's own, and its kernel has no VLAN filtering."""
    folder = Path(cloud.home, "lab")
    folder.mkdir()
    text = (ROOT / "examples/homelab.yaml").read_text(encoding="utf-8")
    for old, new in (("/var/lib/microvms", f"{folder}/shared"), ("vlan_mode: filtering", "vlan_mode: bridges"),
                     ("hosts:\n", "hosts:\n  playbook: listen.yml\n")):
        assert old in text
        text = text.replace(old, new)
    it = Lab(cloud, folder / "homelab.yaml")
    it.file.write_text(text, encoding="utf-8")
    (folder / "listen.yml").write_text(PLAYBOOK, encoding="utf-8")
    try:
        found, _, _ = it.apply("--small")
        assert found == dict.fromkeys(ADDRESSES, "made, started, configured")
        yield it
    finally:
        names = [name for name, one in cloud.machines().items() if one["group"] == "homelab"]
        cloud.call("vmstop", "-d", "-y", "--timeout", "1", *names)
        for name in ("management", "services"):
            cloud.call("cmnet", "delete", name)


def test_six_machines_answer_and_the_second_time_nothing_changes(lab: Lab) -> None:
    asked = "hostname; cat /etc/machine-id; ip -4 -br address show | awk '/^e/ {print $3}'; nproc"
    found = {name: lab.guest(name, asked).split() for name in ADDRESSES}
    assert {name: one[0] for name, one in found.items()} == {name: name for name in ADDRESSES}
    assert {name: one[2] for name, one in found.items()} == {
        name: f"{address}/24" for name, address in ADDRESSES.items()}
    assert len({one[1] for one in found.values()}) == 6
    links = json.loads(lab.cloud.inside_run(["ip", "-j", "link", "show"]))
    assert {link["ifname"]: link.get("master") for link in links if link["ifname"].startswith("vm-")} == TAPS
    before = lab.state()
    said, told, _ = lab.apply("--small")
    assert said == dict.fromkeys(ADDRESSES, "ok") and told == ""
    assert lab.changed(before) == set()
    assert lab.cloud.run("cmapply", str(lab.file), "--small", "--dry-run", "--diff") == ""


def test_vlans_are_apart_and_ports_are_open_as_listed(lab: Lab) -> None:
    lab.cloud.inside_run(["sh", "-c", "echo 0 >/proc/sys/net/ipv4/icmp_ratelimit"])  # a no is told as often as asked
    assert lab.asked("jenkins", "registry:5000", f"registry:{UNLISTED}", "k8s-worker-1:30001", "registry:22",
                     f"vault:{UNLISTED}") == ["registry", "no", "k8s-worker-1", "ssh", "vault"]
    assert lab.asked("registry", "vault:8200", "vault:22", f"jenkins:{UNLISTED}", f"k8s-worker-1:{UNLISTED}",
                     "k8s-worker-2:22") == ["no", "no", "no", "k8s-worker-1", "ssh"]
    assert lab.asked("", "vault:8200", f"vault:{UNLISTED}", "registry:5000", f"registry:{UNLISTED}", "vault:22") == [
        "vault", "no", "registry", "no", "ssh"]
    assert lab.cloud.run("vmping", "vault", "jenkins", "registry").count(" ok ") == 3
    assert lab.guest("jenkins", "getent ahostsv4 registry").split()[0] == ADDRESSES["registry"]
    lab.guest("registry", "systemctl stop listening")
    ended = lab.cloud.call("vmping", "vault", "registry")
    assert ended.returncode == 1 and b"tcp/5000:closed" in ended.stdout, ended.stdout


def test_shares_survive_a_restart(lab: Lab) -> None:
    kept = lab.folder / "shared/vault/data/kept"
    lab.guest("vault", "cat /etc/machine-id >/var/lib/vault/kept")
    identity = kept.read_text(encoding="utf-8").strip()
    assert len(identity) == 32
    kept.with_name("of the host").write_text("there\n", encoding="utf-8")
    lab.cloud.run("vmrestart", "vault")
    assert lab.guest("vault", "findmnt -no FSTYPE /var/lib/vault; cat /etc/machine-id /var/lib/vault/*").split() == [
        "virtiofs", identity, identity, "there"]


def test_one_field_that_changes_changes_only_that(lab: Lab) -> None:
    """Memory and CPUs as --small has them, from here on in the file, where they can be edited."""
    text = lab.file.read_text(encoding="utf-8")
    lab.file.write_text(re.sub(r"^    (mem|vcpu|gpu): .*\n", "", text, flags=re.MULTILINE), encoding="utf-8")
    before = lab.state()
    assert lab.apply()[0] == dict.fromkeys(ADDRESSES, "ok") and lab.changed(before) == set()
    lab.edit("web: 8080}", f"web: 8080, odd: {UNLISTED}}}")
    said, _, lines = lab.apply("--diff")
    assert said == {**dict.fromkeys(ADDRESSES, "ok"), "jenkins": "changed ports"}
    assert lines == [f"jenkins.ports: ssh=22,web=8080 -> ssh=22,web=8080,odd={UNLISTED}"]
    assert lab.changed(before) == {"jenkins", "homelab.json", "nft"}
    assert lab.asked("", f"jenkins:{UNLISTED}", f"vault:{UNLISTED}") == ["jenkins", "no"]
    lab.edit(f", odd: {UNLISTED}", "")
    assert lab.apply("jenkins")[0] == {"jenkins": "changed ports"}
    assert lab.changed(before) == {"jenkins", "homelab.json"}  # as it was, and written anew
    assert lab.asked("", f"jenkins:{UNLISTED}", "jenkins:8080") == ["no", "jenkins"]


def test_memory_changes_live_where_there_is_a_balloon_and_the_rest_by_a_restart(lab: Lab) -> None:
    for address in (ADDRESSES["vault"], ADDRESSES["jenkins"]):
        lab.edit(f"    ip: {address}\n", f"    ip: {address}\n    mem: 512\n")
    lab.edit("    mem: 512\n    vsock_cid: 101\n", "    mem: 512\n    vcpu: 1\n    vsock_cid: 101\n")
    before, boot = lab.state(), lab.guest("vault", "cat /proc/sys/kernel/random/boot_id")
    said, told, lines = lab.apply("--diff")
    assert said == {**dict.fromkeys(ADDRESSES, "ok"), "vault": "changed mem", "jenkins": "needs a restart"}
    assert lines == ["vault.mem: 640 -> 512", "jenkins.mem: 640 -> 512", "jenkins.vcpu: 2 -> 1"]
    assert f"jenkins needs a restart: mem: 640 -> 512, vcpu: 2 -> 1 (cmapply {lab.file} --restart jenkins)" in told
    assert lab.changed(before) == {"vault", "homelab.json"}
    (status,) = json.loads(lab.cloud.run("vmstatus", "vault", "--json"))
    assert status["left_bytes"] == 512 * MIB
    assert lab.guest("vault", "cat /proc/sys/kernel/random/boot_id") == boot
    assert lab.guest("jenkins", "nproc") == "2"
    assert lab.apply("--restart", "jenkins")[0] == {"jenkins": "changed mem, changed vcpu, started"}
    assert lab.guest("jenkins", "nproc") == "1"
    assert lab.changed(before) - {"nft"} == {"vault", "jenkins", "homelab.json"}  # it has a new tap, and so new rules
    assert lab.apply()[0] == dict.fromkeys(ADDRESSES, "ok")


def test_a_share_that_is_in_use_holds_no_memory_back(lab: Lab) -> None:
    more, other, text = lab.folder / "shared/more", lab.folder / "other.yaml", lab.file.read_text(encoding="utf-8")
    more.mkdir()
    two, count = re.subn(
        r"    storage:\n      source: (\S+/vault/data)\n(?:      .*\n)*",
        '    shares:\n'
        '      - {source: \\1, mount_point: /var/lib/vault, tag: vault-storage, owner: root:kvm, mode: "0755"}\n'
        f"      - {{source: {more}, mount_point: /srv/more}}\n", text)
    assert count == 1
    other.write_text(two, encoding="utf-8")
    assert lab.apply("vault", file=str(other))[0] == {"vault": "changed shares"}
    lab.guest("vault", "systemd-run --quiet --unit busy --working-directory=/srv/more sleep 600")
    other.write_text(text.replace("mem: 512", "mem: 500", 1), encoding="utf-8")
    said, told, _ = lab.apply("vault", file=str(other), status=75)
    assert said == {"vault": "changed mem, failed"} and "uses what is to go" in told
    (status,) = json.loads(lab.cloud.run("vmstatus", "vault", "--json"))
    assert status["left_bytes"] == 500 * MIB
    assert lab.guest("vault", "systemctl stop busy; findmnt -no FSTYPE /srv/more") == "virtiofs"
    assert lab.apply("vault", file=str(other))[0] == {"vault": "changed shares"}
    assert lab.guest("vault", "findmnt /srv/more; true") == ""
    assert lab.apply("vault")[0] == {"vault": "changed mem"}


def test_a_seventh_machine_is_six_lines(lab: Lab) -> None:
    before = lab.state()
    assert len(SEVENTH.strip("\n").splitlines()) == 6
    with lab.file.open("a", encoding="utf-8") as file:
        file.write(SEVENTH)
    assert lab.apply()[0] == {**dict.fromkeys(ADDRESSES, "ok"), "wiki": "made, started, configured"}
    assert lab.changed(before) == {"wiki", "homelab.json", "nft"}
    assert lab.guest("wiki", "hostname") == "wiki"


def test_what_fails_does_not_stop_the_others(lab: Lab) -> None:
    """The name of a tap is that of a link that somebody else has."""
    with lab.file.open("a", encoding="utf-8") as file:
        file.write(THREE)
    before = lab.state()
    lab.cloud.inside_run(["ip", "link", "add", "vm-taken", "type", "bridge"])
    ok = {**dict.fromkeys(ADDRESSES, "ok"), "wiki": "ok"}
    said, told, _ = lab.apply(status=73)
    assert said == {**ok, "broken": "failed", "after": "skipped", "beside": "made, started, configured"}
    assert "broken: " in told and "vm-taken" in told and "after: waits for broken, which failed" in told
    assert lab.changed(before) == {"beside", "homelab.json", "nft"}
    assert lab.cloud.call("cmnet", "status", "services").returncode == 0
    assert not os.path.exists(lab.cloud.world.machine("broken"))
    lab.cloud.inside_run(["ip", "link", "delete", "vm-taken"])
    made = "made, started, configured"
    assert lab.apply()[0] == {**ok, "broken": made, "after": made, "beside": "ok"}
    assert lab.changed(before) == {"broken", "after", "beside", "homelab.json", "nft"}
    assert set(lab.apply()[0].values()) == {"ok"}


def test_what_is_dumped_is_the_file_and_changes_nothing(lab: Lab) -> None:
    before = lab.state()
    text = lab.cloud.run("cmdump", cwd=str(lab.folder))
    dumped = lab.folder / "dumped.yaml"
    dumped.write_text(text, encoding="utf-8")
    assert homelab.read(str(dumped)).demand() == lab.said()
    said, told, _ = lab.apply(file=str(dumped))
    assert set(said.values()) == {"ok"} and told == ""
    assert lab.changed(before) == set()
    assert lab.cloud.run("cmdump", cwd=str(lab.folder)) == text


def test_what_is_no_longer_in_the_file_goes_with_prune_alone(lab: Lab) -> None:
    lab.edit(SEVENTH, "")
    before = lab.state()
    said, told, _ = lab.apply()
    assert "wiki" not in said and set(said.values()) == {"ok"}
    assert "no longer in the file: wiki (--prune destroys)" in told
    assert lab.changed(before) <= {"homelab.json"} and lab.guest("wiki", "hostname") == "wiki"  # it is noted last now
    before = lab.state()
    assert set(lab.apply("--prune", "-y")[0].values()) == {"ok"}
    assert lab.changed(before) == {"wiki", "homelab.json", "nft"}
    assert not os.path.exists(lab.cloud.world.machine("wiki"))
