"""A network: a bridge with its addresses, DHCP, DNS."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface

from cloudme.errors import AlreadyExists, Busy, ConfigError, UsageError
from cloudme.model.names import Name

DEFAULT_NETWORK = Name("default")
INTERFACE_NAME_MAX = 15
"""IFNAMSIZ of linux/if.h is 16 with its NUL."""


_BRIDGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
"""Both become part of other programs' files."""

LINK_NAMES = f"at most {INTERFACE_NAME_MAX} characters: letters, digits, '-', '_', '.'"

VLAN_MIN, VLAN_MAX = 1, 4094
"""IEEE 802.1Q: 0 is no VLAN, 4095 is reserved."""

LINK_LOCAL = IPv6Interface("fe80::/64")

RANGE_MAX = 1024
"""More addresses in one call than a bridge has ports are a slip of the keyboard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link as the kernel has it. `routes` are the networks reached through it, the default route left out.

    addresses6: the global ones. owner: who may open it without being root, where it is a tap that somebody owns.
    filtering:  of a bridge: it keeps VLANs apart. vids: the VLANs that it carries there, or a port of it does.
    pvid:       the VLAN of what comes into a port without a tag.
    vlan:       of a VLAN's link: its number. parent: the link that this one is on, as a VLAN's, or a macvlan.
    """

    name: str
    kind: str = ""
    up: bool = True
    alias: str = ""
    master: str = ""
    addresses: tuple[IPv4Interface, ...] = ()
    addresses6: tuple[IPv6Interface, ...] = ()
    routes: tuple[IPv4Network, ...] = ()
    mtu: int = 1500
    owner: int | None = None
    filtering: bool = False
    vids: tuple[int, ...] = ()
    pvid: int | None = None
    vlan: int | None = None
    parent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A bridge, and what guests are told about it.

    external:  the bridge is somebody else's, as is the DHCP server on it, if any: nothing of ours is started there.
    address:   the gateway's, with its prefix: the bridge has it, unless the network is external.
    dhcp_first, dhcp_last: what is handed out (inclusive), as reservations; None where the network is external.
    address6:  the bridge's, in a /64 from which guests make their own (RFC 4862); None: no IPv6 of ours.
    dns:       the name servers of the guests; none: the gateway.
    guarded:   machines send from their own addresses only; not where one of them is to be a router.
    users:     who, besides root, may have machines on it.
    shared:    it is root's, and we are one of these.
    vlan:      it is this VLAN of its bridge, which others share with it and which keeps them apart (802.1Q).
    uplink:    the host's card on which the VLAN is tagged.
    reaches:   the networks of ours to which its machines may open connections; it is reached only from those that say
               so of it. None: as it is with all others of which nothing is said.
    """

    name: Name
    bridge: str
    address: IPv4Interface
    dhcp_first: IPv4Address | None
    dhcp_last: IPv4Address | None
    domain: str
    nat: bool = True
    resolve: str = "auto"
    external: bool = False
    address6: IPv6Interface | None = None
    dns: tuple[IPv4Address, ...] = ()
    guarded: bool = True
    users: tuple[str, ...] = ()
    shared: bool = False
    vlan: int | None = None
    uplink: str | None = None
    reaches: tuple[Name, ...] | None = None

    def __post_init__(self) -> None:
        if not is_link_name(self.bridge):
            raise ConfigError(f"'{self.bridge}' is no name of a bridge", hint=LINK_NAMES)
        self._check_vlan()
        if not _DOMAIN.fullmatch(self.domain):
            raise ConfigError(f"'{self.domain}' is no domain", hint="small letters, digits, inner hyphens, dots")
        if self.address6 and self.address6.network.prefixlen != 64:
            raise ConfigError(f"{self.address6.network} is no /64", hint="guests make half of their address")
        ends = self.address.network.network_address, self.address.network.broadcast_address
        if self.address.ip in ends and self.address.network.prefixlen < 31:
            raise ConfigError(f"{self.address.ip} is an end of {self.address.network}, and no machine's address")
        if self.dhcp_first and self.dhcp_last:
            self._check_range(self.dhcp_first, self.dhcp_last)
        elif not self.external:
            raise ConfigError(f"network '{self.name}' hands no addresses out", hint="--dhcp-range FIRST-LAST")

    def _check_range(self, first: IPv4Address, last: IPv4Address) -> None:
        if self.external:
            raise ConfigError("nothing is handed out on an external network", hint="leave --dhcp-range out")
        if first not in self.address.network or last not in self.address.network:
            raise ConfigError(f"the range {first} to {last} is not in {self.address.network}")
        if first > last:
            raise ConfigError(f"the range {first} to {last} is empty")
        if first <= self.address.ip <= last:
            raise ConfigError(f"the bridge's own address {self.address.ip} is in the range that is handed out")

    def _check_vlan(self) -> None:
        if self.uplink and (self.vlan is None or not is_link_name(self.uplink) or self.uplink == self.bridge):
            raise ConfigError(f"'{self.uplink}' is no card for a VLAN to be tagged on", hint="--vlan ID --uplink CARD")
        if self.vlan is None:
            return
        if not VLAN_MIN <= self.vlan <= VLAN_MAX:
            raise ConfigError(f"{self.vlan} is no VLAN", hint=f"{VLAN_MIN} to {VLAN_MAX}")
        if not is_link_name(self.link):
            raise ConfigError(f"'{self.link}' is no name of a link: the bridge's is too long", hint=LINK_NAMES)
        if self.external or self.users:
            raise ConfigError(f"network '{self.name}' is a VLAN: it is ours, and no user's",
                              hint="QEMU's bridge helper knows no VLANs; --external is for a whole bridge")

    @property
    def link(self) -> str:
        """What has its addresses, and where it is served: the bridge, or the VLAN's link on it."""
        return self.bridge if self.vlan is None else f"{self.bridge}.{self.vlan}"

    @property
    def name_servers(self) -> tuple[IPv4Address, ...]:
        return self.dns or (self.address.ip,)


def is_link_name(text: str) -> bool:
    """Whether a link may be called so, in the kernel and in the files of those who set it up."""
    return len(text) <= INTERFACE_NAME_MAX and _BRIDGE.fullmatch(text) is not None


def whole_range(address: IPv4Interface) -> tuple[IPv4Address, IPv4Address]:
    """First and last of the addresses between the bridge's own and the farther end of its network."""
    first, last = address.network.network_address + 1, address.network.broadcast_address - 1
    if int(last) - int(address.ip) >= int(address.ip) - int(first):
        return address.ip + 1, last
    return first, address.ip - 1


def site6(seed: str, subnet: str) -> IPv6Interface:
    """The first address of a /64 of our own: fd, 40 bits of `seed`, 16 of `subnet` (RFC 4193, 3.1)."""
    site, own = (hashlib.sha256(text.encode()).digest() for text in (seed, subnet))
    return IPv6Interface((int.from_bytes(b"\xfd" + site[:5] + own[:2] + bytes(7) + b"\x01"), 64))


def slaac(network: Network, mac: str) -> str | None:
    """The address that a guest with this card makes itself (RFC 4291, appendix A: EUI-64); None: no IPv6 of ours."""
    return eui64(network.address6, mac) if network.address6 else None


def eui64(prefix: IPv6Interface, mac: str) -> str:
    octets = bytes.fromhex(mac.replace(":", ""))
    own = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return str(IPv6Address(prefix.network.network_address.packed[:8] + own))


def address_range(text: str) -> tuple[str, ...]:
    """'192.168.86.60', '192.168.86.60-69', '192.168.86.60-192.168.86.69': each address of it. Raises UsageError."""
    first_text, _, last_text = text.partition("-")
    try:
        first = IPv4Address(first_text.strip())
        stem = first_text.rpartition(".")[0]
        last = IPv4Address(last_text.strip() if "." in last_text else f"{stem}.{last_text.strip()}") \
            if last_text else first
    except ValueError:
        raise UsageError(f"'{text}' is no IPv4 address, and no range of them",
                         hint="192.168.86.60 or 192.168.86.60-69") from None
    if not 0 <= int(last) - int(first) < RANGE_MAX:
        raise UsageError(f"the range {text} has its end before its beginning, or more than {RANGE_MAX} addresses")
    return tuple(str(IPv4Address(number)) for number in range(int(first), int(last) + 1))


def check_address(network: Network, text: str, owners: Mapping[str, str]) -> None:
    """Whether a machine may have this address. owners: who has which, by address.

    Raises:  UsageError (not of this network, or one that no machine can have), AlreadyExists.
    """
    address, wanted = IPv4Address(text), network.address.network
    if address not in wanted:
        raise UsageError(f"{text} is not in {wanted}, the network '{network.name}'", hint="cmnet list")
    if wanted.prefixlen < 31 and address in (wanted.network_address, wanted.broadcast_address):
        what = "broadcast address" if address == wanted.broadcast_address else "address of the network itself"
        raise UsageError(f"{text} is the {what} of {wanted}")
    if address == network.address.ip:
        raise AlreadyExists(f"{text} is the gateway of '{network.name}'")
    if address in network.dns:
        raise AlreadyExists(f"{text} is a name server of '{network.name}'")
    if text in owners:
        raise AlreadyExists(f"{text} is the address of '{owners[text]}'")


def free_addresses(network: Network, taken: Iterable[str], count: int) -> list[str]:
    """The `count` lowest addresses of the range that are not `taken`. Raises Busy where there are fewer."""
    if network.dhcp_first is None or network.dhcp_last is None:
        raise ConfigError(f"nothing is handed out on network '{network.name}'")
    used = {int(IPv4Address(address)) for address in taken}
    found: list[str] = []
    for number in range(int(network.dhcp_first), int(network.dhcp_last) + 1):
        if len(found) == count:
            break
        if number not in used:
            found.append(str(IPv4Address(number)))
    if len(found) < count:
        raise Busy(f"network '{network.name}' has {len(found)} free addresses, {count} are wanted",
                   hint="widen the range in cloudme.toml ([network] dhcp), then: cmnet reload"
                   if network.name == DEFAULT_NETWORK else "destroy machines, or use another network too")
    return found
