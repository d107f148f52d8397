"""Links. Netlink (pyroute2) where a network is started or asked about, ioctls where a machine starts: these cost no
import, and share no state between the threads that start machines."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cloudme.errors import AlreadyExists, CloudMeError, HostUnavailable, NotPermitted
from cloudme.host import arp, guard, realm, sockets, vlans
from cloudme.model.launch import TapCard
from cloudme.model.network import Link
from cloudme.model.ports import Outside, Run

TUN = "/dev/net/tun"
TUNSETIFF = 0x400454CA
TUNSETPERSIST, TUNSETOWNER = 0x400454CB, 0x400454CC
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_EXCL = 0x0002, 0x1000, 0x4000, 0x8000
"""linux/if_tun.h. A header of virtio goes along with each packet: checksums and segmentation can be left out."""
SIOCBRADDIF = 0x89A2
SIOCETHTOOL, ETHTOOL_GDRVINFO = 0x8946, 3
"""linux/sockios.h, linux/ethtool.h."""
BRIDGE_PORTS_MAX = 1023
"""BR_PORT_BITS of the kernel's net/bridge/br_private.h is 10."""
CAP_NET_ADMIN = 12
FORWARDING = "/proc/sys/net/ipv4/ip_forward"
BRIDGE_FILTERS = [f"/proc/sys/net/bridge/bridge-nf-call-{what}" for what in ("iptables", "ip6tables", "arptables")]
ARP_COMPLETE = 0x2
"""ATF_COM of linux/if_arp.h."""
MAIN_TABLE = 254
SCOPE_GLOBAL, IFA_F_NODAD = 0, 0x02
"""linux/rtnetlink.h, linux/if_addr.h."""
IPV6 = "/proc/sys/net/ipv6/conf"
STACKED = ("vlan", "macvlan", "macvtap", "ipvlan", "ipvtap")
"""Kinds of links that are on another one."""


class Links:
    """Implements `Net`."""

    def __init__(self, outside: Outside, run: Run) -> None:
        self._outside = outside
        self._run = run

    # what there is

    def permitted(self) -> bool:
        with open("/proc/thread-self/status", encoding="ascii", errors="replace") as file:
            effective = next(line for line in file if line.startswith("CapEff:"))
        return bool(int(effective.split()[1], 16) >> CAP_NET_ADMIN & 1)

    def bridge_exists(self, bridge: str) -> bool:
        """Asks the driver's name (ethtool): every user may."""
        info = array.array("B", struct.pack("I32s160x", ETHTOOL_GDRVINFO, b""))
        request = struct.pack("16sP16x", bridge.encode(), info.buffer_info()[0])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            try:
                fcntl.ioctl(any_socket, SIOCETHTOOL, request)
            except OSError:
                return False
        return info.tobytes()[4:36].rstrip(b"\0") == b"bridge"

    def link_exists(self, link: str) -> bool:
        try:
            return bool(socket.if_nametoindex(link))
        except OSError:
            return False

    def neighbour(self, address: str) -> str:
        with open("/proc/thread-self/net/arp", encoding="ascii") as file:
            for fields in (line.split() for line in file):
                if fields[0] == address:
                    return "reachable" if int(fields[2], 16) & ARP_COMPLETE else "failed"
        return ""

    def links(self) -> Mapping[str, Link]:
        with _netlink() as netlink:
            return _links(netlink)

    def forwarding(self) -> bool:
        with open(FORWARDING, encoding="ascii") as file:
            return file.read().strip() == "1"

    def port_taken(self, address: str) -> str | None:
        return sockets.taken(address)

    # what changes

    def forward(self) -> None:
        with open(FORWARDING, "w", encoding="ascii") as file:
            file.write("1")

    def bridge_filter(self) -> bool:
        for file in BRIDGE_FILTERS:
            with contextlib.suppress(FileNotFoundError), open(file, encoding="ascii") as value:
                if value.read().strip() == "1":
                    return True
        return False

    def unfilter(self) -> None:
        for file in BRIDGE_FILTERS:
            with contextlib.suppress(FileNotFoundError), open(file, "w", encoding="ascii") as value:
                value.write("0")

    def add_bridge(self, bridge: str, mac: str) -> None:
        with _netlink() as netlink:
            netlink.link("add", ifname=bridge, kind="bridge", address=mac, br_forward_delay=0, br_stp_state=0,
                         br_mcast_snooping=0)

    def set_trunk(self, bridge: str, mac: str, alias: str) -> None:
        with _netlink() as netlink:
            vlans.make(netlink, bridge, mac, alias)

    def check_trunks(self) -> None:
        vlans.check(_netlink)

    def add_vlan(self, bridge: str, vlan: int, link: str) -> None:
        with _netlink() as netlink:
            vlans.add(netlink, bridge, vlan, link)

    def remove_vlan(self, bridge: str, vlan: int, link: str) -> None:
        with _netlink() as netlink:
            vlans.remove(netlink, bridge, vlan, link)

    def tag(self, card: str, bridge: str, vlan: int) -> None:
        with _netlink() as netlink:
            vlans.tag(netlink, _index(card), _index(bridge), vlan)

    def untag(self, card: str, vlan: int) -> None:
        with _netlink() as netlink:
            vlans.untag(netlink, card, vlan)

    def ipv6(self) -> bool:
        try:
            with open(f"{IPV6}/default/disable_ipv6", encoding="ascii") as file:
                return file.read().strip() == "0"
        except FileNotFoundError:
            return False

    def set_bridge(
        self, bridge: str, alias: str, address: ipaddress.IPv4Interface, address6: ipaddress.IPv6Interface | None,
    ) -> None:
        with contextlib.suppress(FileNotFoundError), open(f"{IPV6}/{bridge}/accept_ra", "w", encoding="ascii") as file:
            file.write("0")
        with _netlink() as netlink:
            index = netlink.link_lookup(ifname=bridge)[0]
            netlink.link("set", index=index, ifalias=alias, state="up")
            found = [(one.get_attr("IFA_LOCAL"), one["prefixlen"])
                     for one in netlink.get_addr(family=socket.AF_INET, index=index)]
            wanted = (str(address.ip), address.network.prefixlen)
            if wanted not in found:
                netlink.addr("add", index=index, address=wanted[0], prefixlen=wanted[1],
                             broadcast=str(address.network.broadcast_address))
            for old, length in found:
                if (old, length) != wanted:
                    netlink.addr("del", index=index, address=old, prefixlen=length)
            _set6(netlink, index, address6)

    def arp(self, bridge: str, addresses: Sequence[str], *, wait_s: float = 0.3) -> Mapping[str, str]:
        return arp.ask(bridge, addresses, wait_s) if addresses else {}

    def remove_link(self, name: str) -> None:
        with _netlink() as netlink:
            for index in netlink.link_lookup(ifname=name):
                netlink.link("del", index=index)

    def plug(self, link: str, bridge: str) -> None:
        if not self.bridge_exists(bridge):
            raise HostUnavailable(f"'{bridge}' is no bridge here", hint="ip -brief link show type bridge")
        with _netlink() as netlink:
            netlink.link("set", index=_index(link), master=_index(bridge), state="up")

    def unplug(self, link: str) -> None:
        with _netlink() as netlink:
            index = _index(link)
            netlink.link("set", index=index, master=0)
            if not any(one.get_attr("IFLA_LINK") == index and _kind(one) == "vlan" for one in netlink.get_links()):
                netlink.link("set", index=index, state="down")

    def datagram(self, address: str, port: int, payload: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(payload, (address, port))

    def taps(self, cards: Sequence[TapCard]) -> list[int]:
        """All are guarded by one call of nft, before the first of them is a port of anything."""
        for bridge in {card.bridge for card in cards if card.bridge is not None and not card.outside}:
            if not self.bridge_exists(bridge):
                raise HostUnavailable(f"there is no bridge '{bridge}' here", hint="cmnet start")
        with contextlib.ExitStack() as undo:
            fds, ours = [], []
            for card in cards:
                fd, name = self._tap(card)
                undo.callback(os.close, fd)
                fds.append(fd)
                if card.bridge is not None and not card.outside:
                    ours.append((name, card))
            if ours:
                guard.put(self._run, ours)
            for name, card in ours:
                _join(name, card)
            undo.pop_all()
        return fds

    def guard(self, cards: Sequence[TapCard]) -> None:
        if found := _made(cards):
            guard.put(self._run, found)

    def unguarded(self, cards: Sequence[TapCard]) -> list[TapCard]:
        return guard.lacking(_made(cards))

    def sweep(self) -> None:
        guard.sweep(self._run)

    def add_tap(self, name: str, uid: int, mtu: int) -> None:
        try:
            _persist(name, uid)
            with _netlink() as netlink:
                netlink.link("set", index=socket.if_nametoindex(name), mtu=mtu, address=_high())
        except OSError as error:
            raise _refused(error, "") from error

    def join(self, name: str, card: TapCard) -> None:
        if card.guard:
            guard.put(self._run, [(name, card)])
        self.plug(name, card.bridge or "")
        if card.vlan:
            guard.admit(name, card.vlan)

    def is_guarded(self, name: str, card: TapCard) -> bool:
        return not guard.lacking([(name, card)])

    def _tap(self, card: TapCard) -> tuple[int, str]:
        """Its name is '' where it was made, and joined, outside."""
        if card.outside and card.bridge is not None:
            return self._outside.tap(card.bridge), ""
        return _new_tap(card)


@contextlib.contextmanager
def _netlink() -> Iterator[Any]:
    """An IPRoute; what the kernel refuses is raised in our words."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as netlink:
            yield netlink
    except NetlinkError as error:
        raise _refused(OSError(error.code, os.strerror(error.code)), "") from error


def _links(netlink: Any) -> dict[str, Link]:
    found = list(netlink.get_links())
    names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in found}
    addresses: dict[int, list[ipaddress.IPv4Interface]] = {index: [] for index in names}
    for one in netlink.get_addr(family=socket.AF_INET):
        text = f"{one.get_attr('IFA_LOCAL') or one.get_attr('IFA_ADDRESS')}/{one['prefixlen']}"
        addresses.setdefault(one["index"], []).append(ipaddress.IPv4Interface(text))
    addresses6: dict[int, list[ipaddress.IPv6Interface]] = {index: [] for index in names}
    for one in netlink.get_addr(family=socket.AF_INET6):
        if one["scope"] == SCOPE_GLOBAL:
            text = f"{one.get_attr('IFA_ADDRESS')}/{one['prefixlen']}"
            addresses6.setdefault(one["index"], []).append(ipaddress.IPv6Interface(text))
    routes: dict[int, list[ipaddress.IPv4Network]] = {index: [] for index in names}
    for route in netlink.get_routes(family=socket.AF_INET, table=MAIN_TABLE):
        if (target := route.get_attr("RTA_DST")) and (index := route.get_attr("RTA_OIF")):
            routes.setdefault(index, []).append(ipaddress.IPv4Network(f"{target}/{route['dst_len']}"))
    carried = vlans.carried(netlink, found)
    return {
        names[index]: Link(
            name=names[index], kind=_kind(link), up=bool(link["flags"] & realm.IFF_UP),
            alias=link.get_attr("IFLA_IFALIAS") or "", master=names.get(link.get_attr("IFLA_MASTER"), ""),
            addresses=tuple(addresses[index]), addresses6=tuple(addresses6[index]), routes=tuple(routes[index]),
            mtu=link.get_attr("IFLA_MTU"), owner=_owner(link), filtering=vlans.filtering(link),
            vids=carried.get(index, ((), None))[0], pvid=carried.get(index, ((), None))[1],
            vlan=vlans.number(link), parent=names.get(link.get_attr("IFLA_LINK"), "") if _stacked(link) else "",
        ) for index, link in ((link["index"], link) for link in found)
    }


def _stacked(link: Any) -> bool:
    """Whether it is on another link of this namespace (a veth's IFLA_LINK is its other end)."""
    return _kind(link) in STACKED and link.get_attr("IFLA_LINK_NETNSID") is None


def _set6(netlink: Any, index: int, wanted: ipaddress.IPv6Interface | None) -> None:
    """Nobody else has an address of ours: it is good at once, though the bridge may have no port yet (IFA_F_NODAD)."""
    found = [(one.get_attr("IFA_ADDRESS"), one["prefixlen"])
             for one in netlink.get_addr(family=socket.AF_INET6, index=index, scope=SCOPE_GLOBAL)]
    new = (str(wanted.ip), wanted.network.prefixlen) if wanted else None
    if new and new not in found:
        netlink.addr("add", index=index, family=socket.AF_INET6, address=new[0], prefixlen=new[1], flags=IFA_F_NODAD)
    for old in found:
        if old != new:
            netlink.addr("del", index=index, family=socket.AF_INET6, address=old[0], prefixlen=old[1])


def _index(link: str) -> int:
    try:
        return socket.if_nametoindex(link)
    except OSError:
        raise HostUnavailable(f"there is no link '{link}' here") from None


def _kind(link: Any) -> str:
    info = link.get_attr("IFLA_LINKINFO")
    return (info and info.get_attr("IFLA_INFO_KIND")) or ""


def _owner(link: Any) -> int | None:
    """The user who may open a tap (linux/if_link.h, IFLA_TUN_OWNER)."""
    info = link.get_attr("IFLA_LINKINFO")
    data = info and info.get_attr("IFLA_INFO_DATA")
    owner = data.get_attr("IFLA_TUN_OWNER") if data and _kind(link) == "tun" else None
    return None if owner is None else int(owner)


def _new_tap(card: TapCard) -> tuple[int, str]:
    """The descriptor of a new tap, and its name."""
    try:
        fd = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise HostUnavailable(f"this kernel offers no {TUN}", hint="modprobe tun") from None
    except PermissionError as error:
        raise _refused(error, "") from error
    name = (card.name or f"{_stem(card.mac) if card.bridge else 'cm'}%d").encode()
    offload = card.guard is None or card.guard.offload
    flags = IFF_TAP | IFF_NO_PI | (IFF_VNET_HDR if offload else 0) | (IFF_EXCL if card.name else 0)
    try:
        return fd, fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name, flags))[:16].rstrip(b"\0").decode()
    except OSError as error:
        os.close(fd)
        if card.name and error.errno in (errno.EBUSY, errno.EINVAL, errno.EEXIST):
            raise AlreadyExists(f"there is a link '{card.name}' already, and it is not this machine's",
                                hint="ip -brief link") from error
        raise _refused(error, card.bridge or "") from error


def _stem(mac: str) -> str:
    """What the name of a tap begins with, as 'cm4f2a11-': it tells whose it is, and no other machine's ever has it."""
    return f"cm{mac.replace(':', '')[-6:]}-"


def _high() -> str:
    """An address for a tap: a bridge takes the lowest of its ports' for its own, and is not to change it."""
    return f"fe:{os.urandom(5).hex(':')}"


def _persist(name: str, uid: int) -> None:
    """Make a tap that outlives its descriptor, and that this user may open. Raises OSError, EBUSY where it is there."""
    fd = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_EXCL))
        fcntl.ioctl(fd, TUNSETOWNER, uid)
        fcntl.ioctl(fd, TUNSETPERSIST, 1)
    finally:
        os.close(fd)


def _made(cards: Sequence[TapCard]) -> list[tuple[str, TapCard]]:
    """Those of the cards whose taps are there, with the names of these."""
    names = [name for _, name in socket.if_nameindex()]
    return [(name, card) for card in cards for name in names
            if (name == card.name if card.name else name.startswith(_stem(card.mac)))]


def _join(name: str, card: TapCard) -> None:
    """Make a tap a port of its bridge, and set it up."""
    assert card.bridge is not None
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            request = struct.pack("16si20x", card.bridge.encode(), socket.if_nametoindex(name))
            fcntl.ioctl(any_socket, SIOCBRADDIF, request)
        guard.settle(name, card)
        realm.up(name)
    except OSError as error:
        raise _refused(error, card.bridge) from error


def _refused(error: OSError, bridge: str) -> CloudMeError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return NotPermitted("this user may not change links", hint="run it with sudo")
    if error.errno == errno.EXFULL:
        return HostUnavailable(f"the bridge '{bridge}' has its {BRIDGE_PORTS_MAX} ports in use",
                               hint="stop some machines, or use another realm")
    if error.errno == errno.EOPNOTSUPP:
        return HostUnavailable("this kernel lacks what a network needs (bridge, tun)", hint="modprobe bridge tun")
    return HostUnavailable(f"the kernel refused to change a link: {error.strerror}")
