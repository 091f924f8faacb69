"""Keys fetched from an issuer that rotates them, hangs, talks nonsense, talks too much, or is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ed25519
from structlog.testing import capture_logs

from app.jwks import JwksSettings, PublishedKeys
from core.identity import InvalidToken, TokenSettings, UnknownKey, Verifier, mint
from core.keys import KeySet
from core.revocation import Revocations
from tests.tokens import HMAC_KEY, HOUR, NOW, claims, jwk, public

CLAIMS = claims(aud=...)
OLD, NEW = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
OLD_TOKEN, NEW_TOKEN = (public(CLAIMS, key, "EdDSA", kid) for key, kid in ((OLD, "old"), (NEW, "new")))
OWN_TOKEN = mint(HMAC_KEY, "anna", now=NOW, life=HOUR)


def document(**keys: ed25519.Ed25519PrivateKey) -> bytes:
    return json.dumps({"keys": [jwk(key.public_key(), kid=kid) for kid, key in keys.items()]}).encode()


class ManualClock:
    """Stands still until told; shows how long sleepers asked to sleep."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.sleeps: asyncio.Queue[tuple[float, asyncio.Event]] = asyncio.Queue()

    def now(self) -> datetime:
        return datetime.fromtimestamp(NOW + self.elapsed, UTC)

    def monotonic(self) -> float:
        return self.elapsed

    async def sleep(self, seconds: float) -> None:
        wake = asyncio.Event()
        self.sleeps.put_nowait((seconds, wake))
        await wake.wait()


class Issuer:
    """A real server whose answer is what the test says."""

    def __init__(self) -> None:
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] = self.publishing(
            document(old=OLD)
        )
        self.requests = 0
        self.arrived = asyncio.Event()
        self.url = ""

    @staticmethod
    def publishing(body: bytes, status: int = 200, **headers: str) -> Callable[[web.Request], Any]:
        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(body=body, status=status, headers=headers, content_type="application/json")

        return answer

    def publish(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.answer = self.publishing(body, status, **headers)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        self.arrived.set()
        return await self.answer(request)


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """Listens on a free port of this machine until the test is over."""
    issuer = Issuer()
    application = web.Application()
    application.router.add_get("/{path:.*}", issuer.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
    yield issuer
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def keys(
    issuer: Issuer, session: aiohttp.ClientSession, clock: ManualClock
) -> AsyncIterator[PublishedKeys]:
    keys = PublishedKeys(JwksSettings(url=issuer.url), own_verifier(), session, clock)
    yield keys
    await keys.close()


def own_verifier() -> Verifier:
    return Verifier(KeySet([HMAC_KEY]), TokenSettings(), Revocations())


async def test_published_keys_stand_beside_our_own(keys: PublishedKeys, clock: ManualClock) -> None:
    assert await keys.refresh()

    assert (await keys.verify(OLD_TOKEN)).user_id == "anna"
    assert (await keys.verify(OWN_TOKEN)).user_id == "anna"
    assert keys.fetched_at == clock.now()
    assert keys.failure is None


async def test_a_rotated_key_is_fetched_for_the_first_token_that_names_it(
    keys: PublishedKeys, issuer: Issuer, clock: ManualClock
) -> None:
    await keys.refresh()
    issuer.publish(document(old=OLD, new=NEW))
    clock.elapsed += 10

    assert (await keys.verify(NEW_TOKEN)).user_id == "anna"
    assert (await keys.verify(OLD_TOKEN)).user_id == "anna"
    assert issuer.requests == 2


async def test_a_withdrawn_key_opens_nothing_also_for_a_token_seen_before(
    keys: PublishedKeys, issuer: Issuer
) -> None:
    await keys.refresh()
    await keys.verify(OLD_TOKEN)

    issuer.publish(document(new=NEW))
    await keys.refresh()

    with pytest.raises(InvalidToken):
        await keys.verify(OLD_TOKEN)


async def test_invented_kids_cost_the_issuer_one_request_in_ten_seconds(
    keys: PublishedKeys, issuer: Issuer, clock: ManualClock
) -> None:
    await keys.refresh()
    invented = [public(CLAIMS, NEW, "EdDSA", f"kid-{n}") for n in range(50)]

    for second in range(20):
        clock.elapsed = second
        answers = await asyncio.gather(*map(keys.verify, invented), return_exceptions=True)
        assert all(isinstance(answer, UnknownKey) for answer in answers)

    assert issuer.requests == 2  # the first, and one at second 10


async def test_many_tokens_of_a_new_key_share_one_fetch(
    keys: PublishedKeys, issuer: Issuer, clock: ManualClock
) -> None:
    await keys.refresh()
    issuer.publish(document(new=NEW))
    clock.elapsed += 60
    tokens = [public({**CLAIMS, "jti": str(n)}, NEW, "EdDSA", "new") for n in range(50)]

    identities = await asyncio.gather(*map(keys.verify, tokens))

    assert len({identity.token_id for identity in identities}) == 50
    assert issuer.requests == 2


async def test_a_caller_who_gives_up_does_not_end_the_fetch_for_the_others(
    keys: PublishedKeys, issuer: Issuer
) -> None:
    go_on = asyncio.Event()

    async def slowly(_: web.Request) -> web.StreamResponse:
        await go_on.wait()
        return web.Response(body=document(old=OLD))

    issuer.answer = slowly
    impatient = asyncio.create_task(keys.verify(OLD_TOKEN))
    await issuer.arrived.wait()
    patient = asyncio.create_task(keys.verify(OLD_TOKEN))
    impatient.cancel()
    await asyncio.wait([impatient])
    go_on.set()

    assert (await patient).user_id == "anna"
    assert issuer.requests == 1


async def hang(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError("woken")


async def drip(request: web.Request) -> web.StreamResponse:
    """Headers at once, then a byte now and then: every single read is in time, the whole is not."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.02)


async def flood(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 65_536)


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def redirect(location: str) -> Callable[[web.Request], Any]:
    return Issuer.publishing(b"", 302, Location=location)


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (flood, "larger than 65536"),
        (hang_up, "ServerDisconnectedError"),
        (Issuer.publishing(document(old=OLD) + b" " * 65_536), "larger than 65536"),
        (Issuer.publishing(b"<html>We are down.</html>"), "not a JWKS document"),
        (Issuer.publishing(b""), "not a JWKS document"),
        (Issuer.publishing(b'{"keys": []}'), "no usable key"),
        (Issuer.publishing(b'{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "old"}]}'), "no usable key"),
        (Issuer.publishing(document(new=NEW), 500), "answered 500"),
        (Issuer.publishing(document(new=NEW), 201), "answered 201"),
        (redirect("http://127.0.0.1:1/jwks"), "another server"),
        (redirect("//evil.example/jwks"), "another server"),
        (redirect("file:///etc/passwd"), "redirected"),
        (redirect("/jwks"), "redirected more than 3 times"),
    ],
)
async def test_an_issuer_that_fails_costs_no_key_that_is_known(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
    failure: str,
    keys: PublishedKeys,
    issuer: Issuer,
) -> None:
    await keys.refresh()
    issuer.answer = answer

    with capture_logs() as logs:
        assert not await keys.refresh()

    assert failure in (keys.failure or "")
    assert [(log["event"], log["keys_kept"]) for log in logs] == [("jwks_refresh_failed", 1)]
    assert "127.0.0.1" not in str(logs)
    assert (await keys.verify(OLD_TOKEN)).user_id == "anna"
    assert (await keys.verify(OWN_TOKEN)).user_id == "anna"


@pytest.mark.parametrize("answer", [hang, drip])
async def test_an_issuer_that_does_not_come_to_an_end_is_left(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
    issuer: Issuer,
    session: aiohttp.ClientSession,
    clock: ManualClock,
) -> None:
    settings = JwksSettings(url=issuer.url, deadline=timedelta(milliseconds=200))
    hasty = PublishedKeys(settings, own_verifier(), session, clock)
    while not await hasty.refresh():  # a busy machine may need a second try
        continue
    issuer.answer = answer

    assert not await hasty.refresh()

    assert hasty.failure == "no answer in time"
    assert (await hasty.verify(OLD_TOKEN)).user_id == "anna"
    assert (await hasty.verify(OWN_TOKEN)).user_id == "anna"


async def test_a_redirect_on_the_same_server_is_followed(keys: PublishedKeys, issuer: Issuer) -> None:
    async def moved(request: web.Request) -> web.StreamResponse:
        if request.path == "/jwks":
            raise web.HTTPTemporaryRedirect("/keys/jwks.json")
        return web.Response(body=document(old=OLD))

    issuer.answer = moved

    assert await keys.refresh()


async def test_an_issuer_that_is_away_at_the_start_is_found_later(
    keys: PublishedKeys, issuer: Issuer, clock: ManualClock
) -> None:
    issuer.publish(b"", 503)
    task = asyncio.create_task(keys.run())

    pause, wake = await clock.sleeps.get()
    assert pause == 30
    with pytest.raises(UnknownKey):
        await keys.verify(OLD_TOKEN)
    assert (await keys.verify(OWN_TOKEN)).user_id == "anna"

    issuer.publish(document(old=OLD))
    wake.set()
    pause, _ = await clock.sleeps.get()
    assert pause == 600
    assert (await keys.verify(OLD_TOKEN)).user_id == "anna"

    task.cancel()
    await asyncio.wait([task])


async def test_news_are_logged_once_and_passed_over_keys_are_named(
    keys: PublishedKeys, issuer: Issuer
) -> None:
    published = json.loads(document(old=OLD))
    published["keys"].append({"kty": "oct", "k": "c2VjcmV0", "kid": "leaked"})
    issuer.publish(json.dumps(published).encode())

    with capture_logs() as logs:
        await keys.refresh()
        await keys.refresh()

    assert [(log["event"], log["keys"]) for log in logs] == [("jwks_changed", 1)]
    assert logs[0]["refused"][0][0] == "leaked"
    assert "c2VjcmV0" not in str(logs)


async def test_closing_ends_a_fetch_that_hangs(keys: PublishedKeys, issuer: Issuer) -> None:
    issuer.answer = hang
    waiting = asyncio.create_task(keys.refresh())
    await issuer.arrived.wait()

    await keys.close()

    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize(
    "url",
    [
        "https://login.example/jwks",
        "http://127.0.0.1:9/jwks",
        "http://localhost/jwks",
        "http://[::1]:9/jwks",
    ],
)
def test_an_address_is_https_or_of_this_machine(url: str) -> None:
    assert JwksSettings(url=url).url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "login.example/jwks",
        "http://login.example/jwks",
        "http://10.0.0.1/jwks",
        "http://localhost.evil.example/jwks",
        "https://user:password@login.example/jwks",
        "file:///etc/jwks",
        "https:///jwks",
    ],
)
def test_another_address_stops_the_start(url: str) -> None:
    with pytest.raises(ValueError):
        JwksSettings(url=url)


def test_plain_http_to_another_machine_is_somebodys_decision() -> None:
    assert JwksSettings(url="http://keycloak:8080/jwks", allow_http=True)
