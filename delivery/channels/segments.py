"""
How many SMS a text becomes (3GPP TS 23.038 §6.2, TS 23.040 §9.2.3.24) (pure).

A text of the GSM-7 alphabet goes as 160 septets, any other as 70 UTF-16 units. One that is longer goes in
parts, each with a header that leaves 153 septets or 67 units; a character of two never spans two parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

#: TS 23.038 §6.2.1: one septet each.
_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
#: TS 23.038 §6.2.1.1: two septets each, the escape and the character.
_EXTENSION = frozenset("\f^{}\\[~]|€")


class Segments(NamedTuple):
    """What one text costs. units: septets of GSM-7, or UTF-16 units of UCS-2."""

    encoding: Literal["GSM-7", "UCS-2"]
    units: int
    parts: int


def is_gsm7(text: str) -> bool:
    """Whether every character is of the GSM-7 alphabet or its extension table."""
    return all(character in _BASIC or character in _EXTENSION for character in text)


def segments(text: str) -> Segments:
    """The encoding a text is sent in, its length in it, and the number of SMS; 0 for no text."""
    if is_gsm7(text):
        return _count("GSM-7", [2 if character in _EXTENSION else 1 for character in text], 160, 153)
    return _count("UCS-2", [2 if character > "\uffff" else 1 for character in text], 70, 67)


def _count(encoding: Literal["GSM-7", "UCS-2"], sizes: list[int], single: int, part: int) -> Segments:
    units = sum(sizes)
    if units <= single:
        return Segments(encoding, units, min(units, 1))
    return Segments(encoding, units, _packed(sizes, part))


def _packed(sizes: Iterable[int], part: int) -> int:
    """How many parts of this size hold the characters in their order."""
    count, used = 1, 0
    for size in sizes:
        if used + size > part:
            count, used = count + 1, 0
        used += size
    return count
