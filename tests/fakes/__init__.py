"""The second implementation of every port: hand-written, in memory, as strict as the first.

`host()` gives a whole one; a test passes what it wants to script or look at.
"""

from __future__ import annotations

from typing import Any

from cloudme.model.ports import Host
from tests.fakes.devices import FakeSysfs as FakeSysfs
from tests.fakes.files import FakeDownload as FakeDownload
from tests.fakes.files import FakeFiles as FakeFiles
from tests.fakes.files import FakeIso as FakeIso
from tests.fakes.files import FakeKeys as FakeKeys
from tests.fakes.guest import FakeAgent as FakeAgent
from tests.fakes.guest import FakePlaybooks as FakePlaybooks
from tests.fakes.guest import FakeShell as FakeShell
from tests.fakes.guest import FakeStreams as FakeStreams
from tests.fakes.net import FakeNet as FakeNet
from tests.fakes.net import FakeOutside as FakeOutside
from tests.fakes.net import FakeRelays as FakeRelays
from tests.fakes.qemu import FakeBalloon as FakeBalloon
from tests.fakes.qemu import FakeCompanions as FakeCompanions
from tests.fakes.qemu import FakeEvents as FakeEvents
from tests.fakes.qemu import FakeHypervisor as FakeHypervisor
from tests.fakes.qemu import FakeMonitor as FakeMonitor
from tests.fakes.run import FakeNft as FakeNft
from tests.fakes.run import FakeRun as FakeRun
from tests.fakes.systemd import FakeGroups as FakeGroups
from tests.fakes.systemd import FakeUnits as FakeUnits


def host(**parts: Any) -> Host:
    """A whole host of fakes; keyword arguments replace parts of it."""
    fakes: dict[str, Any] = {
        "run": FakeRun(), "qemu": FakeHypervisor(), "events": FakeEvents(), "groups": FakeGroups(), "net": FakeNet(),
        "outside": FakeOutside(), "relays": FakeRelays(), "units": FakeUnits(), "agent": FakeAgent(),
        "companions": FakeCompanions(), "shell": FakeShell(), "streams": FakeStreams(), "playbooks": FakePlaybooks(),
        "download": FakeDownload(), "iso": FakeIso(),
        "keys": FakeKeys(), "files": FakeFiles(), "devices": FakeSysfs(),
        "now": lambda: 1_800_000_000.0, "synchronised": lambda: True,
        "become_root": lambda: None,
    }
    return Host(**{**fakes, **parts})
