"""Homelabs of every kind, for hypothesis."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from hypothesis import strategies as st

from cloudme.model.homelab.nouns import Declared, Defaults, Homelab, Networks, PortRange, Share, Vlan, VlanMode
from cloudme.model.machine import Board, Limits
from cloudme.model.names import ImageName, Name

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True).map(Name)
TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="\ufffe\uffff"),
                min_size=1, max_size=40).filter(lambda text: text.strip())
STEPS = TEXTS.map(lambda text: text.replace("/", "-")).filter(lambda text: text not in (".", ".."))
FOLDERS = st.lists(STEPS, min_size=1, max_size=3).map(lambda steps: "/" + "/".join(steps))
ADDRESSES = st.integers(0, (1 << 32) - 1).map(IPv4Address)
LINKS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}", fullmatch=True)
LOGINS = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_-]{0,8}", fullmatch=True)
MIB = st.integers(32, 1 << 29)
PCI = st.from_regex(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]", fullmatch=True)
MACS = st.binary(min_size=5, max_size=5).map(lambda octets: ":".join(f"{octet:02x}" for octet in b"\x02" + octets))
PORTS = st.builds(lambda one, other, protocol: PortRange(min(one, other), max(one, other), protocol),
                  st.integers(1, 65535), st.integers(1, 65535), st.sampled_from(["tcp", "udp"]))


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


def few(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(values, max_size=3).map(tuple)


def one_of_two(noun: Any) -> Any:
    """Without what cannot go together."""
    if noun.template:
        noun = dataclasses.replace(noun, image=None)
    if noun.vlan:
        noun = dataclasses.replace(noun, network=None)
    if getattr(noun, "kernel", "") is None:
        noun = dataclasses.replace(noun, initrd=None, cmdline=None)
    if getattr(noun, "replicas", None):
        noun = dataclasses.replace(noun, mac=None, tap_id=None, hostname=None, gpu=(), devices=())
    return noun


VLANS = st.builds(Vlan, id=st.integers(1, 4094), gateway=maybe(ADDRESSES), dns=few(ADDRESSES), reaches=few(NAMES),
                  cidr=maybe(st.builds(lambda address, prefix: IPv4Network((address, prefix), strict=False), ADDRESSES,
                                       st.integers(8, 30))))
SHARES = st.builds(
    Share, source=FOLDERS, mount_point=FOLDERS, readonly=st.booleans(), mode=maybe(st.integers(0, 0o777)),
    tag=maybe(st.from_regex("[A-Za-z0-9_.-]{1,31}", fullmatch=True)),
    owner=maybe(st.builds(lambda user, group: f"{user}:{group}", LOGINS, LOGINS) | LOGINS))
LIMITS = st.builds(
    Limits, cpus=maybe(st.just(0) | st.integers(10, 9_999_999).map(lambda thousandths: thousandths / 1000)),
    cpu_weight=maybe(st.integers(1, 10000)), memory_mib=maybe(st.integers(0, 1 << 29)),
    tasks=maybe(st.just(0) | st.integers(100, 4194304)), io_bps=maybe(st.integers(0, 1 << 50)))
COMMON: dict[str, st.SearchStrategy[Any]] = {
    "template": maybe(NAMES), "image": maybe(NAMES.map(ImageName)), "machine": maybe(st.sampled_from(Board)),
    "vcpu": maybe(st.integers(1, 255)), "mem": maybe(MIB), "vlan": maybe(NAMES), "network": maybe(NAMES),
    "group": maybe(NAMES.filter(lambda name: name != "templates")), "type": maybe(NAMES), "user": maybe(LOGINS),
    "playbook": maybe(TEXTS), "user_data": maybe(TEXTS), "autostart": maybe(st.booleans()),
}
MACHINES = st.builds(
    Declared, **COMMON, kernel=maybe(TEXTS), initrd=maybe(TEXTS), cmdline=maybe(TEXTS), ip=maybe(ADDRESSES),
    mac=maybe(MACS), tap_id=maybe(LINKS), hostname=maybe(NAMES), vsock_cid=maybe(st.integers(3, 0xFFFFFFFE)),
    ports=st.dictionaries(NAMES, PORTS, max_size=3), shares=few(SHARES), gpu=few(PCI), devices=few(PCI),
    tags=few(TEXTS), depends_on=few(NAMES), replicas=maybe(st.integers(1, 250)), limits=LIMITS, isolate=st.booleans(),
    net_rate=maybe(st.integers(8000, 100_000_000_000))).map(one_of_two)
HOMELABS = st.builds(
    Homelab, machines=st.dictionaries(NAMES, MACHINES, max_size=3),
    hosts=st.builds(Defaults, **COMMON, memory_ratio=st.floats(0.1, 100)).map(one_of_two),
    networks=st.builds(Networks, vlan_mode=st.sampled_from(VlanMode), vlans=st.dictionaries(NAMES, VLANS, max_size=3),
                       bridge=maybe(LINKS), uplink=maybe(LINKS), dns=few(ADDRESSES), prefix=st.integers(8, 30)))
