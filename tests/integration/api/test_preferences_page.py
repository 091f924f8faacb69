"""The page behind the links of mails: looking changes nothing, the form alone does, and the link is good for no more."""

from __future__ import annotations

import asyncio
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any
from uuid import UUID

import pytest

from app import preferences_html
from core.vault import Vault
from delivery.preferences_link import Pass, make_token, preferences_url, read_token
from delivery.unsubscribe import Subscription
from delivery.unsubscribe import make_token as make_unsubscribe_token
from hub.limits import Rate
from tests.api import OTHER_TENANT, TENANT, Edge, person, service

WANTED = "/api/v1/digest/subscription"
OPT_OUTS = "/api/v1/preferences/opt-outs"
MAIL = "ada.canary@example.test"


class Reading(HTMLParser):
    """The fields of a page, as a browser without scripts would send them; and what is at fault."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fields: dict[str, list[str]] = {}
        self.faulty: set[str] = set()
        self.root: dict[str, str | None] = {}
        self._select = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "html":
            self.root = given
        if tag == "select":
            self._select = given["name"] or ""
        name = self._select if tag == "option" else given.get("name")
        if "aria-invalid" in given:
            self.faulty.add(given.get("name") or "channel")
        if tag == "meta" or name is None:
            return
        is_sent = (
            "selected" in given if tag == "option" else given.get("type") != "checkbox" or "checked" in given
        )
        if is_sent and tag in ("input", "option"):
            self.fields.setdefault(name, []).append(given.get("value") or "")


@pytest.fixture
async def known(edge: Edge) -> Edge:
    """Where Ada has an address."""
    body = {
        "name": "Ada Canary",
        "addresses": [{"channel": "email", "value": MAIL}],
        "timezone": "Africa/Kigali",
    }
    for tenant in (TENANT, OTHER_TENANT):
        answer = await edge.client(service(tenant)).put("/api/v1/recipients/ada", json=body)
        assert answer.status_code == 201, answer.text
    return edge


async def passed(edge: Edge, **members: Any) -> Pass:
    [row] = await edge.rows(
        "SELECT id FROM recipient_addresses WHERE tenant_id = $1 AND user_id = 'ada' AND channel = 'email'",
        TENANT,
    )
    given: dict[str, Any] = {
        "tenant_id": TENANT,
        "user_id": "ada",
        "address_id": row["id"],
        "expires_at": datetime.now(UTC) + timedelta(days=30),
    }
    return Pass(**given | members)


async def link(edge: Edge, **members: Any) -> str:
    return "/p/" + make_token(edge.services.delivery.vault, await passed(edge, **members))


async def settings(edge: Edge, tenant_id: str = TENANT) -> dict[str, Any]:
    given: dict[str, Any] = (await edge.client(person(tenant_id=tenant_id)).get(WANTED)).json()
    return given


async def opt_outs(edge: Edge) -> list[tuple[str, str]]:
    found = (await edge.client(person()).get(OPT_OUTS)).json()["opt_outs"]
    return sorted((one["scope"], one["value"]) for one in found)


async def send(edge: Edge, path: str, changes: Mapping[str, list[str] | None]) -> Any:
    """The form as it is shown, but for what somebody has changed. None: without that field."""
    fields: dict[str, list[str] | None] = {**Reading((await edge.client().get(path)).text).fields, **changes}
    return await edge.client().post(path, data={name: one for name, one in fields.items() if one is not None})


async def test_the_page_shows_what_is_stored_and_looking_changes_nothing(known: Edge) -> None:
    said = {
        "delivery_times": ["06:30", "18:00"],
        "timezone": "America/New_York",
        "frequency": "weekly",
        "weekly_day": 3,
    }
    await known.client(person()).put(WANTED, json={**said, "channels": ["in_app", "push"]})
    path = await link(known)
    before = await known.rows("SELECT * FROM digest_subscriptions")
    audited = await known.rows("SELECT FROM audit_log")
    client = known.client()

    shown = [await client.get(path, headers={"User-Agent": "scanner", "Cookie": "a=b"}) for _ in range(3)]
    others = [await client.request(method, path) for method in ("HEAD", "OPTIONS", "PUT", "PATCH", "DELETE")]

    assert [one.status_code for one in (*shown, *others)] == [200, 200, 200, 200, 204, 405, 405, 405]
    fields = Reading(shown[0].text).fields
    assert {
        name: fields[name] for name in ("is_enabled", "frequency", "weekly_day", "timezone", "mail_on")
    } == {
        "is_enabled": ["1"],
        "frequency": ["weekly"],
        "weekly_day": ["3"],
        "timezone": ["America/New_York"],
        "mail_on": ["1"],
    }
    assert fields["time"] == ["06:30", "18:00", "", ""]
    assert fields["channel"] == ["in_app", "push"]
    assert await known.rows("SELECT * FROM digest_subscriptions") == before
    assert await known.rows("SELECT FROM audit_log") == audited


async def test_the_page_says_nobodys_name_and_runs_keeps_and_loads_nothing(known: Edge) -> None:
    await known.submit("ada", title="Canary of a title")
    path = await link(known)

    shown = await known.client().get(path)

    said = re.sub(r"<select name=.timezone.*?</select>", "", shown.text)  # there are zones of such names
    for word in (
        "ada",
        "Ada",
        "canary",
        "Canary",
        "example.test",
        TENANT,
        "http",
        "<script",
        "src=",
        "href=",
    ):
        assert word not in said, word
    policy = shown.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "form-action 'self'; base-uri 'none'; frame-ancestors 'none'" in policy
    assert shown.headers["cache-control"] == "no-store"
    assert shown.headers["referrer-policy"] == "no-referrer"
    assert shown.headers["x-robots-tag"] == "noindex, nofollow"
    assert "set-cookie" not in shown.headers


async def test_the_form_changes_what_it_shows_and_nothing_else(known: Edge) -> None:
    hidden = {"include_types": ["iep_update"], "min_priority": "high", "unread_only": True}
    for tenant in (TENANT, OTHER_TENANT):
        await known.client(person(tenant_id=tenant)).put(
            WANTED, json={**hidden, "channels": ["in_app", "websocket"]}
        )
    elsewhere = await settings(known, OTHER_TENANT)

    answer = await send(
        known,
        await link(known),
        {
            "time": ["19:15", "", "06:30:00"],
            "timezone": ["Africa/Kigali"],
            "frequency": ["weekly"],
            "weekly_day": ["4"],
            "channel": ["email", "telegram"],
            "exclude_weekends": ["1"],
        },
    )

    assert answer.status_code == 200
    assert 'role="status">Saved.' in answer.text
    now = await settings(known)
    assert {name: now[name] for name in hidden} == hidden
    assert now["delivery_times"] == ["06:30", "19:15"]
    assert (now["timezone"], now["frequency"], now["weekly_day"]) == ("Africa/Kigali", "weekly", 4)
    assert now["exclude_weekends"] is True
    assert now["channels"] == ["email", "telegram", "websocket"]
    assert now["next_run"] is not None
    assert Reading(answer.text).fields["time"] == ["06:30", "19:15", "", ""]
    assert await settings(known, OTHER_TENANT) == elsewhere
    [row] = await known.rows(
        "SELECT actor FROM audit_log WHERE action = 'digest.changed' ORDER BY seq DESC LIMIT 1"
    )
    assert row["actor"] == "person:ada"


async def test_the_digest_is_switched_off_and_on_again_also_by_who_never_had_one(known: Edge) -> None:
    path = await link(known)
    untouched = await send(known, path, {})
    never = await known.rows("SELECT FROM digest_subscriptions")

    await send(known, path, {"is_enabled": ["1"]})
    on = await settings(known)
    await send(known, path, {"is_enabled": None})
    off = await settings(known)

    assert untouched.status_code == 200
    assert never == []
    assert (on["is_enabled"], on["timezone"]) == (True, "Africa/Kigali"), "their own zone"
    assert (off["is_enabled"], off["next_run"]) == (False, None)


async def test_mail_is_stopped_and_sent_again_kind_by_kind(known: Edge) -> None:
    client = known.client(person())
    for scope, value in (
        ("all", ""),
        ("channel_type", "email:digest"),
        ("channel_type", "email:iep_update"),
        ("channel_type", "sms:iep_update"),
        ("channel", "sms"),
    ):
        await client.post(OPT_OUTS, json={"scope": scope, "value": value})
    path = await link(known)
    shown = Reading((await known.client().get(path)).text).fields

    await send(known, path, {"stopped": ["channel_type:email:iep_update"], "mail_on": None})
    stopped = await opt_outs(known)
    again = await send(known, path, {"mail_on": ["1"]})

    assert sorted(shown["stopped"]) == ["all:", "channel_type:email:digest", "channel_type:email:iep_update"]
    others = [("channel", "sms"), ("channel_type", "email:iep_update"), ("channel_type", "sms:iep_update")]
    assert stopped == sorted([("channel", "email"), *others])
    assert await opt_outs(known) == others
    assert again.status_code == 200
    rows = await known.rows(
        "SELECT actor, action FROM audit_log WHERE action LIKE 'opt_out.%' ORDER BY seq DESC LIMIT 4"
    )
    assert {row["actor"] for row in rows} == {"person:ada"}


async def test_what_was_stopped_while_the_page_was_open_stays_stopped(known: Edge) -> None:
    path = await link(known)
    fields = Reading((await known.client().get(path)).text).fields
    await known.client(person()).post(OPT_OUTS, json={"scope": "channel_type", "value": "email:late"})

    answer = await known.client().post(path, data=fields)

    assert answer.status_code == 200
    assert await opt_outs(known) == [("channel_type", "email:late")]


@pytest.mark.parametrize(
    ("changes", "faulty"),
    [
        ({"time": ["25:00"]}, {"time"}),
        ({"time": ["7:00pm", "07:00"]}, {"time"}),
        ({"time": ["07:00", "07:00"]}, {"time"}),
        ({"time": ["", ""]}, {"time"}),
        ({"time": [f"{hour:02}:{minute}" for hour in range(24) for minute in (10, 20)]}, {"time"}),
        ({"timezone": ["Mars/Phobos"]}, {"timezone"}),
        ({"timezone": ["\0"]}, {"timezone"}),
        ({"timezone": ["../../etc/passwd"]}, {"timezone"}),
        ({"frequency": ["never"]}, {"frequency"}),
        ({"weekly_day": ["7"]}, {"weekly_day"}),
        ({"channel": None}, {"channel"}),
        ({"channel": ["smoke"]}, {"channel"}),
        ({"time": ["x"], "frequency": [""]}, {"time", "frequency"}),
        ({"frequency": ["weekly"], "weekly_day": ["6"], "exclude_weekends": ["1"]}, {"weekly_day"}),
    ],
)
async def test_what_cannot_be_is_told_at_its_field_and_nothing_is_lost_or_changed(
    known: Edge, changes: dict[str, list[str] | None], faulty: set[str]
) -> None:
    await known.client(person()).put(WANTED, json={"delivery_time": "05:05"})
    before = await settings(known)

    answer = await send(known, await link(known), {"mail_on": None, **changes})

    assert answer.status_code == 422
    shown = Reading(answer.text)
    assert shown.faulty == faulty
    assert 'role="alert">Nothing was saved.' in answer.text
    assert "mail_on" not in shown.fields, "what was typed stays"
    for one in changes.get("time") or []:
        assert one == "" or one in shown.fields["time"] or len(changes["time"] or []) > 24
    assert await settings(known) == before
    assert await opt_outs(known) == []


async def test_the_day_of_kinds_that_come_once_a_week_stays_and_moves(known: Edge) -> None:
    await known.client(person()).put(WANTED, json={"weekly_types": ["transport"], "weekly_day": 2})
    path = await link(known)

    same = await send(known, path, {"timezone": ["Africa/Kigali"]})
    day = (await settings(known))["weekly_day"]
    moved = await send(known, path, {"weekly_day": ["4"]})
    refused = await send(known, path, {"frequency": ["weekly"]})

    assert (same.status_code, moved.status_code, refused.status_code) == (200, 200, 422)
    assert day == 2
    now = await settings(known)
    assert (now["weekly_day"], now["weekly_types"], now["frequency"]) == (4, ["transport"], "daily")
    assert Reading(refused.text).faulty == {"frequency"}


async def test_words_of_others_are_text_on_the_page(known: Edge) -> None:
    evil = '"><img src=x onerror=alert(1)>'

    answer = await send(known, await link(known), {"timezone": [evil], "time": [evil], "known": [evil]})

    assert answer.status_code == 422
    assert "<img" not in answer.text
    assert answer.text.count("&lt;img") >= 3


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"", "application/x-www-form-urlencoded", 200),
        (b"List-Unsubscribe=One-Click", "application/x-www-form-urlencoded", 200),
        (b"form=other&is_enabled=1", "application/x-www-form-urlencoded", 200),
        (b"{}", "application/json", 415),
        (b"x", "multipart/form-data; boundary=x", 415),
        (b"form=preferences&x=\xff", "application/x-www-form-urlencoded", 400),
        (b"form=preferences&timezone=%ff", "application/x-www-form-urlencoded", 400),
        (b"&a=1" * 5000, "application/x-www-form-urlencoded", 400),
        (b"x" * 40_000, "application/x-www-form-urlencoded", 413),
    ],
)
async def test_what_is_posted_and_is_not_the_form_changes_nothing(
    known: Edge, content: bytes, media_type: str, status: int
) -> None:
    await known.client(person()).put(WANTED, json={})
    before = await settings(known)

    answer = await known.client().post(
        await link(known), content=content, headers={"Content-Type": media_type}
    )

    assert answer.status_code == status
    assert await settings(known) == before
    assert await opt_outs(known) == []


async def test_a_link_with_any_bit_changed_opens_nothing(known: Edge) -> None:
    vault = known.services.delivery.vault
    sealed = urlsafe_b64decode((token := make_token(vault, await passed(known))) + "=" * (-len(token) % 4))
    forged = []
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        forged.append(urlsafe_b64encode(changed).decode().rstrip("="))

    assert [one for one in forged if read_token(vault, one) is not None] == []
    refused = [await known.client().get(f"/p/{one}") for one in forged[:: len(forged) // 40]]
    posted = [await known.client().post(f"/p/{one}", data={"form": "preferences"}) for one in forged[:5]]
    assert {(one.status_code, one.text) for one in (*refused, *posted)} == {
        (404, preferences_html.notice("unknown"))
    }
    assert refused[0].headers["cache-control"] == "no-store"


async def test_links_of_other_kinds_open_nothing_here_and_this_one_opens_nothing_there(known: Edge) -> None:
    vault = known.services.delivery.vault
    unsubscribing = make_unsubscribe_token(
        vault,
        Subscription(tenant_id=TENANT, user_id="ada", channel="email", notification_type="digest", version=1),
    )
    token = make_token(vault, await passed(known))
    other_key = make_token(Vault({"test": b"x" * 32}), await passed(known))

    for one in (
        unsubscribing,
        other_key,
        token[:-1],
        token + "A",
        token + "=",
        token.upper(),
        "x",
        "A" * 5000,
        "%F0%9F",
    ):
        for method in ("GET", "POST"):
            answer = await known.client().request(method, f"/p/{one}")
            assert (answer.status_code, answer.headers["content-type"]) == (
                404,
                "text/html; charset=utf-8",
            ), one[:80]
    assert (await known.client().post(f"/u/{token}")).status_code == 404


async def test_a_link_that_is_over_says_so_and_not_why(known: Edge) -> None:
    late = await link(known, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    good = await link(known)
    strange = await link(known, address_id=UUID(int=7))
    nobody = await link(known, user_id="eve")
    client = known.client()
    at_first = (await client.get(good)).status_code
    answers = [
        await client.request(method, one) for one in (late, strange, nobody) for method in ("GET", "POST")
    ]

    address = (await passed(known)).address_id
    await known.client(service()).delete(f"/api/v1/recipients/ada/addresses/{address}")
    answers += [await client.get(good), await client.post(good, data={"form": "preferences"})]

    assert at_first == 200
    assert {(one.status_code, one.text) for one in answers} == {(410, preferences_html.notice("over"))}
    assert await known.rows("SELECT FROM digest_subscriptions") == []


async def test_whoever_asks_too_often_is_told_to_wait_on_a_page(known: Edge) -> None:
    slow = known.with_settings(request_rate=Rate(0.001, burst=3))
    path = await link(known)

    answers = await asyncio.gather(*(slow.client().get(path) for _ in range(5)))

    assert sorted(one.status_code for one in answers) == [200, 200, 200, 429, 429]
    late = next(one for one in answers if one.status_code == 429)
    assert late.headers["content-type"] == "text/html; charset=utf-8"
    assert int(late.headers["retry-after"]) > 100
    assert (await slow.client().get("/p/forged")).status_code == 404


@pytest.mark.parametrize(
    ("locale", "language", "direction", "word"),
    [
        ("de-AT", "de", "ltr", "Was Sie bekommen"),
        ("ar-EG", "ar", "rtl", "ما يُرسل إليك"),
        ("rw", "rw", "ltr", "Ibyo wohererezwa"),
        ("pt-BR", "pt", "ltr", "O que recebe"),
        ("nl", "en", "ltr", "What you are sent"),
        (None, "en", "ltr", "What you are sent"),
    ],
)
async def test_the_page_is_in_the_language_of_the_mail(
    known: Edge, locale: str | None, language: str, direction: str, word: str
) -> None:
    await known.rows("UPDATE recipients SET locale = $1", locale)

    shown = await known.client().get(await link(known), headers={"Accept-Language": "fr"})
    unknown = await known.client().get("/p/x", headers={"Accept-Language": "fr-CA, en;q=0.5"})

    assert Reading(shown.text).root == {"lang": language, "dir": direction}
    assert f"<h1>{word}</h1>" in shown.text
    assert Reading(unknown.text).root["lang"] == "fr"


def test_a_link_that_no_mail_can_hold_is_left_out() -> None:
    vault = Vault({"k1": b"v" * 32})
    given = {"tenant_id": "t" * 63, "address_id": UUID(int=1), "expires_at": datetime(2030, 1, 1, tzinfo=UTC)}
    longest = Pass(user_id="u" * 255, **given)  # type: ignore[arg-type]  # each is of its type
    widest = Pass(user_id="\N{BELL}" * 255, **given)  # type: ignore[arg-type]  # likewise

    url = preferences_url("https://notify.example.org/", vault, longest)

    assert url is not None
    assert read_token(vault, url.rpartition("/")[2]) == longest
    assert preferences_url("https://notify.example.org/", vault, widest) is None


async def test_who_had_the_digest_by_a_channel_that_is_gone_can_still_leave_by_the_page(known: Edge) -> None:
    path = await link(known)
    await send(known, path, {"is_enabled": ["1"], "channel": ["email"]})
    await known.rows("UPDATE digest_subscriptions SET channels = '{pager}'")

    refused = await send(known, path, {"channel": None})
    assert refused.status_code == 422, "it would go nowhere"
    assert (
        await send(known, path, {"is_enabled": None, "channel": None, "mail_on": None})
    ).status_code == 200

    assert (await settings(known))["is_enabled"] is False
    assert ("channel", "email") in await opt_outs(known)
    assert (await send(known, path, {"is_enabled": ["1"], "channel": ["email"]})).status_code == 200
    assert (await settings(known))["channels"] == ["email"]
