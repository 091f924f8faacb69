"""
(pure) A digest in a person's language: its title, its first line, and the inside of a mail as text and as HTML.

Dates, plural forms and names of zones are CLDR's (Babel). A language without texts of ours reads English. The HTML
holds no script, no picture and no address but the items' own links.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, tzinfo
from functools import cache, lru_cache
from html import escape
from importlib.resources import files
from typing import Annotated, Any
from unicodedata import category
from urllib.parse import urljoin

import msgspec
from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_time, get_timezone, get_timezone_location
from babel.numbers import format_decimal

from core.locale import is_timezone
from digest.summary import Digest

LANGUAGES = ("en", "de", "fr", "es", "ar", "sw", "rw")

Plural = Mapping[str, str]


_Instant = Annotated[datetime, msgspec.Meta(tz=True)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]  # what JSON says exactly


class _Listed(msgspec.Struct):
    title: str
    message: str
    action_url: str | None


class _OfType(msgspec.Struct):
    count: _Count
    notifications: list[_Listed]


class _Summary(msgspec.Struct):
    total_notifications: _Count
    unread_notifications: _Count
    priority_breakdown: dict[str, _Count]


class _Document(msgspec.Struct):
    date: date
    summary: _Summary
    notifications_by_type: dict[str, _OfType]
    top_notifications: list[_Listed]
    overflow_count: _Count
    timezone: str
    next_run_at: _Instant | None
    frequency: str = "daily"


@dataclass(frozen=True, slots=True)
class Mail:
    """A digest as a mail. html: a fragment, which goes into the layout of all mails."""

    subject: str = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)


def is_document(document: Mapping[str, Any]) -> bool:
    """Whether this is a digest of ours: anybody who may submit notifications may call one so."""
    try:
        msgspec.convert(document, _Document)
    except msgspec.ValidationError:
        return False
    return True


def words(digest: Digest, locale: str | None) -> tuple[str, str]:
    """What a digest is called, and one line that says what is in it: for inbox, push, SMS and chats."""
    document = digest.document
    return _title(document["date"], document["frequency"] == "weekly", locale), _first_line(document, locale)


def mail(document: Mapping[str, Any], locale: str | None, *, site_url: str | None = None) -> Mail:
    """
    document: of digest.summary, perhaps cut. site_url: what a link without a host belongs to; None: such links
    are left out.
    """
    subject = _title(document["date"], document.get("frequency") == "weekly", locale)
    first = _first_line(document, locale)
    top: Sequence[Mapping[str, Any]] = document["top_notifications"]
    types: Mapping[str, Mapping[str, Any]] = document["notifications_by_type"]
    closing = _closing(document, locale)
    say = _texts(locale)
    lines = [first]
    if top:
        lines += ["", say["most_important"], ""]
    for item in top:
        lines += [f"* {_one_line(item['title'])}", *_indented(item["message"])]
        if (link := _link(item["action_url"], site_url)) is not None:
            lines.append(f"  {link}")
    least = document.get("is_at_least", False)
    counts = [(_named(name, locale), _number(locale, one["count"], least)) for name, one in types.items()]
    if counts:
        lines += ["", say["by_type"], "", *(f"* {_one_line(name)}: {count}" for name, count in counts)]
    lines += ["", *closing]
    direction = "rtl" if _babel(locale).character_order == "right-to-left" else "ltr"
    html = "".join(
        [
            f'<div dir="{direction}">',
            f"<p>{_unbroken(first)}</p>",
            f'<h2 style="{_H2}">{escape(say["most_important"])}</h2>' if top else "",
            *(_row(item, site_url, say["open"]) for item in top),
            f'<h2 style="{_H2}">{escape(say["by_type"])}</h2>' if counts else "",
            *(f'<p style="{_LINE}"><bdi>{escape(name)}</bdi>: {escape(count)}</p>' for name, count in counts),
            *(f'<p style="{_QUIET}">{escape(line)}</p>' for line in closing),
            "</div>",
        ]
    )
    return Mail(subject, "\n".join(lines), html)


@lru_cache(maxsize=1024)  # many people share a day and a language
def _title(day: str, is_week: bool, locale: str | None) -> str:
    title: str = _texts(locale)["title_week" if is_week else "title"]
    return title.format(date=_date(date.fromisoformat(day), "full", locale))


def _date(day: date, length: str, locale: str | None) -> str:
    """CLDR's pattern, or that of our texts where CLDR has only the one of no language."""
    pattern = _texts(locale).get("dates", {}).get(length, length)
    return format_date(day, pattern, locale=_babel(locale))


def _named(kind: str, locale: str | None) -> str:
    """A type of notifications as its people call it; one that we do not know by its own words: `bus_delay`, Bus delay."""
    types: Mapping[str, str] = _texts(locale)["types"]
    words = re.sub(r"[\s_.:-]+", " ", kind).strip()
    return types.get(kind) or words[:1].upper() + words[1:] or kind


def _first_line(document: Mapping[str, Any], locale: str | None) -> str:
    summary = document["summary"]
    if not summary["total_notifications"]:
        quiet: str = _texts(locale)["quiet"]
        return quiet
    least = document.get("is_at_least", False)
    parts = [_counted("total", summary["total_notifications"], locale, least)]
    parts.append(_counted("unread", summary["unread_notifications"], locale, least))
    if urgent := summary["priority_breakdown"].get("urgent", 0):
        parts.append(_counted("urgent", urgent, locale, least))
    return " · ".join(parts)


def _closing(document: Mapping[str, Any], locale: str | None) -> list[str]:
    say = _texts(locale)
    lines = []
    more = document["summary"]["unread_notifications"] - len(document["top_notifications"])
    if more > 0:
        lines.append(_counted("more", more, locale, document.get("is_at_least", False)))
    if document["next_run_at"] is None or not is_timezone(document["timezone"]):
        return lines  # a zone that the data does not have any more, or has never had
    zone = get_timezone(document["timezone"])
    try:
        at = msgspec.convert(document["next_run_at"], _Instant).astimezone(zone)
    except OverflowError:  # the first or the last day that there is
        return lines
    clock = format_time(at, "short", tzinfo=zone, locale=_babel(locale)).replace(" ", "\u00a0")  # "7:00 ص"
    lines.append(say["next"].format(date=_date(at.date(), "long", locale), time=clock))
    lines.append(say["zone"].format(zone=_zone(zone, at, locale)))
    return lines


def _one_line(text: str) -> str:
    """Without line ends and other controls, so that nobody's title looks like two (in a text nothing else marks them)."""
    return " ".join("".join(" " if category(one) == "Cc" else one for one in text).split())


def _indented(text: str) -> list[str]:
    """Its lines below a title, none of which looks like the next title."""
    return [f"  {line}" for line in map(_one_line, text.splitlines()) if line]


def _zone(zone: tzinfo, at: datetime, locale: str | None) -> str:
    """
    A zone by its place and its offset at this instant. Not by what CLDR calls its time: of zones whose winter is the
    exception in the data (Europe/Dublin) that is the name of the other half of the year.
    """
    offset = at.utcoffset() or timedelta(0)
    minutes = round(offset.total_seconds() / 60)
    beside = f"UTC{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    place = _place(zone, _babel(locale)).replace("/", ", ")
    if place.startswith(
        ("UTC", "GMT")
    ):  # no place: the number says it all, and that of Etc/GMT-14 the contrary
        return beside
    return f"{place} ({beside})"


def _place(zone: tzinfo, babel: Locale) -> str:
    try:
        return get_timezone_location(zone, locale=babel, return_city=True)
    except KeyError:  # CLDR does not name everything in every language
        return get_timezone_location(zone, locale="en", return_city=True)


def _unbroken(line: str) -> str:
    """As HTML, each count on a line with what it counts."""
    return " · ".join(f'<span style="white-space:nowrap">{escape(part)}</span>' for part in line.split(" · "))


def _row(item: Mapping[str, Any], site_url: str | None, opened: str) -> str:
    link = _link(item["action_url"], site_url)
    title = f'<strong dir="auto">{escape(item["title"])}</strong>'
    message = f'<div dir="auto" style="{_TEASER}">{escape(item["message"])}</div>' if item["message"] else ""
    anchor = f'<a href="{escape(link)}" style="{_LINK}">{escape(opened)}</a>' if link is not None else ""
    return f'<div style="{_ITEM}">{title}{message}{anchor}</div>'


def _link(action_url: str | None, site_url: str | None) -> str | None:
    if action_url is None or _one_line(action_url) != action_url or " " in action_url:
        return None
    if action_url.startswith("https://"):
        return action_url
    is_path = action_url.startswith("/") and not action_url.startswith(("//", "/\\"))  # those name a host
    return urljoin(site_url, action_url) if site_url is not None and is_path else None


def _counted(name: str, count: int, locale: str | None, is_at_least: bool = False) -> str:
    forms: Plural = _texts(locale)[name]
    form = "other" if is_at_least else _babel(locale).plural_form(count)
    return forms.get(form, forms["other"]).format(n=_number(locale, count, is_at_least))


@lru_cache(maxsize=4096)
def _number(locale: str | None, number: int, is_at_least: bool = False) -> str:
    """As in 1,234, or 1,234+ where there may be more."""
    said = format_decimal(number, locale=_babel(locale))
    return f"{said}+" if is_at_least else said


@cache
def _babel(locale: str | None) -> Locale:
    """The person's locale with its region, where it is of a language of ours; else English."""
    tag = locale or "en"
    while tag:
        try:
            known = Locale.parse(tag, sep="-")
            return known if known.language in LANGUAGES else Locale("en")
        except (UnknownLocaleError, ValueError):
            tag = tag.rpartition("-")[0]
    return Locale("en")


@cache
def _texts(locale: str | None) -> Mapping[str, Any]:
    text = files("digest").joinpath("texts", f"{_babel(locale).language}.json").read_bytes()
    texts: Mapping[str, Any] = msgspec.json.decode(text)
    return texts


_H2 = "font-size:16px;margin:24px 0 8px"
_LINE = "margin:2px 0"
_ITEM = "overflow-wrap:anywhere;border:1px solid #8886;border-radius:8px;padding:12px 14px;margin:0 0 10px"
_TEASER = "margin:4px 0"
_LINK = "display:inline-block;margin-top:4px;color:inherit;font-weight:600"
_QUIET = "margin:12px 0 0;font-size:13px;opacity:.75"
