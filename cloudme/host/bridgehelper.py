"""QEMU's setuid helper: it makes a tap on a bridge of root's for a user whom its list allows it."""

from __future__ import annotations

import os
import socket

from cloudme.errors import CommandFailed, NotPermitted
from cloudme.host.run import Programs
from cloudme.layout import BRIDGE_HELPERS


def tap(run: Programs, bridge: str) -> int:
    """The descriptor of the tap, which the helper sends over a socket (qemu-bridge-helper.c). Raises NotPermitted."""
    helper = next((path for path in BRIDGE_HELPERS if os.path.exists(path)), None)
    if helper is None:
        raise NotPermitted("this user may make no taps, and QEMU's bridge helper is not installed",
                           hint="apt install qemu-system-common, or run it with sudo")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fd = theirs.fileno()
        try:
            run([helper, "--use-vnet", f"--br={bridge}", f"--fd={fd}"], fds=[fd])
        except CommandFailed as error:
            raise _unhelped(error, helper, bridge) from error
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _unhelped(error: CommandFailed, helper: str, bridge: str) -> NotPermitted:
    """What makes the helper help, by what it said."""
    if "acl" in error.message:
        return NotPermitted(f"QEMU's bridge helper does not allow '{bridge}'",
                            hint="an administrator allows it: sudo cmnet start --allow-user "
                                 f"{os.environ.get('USER', 'NAME')}")
    return NotPermitted(f"QEMU's bridge helper may not make a tap: {error.message.splitlines()[-1]}",
                        hint=f"an administrator permits it: chmod u+s {helper}")
