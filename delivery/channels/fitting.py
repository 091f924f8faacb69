"""
Words made to fit what a channel takes: shortened where a word ends, the link kept whole (pure).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

#: How much of a text may be given up to end with a whole word.
_WORD = 30

_CONTROLS = re.compile(r"[^\S\n ]|[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_JOINER = "\u200d"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What is sent. dropped: characters of the text that did not fit."""

    body: str = field(repr=False)
    dropped: int = 0


def plain(text: str) -> str:
    """The text with line ends as \\n, and without the control characters that no channel shows."""
    return _CONTROLS.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n")).strip()


def one_line(text: str) -> str:
    """The text with every run of white space as one space."""
    return " ".join(plain(text).split())


def shorten(text: str, fits: Callable[[str], bool], ellipsis_: str = "…") -> str | None:
    """
    The longest beginning that fits with the ellipsis behind it, ending with a word where one ends nearby; the
    text itself when it fits; None when not even one character does.

    fits: holds for every beginning of what it holds for.
    """
    if fits(text):
        return text
    low, high = 0, len(text)  # `low` characters fit, `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        if fits(text[:middle].rstrip() + ellipsis_):
            low = middle
        else:
            high = middle
    kept = text[: _boundary(text, low)].rstrip()
    return kept + ellipsis_ if kept else None


def fit(parts: tuple[str, str, str], fits: Callable[[str], bool], *, ellipsis_: str = "…") -> Fitted | None:
    """
    Title, text and link, each on a line of its own, the text shortened until all fits; then the title.

    parts: each may be empty. None when there is no room for one character beside the link.
    """
    title, text, link = parts
    whole = _lines(title, text, link)
    if fits(whole):
        return Fitted(body=whole)
    kept = shorten(text, lambda one: fits(_lines(title, one, link)), ellipsis_) if text else None
    if kept is not None:
        return Fitted(body=_lines(title, kept, link), dropped=len(text) - len(kept) + len(ellipsis_))
    words = title or text
    kept = shorten(words, lambda one: fits(_lines(one, "", link)), ellipsis_)
    if kept is None:
        return None
    lost = len(title) + len(text) - len(kept) + len(ellipsis_)
    return Fitted(body=_lines(kept, "", link), dropped=lost)


def utf16_length(text: str) -> int:
    """In UTF-16 units, as Telegram counts."""
    return len(text) + sum(1 for character in text if character > "\uffff")


def _lines(*parts: str) -> str:
    return "\n".join(part for part in parts if part)


def _boundary(text: str, end: int) -> int:
    """A place at or before `end` where a word ends, or at least a character with all that belongs to it."""
    for place in range(end, max(end - _WORD, 0), -1):
        if text[place : place + 1].isspace() or text[place - 1 : place].isspace():
            return place
    while 0 < end < len(text) and _belongs(text[end], text[end - 1]):
        end -= 1
    return end


def _belongs(character: str, before: str) -> bool:
    """Whether a character changes the one before it: an accent, a variation, a part of a joined emoji."""
    return (
        unicodedata.combining(character) > 0
        or unicodedata.category(character) in ("Mn", "Me", "Mc")
        or character == _JOINER
        or before == _JOINER
        or "\U0001f3fb" <= character <= "\U0001f3ff"
        or ("\U0001f1e6" <= character <= "\U0001f1ff" and "\U0001f1e6" <= before <= "\U0001f1ff")
    )
