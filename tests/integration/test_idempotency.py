"""A request that is repeated under its key is served once, whatever was lost on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import pytest

from core.clock import SystemClock
from core.database import open_database
from core.errors import ServiceError
from delivery.ingest import Accepted, Ingest, Stored, submit
from tests.postgres import patient
from tests.stores import PATIENT, Stores, open_stores
from tests.submissions import Heard, service, submission

BODY = b"\x01" * 32


@pytest.fixture
async def stores(database: str) -> AsyncIterator[Stores]:
    async with open_stores(database) as opened:
        yield opened


async def test_the_same_request_has_the_same_answer_byte_for_byte(stores: Stores) -> None:
    def teapot(stored: Stored) -> tuple[int, bytes]:
        return 218, b"first " + stored.data

    first = await stores.ingest.submit(submission(), service(), key="k", body_hash=BODY, render=teapot)
    again = await stores.ingest.submit(submission(), service(), key="k", body_hash=BODY)

    assert (again.status, again.body, again.replayed) == (218, first.body, True)
    assert not first.replayed
    assert len(stores.heard.entries) == 1


async def test_another_request_under_the_same_key_is_refused(stores: Stores) -> None:
    await stores.ingest.submit(submission(), service(), key="k", body_hash=BODY)

    with pytest.raises(ServiceError) as refusal:
        await stores.ingest.submit(submission(), service(), key="k", body_hash=b"\x02" * 32)

    assert refusal.value.code == "idempotency_mismatch"


async def test_keys_belong_to_one_client_of_one_tenant(stores: Stores) -> None:
    senders = [service("a"), service("b"), service("a", "other")]

    answers = [await stores.ingest.submit(submission(), one, key="k", body_hash=BODY) for one in senders]

    assert [answer.replayed for answer in answers] == [False, False, False]
    assert len({json.loads(answer.body)["id"] for answer in answers}) == 3


async def test_a_key_that_another_transaction_holds_is_in_flight(stores: Stores) -> None:
    async with stores.database.transaction() as connection:
        await submit(connection, submission(), service(), key="k", body_hash=BODY)

        with pytest.raises(ServiceError) as refusal:
            await stores.ingest.submit(submission(), service(), key="k", body_hash=BODY)

    assert (refusal.value.code, refusal.value.retry_after) == ("idempotency_in_flight", 1)
    assert (await stores.ingest.submit(submission(), service(), key="k", body_hash=BODY)).replayed


async def test_a_key_is_forgotten_after_two_days(stores: Stores) -> None:
    await stores.ingest.submit(submission(), service(), key="k", body_hash=BODY)
    await stores.query("UPDATE idempotency_keys SET created_at = created_at - interval '49 hours'")

    again = await stores.ingest.submit(submission(), service(), key="k", body_hash=b"\x02" * 32)

    assert not again.replayed
    assert len(await stores.query("SELECT FROM notifications")) == 2


async def test_a_request_that_failed_leaves_its_key_free(stores: Stores) -> None:
    def fails(stored: Stored) -> tuple[int, bytes]:
        raise RuntimeError("cannot be rendered")

    with pytest.raises(RuntimeError):
        await stores.ingest.submit(submission(), service(), key="k", body_hash=BODY, render=fails)

    assert not (await stores.ingest.submit(submission(), service(), key="k", body_hash=BODY)).replayed


async def test_of_a_hundred_equal_posts_on_four_nodes_one_is_served(database: str) -> None:
    async with open_stores(database) as stores:
        nodes = [Ingest(stores.database, stores.heard, SystemClock(), PATIENT) for _ in range(4)]
        for node in nodes:
            await node.start()

        results = await asyncio.gather(
            *(nodes[n % 4].submit(submission(), service(), key="k", body_hash=BODY) for n in range(100)),
            return_exceptions=True,
        )

        answers = [result for result in results if not isinstance(result, BaseException)]
        refusals = {result.code for result in results if isinstance(result, ServiceError)}
        assert sum(not answer.replayed for answer in answers) == 1
        assert len({answer.body for answer in answers}) == 1
        assert refusals <= {"idempotency_in_flight"}
        assert len(answers) + sum(isinstance(result, ServiceError) for result in results) == 100
        assert len(await stores.query("SELECT FROM notifications")) == 1
        for node in nodes:
            await node.close()


class CommitCutter:
    """Between asyncpg and the server: every COMMIT arrives, and the connection is cut before its reply."""

    def __init__(self, dsn: str) -> None:
        url = urlsplit(dsn)
        query = dict(parse_qsl(url.query))
        self._socket = f"{query['host']}/.s.PGSQL.{query['port']}"
        self._url = url
        self.armed = False
        self.cuts = 0
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *ending: object) -> None:
        assert self._server is not None
        self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    @property
    def dsn(self) -> str:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return f"postgresql://{self._url.username}@127.0.0.1:{port}{self._url.path}?sslmode=disable"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        server_reader, server_writer = await asyncio.open_unix_connection(self._socket)
        committing = asyncio.Event()
        up = asyncio.create_task(self._up(reader, server_writer, committing))
        down = asyncio.create_task(self._down(server_reader, writer, committing))
        try:
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in (up, down):
                one.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            writer.transport.abort()
            server_writer.close()
            self._links.discard(task)

    async def _up(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, committing: asyncio.Event
    ) -> None:
        while chunk := await reader.read(65536):
            if self.armed and b"COMMIT;" in chunk:
                committing.set()
            writer.write(chunk)

    async def _down(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, committing: asyncio.Event
    ) -> None:
        while chunk := await reader.read(65536):
            if committing.is_set():
                self.cuts += 1
                return
            writer.write(chunk)


class WithoutKeys(Ingest):
    """The naive way: a repeated request is a new one."""

    async def submit(self, *arguments: Any, **members: Any) -> Accepted:
        return await super().submit(*arguments, **members | {"key": None})


async def rows_after_lost_commits(stores: Stores, dsn: str, kind: type[Ingest], requests: int) -> int:
    """Each request loses the reply of its first commit and is repeated until it is answered; rows stored."""
    async with CommitCutter(dsn) as cutter:
        database = await open_database(patient(cutter.dsn, connections=2))
        ingest = kind(database, Heard(), SystemClock(), PATIENT)
        await ingest.start()
        for n in range(requests):
            cutter.armed = True
            with pytest.raises(ServiceError) as unknown:
                await ingest.submit(submission(), service(), key=f"key-{n}", body_hash=BODY)
            assert unknown.value.code == "unavailable"
            cutter.armed = False
            answer = await ingest.submit(submission(), service(), key=f"key-{n}", body_hash=BODY)
            assert answer.status == 201
        assert cutter.cuts == requests
        await ingest.close()
        await database.close()
    return len(await stores.query("SELECT FROM notifications"))


async def test_a_lost_reply_to_a_commit_is_no_second_notification(stores: Stores, database: str) -> None:
    assert await rows_after_lost_commits(stores, database, Ingest, 100) == 100


async def test_without_a_key_a_lost_reply_would_be_a_second_notification(
    stores: Stores, database: str
) -> None:
    assert await rows_after_lost_commits(stores, database, WithoutKeys, 10) == 20
