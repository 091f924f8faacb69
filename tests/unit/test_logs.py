"""What a log line may hold: names and numbers, but nothing that opens a door or names a person."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import logs
from app.logs import redact

ROOT = Path(__file__).parents[2]
PACKAGES = ("app", "core", "delivery", "digest", "hub", "push")

HARMLESS = [
    "",
    " ",
    "default",
    "a,b",
    "key: value",
    "01a20370-0175-70d0-a71a-dd814d542ca2",
    "e",
    "b",
    "c",
    "i",
    "\n",
]
SECRETS = {
    "\nDETAIL: Key (value)=(ada)": "\nDETAIL: [redacted]",
    "\nCONTEXT: COPY people, line 1": "\nCONTEXT: [redacted]",
    "invalid input syntax for type uuid: ada": "invalid input syntax for type uuid: [redacted]",
    "token=canary": "token=[redacted]",
    "Secret=canary&x=1": "Secret=[redacted]&x=1",
    "eyJhbGciOiJIUzI1NiJ9.canary.canary": "[redacted token]",
    "ck_live_canary-1": "[redacted api key]",
    "BEARER canary-canary": "bearer [redacted]",
    "redis://hub:canary@localhost": "redis://[redacted]@localhost",
    "ada@example.com": "[redacted address]",
    "+250788123456": "[redacted number]",
}


PROCESS = """
import logging, structlog
from app.logs import configure

configure("info", "json")
log = structlog.stdlib.get_logger("delivery")
log.info("sent by %s", "ada@example.com", to={"ways": ["+250788123456"]}, attempt=2)
log.debug("nobody asked for it")
logging.getLogger("library").warning("connected with %s", "token=canary")
try:
    raise ValueError("no such person: ada@example.com")
except ValueError:
    log.exception("failed")
"""

UNHEARD = """
import contextlib, os, sys, structlog
from app.logs import configure

configure("info", "json")
log = structlog.stdlib.get_logger("delivery")
reader, writer = os.pipe()
os.close(reader)
for unheard in (writer, os.open("/dev/full", os.O_WRONLY)):
    os.dup2(unheard, 2)
    log.info("its reader is gone, or its disk is full")
    print("goes on")
with contextlib.suppress(OSError):
    sys.stderr.close()  # what waits in it cannot be written either
log.info("it is closed")
sys.stderr = None
log.error("there is none", exc_info=ValueError())
print("goes on", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("secret", SECRETS)
def test_what_opens_a_door_or_names_a_person_is_taken_out(secret: str) -> None:
    assert redact(secret) == SECRETS[secret]


@given(st.lists(st.one_of(st.sampled_from([*HARMLESS, *SECRETS]), st.text(max_size=8))).map("".join))
def test_a_text_that_looks_harmless_is_harmless(text: str) -> None:
    slowly = text
    for pattern, instead in logs._SECRETS:
        slowly = pattern.sub(instead, slowly)

    assert redact(text) == slowly


def test_every_event_of_a_process_is_a_line_of_json_without_secrets() -> None:
    ended = subprocess.run([sys.executable, "-c", PROCESS], capture_output=True, text=True, check=True)

    ours, theirs, failed = map(json.loads, ended.stderr.splitlines())
    assert ended.stdout == ""
    assert ours.pop("timestamp").endswith("Z")
    assert ours == {
        "to": {"ways": ["[redacted number]"]},
        "attempt": 2,
        "event": "sent by [redacted address]",
        "level": "info",
        "logger": "delivery",
    }
    assert (theirs["event"], theirs["level"]) == ("connected with token=[redacted]", "warning")
    assert theirs["logger"] == "library"
    assert failed["level"] == "error"
    assert failed["exception"].endswith("ValueError: no such person: [redacted address]")


def test_what_cannot_be_written_ends_nothing() -> None:
    ended = subprocess.run([sys.executable, "-c", UNHEARD], capture_output=True, text=True, check=False)

    assert (ended.stdout, ended.stderr) == ("goes on\n" * 3, "")
    assert ended.returncode == 0


def test_every_event_says_which_part_of_us_it_is_from() -> None:
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(sources) > 100

    assert [path.name for path in sources if "get_logger()" in path.read_text()] == []
