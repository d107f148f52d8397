"""Opens a machine's display in a viewer of the host."""

from __future__ import annotations

import os

from cloudme.errors import HostUnavailable
from cloudme.model.ports import Run

VIEWERS = {"remote-viewer": ("vnc+unix://{}", "vnc://{}"), "xtigervncviewer": ("{}", "{}"), "ssvncviewer": ("{}", "{}"),
           "vncviewer": ("{}", "{}")}
"""Programs that can show VNC from a unix socket, and how each wants it, or HOST:PORT, to be named: virt-viewer,
TigerVNC (since 1.10), SSVNC."""


def show(run: Run, where: str) -> None:
    """Start a viewer that outlives us. where: a socket, beside which viewer.log says what it said, or HOST:PORT."""
    is_socket = os.sep in where
    elsewhere = f"ssh -L 5900:{where} HOST, then show localhost:5900 in a viewer there"
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise HostUnavailable("there is no screen here to show a display on", hint=elsewhere)
    for viewer, (by_socket, by_port) in VIEWERS.items():
        if run.find(viewer):
            log = os.path.join(os.path.dirname(where), "viewer.log") if is_socket else os.devnull
            run.spawn([viewer, (by_socket if is_socket else by_port).format(where)], stdout=log)
            return
    address = VIEWERS["remote-viewer"][not is_socket].format(where)
    raise HostUnavailable("no viewer that shows VNC is installed",
                          hint=f"apt install virt-viewer, then remote-viewer {address}")
