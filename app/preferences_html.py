"""
(pure) The page behind the links of mails: what somebody is sent, as a form that works without a script.

It says neither a name nor an address nor a word of any notification. All that is not ours is escaped.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import time
from functools import cache, lru_cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any, get_args
from zoneinfo import available_timezones

import msgspec
from babel import Locale, UnknownLocaleError
from babel.dates import get_day_names

from core.errors import Fault, ServiceError
from core.notification import DELIVERY_CHANNELS
from digest.subscription import DEFAULT_CHANNELS, MAX_TIMES, Frequency, Wanted

#: What a form says besides its fields, so that nothing else that is posted here is taken for one.
MARK = ("form", "preferences")

FREQUENCIES: tuple[Frequency, ...] = get_args(Frequency)

#: Members that have a field.
FIELDS = frozenset({"delivery_times", "timezone", "frequency", "weekly_day", "channels"})

#: Times that can be added at once.
_SPARE_TIMES = 2

_CHANNELS = ("in_app", "push", "email", "sms", "whatsapp", "telegram")
_TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
_REGIONS = (
    "Africa",
    "America",
    "Antarctica",
    "Arctic",
    "Asia",
    "Atlantic",
    "Australia",
    "Europe",
    "Indian",
    "Pacific",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """
    The fields, as they are stored or as somebody has sent them.

    known: opt-outs that the page shows, as `scope:value`; stopped: those that are to stand.
    """

    is_enabled: bool
    frequency: str
    weekly_day: str
    times: tuple[str, ...]
    timezone: str
    exclude_weekends: bool
    channels: tuple[str, ...]
    mail_on: bool
    known: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()


def stored_form(wanted: Wanted, opt_outs: Iterable[str]) -> Form:
    """opt_outs: that concern mail, as `scope:value`."""
    stopped = tuple(opt_outs)
    return Form(
        is_enabled=wanted.is_enabled,
        frequency=wanted.frequency,
        weekly_day=str(wanted.weekly_day or 0),
        times=tuple(f"{one:%H:%M}" for one in wanted.delivery_times),
        timezone=wanted.timezone,
        exclude_weekends=wanted.exclude_weekends,
        channels=wanted.channels,
        mail_on=ALL_MAIL not in stopped,
        known=tuple(one for one in stopped if one != ALL_MAIL),
        stopped=tuple(one for one in stopped if one != ALL_MAIL),
    )


#: The opt-out that ends all mail.
ALL_MAIL = "channel:email"


def sent_form(fields: Mapping[str, Sequence[str]]) -> Form:
    """What somebody has sent. Nothing is judged yet."""

    def one(name: str) -> str:
        return fields.get(name, ("",))[0]

    return Form(
        is_enabled="is_enabled" in fields,
        frequency=one("frequency"),
        weekly_day=one("weekly_day"),
        times=tuple(text.strip() for text in fields.get("time", ()) if text.strip()),
        timezone=one("timezone").strip(),
        exclude_weekends="exclude_weekends" in fields,
        channels=tuple(dict.fromkeys(fields.get("channel", ()))),
        mail_on="mail_on" in fields,
        known=tuple(fields.get("known", ())),
        stopped=tuple(fields.get("stopped", ())),
    )


def wishes(form: Form, before: Wanted) -> Wanted:
    """
    What is wanted from now on; of what has no field, what was wanted before. Whether it is possible is not judged.

    Raises ServiceError (invalid) for fields that say nothing.
    """
    faults = []
    times = [text.removesuffix(":00") if text.count(":") == 2 else text for text in form.times]
    if not times or len(times) > MAX_TIMES or len(set(times)) < len(times) or not all(map(_is_time, times)):
        faults.append(Fault("delivery_times", "are 1-24 times as in 07:30, each once"))
    frequency = next((known for known in FREQUENCIES if known == form.frequency), None)
    if frequency is None:
        faults.append(Fault("frequency", f"must be among {', '.join(FREQUENCIES)}"))
    if form.weekly_day not in tuple("0123456"):
        faults.append(Fault("weekly_day", "must be 0 (Monday) to 6"))
    there = [one for one in before.channels if one in DELIVERY_CHANNELS]  # a plugin's may be gone
    hidden = tuple(one for one in there if one not in _shown_channels(before.channels))
    channels = (*form.channels, *hidden)
    if not channels and not form.is_enabled:  # it was by what is gone alone, and is to end
        channels = DEFAULT_CHANNELS
    if not channels or not set(channels) <= set(DELIVERY_CHANNELS):
        faults.append(Fault("channels", f"must be some of {', '.join(DELIVERY_CHANNELS)}"))
    if faults or frequency is None:
        raise ServiceError("invalid", faults=faults)
    return replace(
        before,
        is_enabled=form.is_enabled,
        delivery_times=tuple(sorted(time.fromisoformat(one) for one in times)),
        timezone=form.timezone,
        frequency=frequency,
        weekly_day=int(form.weekly_day) if frequency == "weekly" or before.weekly_types else None,
        exclude_weekends=form.exclude_weekends,
        channels=tuple(dict.fromkeys(channels)),
    )


def page(form: Form, locale: str | None, *, is_saved: bool = False, faults: Iterable[str] = ()) -> str:
    """The form. faults: paths of members that were refused."""
    return _document(locale, "title", "".join(_form(form, _Words(locale), is_saved, frozenset(faults))))


def notice(kind: str, locale: str | None = None) -> str:
    """A page without a form. kind: unknown, over, busy."""
    say = _Words(locale)
    return _document(locale, kind, f"<p>{say(f'{kind}_text')}</p>")


def language(locale: str | None) -> str:
    """The language of ours that is nearest."""
    return _babel(locale).language


def _form(form: Form, say: _Words, is_saved: bool, faults: frozenset[str]) -> Iterator[str]:
    if is_saved:
        yield f'<p class="said" role="status">{say("saved")}</p>'
    if faults:
        yield f'<p class="fault" role="alert">{say("refused")}</p>'
    yield f'<form method="post"><input type="hidden" name="{MARK[0]}" value="{MARK[1]}">'
    yield f"<fieldset><legend>{say('digest')}</legend>"
    yield _check("is_enabled", "1", say("on"), form.is_enabled)
    yield _select(
        "frequency",
        say("frequency"),
        [(one, say(f"frequencies.{one}")) for one in FREQUENCIES],
        form.frequency,
        _fault("frequency", faults, say),
    )
    days = [(str(day), escape(name)) for day, name in say.days()]
    yield _select("weekly_day", say("weekly_day"), days, form.weekly_day, _fault("weekly_day", faults, say))
    yield from _times(form, say, faults)
    yield _zones(form.timezone, say("timezone"), _fault("timezone", faults, say))
    yield _check("exclude_weekends", "1", say("exclude_weekends"), form.exclude_weekends)
    described, fault = _fault("channels", faults, say)
    yield f"<fieldset{described}><legend>{say('channels')}</legend>"
    for channel in _shown_channels(form.channels):
        yield _check("channel", channel, say(f"channel.{channel}"), channel in form.channels)
    yield f"{fault}</fieldset></fieldset><fieldset><legend>{say('mail')}</legend>"
    yield _check("mail_on", "1", say("mail_on"), form.mail_on)
    if form.known:
        yield f'<fieldset aria-describedby="stopped-hint"><legend>{say("stopped")}</legend>'
        yield f'<p class="hint" id="stopped-hint">{say("stopped_hint")}</p>'
        for known in form.known:
            yield f'<input type="hidden" name="known" value="{escape(known)}">'
            yield _check("stopped", known, _name(known, say), known in form.stopped)
        yield "</fieldset>"
    yield f"</fieldset><button>{say('save')}</button></form>"


def _times(form: Form, say: _Words, faults: frozenset[str]) -> Iterator[str]:
    described, fault = _fault("delivery_times", faults, say, "times-hint")
    yield f"<fieldset><legend>{say('times')}</legend>"
    yield f'<p class="hint" id="times-hint">{say("times_hint")}</p><div class="row">'
    for place, one in enumerate([*form.times, *[""] * _SPARE_TIMES][:MAX_TIMES], 1):
        yield (
            f'<input type="time" name="time" value="{escape(one)}" '
            f'aria-label="{say("time").format(n=place)}"{described}>'
        )
    yield f"</div>{fault}</fieldset>"


def _zones(chosen: str, label: str, fault: tuple[str, str]) -> str:
    """chosen: may be none that there is; then it stands first."""
    listed = "".join(_option(zone, escape(zone), zone == chosen) for zone in ("UTC",))
    known = False
    for region, zones in _regions():
        known = known or chosen in zones
        inside = "".join(
            _option(zone, escape(zone.partition("/")[2].replace("_", " ")), zone == chosen) for zone in zones
        )
        listed += f'<optgroup label="{region}">{inside}</optgroup>'
    if not known and chosen != "UTC":
        listed = _option(chosen, escape(chosen), True) + listed
    return (
        f'<label for="timezone">{label}</label>'
        f'<select name="timezone" id="timezone"{fault[0]}>{listed}</select>{fault[1]}'
    )


@cache
def _regions() -> tuple[tuple[str, tuple[str, ...]], ...]:
    every = sorted(available_timezones())
    return tuple((region, tuple(one for one in every if one.startswith(f"{region}/"))) for region in _REGIONS)


def _select(
    name: str, label: str, options: Iterable[tuple[str, str]], chosen: str, fault: tuple[str, str]
) -> str:
    listed = "".join(_option(value, text, value == chosen) for value, text in options)
    return (
        f'<label for="{name}">{label}</label>'
        f'<select name="{name}" id="{name}"{fault[0]}>{listed}</select>{fault[1]}'
    )


def _option(value: str, text: str, is_chosen: bool) -> str:
    return f'<option value="{escape(value)}"{" selected" if is_chosen else ""}>{text}</option>'


def _check(name: str, value: str, text: str, is_checked: bool) -> str:
    """text: HTML."""
    checked = " checked" if is_checked else ""
    return (
        f'<label class="check"><input type="checkbox" name="{name}" value="{escape(value)}"{checked}>'
        f"<span>{text}</span></label>"
    )


def _fault(name: str, faults: frozenset[str], say: _Words, hint: str = "") -> tuple[str, str]:
    """The attributes of a control, and what stands below it."""
    if name not in faults:
        return (f' aria-describedby="{hint}"' if hint else ""), ""
    described = f' aria-invalid="true" aria-describedby="{f"{hint} " if hint else ""}fault-{name}"'
    return described, f'<p class="fault" id="fault-{name}">{say(f"faults.{name}")}</p>'


def _shown_channels(chosen: Iterable[str]) -> tuple[str, ...]:
    return (*_CHANNELS, *(["webhook"] if "webhook" in chosen else []))


def _name(opt_out: str, say: _Words) -> str:
    """What an opt-out ends, as HTML."""
    if opt_out == "all:":
        return say("everything")
    kind = opt_out.rpartition(":")[2]
    if kind == "digest":
        return say("digest")
    return f"<bdi>{escape(re.sub('[_.-]+', ' ', kind).capitalize())}</bdi>"


def _is_time(text: str) -> bool:
    return _TIME.fullmatch(text) is not None


# --- language ---


class _Words:
    """The texts of one language, as HTML."""

    def __init__(self, locale: str | None) -> None:
        self._locale = _babel(locale)
        self._texts = _texts(self._locale.language)

    def __call__(self, key: str) -> str:
        found: Any = self._texts
        for part in key.split("."):
            found = found.get(part) or found["other"]
        return escape(found)

    def days(self) -> list[tuple[int, str]]:
        """0 is Monday; the first is that of the language."""
        names = get_day_names("wide", "stand-alone", self._locale)
        first = self._locale.first_week_day
        return [((first + place) % 7, names[(first + place) % 7]) for place in range(7)]


@lru_cache(maxsize=256)  # strangers may say anything
def _babel(locale: str | None) -> Locale:
    tag = (locale or "en").replace("_", "-")
    while tag:
        try:
            known = Locale.parse(tag, sep="-")
            return known if _has_texts(known.language) else Locale("en")
        except (UnknownLocaleError, ValueError):
            tag = tag.rpartition("-")[0]
    return Locale("en")


def _has_texts(name: str) -> bool:
    return files("app").joinpath("texts", f"{name}.json").is_file()


@cache
def _texts(name: str) -> Mapping[str, Any]:
    texts: Mapping[str, Any] = msgspec.json.decode(
        files("app").joinpath("texts", f"{name}.json").read_bytes()
    )
    return texts


# --- looks ---

_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#8a8378, #8b8f98); --bad: light-dark(#b3261e, #ff8a80); }
html { background: Canvas; color: CanvasText; }
body { font: 1.0625rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; }
fieldset { margin: 0 0 1.25rem; padding: .5rem 1rem 1rem; border: 1px solid var(--line); border-radius: .75rem; min-width: 0; }
fieldset fieldset { padding: .25rem 0 0; border: 0; margin: 1rem 0 0; }
legend { padding: 0 .375rem; font-weight: 650; }
fieldset fieldset legend { padding: 0; }
label { display: block; margin-top: 1rem; font-weight: 650; }
label.check { display: flex; align-items: center; gap: .625rem; min-height: 2.25rem; margin: 0; font-weight: 400; overflow-wrap: anywhere; }
input[type="checkbox"] { flex: none; width: 1.5rem; height: 1.5rem; margin: 0; }
select, input[type="time"], button { font: inherit; min-height: 2.5rem; max-width: 100%; padding: .25rem .5rem; border: 1px solid var(--line); border-radius: .5rem; }
select { width: 100%; }
select + label.check { margin-top: .75rem; }
.row { display: flex; flex-wrap: wrap; gap: .5rem; }
button { padding: .5rem 1.5rem; font-weight: 650; cursor: pointer; }
:focus-visible { outline: 3px solid; outline-offset: 2px; }
[aria-invalid] { outline: 2px solid var(--bad); }
.hint { margin: 0 0 .5rem; font-size: .9375rem; }
.fault { color: var(--bad); font-weight: 650; }
.said { font-weight: 650; }
"""

#: One style, known by its hash, and a form to where the page came from: no script, nothing from elsewhere.
POLICY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def _document(locale: str | None, title: str, body: str) -> str:
    say, known = _Words(locale), _babel(locale)
    direction = "rtl" if known.character_order == "right-to-left" else "ltr"
    return f"""<!doctype html>
<html lang="{known.language}" dir="{direction}">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex, nofollow">
<meta name="referrer" content="no-referrer">
<title>{say(title)}</title>
<style>{_STYLE}</style>
<main>
<h1>{say(title)}</h1>
{body}
</main>
</html>
"""
