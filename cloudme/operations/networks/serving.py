"""As whom dnsmasq serves, and what it may do."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from cloudme import layout
from cloudme.formats import dhcp
from cloudme.layout import World
from cloudme.model.confinement import SERVES_A_NETWORK, Capability, Confinement
from cloudme.model.network import Network
from cloudme.store import Store, reported, write_atomic

SERVICE_USER = "dnsmasq"
"""Whom Debian's dnsmasq-base makes."""
WHOLE_ID_RANGE = "4294967295"
"""user_namespaces(7): the length in /proc/PID/uid_map of the initial user namespace."""


def user(world: World) -> str:
    """Who dnsmasq is: its own user, where there is one who can get at our folders; '' where it is who we are.

    A home below a folder that others may not enter, and a user namespace, are such places.
    """
    try:
        pwd.getpwnam(SERVICE_USER)
    except KeyError:
        return ""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        if file.read().split()[2] != WHOLE_ID_RANGE:
            return ""
    if os.geteuid() != 0 or any(not state.st_mode & stat.S_IXOTH for state in _above(world.networks)):
        return ""
    return SERVICE_USER


def confinement(world: World) -> Confinement:
    if name := user(world):
        entry = pwd.getpwnam(name)
        return Confinement(uid=entry.pw_uid, gid=entry.pw_gid, keeps=SERVES_A_NETWORK)
    closed = any(not state.st_mode & stat.S_IXOTH and state.st_uid != os.geteuid() for state in _above(world.networks))
    return Confinement(keeps=(Capability.dac_read_search, *SERVES_A_NETWORK) if closed and os.geteuid() == 0
                       else SERVES_A_NETWORK)


def furnish(world: World, network: str) -> None:
    """The folders that it reads; what it writes is its own: the folder of its log and pid, the file of its leases."""
    who = confinement(world)
    uid = os.geteuid() if who.uid is None else who.uid
    gid = os.getegid() if who.gid is None else who.gid
    run = world.network_run(network)
    for folder in (run, world.reservations(network), world.host_names(network)):
        with reported(folder):
            os.makedirs(folder, exist_ok=True)
            os.chmod(folder, 0o755)
    own, leases = layout.own(run), world.leases(network)
    with reported(own):
        if os.path.isdir(own) and os.stat(own).st_uid != uid:
            shutil.rmtree(own)
        if not os.path.isdir(own):
            os.mkdir(own, 0o755)
            os.chown(own, uid, gid)
    with reported(leases):
        fd = os.open(leases, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        os.fchown(fd, uid, gid)
        os.close(fd)


def tell_reached(store: Store, network: Network) -> None:
    """dnsmasq reads it when it starts, and on SIGHUP: networks may come and go after the one that reaches them."""
    if not network.reaches or network.external:
        return
    with store.locked():
        text, path = dhcp.reached_domains(network, store.networks()), store.world.reached_domains(network.name)
        if not os.path.exists(path) or Path(path).read_text(encoding="utf-8") != text:
            write_atomic(path, text)


def _above(folder: str) -> Iterator[os.stat_result]:
    """The states of those of a folder and all above it that are there; the root is open to all."""
    while folder != os.path.dirname(folder):
        if os.path.exists(folder):
            yield os.stat(folder)
        folder = os.path.dirname(folder)
