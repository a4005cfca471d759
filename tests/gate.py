"""The gate of `make test`: no unlisted skip, and a count of what went through the real parts.

Loaded for every run (pyproject.toml). A test that is skipped or expected to fail must be listed
in tests/allowed_skips.txt, one `node-id-pattern: reason` a line, or the run fails. With --gate,
the run also fails if none of its tests passed through real vLLM, real TRL or the real sandbox;
without it a part of the suite can be run alone.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ALLOWED = Path(__file__).with_name("allowed_skips.txt")
REAL = {"real_vllm": "real vLLM", "real_trl": "real TRL", "real_sandbox": "the real sandbox"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gate", action="store_true", help="fail unless every real part was tested")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # of pytest-xdist, whose controller hears everything
        config.pluginmanager.register(Gate(config), "rlm-gate")


def read_allowed(path: Path = ALLOWED) -> dict[str, str]:
    """Pattern of test ids -> reason; a line without a reason is an error."""
    allowed = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pattern, separator, reason = line.partition(": ")
        if not separator or not reason.strip():
            raise pytest.UsageError(f"{path.name}: no reason given in {line!r}")
        allowed[pattern.strip()] = reason.strip()
    return allowed


class Gate:
    """Collects skips and passes of marked tests, then judges the run."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.allowed = read_allowed()
        self.skipped: dict[str, str] = {}
        self.passed = dict.fromkeys(REAL, 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self.skipped[report.nodeid] = getattr(report, "wasxfail", "") or _reason(report)
        if report.passed and report.when == "call":
            for marker in REAL:
                self.passed[marker] += marker in report.keywords

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:  # a whole module, by importorskip
            self.skipped[report.nodeid] = _reason(report)

    @property
    def faults(self) -> list[str]:
        unlisted = [
            f"skipped without being listed in {ALLOWED.name}: {test} ({reason})"
            for test, reason in self.skipped.items()
            if not any(fnmatchcase(test, pattern) for pattern in self.allowed)
        ]
        missing = [
            f"no test went through {what}"
            for marker, what in REAL.items()
            if self.config.getoption("--gate") and not self.passed[marker]
        ]
        return unlisted + missing

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.faults and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        vllm, *others = (f"{self.passed[marker]}{{}} through {REAL[marker]}" for marker in REAL)
        counts = [vllm.format(" tests went"), *(other.format("") for other in others)]
        terminalreporter.write_line(", ".join(counts))
        for fault in self.faults:
            terminalreporter.write_line(f"gate: {fault}", red=True)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    # Of a skip, longrepr is (file, line, "Skipped: why").
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else "expected to fail"
