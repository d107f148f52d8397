"""What can be wrong in the file of a homelab: told all at once, each with line and column."""

from __future__ import annotations

import json
from ipaddress import IPv4Interface
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudme.formats import homelab, located
from cloudme.formats.values import ITEMS
from cloudme.model.homelab.checks import Surroundings
from cloudme.model.homelab.nouns import Severity
from cloudme.model.names import Name
from cloudme.model.network import Network
from tests.unit.test_homelab import valid
from tests.unit.test_located import PLAIN


def made(name: str, address: str, *, shared: bool = False) -> Network:
    own = IPv4Interface(address)
    return Network(name=Name(name), bridge=name, address=own, dhcp_first=own.ip + 1, dhcp_last=own.ip + 9,
                   domain=name, shared=shared)


AROUND = Surroundings(ram_mib=8192, templates={"t": 1024}, images=("debian-12",), tags=("gpu",),
                      networks={"lab": made("lab", "172.16.7.1/24"), "default": made("default", "10.8.0.1/24"),
                                "root": made("root", "172.16.9.1/24", shared=True)}, idle=("default",),
                      owners={"lab": {"172.16.7.7": "by-hand", "172.16.7.8": "left", "172.16.7.9": "a"},
                              "lan": {"10.1.0.7": "by-hand"}}, earlier=("machines.left",),
                      exists=lambda path: path in ("/srv/there", "dir/site.yml", "dir/x", "dir/bad.yml"),
                      amiss=lambda key, path: f"{path}:3: no {key}" if path == "dir/bad.yml" else "")


LAN = "networks: {vlans: {lan: {id: 5, cidr: 10.1.0.0/24}}}"


def machine(body: str, more: str = "") -> str:
    return f"{LAN}\nmachines:\n  a: {{template: t, {body}}}\n{more}"


def micro(body: str) -> str:
    return f"{LAN}\nmachines:\n  a: {{image: debian-12, kernel: x, machine: microvm, {body}}}\n"


def two(one: str, other: str) -> str:
    return machine(one, f"  b: {{template: t, {other}}}")


SHARE = "{source: /srv/there, mount_point: /mnt}"

BY_ITSELF = [
    (machine("vcpu: §0"), "machines.a.vcpu: a number from 1 to 255 is wanted, not the number 0"),
    (machine("vcpu: §yes"), "machines.a.vcpu: a number from 1 to 255 is wanted, not 'yes'"),
    (machine("mem: §16"), "machines.a.mem: 16 MiB is too little memory (32 MiB at least)"),
    (machine("mem: §2Q"), "machines.a.mem: '2Q' is no size (for instance 2G, 512M)"),
    (machine("mem: §[1]"), "machines.a.mem: MiB, or a size as 2G is wanted, not a list"),
    (machine("machine: §i440fx"), "machines.a.machine: 'i440fx' is none of q35, microvm"),
    (machine("§meme: 1"), "machines.a.meme: no such key; 'mem' is one"),
    (machine("§image: debian-12"), "machines.a.image: it cannot go with 'template'"),
    (machine("vlan: lan, §network: lab"), "machines.a.network: it cannot go with 'vlan'"),
    (machine("§initrd: x"), "machines.a.initrd: it means nothing without 'kernel'"),
    (machine("§cmdline: x"), "machines.a.cmdline: it means nothing without 'kernel'"),
    (machine("ip: §10.1.0"), "machines.a.ip: '10.1.0' is no IPv4 address"),
    (machine("ip: §10.1.0.1/24"), "machines.a.ip: '10.1.0.1/24' is no IPv4 address"),
    (machine("mac: §52:54:00"), "machines.a.mac: '52:54:00' is no hardware address"),
    (machine("mac: §'01:00:5e:00:00:01'"),
     "machines.a.mac: '01:00:5e:00:00:01' is the address of a group of cards, not of one"),
    (machine("tapId: §vm-k8s-worker-123"), "machines.a.tapId: 'vm-k8s-worker-123' is no name of a link (at most 15 "
                                           "characters: letters, digits, '-', '_', '.')"),
    (machine("tap_id: x, §tapId: y"), "machines.a.tapId: it says the same as 'tap_id'"),
    (machine("vsock_cid: §2"), "machines.a.vsock_cid: a number from 3 to 4294967294 is wanted, not the number 2"),
    (machine("ports: {ssh: §0}"), "machines.a.ports.ssh: '0' is no port (1 to 65535)"),
    (machine("ports: {x: §70000}"), "machines.a.ports.x: '70000' is no port (1 to 65535)"),
    (machine("ports: {x: §1-2-3}"), "machines.a.ports.x: '1-2-3' is no port (22, 30000-32767, 53/udp)"),
    (machine("ports: §[22]"), "machines.a.ports: an object is wanted, not a list"),
    (machine("§storage: {mountPoint: /x}"), "machines.a.storage.source: is wanted"),
    (machine("shares: [{source: §srv, mount_point: /x}]"),
     "machines.a.shares[0].source: 'srv' is no folder's path from the root, as /srv/vault is"),
    (machine("shares: [{source: /srv/there, mount_point: /x, mode: §'9'}]"),
     "machines.a.shares[0].mode: '9' is no mode, as \"0755\" is"),
    (machine("shares: [{source: /srv/there, mount_point: /x, owner: §'a b'}]"),
     "machines.a.shares[0].owner: 'a b' is no owner, as root:kvm is"),
    (machine("shares: [{source: /srv/there, mount_point: /x, tag: §'a b'}]"),
     "machines.a.shares[0].tag: 'a b' is no tag of a share"),
    (machine(f"shares: {SHARE}, §storage: {SHARE}"), "machines.a.storage: it says the same as 'shares'"),
    (machine("gpu: §'1:00'"), "machines.a.gpu: '1:00' is no PCI address"),
    (machine("gpu: §''"), "machines.a.gpu: PCI address is wanted, not ''"),
    (machine("group: §templates"), "machines.a.group: the group 'templates' is reserved"),
    (machine("type: §Web"),
     "machines.a.type: 'Web' is no name of a type (small letters, digits and inner hyphens, 63 at most (a DNS "
     "label))"),
    (machine("user: §'a b'"), "machines.a.user: 'a b' is no name of a user (letters, digits, '_' and '-', 32 at most)"),
    (machine("playbook: §''"), "machines.a.playbook: it is empty"),
    (machine("autostart: §no"), "machines.a.autostart: true or false is wanted, not 'no'"),
    (machine("replicas: §0"), "machines.a.replicas: a number from 1 to 250 is wanted, not the number 0"),
    *((machine(f"replicas: 2, §{key}: {value}"), f"machines.a.{key}: it cannot go with 'replicas'")
      for key, value in (("mac", "'02:00:00:00:00:01'"), ("tap_id", "x"), ("hostname", "x"), ("gpu", "'01:00.0'"),
                         ("devices", "'01:00.0'"))),
    (machine("limits: {cpus: §lots}"),
     "machines.a.limits.cpus: 'lots' is no share of CPUs (for instance 1.5; 0.01 at least)"),
    (machine("limits: {§cpu: 1}"), "machines.a.limits.cpu: no such key; 'cpus' is one"),
    (machine("net_rate: §fast"),
     "machines.a.net_rate: 'fast' is no rate (bits a second, 8K to 100G, for instance 100M)"),
    ("machines: {§A_b: {template: t}}", "machines.A_b: 'A_b' is no name of a machine (small letters, digits and inner "
                                        "hyphens, 63 at most (a DNS label))"),
    ("machines: §[a]", "machines: an object is wanted, not a list"),
    ("§machine: {}", "machine: no such key; 'machines' is one"),
    ("§[]", "an object is wanted, not a list"),
    ("hosts: {memory_ratio: §0}", "hosts.memory_ratio: a number from 0.1 to 100 is wanted, not the number 0"),
    ("hosts: {§ip: 10.0.0.1}",
     "hosts.ip: no such key: there are autostart, group, image, machine, mem, memory_ratio, network, playbook, "
     "template, type, user, user_data, vcpu, vlan"),
    ("networks: {vlan_mode: §tagged}", "networks.vlan_mode: 'tagged' is none of filtering, bridges"),
    ("networks: {vlans: {lan: §5000}}", "networks.vlans.lan: a number from 1 to 4094 is wanted, not the number 5000"),
    ("networks: {vlans: {§lan: {prefix: 24}}}", "networks.vlans.lan.id: is wanted"),
    ("networks: {vlans: {lan: {id: 1, cidr: 10.0.0.0/8, §prefix: 8}}}",
     "networks.vlans.lan.prefix: it cannot go with 'cidr'"),
    ("networks: {vlans: {lan: {id: 1, cidr: §10.0.0.0/31}}}",
     "networks.vlans.lan.cidr: 10.0.0.0/31 has no place for machines, or for too many (/8 to /30)"),
    ("networks: {bridge: §'a/b'}",
     "networks.bridge: 'a/b' is no name of a link (at most 15 characters: letters, digits, '-', '_', '.')"),
]
"""What a value alone is wrong about: the schema knows it, too. § is where."""

BEYOND_SCHEMA = [
    (machine("ports: {x: §32767-30000}"), "machines.a.ports.x: the range 32767-30000 has its end before its beginning"),
    ("networks: {vlans: {lan: {id: 1, cidr: §10.0.0.5/24}}}",
     "networks.vlans.lan.cidr: '10.0.0.5/24' is not how a network is written (10.0.0.0/24)"),
    ("machines:\n  §%s: {template: t, replicas: 2}" % ("a" * 62),
     f"machines.{'a' * 62}: its name is too long to be counted on: 60 characters at most"),
    (machine("playbook: §none.yml"), "machines.a.playbook: there is no dir/none.yml"),
    ("machines:\n  §a: {mem: 1G}", "machines.a: template or image is wanted"),
    ("machines:\n  a: {template: §tt}", "machines.a.template: no template 'tt'; 't' is one"),
    ("hosts: {image: §debian12}\nmachines: {a: }", "hosts.image: no image 'debian12'; 'debian-12' is one"),
    (machine("vlan: §lann"), "machines.a.vlan: no VLAN 'lann'; 'lan' is one"),
    (machine("network: §lan"), "machines.a.network: 'lan' is a VLAN: say vlan, not network"),
    (machine("network: §labb"), "machines.a.network: no network 'labb'; 'lab' is one"),
    (machine("tags: [gpu, §gpuu]"), "machines.a.tags[1]: no tag 'gpuu'; 'gpu' is one in the host configuration"),
    (machine("tags: §web"), "machines.a.tags: no tag 'web' in the host configuration"),
    (machine("vlan: lan, ip: §10.2.0.5"), "machines.a.ip: 10.2.0.5 is not in 10.1.0.0/24, the VLAN 'lan'"),
    (machine("vlan: lan, ip: §10.1.0.1"), "machines.a.ip: 10.1.0.1 is the gateway of 'lan'"),
    (machine("vlan: lan, ip: §10.1.0.255"),
     "machines.a.ip: 10.1.0.255 is an end of 10.1.0.0/24, and no machine's address"),
    (machine("vlan: lan, mem: 32, replicas: 9, ip: §10.1.0.250"),
     "machines.a.ip: 10.1.0.255 is an end of 10.1.0.0/24, and no machine's address (replica 5)"),
    ("networks: {vlans: {lan: 7}}\nhosts: {template: t, vlan: lan}\nmachines: {a: {ip: 10.1.0.5}, b: {ip: §10.1.1.5}}",
     "machines.b.ip: 10.1.1.5 is not in 10.1.0.0/24, the VLAN 'lan'"),
    (machine("playbook: §bad.yml"), "machines.a.playbook: dir/bad.yml:3: no playbook"),
    (f"hosts: {{user_data: §bad.yml}}\n{LAN}", "hosts.user_data: dir/bad.yml:3: no user_data"),
    (two("ip: 10.8.0.5", "ip: §10.8.0.5"), "machines.b.ip: 10.8.0.5 is that of 'a', too"),
    (two("mac: '02:00:00:00:00:01'", "mac: §02-00-00-00-00-01"),
     "machines.b.mac: 02:00:00:00:00:01 is that of 'a', too"),
    (two("vsockCid: 5", "vsockCid: §5"), "machines.b.vsockCid: 5 is that of 'a', too"),
    (two("mem: 32, replicas: 3, vsock_cid: 5", "vsock_cid: §7"), "machines.b.vsock_cid: 7 is that of 'a02', too"),
    (two("tapId: vm-b", "mem: 32").replace("  b:", "  §b:"), "machines.b.tap_id: vm-b is that of 'a', too"),
    (f"networks: {{uplink: x}}\n{machine('tap_id: §x').partition(chr(10))[2]}",
     "machines.a.tap_id: x is the host's own"),
    (two("tap_id: x", "tapId: §x"), "machines.b.tapId: x is that of 'a', too"),
    (two("hostname: web", "hostname: §web"), "machines.b.hostname: web is that of 'a', too"),
    (two("gpu: '01:00.0'", "devices: [§'0000:01:00.0']").replace("[§", "§["),
     "machines.b.devices: 0000:01:00.0 is that of 'a', too"),
    (machine("replicas: 2, mem: 32", "  §a01: {template: t}"), "machines.a01: 'a01' is one of the replicas of 'a'"),
    ("machines:\n  a01: {template: t}\n  §a: {template: t, replicas: 2}",
     "machines.a: its replica 'a01' has the name of another machine"),
    (machine("shares: [{source: /srv/there, mount_point: /x}, {source: /srv/there, mount_point: §/x/}]"),
     "machines.a.shares[1].mount_point: two shares have '/x'"),
    (machine("shares: [{source: /srv/there, mount_point: /x, tag: q}, {source: /srv/there, mount_point: /y, tag: §q}]"),
     "machines.a.shares[1].tag: two shares have 'q'"),
    (machine("storage: {source: §/srv/gone, mountPoint: /x}"),
     "machines.a.storage.source: there is no /srv/gone; with owner or mode it would be made"),
    (micro("gpu: §'01:00.0'"),
     "machines.a.gpu: a machine of type microvm takes no PCI devices: machine: q35 does"),
    (machine("§machine: microvm").replace("§machine: ", "machine: §"),
     "machines.a.machine: a microvm boots a kernel, it has no firmware that finds a disk: kernel is wanted"),
    (f"{LAN}\nmachines: {{a: {{kernel: §x}}}}",
     "machines.a.kernel: a machine that boots a kernel of its own stands on an image: image is wanted"),
    (machine("user: §me"), "machines.a.user: a clone has its template's user: user goes with image"),
    ("networks: {vlan_mode: bridges, uplink: §eth0, vlans: {lan: {id: 5, cidr: 10.1.0.0/24}}}",
     "networks.uplink: with vlan_mode: bridges each VLAN has a bridge of its own, and no uplink"),
    ("networks: {vlans: {§lan: 5}}\nmachines: {a: {template: t, vlan: lan}}",
     "networks.vlans.lan: its network is not known: cidr, gateway, or the ip of a machine says it"),
    (machine("shares: [§{source: /srv/there, mount_point: /my data}]"),
     "machines.a.shares[0]: '/my data' is no place for a mount: letters, digits, _ @ . + -, and not /"),
    (machine("mem: 1G, limits: {memory: §1G}"),
     "machines.a.limits.memory: a limit of 1G would kill a machine of 1024 MiB: memory=1152M at least; where it is "
     "emulated, 1G more"),
    (machine("depends_on: §bb", "  b: {template: t}"), "machines.a.depends_on: no machine 'bb'; 'b' is one"),
    (machine("depends_on: [b, §c]", "  b: {template: t}"), "machines.a.depends_on[1]: no machine 'c'"),
    (machine("depends_on: §a"), "machines.a.depends_on: it waits for itself: a -> a"),
    (two("depends_on: §b", "depends_on: a"), "machines.a.depends_on: it waits for itself: a -> b -> a"),
    ("hosts: {template: t}\n§machines:" + "".join(f"\n  a{n}: {{replicas: 250}}" for n in range(5)),
     "machines: 1250 machines are too many: 1000 at most"),
    ("networks: {vlans: {a: 5, b: §5}}", "networks.vlans.b: 5 is the number of 'a', too"),
    ("networks: {vlans: {a: 5, b: {id: 6, reaches: [§c]}}}", "networks.vlans.b.reaches[0]: no VLAN 'c'"),
    ("networks: {vlans: {a: {id: 5, cidr: 10.0.0.0/24, gateway: §10.0.1.1}}}",
     "networks.vlans.a.gateway: 10.0.1.1 is not in 10.0.0.0/24"),
    ("networks: {vlans: {a: {id: 5, gateway: §10.0.1.0}}}",
     "networks.vlans.a.gateway: 10.0.1.0 is an end of 10.0.1.0/24, and no machine's address"),
    ("networks: {vlans: {a: {id: 5, cidr: 10.0.0.0/16}, §b: {id: 6, cidr: 10.0.1.0/24}}}",
     "networks.vlans.b: 10.0.1.0/24 is also that of 'a', at least in part"),
    (machine("mem: 6G", "  b: {template: t, mem: 7G}").replace("machines:", "§machines:"),
     "machines: all machines have 13G of memory, the host has 8G: that is more than 1.5 times as much (memory_ratio)"),
]

ELSEWHERE = [
    (machine("vlan: lan, ip: §10.1.0.7"), "machines.a.ip: 10.1.0.7 is the address of 'by-hand'"),
    (machine("network: lab, ip: §10.8.0.7"), "machines.a.ip: 10.8.0.7 is not in 172.16.7.0/24, the network 'lab'"),
    (machine("ip: §172.16.7.7"), "machines.a.ip: 172.16.7.7 is not in 10.8.0.0/24, the network 'default'"),
    (machine("network: lab, ip: §172.16.7.1"), "machines.a.ip: 172.16.7.1 is the gateway of 'lab'"),
    (machine("network: lab, ip: §172.16.7.255"),
     "machines.a.ip: 172.16.7.255 is an end of 172.16.7.0/24, and no machine's address"),
    (machine("network: lab, ip: §172.16.7.7"), "machines.a.ip: 172.16.7.7 is the address of 'by-hand'"),
    (machine("network: lab, replicas: 2, ip: §172.16.7.6"),
     "machines.a.ip: 172.16.7.7 is the address of 'by-hand' (replica 1)"),
    (machine("network: lab, ip: §172.16.7.8"),
     "machines.a.ip: 172.16.7.8 is the address of 'left' (it is no longer in the file: --prune destroys it)"),
    ("networks: {vlans: {§x: {id: 5, cidr: 172.16.6.0/23}}}",
     "networks.vlans.x: 172.16.6.0/23 overlaps with 172.16.7.0/24, the network 'lab'"),
    ("networks: {vlans: {§x: {id: 5, cidr: 10.8.0.0/24}}}\nmachines: {a: {template: t}}",
     "networks.vlans.x: 10.8.0.0/24 overlaps with 10.8.0.0/24, the network 'default'"),
]
"""What somebody else than the file decides."""


def place(text: str) -> tuple[str, int, int]:
    """The text without its mark, and where that was."""
    before, _, after = text.partition("§")
    return before + after, before.count("\n") + 1, len(before) - before.rfind("\n")


def complaints(text: str, name: str = "dir/c.yaml") -> list[str]:
    return [str(complaint) for complaint in homelab.parse(text.encode(), name, AROUND).complaints]


@pytest.mark.parametrize(("text", "complaint"), [*BY_ITSELF, *BEYOND_SCHEMA])
def test_one_mistake_is_one_complaint_with_its_place(text: str, complaint: str) -> None:
    text, line, column = place(text)
    assert complaints(text) == [f"dir/c.yaml:{line}:{column}: {complaint}"]


@pytest.mark.parametrize(("text", "complaint"), ELSEWHERE)
def test_what_others_decide_is_a_warning_with_its_place(text: str, complaint: str) -> None:
    text, line, column = place(text)
    path, _, what = complaint.partition(": ")
    assert complaints(text) == [f"dir/c.yaml:{line}:{column}: {path}: warning: {what}"]


@pytest.mark.parametrize("text", [text for text, _ in BY_ITSELF])
def test_the_schema_knows_what_is_wrong_with_a_value_alone(text: str) -> None:
    document, _ = located.load(place(text)[0].encode(), ".yaml")
    assert not valid(document)


@pytest.mark.parametrize("text", [text for text, _ in [*BEYOND_SCHEMA, *ELSEWHERE]])
def test_the_schema_does_not_know_what_only_the_whole_is_wrong_about(text: str) -> None:
    document, _ = located.load(place(text)[0].encode(), ".yaml")
    assert valid(document)


def test_all_mistakes_are_told_at_once_in_the_files_order() -> None:
    text = machine("vcpu: 0, mem: 2Q, vlan: nowhere, tap_id: 1234567890123456, ports: {ssh: 0}",
                   "  b: {templat: t, vsock_cid: 1}\n  c: {template: t, ip: 10.8.0.9}\n"
                   "  d: {template: t, ip: 10.8.0.9}")
    assert [line.split(": ")[0:2] for line in complaints(text)] == [
        ["dir/c.yaml:3:26", "machines.a.vcpu"], ["dir/c.yaml:3:34", "machines.a.mem"],
        ["dir/c.yaml:3:44", "machines.a.vlan"], ["dir/c.yaml:3:61", "machines.a.tap_id"],
        ["dir/c.yaml:3:92", "machines.a.ports.ssh"], ["dir/c.yaml:4:3", "machines.b"],
        ["dir/c.yaml:4:7", "machines.b.templat"], ["dir/c.yaml:4:30", "machines.b.vsock_cid"],
        ["dir/c.yaml:6:24", "machines.d.ip"]]


def test_what_follows_from_a_mistake_is_not_told_again() -> None:
    text = "networks: {vlans: {lan: 0}}\n" \
        "machines: {a: {template: T, vlan: lan, depends_on: b}, b: {template: t, mem: 1}}"
    assert len(complaints(text)) == 3


def test_too_much_memory_is_a_warning_up_to_the_ratio() -> None:
    text = "hosts: {template: t, memory_ratio: %s}\nmachines: {a: {mem: 6G}, b: {mem: 3G}, c: }"
    [warned] = homelab.parse((text % 1.25).encode(), "c.yaml", AROUND).complaints
    assert str(warned) == "c.yaml:2:1: machines: warning: all machines have 10G of memory, the host has 8G"
    [wrong] = homelab.parse((text % 1.2).encode(), "c.yaml", AROUND).complaints
    assert wrong.severity is Severity.error


def test_2048_on_a_microvm_is_applied_as_2047_and_said_so() -> None:
    reading = homelab.parse(micro("mem: 2048").encode(), "dir/c.yaml", AROUND)
    assert [str(complaint) for complaint in reading.complaints] == [
        "dir/c.yaml:3:59: machines.a.mem: note: a machine of type microvm hangs with 2048 MiB: it gets 2047"]
    reading.demand()
    assert complaints(micro("mem: 2047")) == complaints(machine("mem: 2048")) == []


def test_a_share_is_made_where_its_owner_is_said_and_files_are_looked_for_beside_the_file() -> None:
    assert complaints(machine("shares: {source: /srv/gone, mount_point: /x, owner: root}, playbook: site.yml")) == []


@pytest.mark.parametrize("text", [
    machine("network: lab, ip: 172.16.7.9"), machine("network: root, ip: 172.16.9.9"), machine("ip: 10.8.0.9"),
    "networks: {vlans: {lab: {id: 5, cidr: 172.16.7.0/24}}}", "networks: {vlans: {x: {id: 5, cidr: 172.16.9.0/24}}}",
    "networks: {vlans: {x: {id: 5, cidr: 10.8.0.0/24}}}\nmachines: {a: {template: t, network: lab}}",
])
def test_what_is_in_nobodys_way_is_right(text: str) -> None:
    assert complaints(text) == []


def test_toml_and_json_have_places_too() -> None:
    text = '[hosts]\ntemplate = "t"\n[machines.a]\nvcpu = 0\n\n[machines.b.ports]\nssh = "x"\n'
    assert [line.split(" ")[0] for line in complaints(text, "c.toml")] == ["c.toml:4:8:", "c.toml:7:7:"]
    text = '{"hosts": {"template": "t"},\n "machines": {"a": {"vcpu": 0},\n  "b": {"ports": {"ssh": "x"}}}}'
    assert [line.split(" ")[0] for line in complaints(text, "c.json")] == ["c.json:2:29:", "c.json:3:26:"]


def test_a_file_that_cannot_be_parsed_has_one_complaint_with_its_place() -> None:
    assert complaints("machines:\n  a: {mem: 1\n", "c.yaml")[0].startswith("c.yaml:3:1: ")
    assert complaints("a: 1\na: 2") == ["dir/c.yaml:2:1: the key 'a' stands twice"]
    assert complaints("{,", "c.json")[0].startswith("c.json:1:2: ")
    assert complaints("b = 1\na = ?", "c.toml")[0].startswith("c.toml:2:5: ")


def test_too_many_of_anything_is_one_complaint() -> None:
    text = json.dumps({"machines": {"a": {"template": "t", "tags": ["gpu"] * (ITEMS + 1)}}})
    assert complaints(text, "c.json") == ["c.json:1:46: machines.a.tags: a list of 1025 is too long: 1024 at most"]


KNOWN = st.sampled_from([
    "networks", "hosts", "machines", "vlans", "lan", "id", "cidr", "gateway", "reaches", "a", "b", "template", "mem",
    "vlan", "ip", "mac", "ports", "shares", "storage", "source", "mountPoint", "mount_point",
    "replicas", "depends_on", "limits",
    "io", "gpu", "tags", "machine", "group", "vsock_cid", "memory_ratio", "<<", "$schema"])
LEAVES = st.sampled_from([
    0, 1, 3, 250, 2048, 4294967294, -1, 1.5, float("nan"), True, None, "", "a", "b", "lan", "2G", "10.0.0.1",
    "10.0.0.0/24", "255.255.255.255", "10.0.0.0/99", "microvm", "max", "22-", "/x", "/", "02:00:00:00:00:01", "01:00.0",
    "t", "\ud800"])
WILD = st.recursive(
    LEAVES | PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KNOWN, inner, max_size=5),
    max_leaves=30)
SHAPED = st.fixed_dictionaries({}, optional={
    "networks": st.dictionaries(KNOWN, WILD, max_size=3),
    "hosts": st.dictionaries(KNOWN, LEAVES, max_size=4),
    "machines": st.dictionaries(KNOWN, st.dictionaries(KNOWN, WILD, max_size=6), max_size=3)})


@given(WILD | SHAPED)
def test_no_document_is_a_traceback(document: Any) -> None:
    for name in ("c.json", "c.yaml"):
        reading = homelab.parse(json.dumps(document).encode(), name, AROUND)
        assert all(complaint.line for complaint in reading.complaints if "nan" not in complaint.what.lower())
        for complaint in reading.complaints:
            str(complaint).encode()


@given(SHAPED)
def test_what_has_no_errors_passes_the_schema_and_comes_back(document: Any) -> None:
    reading = homelab.parse(json.dumps(document).encode(), "c.yaml", AROUND)
    if not any(complaint.severity is Severity.error for complaint in reading.complaints):
        assert homelab.parse(homelab.dump(reading.homelab).encode(), "c.yaml").homelab == reading.homelab
        assert valid(homelab.plain(reading.homelab))
