"""What the host's owner decided: the defaults of cloudme.toml."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface

from cloudme.model.machine import Limits
from cloudme.model.network import DEFAULT_NETWORK, Network
from cloudme.model.units import GIB


class Accelerator(StrEnum):
    """auto: KVM where it can run stock kernels, else TCG."""

    auto = "auto"
    kvm = "kvm"
    tcg = "tcg"


class Resolve(StrEnum):
    """How names of machines resolve on the host; auto takes the first that is there, in this order."""

    auto = "auto"
    resolved = "resolved"
    networkmanager = "networkmanager"
    hosts = "hosts"
    none = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The defaults of a host. Sizes in the unit of the name; timeouts in seconds.

    ipv6 is 'auto', 'none', or the bridge's address with its /64.
    limits are those of machines that have none of their own; their memory is the guest's and overhead_mib for QEMU's,
    None: no limit.
    boot_timeout_s is what a cold boot may take; ten times that of a fast host, since TCG is about that much slower.
    """

    ram_mib: int = 512
    vcpus: int = 2
    disk_bytes: int = 10 * GIB
    accel: Accelerator = Accelerator.auto
    bridge: str = "bridge0"
    address: IPv4Interface = field(default_factory=lambda: IPv4Interface("10.210.0.1/24"))
    dhcp_first: IPv4Address = field(default_factory=lambda: IPv4Address("10.210.0.2"))
    dhcp_last: IPv4Address = field(default_factory=lambda: IPv4Address("10.210.0.254"))
    domain: str = "cloudme"
    nat: bool = True
    resolve: Resolve = Resolve.auto
    ipv6: str = "auto"
    limits: Limits = field(default_factory=lambda: Limits(tasks=512))
    overhead_mib: int | None = 1024
    guard: bool = True
    boot_timeout_s: float = 300
    stop_timeout_s: float = 60

    def network(self, address6: IPv6Interface | None = None) -> Network:
        """The default network; `address6` is what 'auto' means here."""
        return Network(
            name=DEFAULT_NETWORK, bridge=self.bridge, address=self.address, dhcp_first=self.dhcp_first,
            dhcp_last=self.dhcp_last, domain=self.domain, nat=self.nat, resolve=self.resolve, guarded=self.guard,
            address6=address6 if self.ipv6 == "auto" else None if self.ipv6 == "none" else IPv6Interface(self.ipv6),
        )
