"""The rules between networks of ours, as nft(8) reads them: who may open connections to whom, and to which ports.

One table of a world. What is on one bridge, or in one VLAN, does not pass here. Plain text rather than a template:
nobody may edit it, and jinja2 takes long to load.
"""

from __future__ import annotations

import hashlib
from binascii import crc32
from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from cloudme import layout
from cloudme.layout import World
from cloudme.model.machine import Machine
from cloudme.model.network import Network
from cloudme.model.openports import merged, span

SSH = 22
"""The host itself always comes in there: `vm`, `vmcopy`, playbooks."""
REJECT = "reject with icmpx admin-prohibited"
FAMILIES = ((4, "ip", "ipv4_addr", "icmp", ""), (6, "ip6", "ipv6_addr", "icmpv6", "6"))
"""IP version, nft's words for the header, the address and the errors, the end of the names of our sets."""


def table(world: World) -> str:
    """Homes that share a namespace have a table each."""
    return "cloudme-between" if world.data == layout.ROOT_DATA else f"cloudme-between-{crc32(world.data.encode()):08x}"


def text(name: str, networks: Iterable[Network], machines: Iterable[Machine]) -> str:
    """What makes the table `name` anew; '' where nothing is closed. Each rule carries a digest of the whole."""
    ours = [network for network in networks if not (network.external or network.shared)]
    known: set[str] = {network.name for network in ours}
    limited = [machine for machine in machines
               if machine.ports is not None and any(nic.network in known for nic in machine.nics)]
    if not limited and all(network.reaches is None for network in ours):
        return ""
    lines = [*_sets(ours, limited, known), *_forward(), *_output(), *_ports()]
    mark = hashlib.sha256("\n".join([name, *lines]).encode()).hexdigest()[:12]
    body = "\n".join(f"\t{line}".rstrip().replace("MARK", f'comment "cloudme {mark}"') for line in lines)
    return f"{none(name)}table inet {name} {{\n{body}\n}}\n"


def none(name: str) -> str:
    """The text that removes the table, whether it is there or not."""
    return f"table inet {name} {{}}\ndelete table inet {name}\n"


def allowed(source: Network, target: Network) -> bool:
    """Whether machines of one network may open connections to those of another."""
    if source.reaches is None:
        return target.reaches is None
    return target.name in source.reaches


def _sets(ours: Sequence[Network], limited: Sequence[Machine], known: set[str]) -> list[str]:
    links = [network.link for network in ours]
    may = [f'"{one.link}" . "{other.link}"' for one in ours for other in ours if one != other and allowed(one, other)]
    lines = [*_set("ours", "ifname", [f'"{link}"' for link in links]),
             *_set("own", "ifname . ifname", [f'"{link}" . "{link}"' for link in links]),
             *_set("may", "ifname . ifname", may)]
    for version, _, kind, _, end in FAMILIES:
        addresses = {machine.name: _addresses(machine, known, version) for machine in limited}
        whole = f"{kind} . inet_proto . inet_service"
        opened = [f"{address} . {port.protocol} . {span(port)}" for machine in limited
                  for address in addresses[machine.name] for port in merged(machine.ports or ())]
        led = [f"{address} . {forward.protocol} . {forward.guest_port}" for machine in limited
               for address in addresses[machine.name] for forward in machine.forwards]
        lines += _set(f"listed{end}", kind, [one for found in addresses.values() for one in found])
        lines += _set(f"open{end}", whole, opened, "flags interval;")
        lines += _set(f"led{end}", whole, led)
    return lines


def _addresses(machine: Machine, known: set[str], version: int) -> list[str]:
    return [address for nic in machine.nics if nic.network in known for address in (nic.address, nic.address6)
            if address and ip_address(address).version == version]


def _set(name: str, kind: str, elements: Sequence[str], more: str = "") -> list[str]:
    lines = [f"set {name} {{", f"\ttype {kind}{f'; {more}' if more else ''}"]
    if unique := list(dict.fromkeys(elements)):
        lines += ["\telements = {", *(f"\t\t{element}," for element in unique), "\t}"]
    return [*lines, "}"]


def _forward() -> list[str]:
    """With br_netfilter, what stays on a bridge comes by, too: it is let go first."""
    return ["chain forward {", "\ttype filter hook forward priority filter; policy accept;",
            "\tiifname . oifname @own accept MARK",
            "\toifname @ours ct state established,related accept MARK",
            f"\tiifname @ours oifname @ours iifname . oifname != @may {REJECT} MARK",
            "\toifname @ours jump ports MARK", "}"]


def _output() -> list[str]:
    """The host's own connections: besides to the ports, by ssh, and by what vmexpose leads in. DHCP's and DNS's answers
    are no new connections, but for dnsmasq's to a client that has no address yet."""
    led = [f"\toifname @ours {ip} daddr . meta l4proto . th dport @led{end} accept MARK"
           for _, ip, _, _, end in FAMILIES]
    return ["chain output {", "\ttype filter hook output priority filter; policy accept;",
            "\toifname @ours ct state established,related accept MARK",
            "\toifname @ours udp sport 67 udp dport 68 accept MARK",
            f"\toifname @ours tcp dport {SSH} accept MARK", *led, "\toifname @ours jump ports MARK", "}"]


def _ports() -> list[str]:
    lines = ["chain ports {"]
    for _, ip, _, icmp, end in FAMILIES:
        lines += [f"\t{ip} daddr . meta l4proto . th dport @open{end} return MARK",
                  f"\t{ip} daddr @listed{end} meta l4proto != {icmp} {REJECT} MARK"]
    return [*lines, "}"]
