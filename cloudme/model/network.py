"""A network: a bridge with its address, DHCP, DNS."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from cloudme.errors import Busy, ConfigError
from cloudme.model.names import Name

DEFAULT_NETWORK = Name("default")
INTERFACE_NAME_MAX = 15
"""IFNAMSIZ of linux/if.h is 16 with its NUL."""


_BRIDGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
"""Both become part of other programs' files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link as the kernel has it. `routes` are the networks reached through it, the default route left out."""

    name: str
    kind: str = ""
    up: bool = True
    alias: str = ""
    master: str = ""
    addresses: tuple[IPv4Interface, ...] = ()
    routes: tuple[IPv4Network, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A bridge of ours. dhcp_first to dhcp_last (inclusive) are handed out, as reservations."""

    name: Name
    bridge: str
    address: IPv4Interface
    dhcp_first: IPv4Address
    dhcp_last: IPv4Address
    domain: str
    nat: bool = True
    resolve: str = "auto"

    def __post_init__(self) -> None:
        if len(self.bridge) > INTERFACE_NAME_MAX or not _BRIDGE.fullmatch(self.bridge):
            raise ConfigError(f"'{self.bridge}' is no name of a bridge",
                              hint=f"at most {INTERFACE_NAME_MAX} characters: letters, digits, '-', '_', '.'")
        if not _DOMAIN.fullmatch(self.domain):
            raise ConfigError(f"'{self.domain}' is no domain", hint="small letters, digits, inner hyphens, dots")
        if self.dhcp_first not in self.address.network or self.dhcp_last not in self.address.network:
            raise ConfigError(f"the range {self.dhcp_first} to {self.dhcp_last} is not in {self.address.network}")
        if self.dhcp_first > self.dhcp_last:
            raise ConfigError(f"the range {self.dhcp_first} to {self.dhcp_last} is empty")
        if self.dhcp_first <= self.address.ip <= self.dhcp_last:
            raise ConfigError(f"the bridge's own address {self.address.ip} is in the range that is handed out")


def free_addresses(network: Network, taken: Iterable[str], count: int) -> list[str]:
    """The `count` lowest addresses of the range that are not `taken`. Raises Busy where there are fewer."""
    used = {int(IPv4Address(address)) for address in taken}
    found: list[str] = []
    for number in range(int(network.dhcp_first), int(network.dhcp_last) + 1):
        if len(found) == count:
            break
        if number not in used:
            found.append(str(IPv4Address(number)))
    if len(found) < count:
        raise Busy(f"network '{network.name}' has {len(found)} free addresses, {count} are wanted",
                   hint="widen the range in cloudme.toml ([network] dhcp), then: cmnet reload")
    return found
