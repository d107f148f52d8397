"""The way back: machines of the file that was applied, those that depend on others before these."""

from __future__ import annotations

from cloudme.homelab import notes
from cloudme.model.homelab import planned
from cloudme.model.machine import Machine
from cloudme.store import Store


def waves(store: Store) -> list[list[Machine]]:
    """Those that run, in the order in which they may stop: those of one list together. By what was applied: the file
    itself may be gone, or half edited. Definitions are systemd's. Raises StoreError."""
    applied = notes.read(store).homelab
    running = {machine.name: machine for machine in store.machines()
               if not machine.definition and store.is_running(machine)}
    waves = [[running[name] for entry in entries for name in planned.names(entry, applied.machines[entry])
              if name in running] for entries in planned.starts(applied)]
    return [wave for wave in reversed(waves) if wave]
