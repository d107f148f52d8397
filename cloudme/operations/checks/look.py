"""What the checks look at."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cloudme.errors import CommandFailed, HostUnavailable
from cloudme.layout import World
from cloudme.model import distributions
from cloudme.model.check import Level, Result
from cloudme.model.network import DEFAULT_NETWORK, Link, Network
from cloudme.model.ports import Host


@dataclass(frozen=True)
class Look:
    """The host as the one who asks has it.

    networks:  those that were started or created in this realm.   root: whether who asks is root.
    emulated:  machines are meant to run without KVM.           processor: as uname(1) names it.
    shared:    the networks of root's on which the user who asks may have machines.
    """

    host: Host
    world: World
    networks: tuple[Network, ...]
    root: bool
    emulated: bool = False
    processor: str = "x86_64"
    shared: tuple[Network, ...] = ()

    @cached_property
    def links(self) -> Mapping[str, Link]:
        return self.host.net.links()

    @cached_property
    def distribution(self) -> str:
        """debian, ubuntu, alpine, arch (os-release(5)); of those it knows, the nearest; else debian."""
        return distributions.of(self.host.files.read("/etc/os-release") or "")

    @cached_property
    def started(self) -> tuple[Network, ...]:
        """Without those that were created and are stopped. The default network's record goes when it is stopped."""
        return tuple(network for network in self.networks
                     if network.external or network.name == DEFAULT_NETWORK or network.link in self.links)

    @cached_property
    def chains(self) -> tuple[dict[str, Any], ...] | None:
        """All chains of nft's; None where they cannot be seen: without nft, or by who is not root."""
        try:
            found: dict[str, Any] = json.loads(self.host.run(["nft", "-j", "list", "chains"]) or '{"nftables": []}')
        except (CommandFailed, HostUnavailable):
            return None
        return tuple(entry["chain"] for entry in found["nftables"] if "chain" in entry)

    @property
    def dropping(self) -> tuple[str, ...]:
        """The chains that drop what is forwarded unless a rule lets it pass, as 'ip filter FORWARD'."""
        return tuple(f"{chain['family']} {chain['table']} {chain['name']}" for chain in self.chains or ()
                     if chain.get("hook") == "forward" and chain.get("policy") == "drop")

    def rules(self, chain: str) -> str:
        """The text of a chain of nft's, named as in `dropping`."""
        try:
            return self.host.run(["nft", "list", "chain", *chain.split(" ")])
        except (CommandFailed, HostUnavailable):
            return ""

    def install(self, *programs: str) -> str:
        return distributions.install(self.distribution, programs)

    def has(self, program: str) -> bool:
        return self.host.run.find(program) is not None

    def sysctl(self, name: str) -> str | None:
        text = self.host.files.read("/proc/sys/" + name.replace(".", "/"))
        return None if text is None else text.strip()

    def number(self, name: str) -> int:
        text = self.sysctl(name) or ""
        return int(text) if text.isdecimal() else 0

    def existing(self, path: str) -> bool:
        return self.host.files.mode(path) is not None

    def flags(self) -> set[str]:
        """Of the CPU (/proc/cpuinfo)."""
        for line in (self.host.files.read("/proc/cpuinfo") or "").splitlines():
            if line.startswith("flags"):
                return set(line.split())
        return set()

    def wireless(self, nic: str) -> bool:
        folder = f"/sys/class/net/{nic}"
        return any(self.existing(os.path.join(folder, name)) for name in ("wireless", "phy80211"))


def good(check: str, what: str) -> Result:
    return Result(check=check, level=Level.ok, what=what)
