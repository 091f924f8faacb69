"""What npm's http_ece reads of our push messages, and what we read of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from core.keys import decode_base64url
from push.encryption import MAX_PLAINTEXT, SenderKey, bucket, encrypt
from tests.conformance.npm import prepare
from tests.machine import program
from tests.push_browser import Browser, text

DRIVER = Path(__file__).with_name("npm") / "ece.js"
SIZES = range(MAX_PLAINTEXT + 1)
TEXT = bytes(range(256)) * 16


@pytest.fixture(scope="module", autouse=True)
def modules() -> None:
    program("node")
    if not prepare.prepared():
        program("npm")
    try:
        prepare.prepare(timeout=60)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("npm's registry cannot be reached: python tests/conformance/npm/prepare.py")


@pytest.fixture(scope="module")
def browser() -> Browser:
    return Browser()


def ece(asked: Iterable[dict[str, str]]) -> list[dict[str, Any]]:
    """One answer for each question, by one process of Node."""
    done = subprocess.run(
        ["node", str(DRIVER)],
        input="\n".join(map(json.dumps, asked)),
        env={"PATH": os.environ["PATH"], "NODE_PATH": str(prepare.MODULES)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def question(browser: Browser, body: bytes) -> dict[str, str]:
    number = browser.private_key.private_numbers().private_value.to_bytes(32)
    return {"decrypt": text(body), "private": text(number), "auth": text(browser.auth)}


def test_npm_reads_every_size_that_we_write(browser: Browser) -> None:
    shared = SenderKey.new()
    bodies = [
        encrypt(
            TEXT[:size],
            browser.p256dh,
            browser.auth,
            sender=shared if size % 3 else None,
            pad_to=bucket(size) if size % 2 else None,
        )
        for size in SIZES
    ]

    answers = ece(question(browser, body) for body in bodies)

    assert len(answers) == len(SIZES)
    for size, answer in zip(SIZES, answers, strict=True):
        assert answer == {"plaintext": text(TEXT[:size])}, size


def test_we_read_every_size_that_npm_writes(browser: Browser) -> None:
    answers = ece(
        {"encrypt": text(TEXT[:size]), "public": text(browser.p256dh), "auth": text(browser.auth)}
        for size in SIZES
    )

    for size, answer in zip(SIZES, answers, strict=True):
        assert browser.decrypt(decode_base64url(answer["body"])) == TEXT[:size], size


def test_npm_reads_nothing_that_was_changed_or_is_for_another(browser: Browser) -> None:
    body = encrypt(b"hello", browser.p256dh, browser.auth)
    changed = body[:-1] + bytes([body[-1] ^ 1])

    answers = ece(
        [question(browser, changed), question(Browser(auth=browser.auth), body), question(browser, body)]
    )

    assert [*answers[0], *answers[1]] == ["error", "error"]
    assert answers[2] == {"plaintext": text(b"hello")}
