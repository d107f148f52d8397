"""What the tests of every level share: a world of their own, evidence that outlives a failure, strictness in CI."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "cloudme", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.load_profile("cloudme")  # here, since a level imports what another one has decorated
"""A machine that is busy is no failure."""

ROOT = Path(__file__).resolve().parent.parent
LEVELS = ("style", "unit", "contract", "net", "guest")
EVIDENCE = Path(os.environ.get("CLOUDME_EVIDENCE", "/var/tmp/cloudme-evidence"))
STRICT = bool(os.environ.get("CLOUDME_STRICT"))
BEYOND_CI = ("kvm",)
"""Words in the reason of a skip that CI may show: it has no KVM."""


@dataclass(frozen=True)
class Ended:
    """How a command ended that ran in this process."""

    status: int
    stdout: str
    stderr: str


def program(name: str) -> ModuleType:
    """The module in bin/ or sbin/ of that name."""
    path = next(path for folder in ("bin", "sbin") if (path := ROOT / folder / name).exists())
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of the test's own, with a path short enough for sockets; no test sees the user's world."""
    for variable in [name for name in os.environ if name.startswith(("CLOUDME_", "XDG_", "_ARGCOMPLETE"))]:
        monkeypatch.delenv(variable)
    folder = tempfile.mkdtemp(prefix="cm-")
    monkeypatch.setenv("CLOUDME_HOME", folder)
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path,
) -> Callable[..., Ended]:
    """Runs a program in this process: `command("vmrunning", "-a")`."""
    from cloudme import cli

    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> Ended:
        module = program(name)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        parser = module.parser()
        parser.prog = name
        try:
            status = cli.main(getattr(module, name), parser)
        except SystemExit as ended:
            status = int(ended.code or 0)
        out = capfd.readouterr()
        return Ended(status, out.out, out.err)

    return run


@pytest.fixture
def evidence(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder for logs of this test; it stays, and is named, when the test fails."""
    folder = EVIDENCE / request.node.nodeid.replace("/", ".").replace("::", ".")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder
    if not getattr(request.node, "failed", False):
        shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cheap levels first; each test is marked with its level."""
    def level(item: pytest.Item) -> int:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        return LEVELS.index(folder) if folder in LEVELS else 0

    items.sort(key=level)
    for item in items:
        if (name := LEVELS[level(item)]) in ("contract", "net", "guest"):
            item.add_marker(name)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, None]:
    """Fails a skip where CLOUDME_STRICT is set, and tells `evidence` of a failure."""
    answer = yield
    report = answer.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and STRICT:
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(word in reason.lower() for word in BEYOND_CI):
            report.outcome = "failed"
            report.longrepr = f"skipped where nothing may be skipped: {reason}"
    if report.failed:
        item.failed = True  # type: ignore[attr-defined]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says where the evidence is."""
    kept = sorted(EVIDENCE.iterdir()) if EVIDENCE.is_dir() else []
    if kept and terminalreporter.stats.get("failed"):
        terminalreporter.section("evidence kept")
        for folder in kept:
            terminalreporter.line(str(folder))
