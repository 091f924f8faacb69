"""Fixtures for every test. One section per thing; what only one file needs stays in that file."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import indent

import pytest
from hypothesis import HealthCheck, settings

from tests.postgres import TEMPLATE, PostgresServer
from tests.turns import turn

# --- Hypothesis: no example is judged by how long it took, for that is the machine's affair -----------------------------

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# --- PostgreSQL ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The server that tests share; none of them stops or freezes it. Its template database is migrated."""
    with PostgresServer() as server, ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, server.create_template()).result()  # a loop of its own, beside pytest's
        yield server


@pytest.fixture
async def database(postgres: PostgresServer) -> AsyncIterator[str]:
    """The dsn of a migrated database of this test's own."""
    async with postgres.database(template=TEMPLATE) as dsn:
        yield dsn


@pytest.fixture
async def empty_database(postgres: PostgresServer) -> AsyncIterator[str]:
    """The dsn of a database without any table."""
    async with postgres.database() as dsn:
        yield dsn


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server of this test's own, to crash, freeze and restart; `create_template()` gives it a migrated database."""
    with PostgresServer() as server:
        yield server


# --- Several processes that test at once (pytest -n) -----------------------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a test that is to be alone come last, when fewer others have to wait for it."""
    last = {item.path for item in items if to_be_alone(item)}
    items.sort(key=lambda item: item.path in last)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around the fixtures too, and the watch for tests that hang
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if "PYTEST_XDIST_WORKER" not in os.environ:  # there is no other
        return (yield)
    of_all_workers = Path(item.config.getoption("basetemp")).parent
    with turn(of_all_workers, alone=to_be_alone(item)):
        return (yield)


def to_be_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


# --- What tests have measured ----------------------------------------------------------------------------------------


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Says figures that stand at the end of the run, whichever process has found them."""
    return lambda text: record_property("measured", text)


def told(report: object) -> Iterator[str]:
    if isinstance(report, pytest.TestReport) and report.when == "call":
        for name, text in report.user_properties:
            if name == "measured":
                yield f"{report.nodeid}\n{indent(str(text), '  ')}"


# --- CI=true: nothing is skipped -------------------------------------------------------------------------------------


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A machine that runs the tests for everybody has everything: there a skipped test fails the run."""
    if skipped(session.config) and session.exitstatus in {
        pytest.ExitCode.OK,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    }:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = [
        text for reports in terminalreporter.stats.values() for report in reports for text in told(report)
    ]
    if figures:
        terminalreporter.section("measured")
        terminalreporter.write_line("\n".join(sorted(figures)))
    if count := skipped(config):
        terminalreporter.write_line(f"CI=true and {count} skipped: this machine lacks something", red=True)


def skipped(config: pytest.Config) -> int:
    """How many tests were skipped where none may be."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") != "true" or reporter is None:
        return 0
    return len(reporter.stats.get("skipped", []))
