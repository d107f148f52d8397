"""What a hostile machine sends, and what an honest one does: frames, made by scapy."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Interface
from typing import Any

from cloudme.model.network import LINK_LOCAL, eui64

ALL, NODES6 = "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"
NONE6, EVERYBODY6, ROUTERS6 = "::", "ff02::1", "ff02::2"


@dataclass(frozen=True)
class Who:
    """Somebody on a network. The IPv6 addresses are made of the MAC."""

    mac: str
    ip: str
    prefix: str = "fd12:3456:789a:1::/64"
    own6: str = ""

    @property
    def ip6(self) -> str:
        return self.own6 or eui64(IPv6Interface(self.prefix), self.mac)

    @property
    def link6(self) -> str:
        return eui64(LINK_LOCAL, self.mac)


Frames = dict[str, list[bytes]]


def attacks(me: Who, neighbour: Who, gateway: Who) -> Frames:
    """What `me` may not send, by what it is."""
    found: Frames = {}
    for family in (_spoofed, _arp, _dhcp, _icmp, _discovery, _advertisements, _dhcp6, _extensions, _untyped,
                   _malformed):
        for name, packets in family(me, neighbour, gateway):
            assert name not in found
            found[name] = [bytes(packet) for packet in (packets if isinstance(packets, list) else [packets])]
    return found


def _spoofed(me: Who, neighbour: Who, gateway: Who) -> Iterator[tuple[str, Any]]:
    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
    from scapy.layers.l2 import Ether

    to = {"dst": neighbour.mac}
    for whose, mac in (("neighbour's", neighbour.mac), ("gateway's", gateway.mac), ("nobody's", "02:00:00:00:be:ef")):
        yield f"the {whose} MAC", Ether(src=mac, dst=ALL) / IP(src=me.ip, dst="255.255.255.255") / UDP(dport=9)
        if mac != neighbour.mac:  # from whom to whom it is the same, no bridge forwards it
            yield f"the {whose} MAC, to one", Ether(src=mac, **to) / IP(src=me.ip, dst=neighbour.ip) / TCP(dport=22)
    for whose, ip in (("gateway's", gateway.ip), ("neighbour's", neighbour.ip), ("nobody's", "198.51.100.7"),
                      ("no", "0.0.0.0"), ("loopback's", "127.0.0.1"), ("everybody's", "255.255.255.255")):
        for what, above in (("TCP", TCP(dport=22)), ("UDP", UDP(dport=53)), ("ICMP", ICMP())):
            yield f"{what} from {whose} IPv4", Ether(src=me.mac, **to) / IP(src=ip, dst=neighbour.ip) / above
    for whose, ip6 in (("gateway's", gateway.ip6), ("gateway's local", gateway.link6), ("neighbour's", neighbour.ip6),
                       ("neighbour's local", neighbour.link6), ("nobody's", "2001:db8::7"), ("no", NONE6)):
        for what, above in (("TCP", TCP(dport=22)), ("UDP", UDP(dport=53)), ("echo", ICMPv6EchoRequest())):
            yield f"{what} from {whose} IPv6", Ether(src=me.mac, **to) / IPv6(src=ip6, dst=neighbour.ip6) / above


def _arp(me: Who, neighbour: Who, gateway: Who) -> Iterator[tuple[str, Any]]:
    from scapy.layers.l2 import ARP, Ether

    ether = Ether(src=me.mac, dst=ALL)
    for whose, other in (("gateway", gateway), ("neighbour", neighbour)):
        for op in (1, 2):
            yield f"gratuitous ARP {op} for the {whose}", ether / ARP(op=op, hwsrc=me.mac, psrc=other.ip, pdst=other.ip)
        yield f"ARP answer for the {whose}", Ether(src=me.mac, dst=neighbour.mac) / ARP(
            op=2, hwsrc=me.mac, psrc=other.ip, hwdst=neighbour.mac, pdst=neighbour.ip)
        yield f"ARP probe for the {whose}", ether / ARP(op=1, hwsrc=me.mac, psrc="0.0.0.0", pdst=other.ip)
        yield f"ARP of the {whose}'s MAC", ether / ARP(op=2, hwsrc=other.mac, psrc=me.ip, pdst=me.ip)
    yield "ARP of no known operation", ether / ARP(op=9, hwsrc=me.mac, psrc=me.ip, pdst=gateway.ip)
    yield "ARP of another hardware", ether / ARP(hwtype=6, hwsrc=me.mac, psrc=gateway.ip, pdst=gateway.ip)
    yield "ARP of another length", ether / ARP(hwlen=6, plen=16, hwsrc=me.mac, psrc=me.ip, pdst=gateway.ip)
    yield "half an ARP", bytes(ether / ARP(op=1, hwsrc=me.mac, psrc=me.ip, pdst=me.ip))[:30]


def _dhcp(me: Who, neighbour: Who, gateway: Who) -> Iterator[tuple[str, Any]]:
    from scapy.layers.dhcp import BOOTP, DHCP
    from scapy.layers.inet import IP, UDP, fragment
    from scapy.layers.l2 import Ether

    ether = Ether(src=me.mac, dst=ALL)
    card, mine = (bytes.fromhex(who.mac.replace(":", "")) for who in (neighbour, me))
    offer = BOOTP(op=2, yiaddr="10.210.0.99", siaddr=me.ip, chaddr=card, xid=7) / DHCP(options=[
        ("message-type", "offer"), ("server_id", me.ip), ("router", me.ip), "end"])
    whole = IP(src=me.ip, dst="255.255.255.255")
    yield "DHCP offer", ether / whole / UDP(sport=67, dport=68) / offer
    yield "DHCP offer from another port", ether / whole / UDP(sport=4011, dport=68) / offer
    yield "DHCP offer to another port", ether / whole / UDP(sport=67, dport=1067) / offer
    yield "DHCP offer, after options of IP", ether / IP(src=me.ip, dst="255.255.255.255", options=[b"\1" * 4]) / UDP(
        sport=67, dport=68) / offer
    yield "DHCP offer, as the gateway", ether / IP(src=gateway.ip, dst="255.255.255.255") / UDP(
        sport=67, dport=68) / offer
    yield "DHCP offer in fragments, the first", ether / fragment(whole / UDP(sport=67, dport=68) / offer, 64)[0]

    def asks(source: str, **fields: Any) -> Any:
        return ether / IP(src=source, dst="255.255.255.255") / UDP(sport=68, dport=67) / BOOTP(
            xid=7, **{"chaddr": mine, **fields}) / DHCP(options=[
                ("message-type", "decline"), ("requested_addr", neighbour.ip), "end"])

    for source in ("0.0.0.0", me.ip):
        yield f"DHCP decline for the neighbour, from {source}", asks(source, chaddr=card)
        yield f"DHCP as a relay, from {source}", asks(source, giaddr=me.ip)
        yield f"DHCP with a longer address, from {source}", asks(source, hlen=16, chaddr=mine + card)
    yield "DHCP in fragments, the first", ether / fragment(asks(me.ip)[IP], 256)[0]


def _icmp(me: Who, neighbour: Who, gateway: Who) -> Iterator[tuple[str, Any]]:
    from scapy.layers.inet import ICMP, IP, TCP
    from scapy.layers.l2 import Ether

    ip = Ether(src=me.mac, dst=neighbour.mac) / IP(src=me.ip, dst=neighbour.ip)
    yield "ICMP redirect", ip / ICMP(type=5, code=1, gw=me.ip) / IP(src=neighbour.ip, dst="192.0.2.1") / TCP()
    yield "ICMP router advertisement", ip / ICMP(type=9)
    yield "IGMP query", Ether(src=me.mac, dst=ALL) / IP(src=me.ip, dst="224.0.0.1", proto=2, ttl=1) / (
        b"\x11\x64\xee\x9b" + bytes(4))


def _discovery(me: Who, neighbour: Who, gateway: Who) -> Iterator[tuple[str, Any]]:
    """Neighbour discovery (RFC 4861) that says what is not so."""
    from scapy.layers import inet6 as v6
    from scapy.layers.l2 import Ether

    ether = Ether(src=me.mac, dst=NODES6)
    told = v6.ICMPv6NDOptDstLLAddr(lladdr=me.mac)
    for source in (me.ip6, me.link6):
        ip = v6.IPv6(src=source, dst=EVERYBODY6, hlim=255)
        for whose, target in (("gateway", gateway.ip6), ("local gateway", gateway.link6),
                              ("neighbour", neighbour.ip6)):
            yield f"NA for the {whose}, from {source}", ether / ip / v6.ICMPv6ND_NA(tgt=target, R=0) / told
            yield f"bare NA for the {whose}, from {source}", ether / ip / v6.ICMPv6ND_NA(tgt=target, R=0)
        wrong = v6.ICMPv6NDOptDstLLAddr(lladdr=gateway.mac)
        yield f"NA with another MAC, from {source}", ether / ip / v6.ICMPv6ND_NA(tgt=source) / wrong
        yield f"NA with two options, from {source}", ether / ip / v6.ICMPv6ND_NA(tgt=source) / told / wrong
        lies = v6.ICMPv6NDOptSrcLLAddr(lladdr=gateway.mac)
        hidden = v6.ICMPv6NDOptUnknown(type=14, len=1, data=b"nonce!") / lies
        yield f"NS with another MAC, from {source}", ether / ip / v6.ICMPv6ND_NS(tgt=neighbour.ip6) / lies
        yield f"NS with two options, from {source}", ether / ip / v6.ICMPv6ND_NS(tgt=neighbour.ip6) / hidden
        yield f"RS with another MAC, from {source}", ether / ip / v6.ICMPv6ND_RS() / lies
        yield f"redirect, from {source}", ether / ip / v6.ICMPv6ND_Redirect(tgt=me.link6, dst="2001:db8::1") / told
        yield f"NI answer, from {source}", ether / ip / v6.ICMPv6NIReplyName(data=["gateway"])
    yield "NA as the gateway", ether / v6.IPv6(src=gateway.link6, dst=EVERYBODY6) / v6.ICMPv6ND_NA(
        tgt=gateway.ip6) / told
    nobody = ether / v6.IPv6(src=NONE6, dst=EVERYBODY6, hlim=255)
    for target in (neighbour.ip6, gateway.link6):
        yield f"NS of somebody who takes {target}", nobody / v6.ICMPv6ND_NS(tgt=target)
    yield "NA from nobody", nobody / v6.ICMPv6ND_NA(tgt=neighbour.ip6)
    router_alert = v6.IPv6ExtHdrHopByHop(options=[v6.RouterAlert()])
    yield "MLD query", ether / v6.IPv6(src=me.link6, dst=EVERYBODY6, hlim=1) / router_alert / v6.ICMPv6MLQuery()


def _advertisements(me: Who, neighbour: Who, gateway: Who) -> Iterator[tuple[str, Any]]:
    """Router advertisements, plain and in every hiding place (RFC 7113)."""
    from scapy.layers import inet6 as v6
    from scapy.layers.l2 import Ether

    ether = Ether(src=me.mac, dst=NODES6)
    prefix = v6.ICMPv6NDOptPrefixInfo(prefix="2001:db8:bad::", prefixlen=64)
    says = v6.ICMPv6ND_RA(routerlifetime=1800, prf=1) / prefix / v6.ICMPv6NDOptSrcLLAddr(lladdr=me.mac)
    pad = v6.PadN(optdata=b"\0" * 8)
    hop, options = v6.IPv6ExtHdrHopByHop(options=[pad]), v6.IPv6ExtHdrDestOpt(options=[pad])
    for source in (me.link6, gateway.link6):
        ip = v6.IPv6(src=source, dst=EVERYBODY6, hlim=255)
        hidden = {
            "plain": says, "behind hop-by-hop": hop / says, "behind options": options / says,
            "behind both": hop / options / says, "behind routing": v6.IPv6ExtHdrRouting() / says,
            "behind the alert of MLD": v6.IPv6ExtHdrHopByHop(options=[v6.RouterAlert()]) / says,
            "as the only fragment": v6.IPv6ExtHdrFragment(id=5) / says,
            "as the only fragment, behind options": v6.IPv6ExtHdrFragment(id=6) / options / says,
            "as an inner fragment": v6.IPv6ExtHdrFragment(id=7) / v6.IPv6ExtHdrFragment(id=8) / says,
        }
        for how, packet in hidden.items():
            yield f"RA {how}, from {source}", ether / ip / packet
        long = v6.IPv6ExtHdrDestOpt(options=[v6.PadN(optdata=b"\0" * 200)] * 5)
        for how, packet in (("", says / (b"\0" * 1200)), (", behind options", long / says / (b"\0" * 400))):
            first, *_ = v6.fragment6(ip / v6.IPv6ExtHdrFragment(id=9) / packet, 1280 - 14)
            yield f"RA in fragments{how}, from {source}", ether / first
    yield "MLD with more before it", ether / v6.IPv6(src=me.link6, dst=EVERYBODY6, hlim=255) / v6.IPv6ExtHdrHopByHop(
        options=[v6.PadN(optdata=b"\0" * 12)]) / says


def _dhcp6(me: Who, neighbour: Who, gateway: Who) -> Iterator[tuple[str, Any]]:
    from scapy.layers import inet6 as v6
    from scapy.layers.dhcp6 import DHCP6_Advertise
    from scapy.layers.inet import UDP
    from scapy.layers.l2 import Ether

    ether, ip = Ether(src=me.mac, dst=neighbour.mac), v6.IPv6(src=me.link6, dst=neighbour.link6)
    for sport, dport in ((547, 546), (4711, 546), (547, 4711)):
        udp = UDP(sport=sport, dport=dport)
        yield f"DHCPv6 advertisement, {sport} to {dport}", ether / ip / udp / DHCP6_Advertise()
        yield f"DHCPv6 advertisement in fragments, {sport} to {dport}", ether / v6.fragment6(
            ip / v6.IPv6ExtHdrFragment() / udp / DHCP6_Advertise() / (b"\0" * 1400), 1280 - 14)[0]
    yield "DHCPv6 behind options", ether / ip / v6.IPv6ExtHdrDestOpt() / UDP(sport=547, dport=546) / DHCP6_Advertise()


def _extensions(me: Who, neighbour: Who, gateway: Who) -> Iterator[tuple[str, Any]]:
    from scapy.layers import inet6 as v6
    from scapy.layers.inet import IP, TCP
    from scapy.layers.l2 import Ether

    ip = Ether(src=me.mac, dst=neighbour.mac) / v6.IPv6(src=me.ip6, dst=neighbour.ip6)
    inner = v6.IPv6(src=gateway.link6, dst=neighbour.ip6, hlim=255) / v6.ICMPv6ND_RA()
    yield "RA in IPv6 in IPv6", ip / inner
    yield "IPv4 in IPv6", ip / IP(src=gateway.ip, dst=neighbour.ip) / TCP()
    yield "TCP behind options", ip / v6.IPv6ExtHdrDestOpt() / TCP(dport=22)
    yield "an unknown next header", ip.__class__(bytes(ip)[:20] + b"\xfd" + bytes(ip)[21:] + b"what")


def _untyped(me: Who, neighbour: Who, gateway: Who) -> Iterator[tuple[str, Any]]:
    """Frames of other kinds: tagged, bridges' own, and so on."""
    from scapy.layers.inet import IP, TCP
    from scapy.layers.l2 import ARP, LLC, SNAP, STP, Dot1AD, Dot1Q, Dot3, Ether

    ether = Ether(src=me.mac, dst=neighbour.mac)
    honest = IP(src=me.ip, dst=neighbour.ip, id=77) / TCP(dport=22)  # as no other
    lie = ARP(op=2, hwsrc=me.mac, psrc=gateway.ip, hwdst=neighbour.mac, pdst=neighbour.ip)
    for what, packet in (("honest IPv4", honest), ("ARP of the gateway", lie)):
        yield f"VLAN 7 around {what}", ether / Dot1Q(vlan=7) / packet
        yield f"VLAN 0 around {what}", ether / Dot1Q(vlan=0, prio=3) / packet
        yield f"802.1ad around {what}", ether / Dot1AD(vlan=7) / packet
        yield f"two VLANs around {what}", ether / Dot1Q(vlan=0) / Dot1Q(vlan=7) / packet
    yield "802.3 around IPv4", Dot3(src=me.mac, dst=neighbour.mac) / LLC() / SNAP(code=0x800) / honest
    yield "BPDU", Dot3(src=me.mac, dst="01:80:c2:00:00:00") / LLC() / STP(rootid=0, rootmac=me.mac, bridgemac=me.mac)
    for what, kind, dst in (("LLDP", 0x88CC, "01:80:c2:00:00:0e"), ("RARP", 0x8035, ALL), ("EAPOL", 0x888E, ALL),
                            ("PPPoE", 0x8863, ALL), ("MPLS", 0x8847, ALL), ("wake on LAN", 0x0842, ALL)):
        yield what, bytes(Ether(src=me.mac, dst=dst, type=kind)) + bytes(46)
    yield "pause", bytes(Ether(src=me.mac, dst="01:80:c2:00:00:01", type=0x8808)) + b"\0\1\xff\xff" + bytes(42)


def _malformed(me: Who, neighbour: Who, gateway: Who) -> Iterator[tuple[str, Any]]:
    """What no filter should have to guess at."""
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    ether = Ether(src=me.mac, dst=ALL)
    udp = UDP(sport=67, dport=68) / (b"\0" * 300)
    for what, fields in (("IP of version 5", {"version": 5}), ("a header of 16 bytes", {"ihl": 4}),
                         ("more length than there is", {"len": 9999})):
        yield what, ether / IP(src=me.ip, dst="255.255.255.255", **fields) / udp
    yield "half a header", bytes(ether / IP(src=me.ip, dst="255.255.255.255"))[:30]


def honest(me: Who, neighbour: Who, gateway: Who) -> Frames:
    """What any guest sends, to everybody or to the neighbour."""
    found = {name: packets if isinstance(packets, list) else [packets]
             for family in (_honest4, _honest6) for name, packets in family(me, neighbour)}
    return {name: [bytes(packet) for packet in packets] for name, packets in found.items()}


def _honest4(me: Who, neighbour: Who) -> Iterator[tuple[str, Any]]:
    from scapy.layers.dhcp import BOOTP, DHCP
    from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
    from scapy.layers.l2 import ARP, GRE, Ether

    everybody, ether = Ether(src=me.mac, dst=ALL), Ether(src=me.mac, dst=neighbour.mac)
    ip = IP(src=me.ip, dst=neighbour.ip)
    yield "ARP question", everybody / ARP(op=1, hwsrc=me.mac, psrc=me.ip, pdst=neighbour.ip)
    yield "ARP answer", ether / ARP(op=2, hwsrc=me.mac, psrc=me.ip, hwdst=neighbour.mac, pdst=neighbour.ip)
    yield "ARP probe", everybody / ARP(op=1, hwsrc=me.mac, psrc="0.0.0.0", pdst=me.ip)
    yield "ARP announcement", everybody / ARP(op=1, hwsrc=me.mac, psrc=me.ip, pdst=me.ip)
    for source in ("0.0.0.0", me.ip):
        whole = everybody / IP(src=source, dst="255.255.255.255") / UDP(sport=68, dport=67)
        yield f"DHCP from {source}", whole / BOOTP(
            chaddr=bytes.fromhex(me.mac.replace(":", "")), xid=7) / DHCP(options=[("message-type", "discover"), "end"])
    yield "TCP", ether / ip / TCP(dport=22)
    yield "DNS", ether / ip / UDP(dport=53) / b"question"
    yield "ping", ether / ip / ICMP()
    yield "a long datagram", [ether / part for part in fragment(ip / UDP(dport=5000) / (b"x" * 4000), 1480)]
    yield "GRE", ether / ip / GRE()
    yield "IGMP", ether / IP(src=me.ip, dst="224.0.0.22", proto=2) / b"\x22\0\0\0\0\0\0\0"


def _honest6(me: Who, neighbour: Who) -> Iterator[tuple[str, Any]]:
    from scapy.layers import inet6 as v6
    from scapy.layers.inet import TCP, UDP
    from scapy.layers.l2 import Ether

    ether, many = Ether(src=me.mac, dst=neighbour.mac), Ether(src=me.mac, dst="33:33:00:00:00:16")
    nonce = v6.ICMPv6NDOptUnknown(type=14, len=1, data=b"nonce!")
    source, target = v6.ICMPv6NDOptSrcLLAddr(lladdr=me.mac), v6.ICMPv6NDOptDstLLAddr(lladdr=me.mac)
    for own in (me.ip6, me.link6):
        ip = v6.IPv6(src=own, dst=neighbour.ip6, hlim=255)
        nobody = many / v6.IPv6(src=NONE6, dst="ff02::1:ff00:1", hlim=255)
        yield f"{own} is looked for", nobody / v6.ICMPv6ND_NS(tgt=own)
        yield f"{own} is looked for, with a nonce", nobody / v6.ICMPv6ND_NS(tgt=own) / nonce
        yield f"NS from {own}", many / ip / v6.ICMPv6ND_NS(tgt=neighbour.ip6) / source
        yield f"bare NS from {own}", ether / ip / v6.ICMPv6ND_NS(tgt=neighbour.ip6)
        yield f"NA from {own}", ether / ip / v6.ICMPv6ND_NA(tgt=own, R=0) / target
        yield f"bare NA from {own}", ether / ip / v6.ICMPv6ND_NA(tgt=own, R=0)
        yield f"ping from {own}", ether / ip / v6.ICMPv6EchoRequest()
        yield f"TCP from {own}", ether / ip / TCP(dport=22)
        yield f"DNS from {own}", ether / ip / UDP(dport=53) / b"question"
        yield f"a long ping from {own}", [ether / part for part in v6.fragment6(
            ip / v6.IPv6ExtHdrFragment() / v6.ICMPv6EchoRequest(data=b"x" * 3000), 1400)]
        yield f"a long datagram from {own}", [ether / part for part in v6.fragment6(
            ip / v6.IPv6ExtHdrFragment() / UDP(dport=5000) / (b"x" * 3000), 1400)]
    rs = v6.ICMPv6ND_RS()
    yield "RS", many / v6.IPv6(src=me.link6, dst=ROUTERS6, hlim=255) / rs / source
    yield "bare RS", many / v6.IPv6(src=me.link6, dst=ROUTERS6, hlim=255) / rs
    for own in (me.link6, NONE6):
        yield f"MLD report from {own}", many / v6.IPv6(src=own, dst="ff02::16", hlim=1) / v6.IPv6ExtHdrHopByHop(
            options=[v6.RouterAlert()]) / v6.ICMPv6MLReport2(records=[v6.ICMPv6MLDMultAddrRec(dst="ff02::1:ff00:1")])


def lying_checksum(who: Who, address: str) -> tuple[bytes, bytes]:
    """(header, frame): an honest announcement whose checksum is to be written over the end of the sender's address, and
    turns out to be the end of `address`."""
    frame, start, place = bytearray(honest(who, who, who)["ARP announcement"][0]), 20, 30
    frame[32:34] = bytes(2)
    total = sum(struct.unpack(f"!{(len(frame) - start) // 2}H", frame[start:]))
    frame[32:34] = struct.pack("!H", -(total + int.from_bytes(socket.inet_aton(address)[2:], "big")) % 0xFFFF)
    return struct.pack("<BBHHHH", 1, 0, 0, 0, start, place - start), bytes(frame)


def senders(frames: list[bytes]) -> set[str]:
    """The senders' addresses of ARP."""
    return {socket.inet_ntoa(frame[28:32]) for frame in frames if frame[12:14] == b"\x08\x06"}
