"""What dnsmasq and nft are told about a network, and what dnsmasq notes of its leases."""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address

from cloudme.formats import render
from cloudme.layout import World
from cloudme.model.network import Network

LEASES_MIN = 1000
"""dnsmasq's own limit of leases, which a larger network raises (dnsmasq(8), --dhcp-lease-max)."""

_COMMENT = re.compile(r'comment "([^"]*)"')


def configuration(network: Network, world: World, *, user: str, resolv_file: str | None) -> str:
    """The text of dnsmasq's configuration.

    network:      one whose DHCP is ours.
    user:         whom dnsmasq becomes; '' where it stays who it is.
    resolv_file:  where it finds the name servers to ask about other domains; None where it asks nobody.
    """
    assert network.dhcp_first and network.dhcp_last
    return render.text(
        "dnsmasq.conf.j2", world.config, bridge=network.link, address=network.address.ip,
        address6=network.address6, prefix6=network.address6.network.network_address if network.address6 else None,
        dns=network.dns, first=network.dhcp_first, netmask=network.address.netmask, domain=network.domain,
        lease_max=max(LEASES_MIN, int(network.dhcp_last) - int(network.dhcp_first) + 1),
        reservations=world.reservations(network.name), host_names=world.host_names(network.name),
        leases=world.leases(network.name), pid_file=world.dnsmasq(network.name, "pid"),
        log=world.dnsmasq(network.name, "log"), user=user, resolv_file=resolv_file,
        reached=[world.host_names(name) for name in network.reaches or () if name != network.name],
        reached_domains=world.reached_domains(network.name),
    )


def reached_domains(network: Network, networks: Iterable[Network]) -> str:
    """The text of a `servers-file`: nobody is asked about the domains that dnsmasq knows all of.

    networks:  those that there are. Of what is external others know more than we do.
    """
    return "".join(f"server=/{one.domain}/\n" for one in networks
                   if one.name in (network.reaches or ()) and not one.external)


def table(network: Network) -> str:
    """The name of the nft table that is ours: nothing else is in it, and we touch no other."""
    return f"cloudme-{network.link}"


def rules(network: Network, world: World) -> str:
    """The text that nft is given: our table made anew, in one go. Each rule carries a digest of the whole."""
    values = {"table": table(network), "bridge": network.link, "network": network.address.network, "nat": network.nat}
    digest = hashlib.sha256(render.text("nft.j2", world.config, mark="", **values).encode()).hexdigest()[:12]
    return render.text("nft.j2", world.config, mark=f"cloudme {digest}", **values)


def no_rules(network: Network) -> str:
    """The text that removes our table, whether it is there or not."""
    return f"table ip {table(network)} {{}}\ndelete table ip {table(network)}\n"


def marks(text: str) -> tuple[str, ...]:
    """The comments of the rules, in order: equal in what is wanted and in what `nft list` prints when all is there."""
    return tuple(_COMMENT.findall(text))


def leases(text: str) -> list[tuple[str, str]]:
    """(mac, address) of each line of dnsmasq's lease file: expiry, mac, address, name, client id."""
    return [(fields[1], fields[2]) for line in text.splitlines() if len(fields := line.split()) >= 4]


def release(server: IPv4Address, mac: str, address: str) -> bytes:
    """A DHCPRELEASE (RFC 2131, 4.4.6) as the client would send it: dnsmasq then forgets its lease."""
    chaddr = bytes.fromhex(mac.replace(":", ""))
    header = struct.pack("!4B4s2H4s12x16s192x", 1, 1, len(chaddr), 0, os.urandom(4), 0, 0,
                         IPv4Address(address).packed, chaddr)
    options = b"\x63\x82\x53\x63" + b"\x35\x01\x07" + b"\x36\x04" + server.packed + b"\xff"
    return header + options
