"""The whole way of a push: encrypted, signed and handed over TLS to a push service that looks at everything."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from core.clock import SystemClock
from push.encryption import MAX_PLAINTEXT, encrypt
from push.keys import new_key
from push.outcome import PushResult
from push.request import topic
from push.sender import PushSender, SenderSettings, Turns
from push.transport import KeepAliveTransport, Patience
from tests.providers.push_service import Device, Fault, PushService, Raw, Reset, Say, Silence
from tests.senders import TRANSPORTS, Ring, closing, sender, settings_for, transport

KEY = new_key()

#: Of an answer that never comes. One that comes is waited for as long as the machine makes it.
HASTY = Patience(connect=timedelta(seconds=2), answer=timedelta(seconds=2))


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[PushService]:
    async with PushService(tmp_path) as service:
        yield service


async def push(made: PushSender, service: PushService, device: Device, **changes: Any) -> PushResult:
    given: dict[str, Any] = {"ttl": 60, "urgency": "normal", "topic": None, "payload": b'{"title": "Hello"}'}
    given |= changes
    return await made.send(
        service.subscription(device, KEY),
        given["payload"],
        ttl=given["ttl"],
        urgency=given["urgency"],
        topic=given["topic"],
    )


CREATED = b"HTTP/1.1 201 C\r\nContent-Length: 0\r\n\r\n"


def answer_one(tls: ssl.SSLSocket, then: bytes = b"") -> None:
    """Read a request and take it. then: what is written after it without TLS, in the same packet."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += tls.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    [length] = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while len(body) < int(length.partition(b":")[2]):
        body += tls.recv(65536)
    if not then:
        tls.sendall(CREATED)
        return
    with socket.socket(fileno=os.dup(tls.fileno())) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        tls.sendall(CREATED)
        raw.sendall(then)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)


@asynccontextmanager
async def raw_service(
    service: PushService, serve: Callable[[ssl.SSLSocket, int], None]
) -> AsyncIterator[PushSender]:
    """A sender to whom the push service is what `serve` does with each connection, in a thread, by its number."""
    listening = socket.create_server(("127.0.0.1", 0))
    opened: list[ssl.SSLSocket] = []

    def one(plain: socket.socket, number: int) -> None:
        with suppress(OSError):
            tls = service._tls.wrap_socket(plain, server_side=True)
            opened.append(tls)
            serve(tls, number)

    def accept() -> None:
        with suppress(OSError):
            number = 0
            while True:
                plain, _ = listening.accept()
                number += 1
                threading.Thread(target=one, args=(plain, number), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    port = listening.getsockname()[1]
    settings = settings_for(service, resolve=frozenset({f"{service.origin}=127.0.0.1:{port}"}))
    way, _ = transport("ours", settings)
    try:
        async with closing(PushSender(settings, Ring(KEY), SystemClock(), transport=way)) as made:
            yield made
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for tls in opened:
            tls.close()


# --- what is taken ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_a_browser_reads_what_was_sent_to_it(service: PushService, kind: str) -> None:
    device = service.subscribe(KEY)

    async with closing(sender(service, key=KEY, kind=kind)) as made:
        result = await push(made, service, device, ttl=300, urgency="high", topic="a" * 32)

    assert (result.kind, result.status) == ("sent", 201), service.refusals
    [taken] = device.pushes
    assert json.loads(taken.text) == {"title": "Hello"}
    assert (taken.ttl, taken.urgency, taken.topic) == (300, "high", "a" * 32)
    assert set(service.handshakes) == {service.host}


@pytest.mark.parametrize("many", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_mixed_pushes_to_many_browsers_are_all_taken(service: PushService, many: int) -> None:
    devices = [service.subscribe(KEY) for _ in range(200)]
    chosen = random.Random(7)
    expected: Counter[tuple[str, bytes]] = Counter()

    async def one(made: PushSender, device: Device, payload: bytes, keyed: bool) -> str:
        result = await push(
            made,
            service,
            device,
            payload=payload,
            ttl=chosen.choice([0, 1, 86400, 2419200]),
            urgency=chosen.choice(["very-low", "low", "normal", "high"]),
            topic=topic(b"secret", str(chosen.random())) if keyed else None,
        )
        return result.kind

    calm = SenderSettings(queue=timedelta(seconds=60))  # whatever else the machine does
    patient = Patience(connect=timedelta(seconds=30), answer=timedelta(seconds=30))
    async with closing(sender(service, key=KEY, sending=calm, patience=patient)) as made:
        kinds: Counter[str] = Counter()
        for start in range(0, many, 500):
            batch = []
            for number in range(start, min(start + 500, many)):
                size = chosen.choice([0, 1, 100, 1000, 2558, MAX_PLAINTEXT, chosen.randrange(MAX_PLAINTEXT)])
                payload = number.to_bytes(4)[: min(size, 4)] + b"x" * max(0, size - 4)
                device = chosen.choice(devices)
                expected[device.token, payload] += 1
                batch.append(one(made, device, payload, keyed=chosen.random() < 0.5))
            kinds.update(await asyncio.gather(*batch))

    assert kinds == {"sent": many}, service.refusals
    assert Counter((device.token, one.text) for device in devices for one in device.pushes) == expected
    assert len(service.tokens) == 1, "one token for all of them"
    assert service.connections <= 128
    assert service.requests == many


async def test_every_message_is_sent_with_a_salt_and_a_key_of_its_own(service: PushService) -> None:
    devices = [service.subscribe(KEY) for _ in range(3)]

    async with closing(sender(service, key=KEY)) as made:
        for _ in range(20):
            await asyncio.gather(*(push(made, service, device) for device in devices))
    service.shares_sender_keys = True
    async with closing(sender(service, key=KEY, batch_key=256)) as made:
        await asyncio.gather(*(push(made, service, device) for device in devices * 10))

    assert not service.refusals
    assert service.taken == 90


async def test_lengths_are_padded_and_never_pass_4096_bytes(service: PushService) -> None:
    device = service.subscribe(KEY)

    async with closing(sender(service, key=KEY)) as made:
        for size in (0, 1, 255, 256, 257, 2560, 2561, MAX_PLAINTEXT):
            await push(made, service, device, payload=b"x" * size)
        too_large = await push(made, service, device, payload=b"x" * (MAX_PLAINTEXT + 1))

    sizes = [one.size for one in device.pushes]
    assert sizes == [359, 359, 359, 359, 615, 2663, 4096, 4096]
    assert (too_large.kind, too_large.status) == ("too_large", None)


async def test_a_browser_is_sent_to_with_the_key_it_subscribed_with(service: PushService) -> None:
    old, new = service.subscribe(KEY), new_key()
    device = service.subscribe(new)
    settings = settings_for(service)
    made = PushSender(settings, Ring(KEY, new), SystemClock())

    async with closing(made):
        first = await made.send(service.subscription(old, KEY), b"a", ttl=1, urgency="low", topic=None)
        second = await made.send(service.subscription(device, new), b"b", ttl=1, urgency="low", topic=None)
        third = await made.send(
            service.subscription(device, new_key()), b"", ttl=1, urgency="low", topic=None
        )

    assert (first.kind, second.kind) == ("sent", "sent"), service.refusals
    assert (third.kind, third.status) == ("refused", None)


@pytest.mark.parametrize(("ttl", "policy"), [(0, "no-cache"), (60, "cache")])
async def test_windows_is_told_a_cache_policy_that_agrees_with_the_ttl(
    tmp_path: Path, ttl: int, policy: str
) -> None:
    async with PushService(tmp_path, "wns2-par02p.notify.windows.com") as service:
        device = service.subscribe(KEY)
        async with closing(sender(service, key=KEY)) as made:
            result = await push(made, service, device, ttl=ttl)

    assert result.kind == "sent", service.refusals
    assert device.pushes[0].headers["x-wns-cache-policy"] == policy


# --- what is not taken: the table ------------------------------------------------------------------------------------


def _in(seconds: int) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


def _dated(seconds: int) -> dict[str, str]:
    """Retry-After as a date, by a clock that is a year behind ours."""
    now = datetime.now(UTC) - timedelta(days=365)
    return {
        "Date": format_datetime(now, usegmt=True),
        "Retry-After": format_datetime(now + timedelta(seconds=seconds), usegmt=True),
    }


SCRIPT: list[tuple[str, Fault, str, int | None, float | None]] = [
    ("200", Say(200), "sent", 200, None),
    ("202", Say(202), "sent", 202, None),
    ("204", Raw(b"HTTP/1.1 204 No Content\r\n\r\n", "go on"), "sent", 204, None),
    ("early hints", Raw(b"HTTP/1.1 103 E\r\nLink: x\r\n\r\nHTTP/1.1 201 C\r\nContent-Length: 0\r\n\r\n", "go on"), "sent", 201, None),
    ("chunked", Raw(b"HTTP/1.1 201 C\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "go on"), "sent", 201, None),
    ("until the end", Raw(b"HTTP/1.1 201 C\r\n\r\nabc"), "sent", 201, None),
    ("broken body", Raw(b"HTTP/1.1 201 C\r\nContent-Length: 9\r\n\r\nabc"), "sent", 201, None),
    ("endless body", Raw(b"HTTP/1.1 201 C\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 9000, "silence"), "sent", 201, None),
    ("body of 1 MB", Raw(b"HTTP/1.1 500 X\r\n\r\n" + b"x" * 1_000_000), "retry", 500, None),
    ("301", Say(301, {"Location": "https://127.0.0.1/x"}), "refused", 301, None),
    ("302", Say(302, {"Location": "https://127.0.0.1/x"}), "refused", 302, None),
    ("307", Say(307, {"Location": "https://127.0.0.1/x"}), "refused", 307, None),
    ("308", Say(308, {"Location": "https://127.0.0.1/x"}), "refused", 308, None),
    ("400", Say(400), "refused", 400, None),
    ("401", Say(401), "refused", 401, None),
    ("403", Say(403, body=b'{"reason":"BadJwtToken"}'), "refused", 403, None),
    ("404", Say(404), "gone", 404, None),
    ("406", Say(406), "refused", 406, None),
    ("408", Say(408), "throttled", 408, None),
    ("410", Say(410, {"Cache-Control": "max-age=86400"}), "gone", 410, None),
    ("413", Say(413), "too_large", 413, None),
    ("425", Say(425), "throttled", 425, None),
    ("429", Say(429), "throttled", 429, None),
    ("429 in seconds", Say(429, {"Retry-After": "17"}), "throttled", 429, 17),
    ("429 until a date", Say(429, _dated(90)), "throttled", 429, 90),
    ("429 for ages", Say(429, {"Retry-After": "99999999999"}), "throttled", 429, 3600),
    ("429 for nonsense", Say(429, {"Retry-After": "soon"}), "throttled", 429, None),
    ("500", Say(500), "retry", 500, None),
    ("502", Say(502, body=b"<html>" * 100, close=True), "retry", 502, None),
    ("503", Say(503, {"Retry-After": "120"}), "retry", 503, 120),
    ("504", Say(504), "retry", 504, None),
    ("silence", Silence(), "unknown", None, None),
    ("slow", Raw(b"HTTP/1.1 201 C\r\nContent-Le", "silence"), "unknown", None, None),
    ("half a head", Raw(b"HTTP/1.1 20"), "unknown", None, None),
    ("no HTTP", Raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "unknown", None, None),
    ("endless head", Raw(b"HTTP/1.1 201 C\r\n" + b"X: y\r\n" * 20_000, "silence"), "unknown", None, None),
    ("reset before it was taken", Reset(taken=False), "unknown", None, None),
    ("reset after it was taken", Reset(taken=True), "unknown", None, None),
]  # fmt: skip


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize(
    ("fault", "expected", "status", "wait"), [one[1:] for one in SCRIPT], ids=[one[0] for one in SCRIPT]
)
async def test_an_answer_means_what_the_table_says(
    service: PushService, kind: str, fault: Fault, expected: str, status: int | None, wait: float | None
) -> None:
    device = service.subscribe(KEY)
    service.script.append(fault)

    patience = HASTY if fault == Silence() or (isinstance(fault, Raw) and fault.then == "silence") else None
    async with closing(sender(service, key=KEY, kind=kind, patience=patience)) as made:
        result = await push(made, service, device)
        again = await push(made, service, device) if wait is None else None

    assert (result.kind, result.status) == (expected, status)
    assert (result.retry_after and result.retry_after.total_seconds()) == wait
    assert service.host not in result.reason
    assert device.token not in result.reason
    assert again is None or again.kind == "sent", "one answer spoils no other"
    assert service.requests == (1 if again is None else 2), "nothing was sent twice"


async def test_windows_says_406_when_it_has_had_enough(tmp_path: Path) -> None:
    async with PushService(tmp_path, "db5p.notify.windows.com") as service:
        device = service.subscribe(KEY)
        service.script.append(Say(406, {"Retry-After": "5"}))
        service.script.append(Say(200, {"X-WNS-NotificationStatus": "channelThrottled"}))
        async with closing(sender(service, key=KEY)) as made:
            result = await push(made, service, device)
            made._gates.clear()  # else the pause would be kept
            other = await push(made, service, device)

    assert (result.kind, result.status, result.retry_after) == ("throttled", 406, timedelta(seconds=5))
    assert (other.kind, other.status) == ("throttled", 200)


async def test_a_push_service_that_is_not_there_was_sent_nothing(service: PushService) -> None:
    device = service.subscribe(KEY)
    settings = settings_for(service, resolve=frozenset({f"{service.origin}=127.0.0.1:1"}))

    for kind in TRANSPORTS:
        way, _ = transport(kind, settings)
        async with closing(PushSender(settings, Ring(KEY), SystemClock(), transport=way)) as made:
            result = await push(made, service, device)
        assert (result.kind, result.reason) == ("retry", "no connection to the push service")


async def test_a_certificate_of_somebody_else_is_refused(service: PushService, tmp_path: Path) -> None:
    device = service.subscribe(KEY)
    (tmp_path / "other").mkdir()
    async with PushService(tmp_path / "other", "other.push.apple.com") as other:
        for kind in TRANSPORTS:
            async with closing(sender(service, key=KEY, kind=kind, ca_file=other.ca_file)) as made:
                result = await push(made, service, device)
            assert (result.kind, result.reason) == ("retry", "the push service's certificate was refused")

        # The right authority, another name.
        elsewhere = frozenset({f"{service.origin}=127.0.0.1:{other.port}"})
        async with closing(sender(service, key=KEY, ca_file=other.ca_file, resolve=elsewhere)) as made:
            result = await push(made, service, device)

    assert result.reason == "the push service's certificate was refused"
    assert service.requests == other.requests == 0


# --- connections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_pushes_one_after_another_go_by_one_connection(service: PushService, kind: str) -> None:
    device = service.subscribe(KEY)

    async with closing(sender(service, key=KEY, kind=kind)) as made:
        for _ in range(20):
            assert (await push(made, service, device)).kind == "sent"

    assert (service.requests, service.connections) == (20, 1)


async def test_a_kept_connection_that_ended_costs_nothing(service: PushService) -> None:
    device = service.subscribe(KEY)

    async with closing(sender(service, key=KEY)) as made:
        await push(made, service, device)
        service.hang_up()
        await asyncio.wait_for(_until(lambda: not service._open), 60)
        result = await push(made, service, device)

    assert result.kind == "sent"
    assert (service.connections, service.taken) == (2, 2)


async def test_a_kept_connection_of_whose_end_only_the_kernel_knows_is_not_used(service: PushService) -> None:
    """What may not be sent twice would be unknown, and would never have been taken."""
    device = service.subscribe(KEY)

    async with closing(sender(service, key=KEY)) as made:
        await push(made, service, device)
        service.end_behind_the_loops_back()
        result = await push(made, service, device)
        assert isinstance(made._transport, KeepAliveTransport)
        assert made._transport.counts.repeated == 0

    assert result.kind == "sent"
    assert (service.connections, service.taken) == (2, 2)


async def test_a_kept_connection_of_whose_farewell_only_the_kernel_knows_is_not_used(
    service: PushService,
) -> None:
    """close_notify alone, as of a service that goes on listening for ours."""
    device, ended = service.subscribe(KEY), threading.Event()
    close = threading.Event()

    def serve(tls: ssl.SSLSocket, number: int) -> None:
        answer_one(tls)
        if number == 1:
            close.wait(20)
            with suppress(OSError):
                tls.settimeout(0)
                tls.unwrap()
            ended.set()

    async with raw_service(service, serve) as made:
        await push(made, service, device)
        close.set()
        ended.wait(20)  # the loop hears nothing meanwhile
        result = await push(made, service, device)
        assert isinstance(made._transport, KeepAliveTransport)
        counts = made._transport.counts

    assert result.kind == "sent"
    assert (counts.connections, counts.repeated) == (2, 0)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 2010 C\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 201x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 \xb2\xb2\xb2 C\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/2.0 201 C\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_what_is_no_status_is_no_answer(service: PushService, answer: bytes) -> None:
    device = service.subscribe(KEY)
    service.script.append(Raw(answer, "go on"))

    async with closing(sender(service, key=KEY)) as made:
        result = await push(made, service, device)

    assert (result.kind, result.reason) == ("unknown", "the push service's answer was no HTTP")


_LENGTH = b"HTTP/1.1 201 C\r\nContent-Length: 3\r\n"
_CHUNKED = b"HTTP/1.1 201 C\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        _LENGTH + b"Connection: close\r\n\r\nabc",
        _LENGTH + b"Connection: keep-alive, Close\r\n\r\nabc",
        _LENGTH.replace(b"1.1", b"1.0") + b"\r\nabc",
        _LENGTH + b"\r\nabcHTTP/1.1 410 G\r\nContent-Length: 0\r\n\r\n",
        _CHUNKED + b"3\r\nabc\r\n0\r\n\r\nHTTP/1.1 410 G\r\nContent-Length: 0\r\n\r\n",
        _CHUNKED + b"1_0\r\nabcdefghijklmnop\r\n0\r\n\r\n",
        _CHUNKED + b"-1\r\nabc\r\n0\r\n\r\n",
        _CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    ],
)
async def test_a_connection_of_which_it_is_not_clear_what_comes_next_is_not_kept(
    service: PushService, answer: bytes
) -> None:
    device = service.subscribe(KEY)
    service.script.append(Raw(answer, "go on"))

    async with closing(sender(service, key=KEY)) as made:
        first = await push(made, service, device)
        second = await push(made, service, device)

    assert (first.kind, first.status, second.status) == ("sent", 201, 201)
    assert service.connections == 2
    assert len(device.pushes) == 1


async def test_an_answer_before_a_record_that_is_none_counts(service: PushService) -> None:
    device = service.subscribe(KEY)

    def serve(tls: ssl.SSLSocket, number: int) -> None:
        answer_one(tls, then=b"garbage that is no record" if number == 1 else b"")

    async with raw_service(service, serve) as made:
        results = [await push(made, service, device) for _ in range(2)]
        assert isinstance(made._transport, KeepAliveTransport)

    assert [one.kind for one in results] == ["sent", "sent"]


async def test_what_may_be_sent_twice_is_repeated_when_a_kept_connection_ends_under_it(
    service: PushService,
) -> None:
    device = service.subscribe(KEY)

    async with closing(sender(service, key=KEY)) as made:
        await push(made, service, device)
        service.script.append(Reset(taken=False))
        repeated = await push(made, service, device, topic="collapse")
        service.script.append(Reset(taken=False))
        alone = await push(made, service, device)
        assert isinstance(made._transport, KeepAliveTransport)
        assert made._transport.counts.repeated == 1

    assert (repeated.kind, alone.kind) == ("sent", "unknown")
    assert [one.topic for one in device.pushes] == [None, "collapse"]


async def test_idle_and_old_connections_are_closed(service: PushService) -> None:
    device = service.subscribe(KEY)
    short = Patience(idle=timedelta(seconds=0.1))
    old = Patience(life=timedelta(0))

    async with closing(sender(service, key=KEY, patience=short)) as made:
        await push(made, service, device)
        await asyncio.wait_for(_until(lambda: not service._open), 60)
        assert (await push(made, service, device)).kind == "sent"
    async with closing(sender(service, key=KEY, patience=old)) as made:
        await push(made, service, device)
        await push(made, service, device)

    assert service.connections == 4
    assert service.taken == 4


async def test_a_cancelled_push_leaves_no_answer_to_the_next(service: PushService) -> None:
    device = service.subscribe(KEY)
    service.script.append(Silence())

    async with closing(sender(service, key=KEY)) as made:
        first = asyncio.create_task(push(made, service, device))
        await service.wait_for(1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        service.script.append(Say(410))
        second = await push(made, service, device)
        stats = made.stats

    assert second.status == 410
    assert (stats.in_flight, stats.waiting) == (0, 0)


async def test_closing_closes_every_connection(service: PushService) -> None:
    devices = [service.subscribe(KEY) for _ in range(10)]
    made = sender(service, key=KEY)

    await asyncio.gather(*(push(made, service, device) for device in devices))
    await made.close()

    await asyncio.wait_for(_until(lambda: not service._open), 60)


async def _until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0)


# --- pace ------------------------------------------------------------------------------------------------------------


async def test_after_retry_after_nobody_asks_until_it_is_over(service: PushService) -> None:
    device = service.subscribe(KEY)
    service.script.append(Say(503, {"Retry-After": "120"}))

    async with closing(sender(service, key=KEY)) as made:
        await push(made, service, device)
        result = await push(made, service, device)

    assert (result.kind, result.status) == ("throttled", None)
    assert result.retry_after is not None
    assert 100 < result.retry_after.total_seconds() <= 120
    assert service.requests == 1


async def test_browsers_of_one_person_that_have_had_enough_stop_nobody_else(service: PushService) -> None:
    device = service.subscribe(KEY)
    service.script.extend(Say(429, {"Retry-After": "3600"}) for _ in range(5))

    async with closing(sender(service, key=KEY)) as made:
        worn = [await push(made, service, device) for _ in range(5)]
        other = await push(made, service, device)

    assert [one.status for one in worn] == [429] * 5
    assert not any(one.is_held_back for one in worn)
    assert other.kind == "sent"


async def test_a_push_service_that_only_fails_is_left_alone(service: PushService) -> None:
    device = service.subscribe(KEY)
    service.fault_of = lambda _token: Say(500)

    async with closing(sender(service, key=KEY)) as made:
        results = [await push(made, service, device) for _ in range(20)]

    assert service.requests == 5
    assert {result.kind for result in results} == {"retry"}
    assert results[-1].retry_after is not None


async def test_one_push_service_that_fails_stops_no_other(service: PushService, tmp_path: Path) -> None:
    async with PushService(tmp_path, "web.push.apple.com") as other:
        mine, theirs = service.subscribe(KEY), other.subscribe(KEY)
        service.fault_of = lambda _token: Say(429, {"Retry-After": "60"})
        bundle = tmp_path / "both.pem"
        bundle.write_bytes(service.ca_file.read_bytes() + other.ca_file.read_bytes())
        async with closing(sender(service, other, key=KEY, ca_file=bundle)) as made:
            for _ in range(5):
                await push(made, service, mine)
            result = await push(made, other, theirs)

    assert result.kind == "sent", other.refusals


async def test_no_more_are_under_way_than_the_settings_say(service: PushService) -> None:
    devices = [service.subscribe(KEY) for _ in range(60)]
    sending = SenderSettings(concurrency=4, queue=timedelta(seconds=60))

    async with closing(sender(service, key=KEY, sending=sending)) as made:
        results = await asyncio.gather(*(push(made, service, device) for device in devices))

    assert {result.kind for result in results} == {"sent"}
    assert service.connections <= 4


async def test_who_waits_too_long_for_a_turn_is_told_to_come_again(service: PushService) -> None:
    devices = [service.subscribe(KEY) for _ in range(3)]
    service.script.append(Silence())
    sending = SenderSettings(concurrency=1, queue=timedelta(seconds=0.1))

    async with closing(sender(service, key=KEY, sending=sending, patience=HASTY)) as made:
        results = await asyncio.gather(*(push(made, service, device) for device in devices))

    assert [result.kind for result in results] == ["unknown", "retry", "retry"]
    assert service.requests == 1


async def test_a_rate_is_kept(service: PushService) -> None:
    device = service.subscribe(KEY)
    sending = SenderSettings(rate=50, queue=timedelta(seconds=60))

    async with closing(sender(service, key=KEY, sending=sending)) as made:
        started = time.monotonic()
        results = await asyncio.gather(*(push(made, service, device) for _ in range(25)))
        took = time.monotonic() - started

    assert {result.kind for result in results} == {"sent"}
    assert took >= 0.35  # 5 at once, then 20 at 50 a second


async def test_nearly_everything_gone_at_once_is_not_believed(service: PushService) -> None:
    device = service.subscribe(KEY)
    service.fault_of = lambda _token: Say(410)

    async with closing(sender(service, key=KEY)) as made:
        results = [await push(made, service, device) for _ in range(60)]

    assert [result.kind for result in results] == ["gone"] * 50 + ["refused"] * 10


# --- what else the process does --------------------------------------------------------------------------------------


async def test_many_encryptions_go_in_slices() -> None:
    turns = Turns(8)
    order: list[int] = []

    async def beat() -> None:
        while order.count(-1) + 100 > len(order):
            order.append(-1)
            await asyncio.sleep(0)

    work = (turns.of(partial(order.append, number), 100) for number in range(100))
    await asyncio.wait_for(asyncio.gather(*work, beat()), 60)

    assert [one for one in order if one >= 0] == list(range(100))
    text = "".join("b" if one < 0 else "w" for one in order)
    assert max(map(len, text.split("b"))) == 8


async def test_a_slice_is_gathered_where_many_are_under_way_and_not_waited_for_long() -> None:
    turns = Turns(8)
    done: list[int] = []

    first = [asyncio.create_task(turns.of(partial(done.append, number), 100)) for number in range(7)]
    await asyncio.sleep(0)
    assert done == []
    last = asyncio.create_task(turns.of(partial(done.append, 7), 100))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert done == list(range(8))
    await asyncio.wait_for(turns.of(partial(done.append, 8), 100), 60)  # alone

    await asyncio.gather(*first, last)
    assert done == list(range(9))


def test_where_few_are_under_way_nothing_waits() -> None:
    with pytest.raises(StopIteration) as ended:
        Turns(8).of(lambda: "encrypted", 8).send(None)

    assert ended.value.value == "encrypted"


async def test_work_that_nobody_waits_for_is_not_done_and_a_fault_stops_no_other() -> None:
    turns = Turns(3)
    done: list[int] = []

    def broken() -> None:
        raise ValueError("no key")

    given: list[Callable[[], None]] = [
        partial(done.append, 0),
        partial(done.append, 1),
        broken,
        partial(done.append, 3),
    ]
    tasks = [asyncio.create_task(turns.of(work, 100)) for work in given]
    await asyncio.sleep(0)
    tasks[0].cancel()
    ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)

    assert done == [1, 3]
    assert [type(one).__name__ for one in ended] == ["CancelledError", "NoneType", "ValueError", "NoneType"]


async def test_a_campaign_does_not_hold_up_the_loop(
    service: PushService, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = [service.subscribe(KEY) for _ in range(120)]
    service.fault_of = lambda _token: Say(201)  # takes no time for looking at it
    turns: list[int] = [0]  # encryptions in each turn of the loop

    def counted(*given: Any, **named: Any) -> bytes:
        turns[-1] += 1
        return encrypt(*given, **named)

    monkeypatch.setattr("push.sender.encrypt", counted)
    async with closing(sender(service, key=KEY)) as made:

        async def campaign() -> None:
            await asyncio.gather(*(push(made, service, device, payload=b"x" * 1000) for device in devices))

        for _ in range(5):  # connections are made, and the pace is found
            working = asyncio.create_task(campaign())
            while not working.done():
                await asyncio.sleep(0)
                turns.append(0)
            await working

    assert sum(turns) == 5 * 120
    assert max(turns) <= 2 * SenderSettings().slice  # the end of one slice and the next
