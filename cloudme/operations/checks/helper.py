"""QEMU's setuid helper: it makes taps for ordinary users, on the bridges of root's that are shared with them."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from cloudme import shared
from cloudme.layout import BRIDGE_HELPERS
from cloudme.model.check import Level, Result
from cloudme.model.network import Network
from cloudme.operations.checks.look import Look, good

ACL = "/etc/qemu/bridge.conf"
USERS = "/etc/qemu/cloudme.d"


def bridge_helper(look: Look) -> Iterator[Result]:
    """Root's networks have users, a user has networks of root's. The setuid bit is the administrator's to give."""
    networks = [one for one in look.started if one.users] if look.root else list(look.shared)
    if not networks and (look.world.private or not look.root):
        yield good("bridge-helper", "not needed here")
        return
    amiss = [*_list(look, networks)]
    if networks:
        amiss += [*_program(look), *(_users(look, networks) if look.root else _mine(look, networks))]
    what = "it helps those users whom a network is shared with" if networks else "nobody needs it"
    yield from amiss or [good("bridge-helper", what)]


def _amiss(what: str, means: str, fix: str) -> Result:
    return Result(check="bridge-helper", level=Level.warning, what=what, means=means, fix=fix)


def _list(look: Look, networks: list[Network]) -> Iterator[Result]:
    mode = look.host.files.mode(ACL)
    rules = set(_rules(look, ACL, ()))
    if mode is not None and mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield _amiss(f"{ACL} may be changed by others than root",
                     "they may let themselves join every bridge of this host", f"chmod go-w {ACL}")
    if ("allow", "all") in rules:
        yield _amiss(f"{ACL} says 'allow all'", "every user may join every bridge of this host",
                     f"sed -i '/^ *allow *all *$/d' {ACL}")
    if denied := [one.bridge for one in networks if {("deny", "all"), ("deny", one.bridge)} & rules]:
        yield _amiss(f"{ACL} denies {', '.join(denied)}", "machines of ordinary users cannot join", f"editor {ACL}")


def _users(look: Look, networks: list[Network]) -> Iterator[Result]:
    """What of the lists is missing. cmnet writes them anew: the file of a user has a group of its own."""
    for network in networks:
        for user in network.users:
            path = f"{USERS}/{user}.conf"
            if ("allow", network.bridge) not in _rules(look, path, ()) or path not in _included(look):
                yield _amiss(f"{user} is not allowed to join {network.bridge}", "his machines get no network card",
                             f"cmnet start {network.name}")


def _mine(look: Look, networks: list[Network]) -> Iterator[Result]:
    """As the helper finds it, which reads as this user."""
    rules = set(_rules(look, ACL, ()))
    for network in networks:
        if not {("allow", "all"), ("allow", network.bridge)} & rules:
            unreadable = look.existing(ACL) and look.host.files.read(ACL) is None
            yield _amiss(f"this user may not read {ACL}" if unreadable else f"{ACL} does not allow {network.bridge}",
                         f"machines cannot join root's network '{network.name}'",
                         f"chmod o+r {ACL}" if unreadable else f"sudo cmnet start --allow-user {shared.me()}")


def _included(look: Look) -> list[str]:
    return [line.split()[1] for line in (look.host.files.read(ACL) or "").splitlines()
            if line.split()[:1] == ["include"] and len(line.split()) == 2]


def _rules(look: Look, path: str, within: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """('allow' or 'deny', bridge) of each line; what is denied stays so, whatever is allowed (qemu-bridge-helper.c)."""
    for line in (look.host.files.read(path) or "").splitlines():
        match line.split():
            case ["allow" | "deny" as word, bridge]:
                yield word, bridge
            case ["include", other] if other not in (*within, path):
                yield from _rules(look, other, (*within, path))


def _program(look: Look) -> Iterator[Result]:
    means = "machines of ordinary users cannot join a network of root's"
    helper = next((path for path in BRIDGE_HELPERS if look.existing(path)), None)
    if helper is None:
        yield _amiss("QEMU's bridge helper is not installed", means, look.install("qemu-bridge-helper"))
    elif not (look.host.files.mode(helper) or 0) & stat.S_ISUID:
        yield _amiss(f"{helper} is not setuid", means, f"chmod u+s {helper}")
