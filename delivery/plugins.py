"""The channels that others have written, as the rest of delivery uses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol

from core.plugins import installed
from delivery.channel import Provider, UnknownPolicy


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
    except Exception as error:
        raise BadPlugin(f"{where} cannot be loaded: {type(error).__name__}") from error
    missing = [name for name in ("unknown", "normalise", "hint", "providers") if not hasattr(found, name)]
    if missing:
        raise BadPlugin(f"{where} lacks {', '.join(missing)}")
    if found.unknown not in ("repeat", "reconcile"):
        raise BadPlugin(f"{where} says of unknown neither repeat nor reconcile")
    cls: type[Plugin] = found
    return cls


def settings_of(channel: str, environment: Mapping[str, str]) -> Mapping[str, str]:
    """The variables that are this channel's."""
    prefix = f"{channel.upper()}_"
    return {name: value for name, value in environment.items() if name.startswith(prefix)}
