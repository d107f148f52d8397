"""What ordinary users need for realms of their own."""

from __future__ import annotations

from collections.abc import Iterator

from cloudme.model.check import Level, Result
from cloudme.operations.checks.look import Look, good

WAYS_OUT = ("pasta", "slirp4netns")
FORBIDDEN = {
    "kernel.unprivileged_userns_clone": "0", "kernel.apparmor_restrict_unprivileged_userns": "1",
    "user.max_user_namespaces": "0", "user.max_net_namespaces": "0",
}
"""The sysctls of Debian, of Ubuntu and of every kernel (namespaces(7)), and the value that forbids."""
ALLOWED = {"0": "1", "1": "0"}
NAMESPACES = "65536"


def rootless(look: Look) -> Iterator[Result]:
    """Whoever asks without being root has got namespaces, or cmcheck had not come so far."""
    forbidding = [name for name, value in FORBIDDEN.items() if look.sysctl(name) == value]
    for name in forbidding:
        value = NAMESPACES if name.startswith("user.") else ALLOWED[FORBIDDEN[name]]
        yield Result(check="rootless", level=Level.warning, what=f"{name} is {FORBIDDEN[name]}",
                     means="ordinary users cannot have machines of their own", fix=f"sysctl -w {name}={value}")
    if not any(look.has(program) for program in WAYS_OUT):
        yield Result(check="rootless", level=Level.warning, what="neither pasta nor slirp4netns is installed",
                     means="the machines of ordinary users do not get out of their realm", fix=look.install("pasta"))
    elif not forbidding:
        yield good("rootless", "ordinary users can have machines of their own, which get out")
