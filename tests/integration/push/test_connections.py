"""What becomes of a connection to a push service whose push was given up, and when a push is sent a second time."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from push.guard import Guard
from push.transport import Answer, Broken, KeepAliveTransport, Patience, Post, trusting
from tests.providers.push_service import Fault, PushService, Raw, Reset, Say, Silence
from tests.senders import TRANSPORTS, settings_for, transport

#: Of an answer, or of a handshake, that never comes.
HASTY = Patience(connect=timedelta(seconds=0.3), answer=timedelta(seconds=0.6))
PATIENT = Patience(connect=timedelta(seconds=20), answer=timedelta(seconds=20))


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[PushService]:
    """It answers with the status that the target names, unless a test says otherwise."""
    async with PushService(tmp_path) as service:
        service.fault_of = lambda token: Say(int(token))
        yield service


def post(service: PushService, status: int = 201, *, is_repeatable: bool = True) -> Post:
    """What is answered with this status. Repeatable unless a test says otherwise: the most that may be sent twice."""
    return Post(
        origin=service.origin,
        target=f"/{status}",
        standing=(),
        own=(),
        body=b"x",
        is_repeatable=is_repeatable,
    )


def ours(service: PushService, patience: Patience = PATIENT, port: int | None = None) -> KeepAliveTransport:
    """port: where the push service is looked for instead."""
    where = {} if port is None else {"resolve": frozenset({f"{service.origin}=127.0.0.1:{port}"})}
    settings = settings_for(service, **where)
    return KeepAliveTransport(Guard(settings), trusting(settings.ca_file), patience)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


async def cancelled(task: asyncio.Task[Answer | Broken]) -> bool:
    """Cancel it. False: it had come to its end."""
    if not task.cancel():
        return False
    with pytest.raises(asyncio.CancelledError):
        await task
    return True


# --- given up --------------------------------------------------------------------------------------------------------


@dataclass
class Mute:
    """It takes connections, reads, and never says a word, not even of TLS."""

    port: int = 0
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@pytest.fixture
async def mute() -> AsyncIterator[Mute]:
    made = Mute()
    writers: list[asyncio.StreamWriter] = []

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(ConnectionResetError):
            while await reader.read(65536):
                made.heard.set()
        made.ended.set()
        writer.close()

    server = await asyncio.start_server(on_connection, "127.0.0.1")
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made
        for writer in writers:  # of those that nobody has ended
            writer.transport.abort()


@pytest.mark.parametrize("is_kept", [False, True], ids=["new", "kept"])
async def test_the_connection_of_an_exchange_that_is_cancelled_ends(
    service: PushService, is_kept: bool
) -> None:
    way = ours(service)
    if is_kept:
        await way.post(post(service))
    service.script.append(Silence())

    waiting = asyncio.create_task(way.post(post(service)))
    await service.wait_for(2 if is_kept else 1)
    assert await cancelled(waiting)

    await until(lambda: not service._open)
    assert not way._open
    assert service.connections == 1
    await way.close()


async def test_the_connection_of_a_handshake_that_is_cancelled_ends(service: PushService, mute: Mute) -> None:
    way = ours(service, port=mute.port)

    waiting = asyncio.create_task(way.post(post(service)))
    await asyncio.wait_for(mute.heard.wait(), 20)
    assert await cancelled(waiting)

    await asyncio.wait_for(mute.ended.wait(), 20)
    await way.close()


async def test_the_connection_of_a_handshake_that_takes_too_long_ends(
    service: PushService, mute: Mute
) -> None:
    way = ours(service, HASTY, mute.port)

    ended = await way.post(post(service))

    assert ended == Broken(reason="no connection to the push service in time", was_handed_over=False)
    await asyncio.wait_for(mute.ended.wait(), 20)
    await way.close()


@pytest.mark.parametrize("is_kept", [False, True], ids=["new", "kept"])
async def test_whenever_a_push_is_cancelled_nothing_is_left_of_it_and_no_answer_to_the_next(
    service: PushService, is_kept: bool
) -> None:
    """After each turn of the loop that it takes, through name, connection, handshake, request and answer."""
    way = ours(service)
    turns, was_cancelled = 0, True

    while was_cancelled:
        if is_kept:
            assert await way.post(post(service, 201)) == Answer(201, {"content-length": "0"})
        given_up = asyncio.create_task(way.post(post(service, 503)))
        for _ in range(turns):
            await asyncio.sleep(0)
        was_cancelled = await cancelled(given_up)
        after = await way.post(post(service, 410))
        assert isinstance(after, Answer), after
        assert after.status == 410, f"cancelled after {turns} turns"
        if not is_kept:
            for connection in tuple(way._open):  # the next begins with none
                connection.close()
            await until(lambda: not way._open)
        turns += 1

    assert turns > 3, "it was cancelled under way"
    await until(lambda: len(service._open) == len(way._open))
    assert way._open <= set(way._kept.get(service.origin, ())), "what is open is there for the next"
    await way.close()
    await until(lambda: not service._open)


# --- sent a second time ----------------------------------------------------------------------------------------------

#: An answer that has begun and does not come to its end.
BEGUN: dict[str, Fault] = {
    "one byte of it": Raw(b"H"),
    "half a head": Raw(b"HTTP/1.1 201 C\r\nContent-Le"),
    "a sign of life": Raw(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
    "a sign of life and half a head": Raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2"),
    "no HTTP": Raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
}


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("fault", BEGUN.values(), ids=BEGUN)
@pytest.mark.parametrize("is_kept", [False, True], ids=["new", "kept"])
async def test_a_push_whose_answer_had_begun_is_not_sent_twice(
    service: PushService, kind: str, fault: Fault, is_kept: bool
) -> None:
    way, _ = transport(kind, settings_for(service), patience=PATIENT)
    if is_kept:
        await way.post(post(service))
    before = service.requests
    service.script.append(fault)

    ended = await way.post(post(service))
    await way.close()

    assert isinstance(ended, Broken), ended
    assert ended.was_handed_over
    assert service.requests - before == 1
    assert service.connections == 1


async def test_a_push_that_is_answered_by_what_nobody_can_read_is_not_sent_twice(
    service: PushService,
) -> None:
    """Bytes that are no record of TLS: what they were is anybody's guess."""
    way = ours(service)
    await way.post(post(service))
    service.script.append(Silence())

    waiting = asyncio.create_task(way.post(post(service)))
    await service.wait_for(2)
    [session] = service._open
    with socket.socket(fileno=os.dup(session.raw.fileno())) as raw:
        raw.sendall(b"garbage that is no record")
    ended = await waiting
    await way.close()

    assert isinstance(ended, Broken), ended
    assert ended.was_handed_over
    assert (service.requests, service.connections) == (2, 1)


async def test_a_push_that_nobody_answers_in_time_is_not_sent_twice(service: PushService) -> None:
    way = ours(service)
    await way.post(post(service))
    way._answer_s = 0.3
    service.script.append(Silence())

    ended = await way.post(post(service))
    await service.wait_for(2)
    await until(lambda: not service._open)
    await way.close()

    assert ended == Broken(reason="no answer from the push service in time", was_handed_over=True)
    assert (service.requests, service.connections) == (2, 1)


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("fault", [Reset(taken=False), Raw(b"")], ids=["reset", "closed"])
async def test_a_push_on_a_new_connection_is_not_sent_twice(
    service: PushService, kind: str, fault: Fault
) -> None:
    way, _ = transport(kind, settings_for(service), patience=PATIENT)
    service.script.append(fault)

    ended = await way.post(post(service))
    await way.close()

    assert isinstance(ended, Broken), ended
    assert ended.was_handed_over
    assert (service.requests, service.connections) == (1, 1)


@pytest.mark.parametrize("fault", [Reset(taken=False), Raw(b"")], ids=["reset", "closed"])
async def test_a_push_on_a_kept_connection_that_ends_in_silence_is_sent_again_once_and_on_a_new_one(
    service: PushService, fault: Fault
) -> None:
    way = ours(service)
    await asyncio.gather(*(way.post(post(service)) for _ in range(3)))  # three are kept
    assert len(way._kept[service.origin]) == 3

    service.script.append(fault)
    again = await way.post(post(service))
    service.script.extend([fault, fault])
    twice = await way.post(post(service))
    kept = way.counts.connections
    await way.close()

    assert isinstance(again, Answer), again
    assert isinstance(twice, Broken), twice
    assert twice.was_handed_over
    assert (way.counts.repeated, kept) == (2, 5)
    assert service.requests == 3 + 2 + 2


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("fault", [Reset(taken=False), Raw(b"")], ids=["reset", "closed"])
async def test_a_push_that_push_services_keep_both_of_is_never_sent_twice(
    service: PushService, kind: str, fault: Fault
) -> None:
    way, _ = transport(kind, settings_for(service), patience=PATIENT)
    await way.post(post(service))
    service.script.append(fault)

    ended = await way.post(post(service, is_repeatable=False))
    await way.close()

    assert isinstance(ended, Broken), ended
    assert ended.was_handed_over
    assert service.requests == 2
