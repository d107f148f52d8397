"""The rules that guard taps, as nft(8) reads them: a chain for what a machine sends, one more where it is set apart.

They hang on the tap itself (family netdev): what they drop the bridge never sees, and learns no address from. Only what
is named passes. A rule that looks for a header does not match a packet in which there is none, or half of one: what is
malformed passes nowhere. Plain text rather than a template: nobody may edit it, and jinja2 takes long to load.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_interface

from cloudme.model.launch import Guard

TABLE = "cloudme-guard"
IN, OUT = "in-", "out-"
"""Of chains, before the name of the tap: what comes in from the machine, what goes out to it."""

BURST_BYTES = 1 << 16
"""A guest hands over segments of this size, whole (GSO): less would let none of them pass."""

ARP = "ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4"
IP6_PLAIN = "{ 6, 47, 50, 132, 136 }"
"""TCP, GRE, ESP, SCTP, UDP-Lite: what may follow the IPv6 header unseen. No extension headers, which could hide what
follows (RFC 7113), but fragments, and what MLD has."""

ICMP6_PLAIN = "{ 1, 2, 3, 4, 128, 129 }"
"""Errors and echo (RFC 4443). The others are looked into, or dropped: router advertisements, redirects, MLD queries."""

FIRST = "@nh,336,16 & 0xfff8 == 0"
"""A fragment of IPv6 that begins a packet; its next header is `@nh,320,8` (RFC 8200, 4.5)."""

NOT_SERVER = "udp sport != { 67, 547 } udp dport != { 67, 68, 546 }"
"""Neither from a DHCP server, nor to a client: some take an offer from any port. (Sets, though for each family single
values would do: nft 1.0.6 makes one comparison of two neighbours, which is true where only one of them differs.)"""


def text(taps: Iterable[tuple[str, str, str, Guard]], dead: Iterable[int] = ()) -> str:
    """Return what makes the chains of `taps` and removes others, all or nothing; '' where there is nothing to do.

    taps:   (name of the tap, MAC of its card, MAC of its bridge, guard). None of their chains may be there.
    dead:   the handles of chains to remove.
    """
    lines = [f"delete chain netdev {TABLE} handle {handle}" for handle in dead]
    for tap, mac, bridge_mac, guard in taps:
        lines += _chain(IN + tap, f'ingress device "{tap}" priority 0; policy {"drop" if guard.locked else "accept"};',
                        _sent(mac, bridge_mac, guard))
        if guard.apart:
            lines += _chain(OUT + tap, f'egress device "{tap}" priority 0; policy accept;', _heard(bridge_mac, guard))
    return "\n".join([f"add table netdev {TABLE}", *lines, ""]) if lines else ""


def tap_of(chain: str) -> str:
    """The name of the tap that a chain of ours is for."""
    return chain.partition("-")[2]


def _chain(name: str, hook: str, rules: Sequence[str]) -> list[str]:
    """`create` fails where there is one: no rule of somebody else's can stay in it."""
    return [f"create chain netdev {TABLE} {name} {{ type filter hook {hook} }}",
            *(f"add rule netdev {TABLE} {name} {rule}" for rule in rules)]


def _sent(mac: str, bridge_mac: str, guard: Guard) -> list[str]:
    rules = []
    if guard.rate:
        rules.append(f"limit rate over {guard.rate // 8} bytes/second burst {BURST_BYTES} bytes drop")
    if guard.locked or guard.own_mac:
        rules.append(f"ether saddr != {mac} drop")
    if guard.apart:
        rules += [*_neighbours("daddr", guard), f"ether daddr set {bridge_mac}"]
    if guard.locked:
        rules += [*_ip4_sent(mac, guard), *_ip6_sent(mac, guard), *_arp_sent(mac, guard)]
    return rules


def _heard(bridge_mac: str, guard: Guard) -> list[str]:
    """From the bridge itself alone, and of what it forwards nothing of neighbours. (Raw: `ether saddr` wants to know
    what kind of device a packet came from, and here there is none.)"""
    return [f"@ll,48,48 != {_hex(bridge_mac)} drop", *_neighbours("saddr", guard)]


def _neighbours(which: str, guard: Guard) -> list[str]:
    return [f"{_ip(other)} {which} {_network(other)} {_ip(other)} {which} != {_host(other)} drop"
            for other in guard.apart]


def _arp_sent(mac: str, guard: Guard) -> list[str]:
    """Of another's address not even a probe: who is about to take it would believe that it is in use (RFC 5227)."""
    own = f"{ARP} arp saddr ether {mac}"
    if not guard.addresses:
        return [f"{own} arp operation 1-2 arp saddr ip != {_set(guard.others)} accept"]
    return [f"{own} arp operation 1-2 arp saddr ip {_set(guard.addresses)} accept",
            f"{own} arp operation request arp saddr ip 0.0.0.0 arp daddr ip {_set(guard.addresses)} accept"]


def _ip4_sent(mac: str, guard: Guard) -> list[str]:
    """A message of DHCP is from this card, straight (giaddr, chaddr: RFC 2131, 2): else it could decline, or give back,
    a neighbour's address. ICMP is all but redirects and router advertisements (RFC 792, RFC 1256), IGMP no queries."""
    own = f"ether type ip ip saddr {_set(guard.addresses)}" if guard.addresses else \
        f"ether type ip ip saddr != {_set(guard.others)}"
    card = f"@th,64,24 0x010106 @th,256,80 0x00000000{_hex(mac)[2:]}"
    asks = f"ip frag-off & 0x3fff == 0 udp sport 68 udp dport 67 {card} accept"
    return [
        f"{own} meta l4proto tcp accept",
        f"{own} ip frag-off & 0x1fff != 0 accept",
        f"{own} {NOT_SERVER} accept",
        f"{own} {asks}",
        f"ether type ip ip saddr 0.0.0.0 {asks}",
        f"{own} icmp type != {{ 5, 9 }} accept",
        f"{own} igmp type {{ 0x12, 0x16, 0x17, 0x22 }} accept",
        f"{own} meta l4proto != {{ 1, 2, 6, 17 }} accept",
    ]


def _ip6_sent(mac: str, guard: Guard) -> list[str]:
    """Neighbour discovery is of own addresses and with this card's MAC: a message has no option, or this one only:
    behind another anything could stand. From `::` it looks for an address that is to be its own, and joins groups."""
    own = f"ether type ip6 ip6 saddr {_set(guard.addresses6)}" if guard.addresses6 else "ether type ip6 ip6 saddr != ::"
    joins = f"ether type ip6 ip6 saddr {_set((*guard.addresses6, '::'))}" if guard.addresses6 else "ether type ip6"
    target = f"@th,64,128 {_set([_hex6(address) for address in guard.addresses6])} " if guard.addresses6 else ""
    icmp, source, told = "ip6 nexthdr icmpv6 icmpv6 type", f"0x0101{_hex(mac)[2:]}", f"0x0201{_hex(mac)[2:]}"
    return [
        f"{own} ip6 nexthdr {IP6_PLAIN} accept",
        f"{own} ip6 nexthdr udp {NOT_SERVER} accept",
        f"{own} {icmp} {ICMP6_PLAIN} accept",
        f"{own} {icmp} 135 ip6 length 24 accept",
        f"{own} {icmp} 135 ip6 length 32 @th,192,64 {source} accept",
        f"{own} {icmp} 136 {target}ip6 length 24 accept",
        f"{own} {icmp} 136 {target}ip6 length 32 @th,192,64 {told} accept",
        f"{own} {icmp} 133 ip6 length 8 accept",
        f"{own} {icmp} 133 ip6 length 16 @th,64,64 {source} accept",
        f"ether type ip6 ip6 saddr :: {icmp} 135 {target}ip6 length {{ 24, 32 }} accept",
        f"{joins} ip6 nexthdr 0 @nh,320,16 0x3a00 icmpv6 type {{ 131, 132, 143 }} accept",
        f"{own} ip6 nexthdr 44 @nh,336,16 & 0xfff8 != 0 accept",
        f"{own} ip6 nexthdr 44 {FIRST} @nh,320,8 6 accept",
        f"{own} ip6 nexthdr 44 {FIRST} @nh,320,8 17 {NOT_SERVER} accept",
        f"{own} ip6 nexthdr 44 {FIRST} @nh,320,8 58 icmpv6 type {ICMP6_PLAIN} accept",
    ]


def _set(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"{{ {', '.join(values)} }}"


def _hex(mac: str) -> str:
    return "0x" + mac.replace(":", "")


def _hex6(address: str) -> str:
    return f"0x{int(ip_address(address)):032x}"


def _ip(address: str) -> str:
    return "ip6" if ":" in address else "ip"


def _host(address: str) -> str:
    return str(ip_interface(address).ip)


def _network(address: str) -> str:
    return str(ip_interface(address).network)
