"""Runs programs in turn and prints how their times compare with those of the first."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

RACES = 5


def compare(
    title: str, contenders: Mapping[str, Sequence[str]], *, rounds: int = 60, env: Mapping[str, str] | None = None,
) -> None:
    """Run each contender once a round, outputs thrown away, and print median times and ratios to the first.

    contenders: what it is called -> argv with an absolute path. The median is that of the ratios of each round; p90
    is the ratio of the two 90th percentiles.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for argv in contenders.values():
        _run(argv, env)  # warms the page cache and writes bytecode
    for _ in range(rounds):
        for name, argv in contenders.items():
            times[name].append(_run(argv, env))
    first = times[next(iter(contenders))]
    print(f"\n{title} ({rounds} rounds)\n{'ms':>9} {'median':>8} {'p90':>8}")
    for name, spent in times.items():
        ratios = [mine / its for mine, its in zip(spent, first, strict=True)]
        p90 = _p90(spent) / _p90(first)
        print(f"{statistics.median(spent) * 1000:9.1f} {statistics.median(ratios):7.2f}x {p90:7.2f}x  {name}")


def _p90(spent: Sequence[float]) -> float:
    return statistics.quantiles(spent, n=10)[-1]


def _run(argv: Sequence[str], env: Mapping[str, str] | None) -> float:
    """Seconds from start to end of a program that must not fail."""
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    started = time.perf_counter()
    pid = os.posix_spawn(argv[0], list(argv), os.environ if env is None else env, file_actions=null)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    spent = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(argv)} ended with {status}")
    return spent


def race(
    title: str, ours: Callable[[], float], name: str, theirs: Callable[[], float], *, most: float | None = None,
    least: float | None = None, aim: float,
) -> None:
    """Let two take turns, after one of each to warm up, and print how ours compares with theirs.

    ours, theirs: do it once and return its seconds; what raises counts as failed.
    most, least:  what the ratio of the two may be; `least` means that theirs is slower: the ratio is turned round.
    """
    spent: list[tuple[float, float]] = []
    failed = 0
    for round_ in range(RACES + 1):
        try:
            pair = ours(), theirs()
        except subprocess.CalledProcessError as error:
            print(f"{title}: {error}")
            failed += 1
            continue
        if round_:
            spent.append(pair)
    if not spent:
        print(f"\n{title} : {name}: failed")
        return
    ratios = sorted(b / a if least else a / b for a, b in spent)
    bound = f"at least {least:g}" if least else f"at most {most:.2g}"
    print(f"\n{title} : {name} ({len(spent)} of {RACES} rounds succeeded, {failed} failed)\n"
          f"  {statistics.median(a for a, _ in spent):.3f} s : {statistics.median(b for _, b in spent):.3f} s; ratio "
          f"{statistics.median(ratios):.2f}, p90 {ratios[int(0.9 * (len(ratios) - 1) + 0.5)]:.2f} "
          f"(wanted {bound}, aim {aim:.3g})", flush=True)
