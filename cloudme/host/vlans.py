"""VLANs of a bridge (802.1Q): the bridge keeps them apart, and has a link in each that is ours. Over pyroute2."""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

from cloudme.errors import CloudMeError, HostUnavailable
from cloudme.host import realm

LACKING = "vlan_mode: bridges (cmnet create NAME --reaches none, without --vlan): a bridge for each works on any kernel"
PVID = 0x2
"""BRIDGE_VLAN_INFO_PVID of linux/if_bridge.h."""


@functools.cache
def check(opened: Callable[[], AbstractContextManager[Any]]) -> None:
    """Make such a bridge, with a VLAN, in a network namespace of a thread's own, which ends with it.

    opened: a netlink, where it is called.  Raises:  HostUnavailable, as `make` and `add` do.
    """
    def tried() -> None:
        try:
            realm.fresh()
        except CloudMeError:  # then `make` says it
            return
        with opened() as netlink:
            make(netlink, "cm-try", "02:00:00:00:00:01", "")
            add(netlink, "cm-try", 2, "cm-try.2")

    with ThreadPoolExecutor(1) as thread:
        thread.submit(tried).result()


def make(netlink: Any, bridge: str, mac: str, alias: str) -> None:
    """A bridge that keeps VLANs apart, and is up; one of that name that is there becomes so. What joins it is in none.

    Raises:  HostUnavailable where the kernel has no such bridges.
    """
    how = {"br_vlan_filtering": 1, "br_vlan_default_pvid": 0}
    with _told("this kernel's bridges do not keep VLANs apart (CONFIG_BRIDGE_VLAN_FILTERING)"):
        if not (found := netlink.link_lookup(ifname=bridge)):
            netlink.link("add", ifname=bridge, kind="bridge", address=mac, br_forward_delay=0, br_stp_state=0,
                         br_mcast_snooping=0, **how)
            found = netlink.link_lookup(ifname=bridge)
        else:
            netlink.link("set", index=found[0], kind="bridge", **how)
    netlink.link("set", index=found[0], ifalias=alias, state="up")


def add(netlink: Any, bridge: str, vlan: int, link: str) -> None:
    """The bridge carries the VLAN, and `link` is its own card there; what is there already stays.

    Raises:  HostUnavailable where the kernel has no links of VLANs.
    """
    (index,) = netlink.link_lookup(ifname=bridge)
    netlink.vlan_filter("add", index=index, vlan_info={"vid": vlan, "flags": 0}, vlan_flags="self")
    if not netlink.link_lookup(ifname=link):
        with _told("this kernel has no links of VLANs (8021q)"):
            netlink.link("add", ifname=link, kind="vlan", link=index, vlan_id=vlan)


def remove(netlink: Any, bridge: str, vlan: int, link: str) -> None:
    """Likewise, no longer. Missing: nothing."""
    for index in netlink.link_lookup(ifname=link):
        netlink.link("del", index=index)
    for index in netlink.link_lookup(ifname=bridge):
        with _gone():
            netlink.vlan_filter("del", index=index, vlan_info={"vid": vlan, "flags": 0}, vlan_flags="self")


def tag(netlink: Any, card: int, bridge: int, vlan: int) -> None:
    """A card is a port of the bridge, up, and the VLAN is tagged on it; others that are stay. card, bridge: indices."""
    netlink.link("set", index=card, master=bridge, state="up")
    netlink.vlan_filter("add", index=card, vlan_info={"vid": vlan, "flags": 0})


def untag(netlink: Any, card: str, vlan: int) -> None:
    for index in netlink.link_lookup(ifname=card):
        with _gone():
            netlink.vlan_filter("del", index=index, vlan_info={"vid": vlan, "flags": 0})


def carried(netlink: Any, links: Iterable[Any]) -> dict[int, tuple[tuple[int, ...], int | None]]:
    """The VLANs of bridges and of their ports, by index: all of them, and the one of what has no tag."""
    if not any(filtering(link) for link in links):  # not every kernel can be asked
        return {}
    found = {}
    for message in netlink.get_vlans():
        spec = message.get_attr("IFLA_AF_SPEC")
        if infos := spec.get_attrs("IFLA_BRIDGE_VLAN_INFO") if spec else []:  # some cards speak for themselves, too
            pvid = next((info["vid"] for info in infos if info["flags"] & PVID), None)
            found[message["index"]] = tuple(info["vid"] for info in infos), pvid
    return found


def filtering(link: Any) -> bool:
    return bool(_datum(link, "bridge", "IFLA_BR_VLAN_FILTERING"))


def number(link: Any) -> int | None:
    """The VLAN of a link of one; None for other links."""
    return _datum(link, "vlan", "IFLA_VLAN_ID")


def _datum(link: Any, kind: str, name: str) -> int | None:
    info = link.get_attr("IFLA_LINKINFO")
    data = info.get_attr("IFLA_INFO_DATA") if info and info.get_attr("IFLA_INFO_KIND") == kind else None
    value = data.get_attr(name) if data else None
    return None if value is None else int(value)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        if error.code != errno.EOPNOTSUPP:
            raise
        raise HostUnavailable(what, hint=LACKING) from error


@contextlib.contextmanager
def _gone() -> Iterator[None]:
    """What is to be removed may not be there."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        if error.code not in (errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP):
            raise
