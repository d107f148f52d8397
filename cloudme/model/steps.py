"""Changes as values: printed before they are made, undone when one fails."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from cloudme.model.ports import Host


class Step(Protocol):
    """One change. `undo` is called only after `do` was begun, and must bear a `do` that failed half-way."""

    def describe(self) -> str:
        """One line in the words of the user, for --dry-run."""

    def do(self, host: Host) -> None: ...

    def undo(self, host: Host) -> None: ...


@dataclass(frozen=True, slots=True)
class Parallel:
    """Steps that do not need each other."""

    steps: Sequence[Step]
    workers: int = 8


Plan = Sequence[Step | Parallel]

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True)
class Transaction:
    """Applies steps; leaving it by an exception undoes in reverse what was begun.

    say:  called with the line of each step as it begins. dry_run: only say, change nothing.
    """

    host: Host
    say: Callable[[str], None]
    dry_run: bool = False
    begun: list[Step] = field(default_factory=list)

    def apply(self, plan: Plan) -> None:
        """Do the steps in order. Raises what the first failing step raised, once parallel ones have ended."""
        for item in plan:
            if isinstance(item, Parallel):
                self._parallel(item)
            else:
                self._one(item)

    def _one(self, step: Step) -> None:
        self.say(step.describe())
        if not self.dry_run:
            self.begun.append(step)
            step.do(self.host)

    def _parallel(self, group: Parallel) -> None:
        if self.dry_run or len(group.steps) < 2:
            for step in group.steps:
                self._one(step)
            return
        pool = ThreadPoolExecutor(max_workers=group.workers)
        try:
            with deferred():  # an interrupt in the middle of a thread's start would leave one that nobody awaits
                futures = [pool.submit(self._one, step) for step in group.steps]
            for future in futures:
                future.result()
        finally:
            with uninterrupted():
                pool.shutdown(wait=True, cancel_futures=True)

    def keep(self) -> None:
        """What was done so far stays, whatever happens next."""
        self.begun.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            return
        with uninterrupted():
            problems = []
            for step in reversed(self.begun):
                try:
                    step.undo(self.host)
                except Exception as problem:
                    problems.append(f"could not undo '{step.describe()}': {problem}")
            for problem_text in problems:
                self.say(problem_text)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """INTERRUPTS arrive after the block: between a change and the note that it was made, none may cut in.

    For the main thread, and for moments only.
    """
    arrived: list[int] = []
    before = {number: signal.signal(number, lambda number, _: arrived.append(number))
              for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


class uninterrupted:  # noqa: N801  a context manager reads as a participle
    """INTERRUPTS are ignored inside: an undo is not cut off by a second Ctrl-C."""

    def __enter__(self) -> None:
        self.before = {number: signal.signal(number, signal.SIG_IGN) for number in INTERRUPTS}

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
