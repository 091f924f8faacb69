"""A call to a provider ends as it is known to have ended, at whatever point it breaks."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import timedelta

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver

from core.outcome import Retry, Unknown
from delivery.channels import http_call
from delivery.channels.http_call import Answer, base_url, post
from tests.fault_proxy import Fault, FaultProxy
from tests.loop_time import in_vain
from tests.providers.server import Hold, ProviderServer, Received, Refuse, Reset, answer

CANARY = "canary-token-in-the-url"


class Echo(ProviderServer):
    async def take(self, request: Received) -> web.Response:
        self.accepted.append(request.body)
        return answer(200, {"ok": True})


@pytest.fixture
async def server() -> AsyncIterator[Echo]:
    async with Echo() as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def call(http, url, body=b"body", **given):
    return await post(http, f"{url}/{CANARY}", body, headers={}, **given)


async def test_an_answer_is_told_as_it_came(http, server):
    server.faults.append(Refuse(status=418, body={"a": 1}, headers={"X-Id": "7", "Retry-After": "30"}))

    told = await call(http, server.url)

    assert isinstance(told, Answer)
    assert (told.status, told.json(), told.headers["x-id"]) == (418, {"a": 1}, "7")
    assert told.retry_after == timedelta(seconds=30)


async def test_a_provider_that_is_not_there_was_told_nothing(http, server):
    await server.stop()

    assert await call(http, server.url) == Retry(reason="no connection to the provider")


class NoNames(AbstractResolver):
    """Knows nobody."""

    async def resolve(self, host, port=0, family=socket.AF_INET):
        raise OSError("no such name")

    async def close(self):
        pass


async def test_a_name_that_does_not_exist_was_told_nothing():
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=NoNames())) as http:
        assert await call(http, "https://nowhere.invalid") == Retry(
            reason="the provider's name was not found"
        )


async def test_a_certificate_that_is_not_trusted_gets_nothing(http):
    async with FaultProxy(1) as proxy:
        proxy.inject(Fault.REFUSE)  # no handshake at all

        assert isinstance(await call(http, f"https://127.0.0.1:{proxy.port}"), Retry)


async def test_a_reset_after_the_request_leaves_us_in_the_dark(http, server):
    for taken in (False, True):
        server.faults.append(Reset(taken=taken))

        told = await call(http, server.url)

        assert told == Unknown(reason="the connection to the provider broke after it was sent")


async def test_silence_leaves_us_in_the_dark(http, server):
    server.faults.append(Hold())

    told = await in_vain(call(http, server.url), lambda: bool(server.accepted))

    assert told == Unknown(reason="no answer from the provider in time after it was sent")
    assert len(server.accepted) == 1


async def test_a_connection_that_was_closed_while_it_rested_carries_nothing_away(http, server):
    """The usual end of a kept connection must not look like a lost message."""
    await call(http, server.url)
    await server.stop()
    await server.start()

    told = await call(http, server.url)

    assert isinstance(told, Answer)
    assert len(server.accepted) == 2


async def test_a_connection_that_closes_before_the_body_is_written_was_told_nothing(
    http, server, monkeypatch
):
    write = http_call._Watched.write_with_length

    async def close_and_write(self, writer, length):
        writer.transport.abort()
        await write(self, writer, length)

    monkeypatch.setattr(http_call._Watched, "write_with_length", close_and_write)

    assert isinstance(await call(http, server.url), Retry)
    assert server.accepted == []


async def test_a_provider_that_takes_connections_and_reads_nothing_leaves_us_in_the_dark(http, server):
    async with FaultProxy(server.port) as proxy:
        proxy.inject(Fault.BLACKHOLE)

        told = await in_vain(call(http, f"http://127.0.0.1:{proxy.port}"), lambda: bool(proxy.swallowed))

    assert isinstance(told, Unknown)


async def test_no_redirect_is_followed(http, server):
    server.faults.append(Refuse(status=307, headers={"Location": f"{server.url}/elsewhere"}))

    told = await call(http, server.url)

    assert isinstance(told, Answer)
    assert told.status == 307
    assert len(server.received) == 1


async def test_an_answer_without_end_is_not_read_to_it(http, server):
    server.faults.append(Refuse(status=200, body="x" * (http_call.ANSWER_MAX_BYTES + 1)))

    told = await call(http, server.url)

    assert isinstance(told, Answer)
    assert (told.status, told.body) == (200, b"")


@pytest.mark.parametrize(
    "raw",
    [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"\x00" * 64, b""],
    ids=["another protocol", "a length that is none", "zeros", "nothing"],
)
async def test_an_answer_that_is_no_http_leaves_us_in_the_dark(http, raw):
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")
        writer.write(raw)
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        told = await call(http, f"http://127.0.0.1:{port}")

    assert isinstance(told, Unknown)


async def test_an_answer_that_breaks_off_keeps_its_status(http):
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")
        writer.write(b'HTTP/1.1 400 Bad Request\r\nContent-Length: 99\r\n\r\n{"code"')
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        told = await call(http, f"http://127.0.0.1:{port}")

    assert isinstance(told, Answer)
    assert (told.status, told.body, told.json()) == (400, b"", {})


async def test_no_end_names_the_url(http, server):
    server.faults.extend([Reset(taken=False), Hold()])
    ends = [await call(http, server.url)]
    ends.append(await in_vain(call(http, server.url), lambda: not server.faults))
    await server.stop()
    ends += [await call(http, server.url), await call(http, "http://127.0.0.1:99999")]

    assert all(isinstance(end, Retry | Unknown) for end in ends)
    assert CANARY not in repr(ends)


@pytest.mark.parametrize(
    ("after", "date", "wait"),
    [
        ("120", None, 120),
        ("0", None, 0),
        ("999999999999", None, 7 * 86400),
        ("Sun, 22 Nov 2026 06:02:00 GMT", "Sun, 22 Nov 2026 06:00:00 GMT", 120),
        ("Sun, 22 Nov 2026 05:00:00 GMT", "Sun, 22 Nov 2026 06:00:00 GMT", 0),
        ("Sun, 22 Nov 2026 06:02:00 GMT", None, None),
        ("-5", None, None),
        ("soon", "Sun, 22 Nov 2026 06:00:00 GMT", None),
        ("", None, None),
        ("٣", None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(after, date, wait):
    headers = {"retry-after": after} | ({"date": date} if date else {})

    told = Answer(status=429, headers=headers, body=b"")

    assert told.retry_after == (None if wait is None else timedelta(seconds=wait))


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 10_000, b"7"])
def test_a_body_that_is_no_json_object_is_an_empty_one(body):
    assert Answer(status=200, headers={}, body=body).json() == {}


@pytest.mark.parametrize(
    "url", ["https://api.twilio.com", "http://127.0.0.1:8080", "http://localhost/x", "http://[::1]:1"]
)
def test_a_base_is_https_or_on_this_machine(url):
    assert base_url("X_URL", url) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://api.twilio.com",
        "ftp://a.example",
        "https://",
        "https://u:p@a.example",
        "https://a.example?x",
        "a.example",
        "https://a.example:0x",
        "https://ex ample",
    ],
)
def test_any_other_base_is_refused_by_the_name_of_its_setting(url):
    with pytest.raises(ValueError, match=r"^X_URL is ") as refused:
        base_url("X_URL", url)

    assert "example" not in str(refused.value)
