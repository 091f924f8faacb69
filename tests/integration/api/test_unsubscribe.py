"""Unsubscribe links: looking changes nothing, posting acts at once, and nothing but the link itself opens them."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import pytest

from core.vault import Vault
from delivery.unsubscribe import Subscription, make_token, read_token, unsubscribe_url
from tests.api import OTHER_TENANT, TENANT, Edge, person

OPT_OUTS = "/api/v1/preferences/opt-outs"
ONE_CLICK = {"List-Unsubscribe": "One-Click"}


def subscription(**members: Any) -> Subscription:
    given: dict[str, Any] = {
        "tenant_id": TENANT,
        "user_id": "ada",
        "channel": "email",
        "notification_type": "iep_update",
        "version": 1,
    }
    return Subscription(**given | members)


def path(edge: Edge, **members: Any) -> str:
    return "/u/" + make_token(edge.services.delivery.vault, subscription(**members))


@pytest.fixture
async def known(edge: Edge) -> Edge:
    """Where Ada is known."""
    await edge.rows("INSERT INTO recipients (tenant_id, user_id) VALUES ($1, 'ada')", TENANT)
    return edge


async def opted_out(edge: Edge) -> list[tuple[str, ...]]:
    rows = await edge.rows(
        "SELECT tenant_id, user_id, scope, value, reason FROM opt_outs ORDER BY 1, 2, 3, 4"
    )
    return [tuple(row) for row in rows]


async def test_a_scanner_that_looks_at_every_link_changes_nothing(known: Edge) -> None:
    link = path(known)
    client = known.client()

    for _ in range(3):
        shown = await client.get(link, headers={"User-Agent": "scanner", "Cookie": "session=1"})
        head = await client.head(link)
        options = await client.options(link)
        refused = [await client.request(method, link) for method in ("PUT", "PATCH", "DELETE")]

        assert (shown.status_code, head.status_code, options.status_code) == (200, 200, 204)
        assert [answer.status_code for answer in refused] == [405] * 3
    assert await opted_out(known) == []
    assert await known.rows("SELECT FROM audit_log") == []


async def test_the_page_has_a_button_and_nothing_that_runs_or_comes_from_elsewhere(known: Edge) -> None:
    shown = await known.client().get(path(known))

    assert shown.headers["content-type"] == "text/html; charset=utf-8"
    assert '<form method="post">' in shown.text
    assert "<button>" in shown.text
    assert "iep_update" in shown.text
    for foreign in ("<script", "http:", "https:", "src=", "href=", "ada"):
        assert foreign not in shown.text
    policy = shown.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "form-action 'self'; base-uri 'none'; frame-ancestors 'none'" in policy
    assert "set-cookie" not in shown.headers
    assert shown.headers["cache-control"] == "no-store"
    assert shown.headers["referrer-policy"] == "no-referrer"


async def test_one_click_acts_at_once_without_cookie_or_token_and_repeated_is_the_same(known: Edge) -> None:
    link = path(known)

    first = await known.client().post(link, data=ONE_CLICK)
    again = await known.client().post(link, data=ONE_CLICK)
    at_once = await asyncio.gather(*(known.client().post(link) for _ in range(5)))

    assert first.status_code == 200
    assert "set-cookie" not in first.headers
    assert all((answer.status_code, answer.text) == (200, first.text) for answer in (again, *at_once))
    assert await opted_out(known) == [(TENANT, "ada", "channel_type", "email:iep_update", "unsubscribe_link")]
    rows = await known.rows("SELECT action, actor FROM audit_log")
    assert [tuple(row) for row in rows] == [("opt_out.added", "person:ada")]


@pytest.mark.parametrize(
    "body",
    [
        {"content": b"", "headers": {"Content-Type": "text/plain"}},
        {"files": {"List-Unsubscribe": (None, "One-Click")}},
        {"json": ["whatever"]},
        {"content": b"\0\xff" * 1000},
    ],
)
async def test_the_form_in_which_a_mail_program_posts_does_not_matter(
    known: Edge, body: dict[str, Any]
) -> None:
    answer = await known.client().post(path(known), **body)

    assert answer.status_code == 200
    assert len(await opted_out(known)) == 1


async def test_a_link_with_any_bit_changed_opens_nothing(known: Edge) -> None:
    token = make_token(known.services.delivery.vault, subscription())
    sealed = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    client = known.client()
    forged = []
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        forged.append(urlsafe_b64encode(changed).decode().rstrip("="))

    for one in forged:
        assert read_token(known.services.delivery.vault, one) is None
    for one in forged[:: len(forged) // 40]:
        assert (await client.get(f"/u/{one}")).status_code == 404
        assert (await client.post(f"/u/{one}")).status_code == 404
    assert await opted_out(known) == []


async def test_what_is_no_token_of_this_kind_is_not_found(known: Edge) -> None:
    vault = known.services.delivery.vault
    token = make_token(vault, subscription())
    others = [
        token[:-1],
        token + "A",
        token + "=",
        token.upper(),
        "x",
        "A" * 5000,
        "%F0%9F%94%94",
        "a%20b",
        vault.token('["school","ada","email","iep_update",1]', "receipt"),
        make_token(Vault({"test": b"x" * 32}), subscription()),
    ]

    for other in others:
        for method in ("GET", "POST"):
            answer = await known.client().request(method, f"/u/{other}")
            assert answer.status_code == 404, other[:80]
            assert answer.json()["error"] == "not_found"
            assert "ada" not in answer.text
    assert await opted_out(known) == []


async def test_a_link_is_good_for_its_type_channel_person_and_tenant_alone(known: Edge) -> None:
    await known.rows("INSERT INTO recipients (tenant_id, user_id) VALUES ($1, 'ada')", OTHER_TENANT)
    await known.rows("INSERT INTO recipients (tenant_id, user_id) VALUES ($1, 'bob')", TENANT)

    await known.client().post(path(known, notification_type="billing.due"))

    assert await opted_out(known) == [
        (TENANT, "ada", "channel_type", "email:billing.due", "unsubscribe_link")
    ]


async def test_a_link_to_somebody_who_is_gone_opens_nothing(edge: Edge) -> None:
    for method in ("GET", "POST"):
        assert (await edge.client().request(method, path(edge))).status_code == 404
    assert await opted_out(edge) == []


async def test_whoever_asks_for_it_again_is_not_unsubscribed_by_an_old_link(known: Edge) -> None:
    old = path(known)
    await known.client().post(old)

    lifted = await known.client(person()).delete(
        OPT_OUTS, params={"scope": "channel_type", "value": "email:iep_update"}
    )
    late = [await known.client().request(method, old) for method in ("GET", "POST")]

    assert lifted.status_code == 204
    assert [answer.status_code for answer in late] == [404, 404]
    assert await opted_out(known) == []
    assert (await known.client().post(path(known, version=2))).status_code == 200


async def test_lifting_something_else_leaves_the_links_as_they_are(known: Edge) -> None:
    client = known.client(person())
    await client.post(OPT_OUTS, json={"scope": "channel", "value": "sms"})
    await client.delete(OPT_OUTS, params={"scope": "channel", "value": "sms"})

    assert (await known.client().post(path(known))).status_code == 200


async def test_acting_and_asking_again_at_the_same_time_wait_in_no_circle(known: Edge) -> None:
    link = path(known)
    params = {"scope": "channel_type", "value": "email:iep_update"}

    answers = await asyncio.gather(
        *(known.client().post(link) for _ in range(4)),
        *(known.client(person()).delete(OPT_OUTS, params=params) for _ in range(4)),
        *(known.client(person()).post(OPT_OUTS, json=params) for _ in range(4)),
    )

    assert {answer.status_code for answer in answers} <= {200, 201, 204, 404}


async def test_a_type_is_shown_as_text_whatever_it_is(known: Edge) -> None:
    shown = await known.client().get(path(known, notification_type="<b>x</b>&"))

    assert "&lt;b&gt;x&lt;/b&gt;&amp;" in shown.text


def test_a_token_says_nothing_of_whose_it_is_and_fits_into_a_header_line() -> None:
    vault = Vault({"k1": b"v" * 32})
    longest = subscription(tenant_id="t" * 63, user_id="u" * 255, notification_type="n" * 64, version=10**6)
    url = unsubscribe_url("https://notify.example.org/", vault, longest)

    assert url is not None
    assert url.startswith("https://notify.example.org/u/")
    assert len(f"List-Unsubscribe: <{url}>") <= 998  # RFC 5322 section 2.1.1
    assert read_token(vault, url.rpartition("/")[2]) == longest
    assert make_token(vault, longest) != make_token(vault, longest)
    widest = subscription(user_id="\N{BELL}" * 255)
    assert read_token(vault, make_token(vault, widest)) == widest


def test_there_is_no_link_without_an_address_of_ours_or_for_what_nobody_can_opt_out_of() -> None:
    vault = Vault({"k1": b"v" * 32})

    assert unsubscribe_url(None, vault, subscription()) is None
    mandatory = subscription(notification_type="address_verification")
    assert unsubscribe_url("https://notify.example.org", vault, mandatory) is None
