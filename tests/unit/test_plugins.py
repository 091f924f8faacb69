"""Somebody else's channel: whatever it says, a worker does not stumble over it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from importlib.metadata import EntryPoint
from typing import Any
from uuid import uuid4

import pytest

from core.outcome import Fail, Outcome, Retry, Sent, Unknown
from core.plugins import GROUP, checked
from delivery import plugins
from delivery.channel import Address
from delivery.plugins import BadPlugin, Held, hinted, normalised, providers_of
from tests.messages import message

ADDRESS = Address(id=uuid4(), channel="pager", value="5550142", hint="*****42")


class Provider:
    """One that is well made, but for what a test changes."""

    name, concurrency, rate = "acme", 8, None

    def __init__(self, **changed: Any) -> None:
        self.says: Callable[[], Any] = Sent
        for name, value in changed.items():
            setattr(self, name, value)

    def account_of(self, address: Address) -> str:
        return "acme"

    async def send(self, message: Any) -> Any:
        return self.says()


def named(monkeypatch: pytest.MonkeyPatch, providers: Callable[..., Any]) -> None:
    """`pager` is a channel whose class gives these."""

    class Pager:
        unknown = "repeat"
        normalise = hint = str

    Pager.providers = staticmethod(providers)  # type: ignore[attr-defined] # it is made here
    monkeypatch.setattr(plugins, "plugin", lambda channel: Pager)


def failing(settings: Any, http: Any) -> Any:
    return settings["PAGER_URL"]


@pytest.mark.parametrize(
    ("providers", "says"),
    [
        (failing, "gives no providers: KeyError"),
        (lambda settings, http: None, "gives no providers: TypeError"),
        (lambda settings, http: [object()], "must have a name"),
        (lambda settings, http: [Provider(name="Acme Inc.")], "must have a name"),
        (lambda settings, http: [Provider(concurrency="8")], "a whole number from 1 on"),
        (lambda settings, http: [Provider(concurrency=0)], "a whole number from 1 on"),
        (lambda settings, http: [Provider(rate=0)], "a rate above zero"),
        (lambda settings, http: [Provider(send=None)], "must have account_of and send"),
    ],
)
def test_providers_that_no_worker_could_use_are_refused_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, providers: Callable[..., Any], says: str
) -> None:
    named(monkeypatch, providers)

    with pytest.raises(BadPlugin, match=says):
        providers_of("pager", {}, None)


def test_a_generator_of_providers_is_as_good_as_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, lambda settings, http: (Provider() for _ in range(2)))

    assert [one.name for one in providers_of("pager", {}, None)] == ["acme", "acme"]


def raising(error: BaseException) -> Callable[[], Any]:
    def says() -> Any:
        raise error

    return says


@pytest.mark.parametrize(
    ("says", "is_"),
    [
        (Sent, Sent()),
        (lambda: None, Fail(reason="the channel did not say how it ended", code="internal")),
        (lambda: "ok", Fail(reason="the channel did not say how it ended", code="internal")),
        (lambda: Sent, Fail(reason="the channel did not say how it ended", code="internal")),
        (
            raising(asyncio.CancelledError()),
            Unknown(reason="the channel gave up in the middle", code="internal"),
        ),
        (raising(SystemExit(0)), Fail(reason="the channel wanted to end the process", code="internal")),
        (lambda: Fail(reason="a\0b", code="\0"), Fail(reason="unreadable", code="unreadable")),
        (lambda: Sent(provider_ref="x" * 501), Sent(provider_ref="unreadable")),
        (lambda: Retry(reason="later", after=timedelta(days=-5)), Retry(reason="later")),
        (lambda: Retry(reason="later", after=5), Retry(reason="later")),  # type: ignore[arg-type] # as somebody may
    ],
)
async def test_every_end_of_a_send_is_one_that_a_worker_knows(says: Callable[[], Any], is_: Outcome) -> None:
    assert await Held(Provider(says=says)).send(message("email", "ada@example.test")) == is_


async def test_a_send_that_is_cancelled_is_cancelled() -> None:
    async def send(message: Any) -> Any:
        await asyncio.Event().wait()

    task = asyncio.create_task(Held(Provider(send=send)).send(message("email", "ada@example.test")))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("account", [None, "", "a\0b", "x" * 256, 5])
def test_an_account_that_cannot_be_stored_is_the_provider(account: Any) -> None:
    assert Held(Provider(account_of=lambda address: account)).account_of(ADDRESS) == "acme"


def test_an_account_that_cannot_be_told_is_the_provider() -> None:
    def account_of(address: Address) -> str:
        raise KeyError(address.value)

    assert Held(Provider(account_of=account_of)).account_of(ADDRESS) == "acme"


@pytest.mark.parametrize("value", [None, "", "a\0b", "\ud800", "x" * 2049, 5])
def test_what_a_channel_makes_of_an_address_can_be_stored(value: Any) -> None:
    class Odd:
        normalise = staticmethod(lambda text: value)
        hint = staticmethod(lambda text: value)

    with pytest.raises(ValueError, match="is no address"):
        normalised(Odd, "5550142")  # type: ignore[arg-type] # as somebody may have written it
    assert hinted(Odd, "5550142") == "***"  # type: ignore[arg-type] # the same


@pytest.mark.parametrize("name", ["Pager", "p", "sms", "a-b", "9a", "x" * 33])
def test_a_name_that_cannot_be_a_channels_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=GROUP.replace(".", r"\.")):
        checked([EntryPoint(name, "pager:Pager", GROUP)])


def test_a_name_that_is_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="another one"):
        checked([EntryPoint("pager", "one:Pager", GROUP), EntryPoint("pager", "other:Pager", GROUP)])
