"""What becomes of each machine of a file."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from cloudme.errors import CloudMeError
from cloudme.model.homelab.intent import Difference
from cloudme.model.homelab.planned import Planned
from cloudme.model.machine import Machine


@dataclass(slots=True)
class Outcome:
    """record: the machine, once there is one. did: made, changed KEY, started, configured. pending: what wants a
    restart. waits_for: the machine that failed, and that this one depends on. playbook: to be applied.
    ours: it was made, or is what the file means. restarts: it ran, and was stopped to be changed."""

    planned: Planned
    record: Machine | None = None
    did: list[str] = field(default_factory=list)
    pending: list[Difference] = field(default_factory=list)
    error: CloudMeError | None = None
    waits_for: str = ""
    playbook: str = ""
    ours: bool = False
    restarts: bool = False

    @property
    def there(self) -> bool:
        return self.record is not None

    @property
    def fit(self) -> bool:
        return self.error is None and not self.waits_for

    @property
    def settled(self) -> bool:
        """Whether its record is as the file wants it, whatever became of it after that."""
        return self.ours and not self.pending

    @property
    def word(self) -> str:
        """One or more of: ok, made, changed KEY, started, configured, needs a restart, skipped, failed."""
        if self.error or self.waits_for:
            return ", ".join([*self.did, "failed" if self.error else "skipped"])
        return ", ".join([*self.did, *(["needs a restart"] if self.pending else [])]) or "ok"

    def named(self, names: Collection[str]) -> bool:
        return self.planned.name in names or self.planned.entry in names
