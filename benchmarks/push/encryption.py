"""
What one message costs before it is sent: its encryption and its VAPID header, in CPU time of one process.

Our two ways beside `pywebpush.webpush` over a session that sends nothing, with its key as text (as its README has it)
and as an object prepared beforehand; beside npm's web-push (`generateRequestDetails`); and beside what the machine's
OpenSSL needs for the one ECDH and the key pair that none can avoid.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from py_vapid import Vapid
from pywebpush import webpush

from benchmarks.push.part import Part, Target, microseconds, ratio
from push.encryption import SenderKeys, encrypt
from push.keys import VapidKey, application_server_key, new_key, private_text
from push.vapid import Headers
from tests.conformance.npm import prepare
from tests.push_browser import Browser

SIZES = (100, 1000, 3993)
MESSAGES = 300  # per variant, size and round
BROWSERS = 50
BATCH = 256
SUBJECT = "mailto:ops@school.example"
ORIGIN = "https://push.example"

REFERENCE, PREPARED = "pywebpush", "pywebpush, its key prepared"
FRESH, SHARED = "carillon, a key per message", f"carillon, a key per {BATCH} messages"
NODE = "npm web-push"

Work = Callable[[bytes, int], float]  # plaintext, how many messages: CPU seconds


def run(rounds: int) -> str:
    """The tables and verdicts of so many interleaved rounds."""
    key, browsers = new_key(), [Browser() for _ in range(BROWSERS)]
    lines, shares, verdicts = [], [], []
    with _node(key, browsers) as node:
        variants: dict[str, Work] = {
            FRESH: _ours(key, browsers, 1),
            SHARED: _ours(key, browsers, BATCH),
            REFERENCE: _pywebpush(private_text(key), browsers),
            PREPARED: _pywebpush(Vapid.from_string(private_text(key)), browsers),
        }
        if node is not None:
            variants[NODE] = node
        else:
            lines.append(f"- {NODE} is left out: node or its packages are missing (tests/conformance/npm)")
        costs: dict[int, dict[str, list[float]]] = {size: {name: [] for name in variants} for size in SIZES}
        for work in variants.values():
            work(bytes(SIZES[0]), MESSAGES)  # warm
        for number in range(rounds):
            names = list(variants)
            for size in SIZES:
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    limit = _limit() if (size, name) == (1000, FRESH) else None
                    costs[size][name].append(variants[name](os.urandom(size), MESSAGES) / MESSAGES)
                    if limit is not None:
                        shares.append(limit / costs[size][name][-1])
    table = [
        "| variant | bytes | µs per message | per CPU-second | × pywebpush | × prepared |",
        "|---|---|---|---|---|---|",
    ]
    for name in variants:
        for size in SIZES:
            spent = costs[size][name]
            table.append(
                f"| {name} | {size:,} | {microseconds(spent)} | {1 / median(spent):,.0f} "
                f"| {ratio(costs[size], name, REFERENCE):.2f} | {ratio(costs[size], name, PREPARED):.2f} |"
            )
    verdicts = [
        Target("a key per message, 1,000 bytes, × pywebpush", 2.0).line(ratio(costs[1000], FRESH, REFERENCE)),
        Target(f"a key per {BATCH} messages, 1,000 bytes, × the same", 2.8).line(
            ratio(costs[1000], SHARED, REFERENCE)
        ),
    ]
    if shares:
        verdicts.append(
            Target("a key per message, share of the limit (openssl's ECDH and one key pair)", 0.55).line(
                median(shares)
            )
        )
    else:
        lines.append("- the share of the limit is left out: openssl is missing")
    return "\n".join([*table, "", *verdicts, *lines])


def _ours(key: VapidKey, browsers: list[Browser], batch: int) -> Work:
    headers, keys = Headers(SUBJECT), SenderKeys(batch)
    points = [(browser.p256dh, browser.auth) for browser in browsers]

    def work(plaintext: bytes, messages: int) -> float:
        began = time.process_time()
        for number in range(messages):
            p256dh, auth = points[number % BROWSERS]
            headers.authorization(key, ORIGIN, datetime.now(UTC))
            encrypt(plaintext, p256dh, auth, sender=keys.next(time.monotonic()))
        return time.process_time() - began

    return work


class _NoNetwork:
    """Takes the place of a session of requests: every request has been taken."""

    status_code = 201
    text = ""
    headers: Mapping[str, str] = MappingProxyType({})

    def post(self, endpoint: str, **request: object) -> _NoNetwork:
        return self


def _pywebpush(key: Vapid | str, browsers: list[Browser]) -> Work:
    subscriptions = [browser.subscription(f"{ORIGIN}/a") for browser in browsers]

    def work(plaintext: bytes, messages: int) -> float:
        began = time.process_time()
        for number in range(messages):
            webpush(
                subscriptions[number % BROWSERS],
                plaintext,
                vapid_private_key=key,
                vapid_claims={"sub": SUBJECT},
                ttl=60,
                requests_session=_NoNetwork(),
            )
        return time.process_time() - began

    return work


@contextmanager
def _node(key: VapidKey, browsers: list[Browser]) -> Iterator[Work | None]:
    """A process of Node that measures itself; None where there is none."""
    try:
        prepare.prepare()
    except (OSError, subprocess.SubprocessError):
        yield None
        return
    given = {
        "public": application_server_key(key),
        "private": private_text(key),
        "subject": SUBJECT,
        "subscriptions": [browser.subscription() for browser in browsers],
    }
    with subprocess.Popen(
        ["node", str(Path(__file__).with_name("web_push.js"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={"PATH": os.environ["PATH"], "NODE_PATH": str(prepare.MODULES)},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(question: dict[str, Any]) -> float:
            stdin.write(json.dumps(question) + "\n")
            return float(stdout.readline())

        ask(given)
        yield lambda plaintext, messages: ask({"size": len(plaintext), "messages": messages})
        stdin.close()


def _limit() -> float | None:
    """CPU seconds of one ECDH by the machine's own OpenSSL and one key pair; None without openssl."""
    if shutil.which("openssl") is None:
        return None
    told = subprocess.run(
        ["openssl", "speed", "-seconds", "1", "ecdhp256"], capture_output=True, text=True, check=True
    )
    found = re.search(r"nistp256\)\s+\S+\s+([\d.]+)\s*$", told.stdout, re.MULTILINE)
    if found is None:
        return None
    began = time.process_time()
    for _ in range(1000):
        generate_private_key(SECP256R1())
    return 1 / float(found[1]) + (time.process_time() - began) / 1000


PART = Part("encryption", "Encryption and VAPID header of one message", run)
