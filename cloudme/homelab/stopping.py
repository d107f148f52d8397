"""The way back: machines of the file that was applied, those that depend on others before these."""

from __future__ import annotations

from cloudme.homelab import notes
from cloudme.model.homelab import planned
from cloudme.model.machine import Machine
from cloudme.store import Store


def waves(store: Store) -> list[list[Machine]]:
    """Those that run, in the order in which they may stop: those of one list together. By what was applied: the file
    itself may be gone, or half edited; what it has no longer, and --prune has not destroyed, stops first. Definitions
    are systemd's. Raises StoreError."""
    noted = notes.read(store)
    applied = noted.homelab
    running = {machine.name: machine for machine in store.machines()
               if not machine.definition and store.is_running(machine)}
    waves = [[running[name] for entry in entries for name in planned.names(entry, applied.machines[entry])
              if name in running] for entries in planned.starts(applied)]
    known = {machine.name for wave in waves for machine in wave}
    left = [machine for name, machine in running.items()
            if name not in known and noted.machines.get(name) == machine.uuid]
    return [wave for wave in (left, *reversed(waves)) if wave]
