"""The serial console of a machine."""

from __future__ import annotations

from cloudme import defined, layout
from cloudme.errors import Busy, NotFound
from cloudme.model.machine import Machine
from cloudme.model.ports import Host
from cloudme.store import Store


def taken(host: Host, store: Store, machine: Machine) -> bool:
    """Whether somebody is connected to the console: QEMU serves one, and lets the next one wait without a word.

    False, too, where the monitor is in use and cannot be asked. Raises UsageError where it has none.
    """
    defined.refuse(machine, "such a machine has no serial console", "vm gets you in; its SPICE port: vmcat NAME")
    try:
        with host.qemu.monitor(layout.socket(store.run_folder(machine), "qmp.0")) as monitor:
            chardevs = monitor.execute("query-chardev")
    except (Busy, NotFound):
        return False
    return any(chardev["label"] == "console" and not chardev["filename"].startswith("disconnected:")
               for chardev in chardevs)
