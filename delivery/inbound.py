"""
What people send back: words, taps on buttons, and the keywords that stop and start a channel (X-71). Pure.

Keywords are data (keywords.json), by language. Which language somebody writes in is not known, and somebody who says
"stop" in any language means it; so all of them are looked at. A keyword is the whole message: "stop sending the bill
to my old address" is a reply.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from typing import Literal

import msgspec

from delivery.receipts import Receipt

#: As it is stored.
Kind = Literal["reply", "tap", "stop", "start", "help"]

#: As a provider tells it: words, a button, a keyword that it has understood by itself; or that somebody has stopped the
#: sender in the app, or has taken that back.
Told = Literal["words", "tap", "stop", "start", "blocked", "unblocked"]

Keyword = Literal["stop", "start", "help"]

#: Longer than any keyword: not looked at further.
_LONGEST = 40

_Words = dict[Keyword, dict[str, list[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """
    One thing that somebody sent us. Who it is, only their address says.

    address: as the provider writes it. provider_id: by which it is known when it comes again. payload: of
    the button, as whoever made the template has named it. answers: how the provider calls the message that it
    answers. link: a token that ties the address to a person.
    """

    provider: str
    provider_id: str
    channel: str
    address: str = field(repr=False)
    told: Told = "words"
    text: str = field(default="", repr=False)
    payload: str | None = field(default=None, repr=False)
    answers: str | None = None
    link: str | None = field(default=None, repr=False)
    occurred_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one request of a provider holds."""

    receipts: Sequence[Receipt] = ()
    inbound: Sequence[Inbound] = ()


def kind(message: Inbound) -> Kind:
    """What it is to us. A tap on a button that says "Stop" stops, too."""
    if message.told in ("stop", "blocked"):
        return "stop"
    if message.told in ("start", "unblocked"):
        return "start"
    found = keyword(message.text) or (keyword(message.payload) if message.payload is not None else None)
    return found or ("tap" if message.told == "tap" else "reply")


def keyword(text: str) -> Keyword | None:
    """Whether the whole of a message is a keyword, whatever its case, accents and punctuation."""
    return _KEYWORDS.get(_plain(text)) if len(text) <= _LONGEST else None


def _plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    letters = "".join(one for one in decomposed if not unicodedata.combining(one))
    return " ".join(re.findall(r"\w+", letters))


def _read() -> Mapping[str, Keyword]:
    words = msgspec.json.decode(files("delivery").joinpath("keywords.json").read_bytes(), type=_Words)
    found: dict[str, Keyword] = {}
    for meaning in ("start", "help", "stop"):  # a word of several meanings stops
        for said in words[meaning].values():
            found.update((_plain(word), meaning) for word in said)
    return found


_KEYWORDS = _read()
