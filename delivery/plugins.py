"""The channels that others have written, as the rest of delivery uses them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any, Protocol, get_args

import structlog

from core.outcome import Fail, Outcome, Unknown
from core.plugins import installed
from delivery.channel import MAX_ADDRESS, Address, Message, Provider, UnknownPolicy

MAX_HINT = 255

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")

log = structlog.stdlib.get_logger("delivery.plugins")


class Plugin(Protocol):
    """
    A channel in one class; the name of its entry point is the channel's. No instance is made of it.

    unknown: what is done about an attempt of which nobody knows the end: `repeat` where the other side recognises our
    reference, else `reconcile`.
    """

    unknown: UnknownPolicy

    @staticmethod
    def normalise(text: str) -> str:
        """The one form of an address that is stored. Raises ValueError with a sentence that does not repeat it."""
        ...

    @staticmethod
    def hint(value: str) -> str:
        """A normalised address, masked so far that it may be shown."""
        ...

    @staticmethod
    def providers(settings: Mapping[str, str], http: Any) -> Sequence[Provider]:
        """
        The accounts it sends by, in the order in which they are tried; none where it is not configured.

        settings: the variables of the environment that begin with the channel's name in capitals and `_`.
        http: an aiohttp.ClientSession, shared and closed by the worker.
        """
        ...


class BadPlugin(ValueError):
    """A plugin that cannot be used; in words for operators."""


@cache
def plugin(channel: str) -> type[Plugin] | None:
    """The class of a channel; None where it is one of ours, or there is none. Raises BadPlugin."""
    entry = installed().get(channel)
    if entry is None:
        return None
    where = f"the entry point {channel!r} ({entry.value})"
    try:
        found: Any = entry.load()
    except (Exception, SystemExit) as error:
        raise BadPlugin(f"{where} cannot be loaded: {type(error).__name__}") from error
    missing = [name for name in ("unknown", "normalise", "hint", "providers") if not hasattr(found, name)]
    if missing:
        raise BadPlugin(f"{where} lacks {', '.join(missing)}")
    if found.unknown not in ("repeat", "reconcile"):
        raise BadPlugin(f"{where} says of unknown neither repeat nor reconcile")
    cls: type[Plugin] = found
    return cls


def normalised(theirs: type[Plugin], text: str) -> str:
    """An address as a plugin has it. Raises ValueError: its own, or because what it says cannot be stored."""
    value: object = theirs.normalise(text)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ADDRESS or not value.isprintable():
        raise ValueError("is read by its channel as something that is no address")
    return value


def hinted(theirs: type[Plugin], value: str) -> str:
    """A hint as a plugin gives it; stars where it gives none that could be shown."""
    said: object = theirs.hint(value)
    return said if isinstance(said, str) and 0 < len(said) <= MAX_HINT and said.isprintable() else "***"


def providers_of(channel: str, settings: Mapping[str, str], http: Any) -> tuple[Provider, ...]:
    """The accounts of a plugin's channel, each held to what a worker relies on. Raises BadPlugin."""
    theirs = plugin(channel)
    assert theirs is not None, "it is installed"
    try:
        made = tuple(theirs.providers(settings, http))
    except (Exception, SystemExit) as error:
        raise BadPlugin(f"the channel {channel!r} gives no providers: {type(error).__name__}") from error
    for one in made:
        _check(channel, one)
    return tuple(map(Held, made))


def _check(channel: str, provider: Any) -> None:
    where = f"a provider of the channel {channel!r}"
    name, concurrency, rate = (getattr(provider, part, None) for part in ("name", "concurrency", "rate"))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadPlugin(f"{where} must have a name of 1-32 lower-case letters, digits and _")
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise BadPlugin(f"{where} must have a concurrency, a whole number from 1 on")
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0):
        raise BadPlugin(f"{where} must have a rate above zero, or None")
    if not all(callable(getattr(provider, part, None)) for part in ("account_of", "send")):
        raise BadPlugin(f"{where} must have account_of and send")


class Held:
    """Somebody else's provider, of which nothing comes through that a worker could stumble over."""

    def __init__(self, theirs: Provider) -> None:
        self.name = theirs.name
        self.concurrency = theirs.concurrency
        self.rate = theirs.rate
        self._theirs = theirs

    def account_of(self, address: Address) -> str:
        try:
            account: object = self._theirs.account_of(address)
        except Exception:
            log.exception("plugin_failed", provider=self.name)
            return self.name
        return (
            account
            if isinstance(account, str) and 0 < len(account) <= 255 and account.isprintable()
            else self.name
        )

    async def send(self, message: Message) -> Outcome:
        try:
            outcome: object = await self._theirs.send(message)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            return Unknown(reason="the channel gave up in the middle", code="internal")
        except SystemExit:
            return Fail(reason="the channel wanted to end the process", code="internal")
        if not isinstance(outcome, get_args(Outcome)):
            return Fail(reason="the channel did not say how it ended", code="internal")
        changed: dict[str, Any] = {}
        for part in ("code", "reason", "provider_ref"):
            said = getattr(outcome, part, None)
            if said is not None and not (isinstance(said, str) and len(said) <= 500 and said.isprintable()):
                changed[part] = "unreadable"
        after = getattr(outcome, "after", None)
        if after is not None and not (isinstance(after, timedelta) and after >= timedelta(0)):
            changed["after"] = None
        checked: Outcome = replace(outcome, **changed)
        return checked

    async def close(self) -> None:
        """Close what it keeps open of its own."""
        if (end := getattr(self._theirs, "close", None)) is not None:
            await end()


def settings_of(channel: str, environment: Mapping[str, str]) -> Mapping[str, str]:
    """The variables that are this channel's."""
    prefix = f"{channel.upper()}_"
    return {name: value for name, value in environment.items() if name.startswith(prefix)}
