"""Opens a machine's display in a viewer of the host."""

from __future__ import annotations

import os

from cloudme.errors import HostUnavailable
from cloudme.model.ports import Run

VIEWERS = {"remote-viewer": "vnc+unix://{}", "xtigervncviewer": "{}", "ssvncviewer": "{}", "vncviewer": "{}"}
"""Programs that can show VNC from a unix socket, and how each wants it to be named: virt-viewer, TigerVNC (since 1.10),
SSVNC."""


def show(run: Run, socket: str) -> None:
    """Start a viewer that outlives us; what it says is appended to viewer.log beside the socket."""
    elsewhere = f"ssh -L 5900:{socket} HOST, then show localhost:5900 in a viewer there"
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise HostUnavailable("there is no screen here to show a display on", hint=elsewhere)
    for viewer, address in VIEWERS.items():
        if run.find(viewer):
            run.spawn([viewer, address.format(socket)], stdout=os.path.join(os.path.dirname(socket), "viewer.log"))
            return
    raise HostUnavailable("no viewer that shows VNC from a socket is installed",
                          hint=f"apt install virt-viewer, then remote-viewer vnc+unix://{socket}")
