"""Rules for every test: what can't run here has failed, and nothing of the developer's own settings leaks in.

A skipped test or an expected failure is how a lost ability goes unnoticed, so both are reported as failures.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator
from typing import Any

import hypothesis
import pytest
from _pytest.nodeid import coerce_node_id

# The same examples in every run, and no more than find something: every test runs often. Two busy cores make any
# example slow now and then; that says nothing about the code.
hypothesis.settings.register_profile(
    "perdure",
    derandomize=True,
    max_examples=25,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("perdure")

# The settings that Perdure reads, the older names among them. PERDURE_TEST_* points tests at servers, so it stays.
_ALIASES = ("JOB_STORE_TYPE", "OPENAI_API_KEY", "REDIS_URL", "SQLITE_PATH", "VECTORIZATION_JOB_TTL_HOURS")
for _name in tuple(os.environ):
    if _name in _ALIASES or (_name.startswith("PERDURE_") and not _name.startswith("PERDURE_TEST_")):
        del os.environ[_name]

# A shell that starts the tests in the background lets them, and whatever they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests stay until the end: to look through them for garbage again and again takes longer than to find them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name a test's `xdist_group` where pytest 9.2 looks for it: pytest-xdist 3.8 does so where it did before (its issue 1386)."""
    for item in items:
        if grouped := getattr(item, "_nodeid", None):
            item._id = coerce_node_id(grouped)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    if isinstance(report.longrepr, tuple):  # (path, line, "Skipped: why")
        return str(report.longrepr[2])
    return str(getattr(report, "wasxfail", "") or report.longrepr or "no reason given")


def _fail(report: pytest.TestReport | pytest.CollectReport, rule: str) -> None:
    report.longrepr = f"{rule}: {_reason(report)}"
    report.outcome = "failed"
    if hasattr(report, "wasxfail"):
        del report.wasxfail


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if hasattr(report, "wasxfail"):
        _fail(report, "no test may be marked xfail")
    elif report.skipped:
        _fail(report, "no test may be skipped")
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped:
        _fail(report, "no test module may be skipped")
    return report
