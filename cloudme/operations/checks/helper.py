"""QEMU's setuid helper: it makes taps for who is not root, on the bridges that its list allows."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from cloudme.model.check import Level, Line, Result
from cloudme.operations.checks.look import Look, good

ACL = "/etc/qemu/bridge.conf"
ACL_GROUP = "kvm"
HELPERS = ("/usr/lib/qemu/qemu-bridge-helper", "/usr/libexec/qemu-bridge-helper")


def bridge_helper(look: Look) -> Iterator[Result]:
    """It acts in the host's own namespace alone. Its setuid bit is the administrator's to give: --fix does not."""
    if look.world.private:
        yield good("bridge-helper", "not used in a realm")
        return
    amiss = [*_list(look), *(() if look.root else _program(look))]
    yield from amiss or [good("bridge-helper", "root needs none" if look.root else "it helps this user")]


def _list(look: Look) -> Iterator[Result]:
    mode = look.host.files.mode(ACL)
    if mode is not None and look.host.files.read(ACL) is None:
        yield Result(check="bridge-helper", level=Level.warning, what=f"this user may not read {ACL}",
                     means="this user's machines get no network card",
                     fix=f"usermod -aG {ACL_GROUP} $USER, and log in again")
        return
    if mode is not None and mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield Result(check="bridge-helper", level=Level.warning, what=f"{ACL} may be changed by others than root",
                     means="they may let themselves join every bridge of this host", fix=f"chmod go-w {ACL}")
    rules = set(_rules(look, ACL, ()))
    if ("allow", "all") in rules:
        yield Result(check="bridge-helper", level=Level.warning, what=f"{ACL} says 'allow all'",
                     means="every user may join every bridge of this host", fix=f"sed -i '/^ *allow *all *$/d' {ACL}")
    denied = [network.bridge for network in look.started if {("deny", "all"), ("deny", network.bridge)} & rules]
    if denied:
        yield Result(check="bridge-helper", level=Level.warning, what=f"{ACL} denies {', '.join(denied)}",
                     means="machines of users other than root cannot join", fix=f"editor {ACL}")
    missing = [network.bridge for network in look.started
               if not {("allow", "all"), ("allow", network.bridge)} & rules and network.bridge not in denied]
    if missing:
        lines = tuple(Line(path=ACL, line=f"allow {bridge}", group=ACL_GROUP) for bridge in missing)
        yield Result(check="bridge-helper", level=Level.warning, what=f"{ACL} does not allow {', '.join(missing)}",
                     means="machines of users other than root cannot join",
                     fix="; ".join(f"echo {one.line} >>{ACL}" for one in lines), mends=lines)


def _rules(look: Look, path: str, within: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """('allow' or 'deny', bridge) of each line; what is denied stays so, whatever is allowed (qemu-bridge-helper.c)."""
    for line in (look.host.files.read(path) or "").splitlines():
        match line.split():
            case ["allow" | "deny" as word, bridge]:
                yield word, bridge
            case ["include", other] if other not in (*within, path):
                yield from _rules(look, other, (*within, path))


def _program(look: Look) -> Iterator[Result]:
    means = "this user's machines get no network card"
    helper = next((path for path in HELPERS if look.existing(path)), None)
    if helper is None:
        yield Result(check="bridge-helper", level=Level.warning, what="QEMU's bridge helper is not installed",
                     means=means, fix=look.install("qemu-bridge-helper"))
    elif not (look.host.files.mode(helper) or 0) & stat.S_ISUID:
        yield Result(check="bridge-helper", level=Level.warning, what=f"{helper} is not setuid", means=means,
                     fix=f"chmod u+s {helper}")
