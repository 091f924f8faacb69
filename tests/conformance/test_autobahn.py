"""RFC 6455 as the Autobahn testsuite asks it: our class, beside the `websockets` library in the same run."""

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conformance.autobahn.prepare import CASES

FOLDER = Path(__file__).parent / "autobahn"
NUMBER_OF_CASES = 247

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("autobahn") is None or importlib.util.find_spec("twisted") is None,
        reason="autobahn and twisted are not installed",
    ),
    pytest.mark.skipif(
        not (CASES / "case").is_dir(),
        reason="the Autobahn cases are not there: python tests/conformance/autobahn/prepare.py",
    ),
]


class Verdict(NamedTuple):
    """What one case found."""

    behavior: str
    close: str
    code: int | None  # that the server closed with
    is_second: bool = False  # the case was asked again

    @property
    def failed(self) -> bool:
        """NON-STRICT is right but late: text is judged when its frame is whole, not byte by byte."""
        return self.behavior not in ("OK", "NON-STRICT", "INFORMATIONAL") or self.close not in (
            "OK",
            "INFORMATIONAL",
        )


@contextmanager
def echo_server(kind: str) -> Iterator[str]:
    """Its url."""
    command = [sys.executable, "-m", "tests.conformance.autobahn.echo_server", kind]
    with subprocess.Popen(command, cwd=FOLDER.parents[2], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"ws://127.0.0.1:{server.stdout.readline().strip()}/"
        finally:
            server.terminate()


def run(kind: str, cases: Iterable[str] = ()) -> dict[str, Verdict]:
    """These cases against one server; without any, all of them."""
    with echo_server(kind) as url:
        driver = subprocess.run(
            [sys.executable, "-W", "ignore", str(FOLDER / "driver.py"), url, *cases],
            capture_output=True,
            text=True,
            check=True,
        )
    return {case: Verdict(*found) for case, found in json.loads(driver.stdout.splitlines()[-1]).items()}


def judged(kind: str) -> dict[str, Verdict]:
    """
    Every case against one server. Ours is asked a second time what it has failed.

    The cases drop a connection that is still open after a second: on a busy machine that is no fault of the server's.
    """
    found = run(kind)
    if kind == "ours" and (failed := failures(found)):
        found |= {case: verdict._replace(is_second=True) for case, verdict in run(kind, failed).items()}
    return found


@pytest.fixture(scope="module")
def verdicts() -> dict[str, dict[str, Verdict]]:
    kinds = ("ours", "library", "broken")
    with ThreadPoolExecutor() as pool:
        return dict(zip(kinds, pool.map(judged, kinds), strict=True))


def failures(verdicts: dict[str, Verdict]) -> dict[str, Verdict]:
    return {case: verdict for case, verdict in verdicts.items() if verdict.failed}


def summary(verdicts: dict[str, Verdict]) -> str:
    counts = Counter(verdict.behavior for verdict in verdicts.values())
    again = [case for case, verdict in verdicts.items() if verdict.is_second]
    return (
        f"{len(verdicts)} cases, {dict(counts)}, failed: {', '.join(failures(verdicts)) or 'none'},"
        f" asked twice: {', '.join(again) or 'none'}"
    )


def test_no_case_fails_on_our_class_that_does_not_fail_on_the_library(verdicts, record_property):
    for kind, found in verdicts.items():
        record_property(kind, summary(found))
    ours, theirs = failures(verdicts["ours"]), failures(verdicts["library"])

    assert len(verdicts["ours"]) == NUMBER_OF_CASES
    assert {case: ours[case] for case in ours.keys() - theirs.keys()} == {}


def test_the_driver_sees_a_server_that_checks_nothing(verdicts):
    assert len(failures(verdicts["broken"])) > 100


if __name__ == "__main__":
    for kind in sys.argv[1:] or ("ours", "library", "broken"):
        print(f"{kind}: {summary(judged(kind))}")
