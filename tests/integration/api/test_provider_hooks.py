"""The providers' webhooks over HTTP: who is believed, what becomes durable, what a hostile request gets (threats 16-19)."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import UUID

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256

from core.ids import uuid7
from delivery.callbacks import callback_url, delivery_token
from delivery.hooks import Hooks
from tests.api import TENANT, Edge, admin, person, service

PUBLIC = "https://notify.example"
TWILIO = "12345678901234567890123456789012"
META = "the secret of an app at Meta"
VERIFY = "what was entered at Meta"
TELEGRAM = "t" * 40
MAIL = generate_private_key(SECP256R1())
HOOKS = Hooks(
    public_url=PUBLIC,
    twilio_token=TWILIO,
    meta_secret=META,
    meta_verify_token=VERIFY,
    telegram_secret=TELEGRAM,
    telegram_bot="carillon_bot",
    sendgrid_key=MAIL.public_key(),
)
BOT = f"/webhooks/telegram/{HOOKS.telegram_path}"
PHONE, CHAT = "+14155552671", "424242424242"
SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"


@pytest.fixture
def hooked(edge: Edge) -> Edge:
    """An edge that every provider is set up for."""
    return edge.with_services(delivery=replace(edge.services.delivery, hooks=HOOKS))


async def delivery(edge: Edge, *, state: str = "sent", channel: str = "sms", ref: str | None = None) -> UUID:
    delivery_id = uuid7()
    await edge.rows(
        """INSERT INTO notification_deliveries (tenant_id, id, notification_id, user_id, channel, lane, state, attempt,
               provider, provider_ref, finished_at)
           VALUES ($1, $2, $3, 'ada', $4, 2, $5, 1, 'twilio', $6, CASE WHEN $5 = 'unknown' THEN NULL ELSE now() END)""",
        TENANT,
        delivery_id,
        uuid7(),
        channel,
        state,
        ref,
    )
    return delivery_id


async def state(edge: Edge, delivery_id: UUID) -> str:
    [row] = await edge.rows("SELECT state FROM notification_deliveries WHERE id = $1", delivery_id)
    return str(row["state"])


async def address(
    edge: Edge, channel: str, value: str, user_id: str = "ada", tenant_id: str = TENANT
) -> None:
    await edge.services.delivery.recipients.add(tenant_id, user_id, channel, value, "jwt::svc", verified=True)


async def nothing_is_stored(edge: Edge) -> bool:
    counts = await edge.rows(
        "SELECT (SELECT count(*) FROM provider_events) + (SELECT count(*) FROM inbound_messages) AS n"
    )
    return bool(counts[0]["n"] == 0)


# --- Twilio ---


def twilio_signature(url: str, form: Mapping[str, str], token: str = TWILIO) -> str:
    signed = url + "".join(name + form[name] for name in sorted(form))
    return b64encode(hmac.digest(token.encode(), signed.encode(), "sha1")).decode()


async def twilio(
    edge: Edge, url: str, form: Mapping[str, str], signature: str | None = None, **headers: str
) -> httpx.Response:
    """As Twilio calls the URL that it was given; it arrives at whatever the proxy made of it."""
    split = urlsplit(url)
    return await edge.client().post(
        f"{split.path}?{split.query}" if split.query else split.path,
        content=urlencode(form),
        headers={
            "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
            "X-Twilio-Signature": signature or twilio_signature(url, form),
            **headers,
        },
    )


def status_url(edge: Edge, delivery_id: UUID) -> str:
    return callback_url(PUBLIC, edge.services.delivery.vault, "twilio", TENANT, delivery_id)


DELIVERED = {"MessageSid": "SM1", "MessageStatus": "delivered", "To": PHONE, "AccountSid": "AC1"}
MESSAGE = {
    "MessageSid": "SM9",
    "From": f"whatsapp:{PHONE}",
    "To": "whatsapp:+14155238886",
    "Body": "Yes 😀",
    "NumMedia": "0",
}


async def test_twilios_status_moves_the_delivery_that_its_url_names(hooked: Edge) -> None:
    delivery_id = await delivery(hooked, state="unknown")

    answer = await twilio(hooked, status_url(hooked, delivery_id), DELIVERED)

    assert answer.status_code == 204
    assert await state(hooked, delivery_id) == "delivered"


async def test_what_a_proxy_writes_into_headers_decides_nothing(hooked: Edge) -> None:
    delivery_id = await delivery(hooked)
    url = status_url(hooked, delivery_id)
    evil = url.replace("notify.example", "evil.example")
    lies = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}

    assert (
        await twilio(hooked, url, DELIVERED, twilio_signature(evil, DELIVERED), **lies)
    ).status_code == 401
    assert await nothing_is_stored(hooked)
    assert (await twilio(hooked, url, DELIVERED, **lies)).status_code == 204


@pytest.mark.parametrize(
    "forge",
    [
        lambda url, form: (url, form | {"MessageStatus": "failed"}),
        lambda url, form: (url, form | {"Extra": ""}),
        lambda url, form: (url, {name: form[name] for name in form if name != "To"}),
        lambda url, form: (url + "&x=1", form),
        lambda url, form: (url[:-1] + ("A" if url[-1] != "A" else "B"), form),
    ],
)
async def test_a_changed_request_is_refused_and_leaves_no_row(hooked: Edge, forge: Any) -> None:
    delivery_id = await delivery(hooked)
    url = status_url(hooked, delivery_id)
    forged_url, forged = forge(url, DELIVERED)

    answer = await twilio(hooked, forged_url, forged, twilio_signature(url, DELIVERED))

    assert answer.status_code == 401
    assert await nothing_is_stored(hooked)
    assert await state(hooked, delivery_id) == "sent"


async def test_the_order_of_parameters_and_a_genuine_url_with_a_token_of_nobody_are_taken(
    hooked: Edge,
) -> None:
    delivery_id = await delivery(hooked, ref="SM1")
    reordered = dict(reversed(list(DELIVERED.items())))

    answer = await twilio(hooked, f"{PUBLIC}/webhooks/twilio/status?d=nonsense", reordered)

    assert answer.status_code == 204
    assert await state(hooked, delivery_id) == "delivered"  # by Twilio's own name for it


@pytest.mark.parametrize("headers", [[], ["", ""], ["x"], ["é"], ["=" * 9000]])
async def test_a_signature_that_is_missing_double_or_no_signature_is_refused(
    hooked: Edge, headers: Sequence[str]
) -> None:
    given = [(b"X-Twilio-Signature", value.encode("latin-1")) for value in headers]
    form = (b"Content-Type", b"application/x-www-form-urlencoded")

    answer = await hooked.client().post(
        "/webhooks/twilio/status", content=urlencode(DELIVERED), headers=[form, *given]
    )

    assert answer.status_code == 401
    assert answer.json()["error"] == "unauthorized"
    assert await nothing_is_stored(hooked)


async def test_twilios_json_counts_by_the_hash_in_its_url(hooked: Edge) -> None:
    raw = json.dumps(DELIVERED).encode()
    path = f"/webhooks/twilio/status?bodySHA256={hashlib.sha256(raw).hexdigest()}"
    headers = {"X-Twilio-Signature": twilio_signature(PUBLIC + path, {}), "Content-Type": "application/json"}

    changed = await hooked.client().post(path, content=raw.replace(b"SM1", b"SM2"), headers=headers)
    genuine = await hooked.client().post(path, content=raw, headers=headers)

    assert (changed.status_code, genuine.status_code) == (401, 204)
    assert len(await hooked.rows("SELECT FROM provider_events")) == 1


async def test_an_answer_to_one_number_reaches_everybody_who_has_the_address(hooked: Edge) -> None:
    for user_id, tenant_id in (("ada", TENANT), ("bob", "hospital")):
        await address(hooked, "whatsapp", PHONE, user_id, tenant_id)
    answered = await delivery(hooked, channel="whatsapp", ref="SM0")
    url, form = f"{PUBLIC}/webhooks/twilio/inbound", MESSAGE | {"OriginalRepliedMessageSid": "SM0"}

    answers = [await twilio(hooked, url, form) for _ in range(3)]

    assert {answer.status_code for answer in answers} == {200}
    assert answers[0].headers["content-type"].startswith("text/xml")
    assert answers[0].text.endswith("<Response></Response>")
    rows = await hooked.rows("SELECT * FROM inbound_messages ORDER BY user_id")
    assert [(row["tenant_id"], row["user_id"], row["kind"], row["delivery_id"]) for row in rows] == [
        (TENANT, "ada", "reply", answered),
        ("hospital", "bob", "reply", None),
    ]
    assert b"Yes" not in rows[0]["sealed"]
    for row in await hooked.rows("SELECT window_until FROM recipient_addresses"):
        assert (
            timedelta(hours=23, minutes=59) < row["window_until"] - datetime.now(UTC) <= timedelta(hours=24)
        )


async def test_a_message_from_an_address_nobody_has_answered_for_is_nobodys(hooked: Edge) -> None:
    await hooked.services.delivery.recipients.add(
        TENANT, "eve", "whatsapp", PHONE, "jwt::svc", verified=False
    )

    answer = await twilio(hooked, f"{PUBLIC}/webhooks/twilio/inbound", MESSAGE)

    assert answer.status_code == 200
    assert await nothing_is_stored(hooked)


async def test_stop_ends_the_channel_and_start_resumes_it(hooked: Edge) -> None:
    await address(hooked, "sms", PHONE)
    url = f"{PUBLIC}/webhooks/twilio/inbound"
    message = {"From": PHONE, "To": "+14155238886"}

    await twilio(hooked, url, message | {"MessageSid": "SM1", "Body": " Arrêt! "})
    [opt_out] = await hooked.rows("SELECT * FROM opt_outs")
    await twilio(hooked, url, message | {"MessageSid": "SM2", "Body": "START"})

    assert (opt_out["user_id"], opt_out["scope"], opt_out["value"], opt_out["reason"]) == (
        "ada",
        "channel",
        "sms",
        "keyword",
    )
    assert not await hooked.rows("SELECT FROM opt_outs")
    audited = await hooked.rows(
        "SELECT actor, action FROM audit_log WHERE action LIKE 'opt_out%' ORDER BY seq"
    )
    assert [tuple(row) for row in audited] == [
        ("person:ada", "opt_out.added"),
        ("person:ada", "opt_out.lifted"),
    ]
    assert [row["kind"] for row in await hooked.rows("SELECT kind FROM inbound_messages ORDER BY id")] == [
        "stop",
        "start",
    ]


# --- Meta ---


def meta_signature(raw: bytes, secret: str = META) -> str:
    return "sha256=" + hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()


async def meta(edge: Edge, raw: bytes, signature: str | None = None) -> httpx.Response:
    headers = {"X-Hub-Signature-256": signature or meta_signature(raw), "Content-Type": "application/json"}
    return await edge.client().post("/webhooks/meta", content=raw, headers=headers)


def of_meta(**value: Any) -> dict[str, Any]:
    return {
        "object": "whatsapp_business_account",
        "entry": [
            {
                "id": "1",
                "changes": [{"field": "messages", "value": {"messaging_product": "whatsapp", **value}}],
            }
        ],
    }


def meta_message(**members: Any) -> dict[str, Any]:
    return {
        "id": "wamid.9",
        "from": PHONE[1:],
        "timestamp": str(int(datetime.now(UTC).timestamp())),
        **members,
    }


async def test_metas_statuses_come_several_at_once_with_the_delivery_in_them(hooked: Edge) -> None:
    deliveries = [await delivery(hooked, state="unknown", channel="whatsapp") for _ in range(3)]
    vault = hooked.services.delivery.vault
    statuses = [
        {
            "id": f"wamid.{number}",
            "status": word,
            "timestamp": "1750000000",
            "biz_opaque_callback_data": delivery_token(vault, "meta", TENANT, one),
        }
        for number, one in enumerate(deliveries)
        for word in ("delivered", "sent")
    ]

    answer = await meta(hooked, json.dumps(of_meta(statuses=statuses)).encode())

    assert answer.status_code == 204
    assert [await state(hooked, one) for one in deliveries] == ["delivered"] * 3
    assert len(await hooked.rows("SELECT FROM provider_events")) == 6


@pytest.mark.parametrize("escaped", [True, False])
async def test_the_bytes_are_signed_not_what_they_mean(hooked: Edge, escaped: bool) -> None:
    await address(hooked, "whatsapp", PHONE)
    sent = of_meta(messages=[meta_message(type="text", text={"body": "Ça va? 😀 </script> \\ \u2028"})])
    raw = json.dumps(sent, ensure_ascii=escaped).replace("/", "\\/" if escaped else "/").encode()
    other = json.dumps(sent, ensure_ascii=not escaped).encode()

    refused = await meta(hooked, other, meta_signature(raw))
    taken = await meta(hooked, raw)

    assert (refused.status_code, taken.status_code) == (401, 204)
    listed = await hooked.client(admin()).get("/api/v1/inbound", params={"user_id": "ada"})
    [message] = listed.json()["messages"]
    assert message["text"] == "Ça va? 😀 </script> \\ \u2028"


async def test_any_changed_byte_is_refused_before_it_is_read(hooked: Edge) -> None:
    raw = json.dumps(of_meta(statuses=[{"id": "wamid.1", "status": "read"}])).encode()
    signature = meta_signature(raw)

    for place in range(0, len(raw), 7):
        changed = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        assert (await meta(hooked, changed, signature)).status_code == 401
    assert (await meta(hooked, b"\xff not json", signature)).status_code == 401
    assert (await meta(hooked, raw, meta_signature(raw, "another secret"))).status_code == 401
    assert await nothing_is_stored(hooked)


async def test_a_signed_body_that_means_nothing_is_taken_or_refused_but_never_our_fault(hooked: Edge) -> None:
    for raw, expected in (
        (b"{}", 204),
        (b"[]", 204),
        (b"null", 204),
        (b'{"object":1}', 204),
        (b"{", 400),
        (b"", 400),
    ):
        assert (await meta(hooked, raw)).status_code == expected
    assert (await meta(hooked, b"[" * 100_000)).status_code == 400
    assert (await meta(hooked, b" " * (3 * 1024 * 1024 + 1))).status_code == 413


async def test_meta_is_answered_its_challenge_for_the_right_token_only(hooked: Edge) -> None:
    asked = {"hub.mode": "subscribe", "hub.challenge": "1158201444", "hub.verify_token": VERIFY}
    client = hooked.client()

    right = await client.get("/webhooks/meta", params=asked)
    assert (right.status_code, right.text) == (200, "1158201444")
    assert right.headers["content-type"].startswith("text/plain")
    for wrong in ({"hub.verify_token": "guess"}, {"hub.mode": "unsubscribe"}, {"hub.verify_token": ""}):
        assert (await client.get("/webhooks/meta", params=asked | wrong)).status_code == 403
    twice = [*asked.items(), ("hub.verify_token", VERIFY)]
    assert (await client.get("/webhooks/meta", params=twice)).status_code == 403


async def test_a_tap_is_an_event_of_the_tenants_webhooks_without_its_words(hooked: Edge) -> None:
    await address(hooked, "whatsapp", PHONE)
    await hooked.client(admin()).post(
        "/api/v1/webhooks", json={"url": "https://hooks.example.com/x", "events": ["inbound.tap"]}
    )
    button = {"type": "button_reply", "button_reply": {"id": "accept-17", "title": "Yes, please"}}

    await meta(
        hooked, json.dumps(of_meta(messages=[meta_message(type="interactive", interactive=button)])).encode()
    )

    [row] = await hooked.rows("SELECT event FROM notification_deliveries WHERE kind = 'event'")
    event = json.loads(row["event"])
    assert event["type"] == "inbound.tap"
    assert not any(word in row["event"] for word in ("accept-17", "please", "4155552671"))
    found = await hooked.client(admin()).get(f"/api/v1/inbound/{event['data']['inbound_id']}")
    assert (found.json()["payload"], found.json()["text"]) == ("accept-17", "Yes, please")
    assert (await hooked.client(admin("hospital")).get(found.request.url.path)).status_code == 404


# --- Telegram ---


async def telegram(edge: Edge, update: Mapping[str, Any], *secrets: str, path: str = BOT) -> httpx.Response:
    headers = [(SECRET_HEADER.encode(), secret.encode()) for secret in (secrets or (TELEGRAM,))]
    return await edge.client().post(path, json=update, headers=headers)


def telegram_message(text: str, update_id: int = 1) -> dict[str, Any]:
    chat = {"id": int(CHAT), "type": "private"}
    return {
        "update_id": update_id,
        "message": {"message_id": 1, "date": 1750000000, "chat": chat, "text": text},
    }


async def test_telegram_is_believed_at_its_path_with_its_secret_once(hooked: Edge) -> None:
    await address(hooked, "telegram", CHAT)
    update = telegram_message("Hello")

    for secrets in (
        ("u" * 40,),
        (TELEGRAM, TELEGRAM),
        (TELEGRAM[:-1],),
        (f"{TELEGRAM}é",),
    ):
        assert (await telegram(hooked, update, *secrets)).status_code == 401
    assert (await hooked.client().post(BOT, json=update)).status_code == 401
    assert (await telegram(hooked, update, path=f"/webhooks/telegram/{'0' * 32}")).status_code == 404
    assert await nothing_is_stored(hooked)

    assert (await telegram(hooked, update)).status_code == 204
    assert (await telegram(hooked, update)).status_code == 204
    assert len(await hooked.rows("SELECT FROM inbound_messages")) == 1


async def test_a_link_ties_the_chat_that_opens_it_first_to_the_person(hooked: Edge) -> None:
    made = await hooked.client(person("ada")).post("/api/v1/telegram/link", json={})
    assert made.status_code == 201
    bot, _, token = made.json()["url"].partition("?start=")
    assert bot == "https://t.me/carillon_bot"
    life = datetime.fromisoformat(made.json()["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=14) < life <= timedelta(minutes=15)
    [stored] = await hooked.rows("SELECT * FROM telegram_links")
    assert token.encode() not in stored["token_hash"]

    assert (await telegram(hooked, telegram_message(f"/start {token}"))).status_code == 204
    other = telegram_message(f"/start {token}", 2)
    other["message"]["chat"]["id"] = 9999
    assert (await telegram(hooked, other)).status_code == 204

    [owner] = await hooked.services.delivery.recipients.find_by_address("telegram", CHAT)
    assert (owner.tenant_id, owner.user_id) == (TENANT, "ada")
    assert not await hooked.services.delivery.recipients.find_by_address("telegram", "9999")
    assert not await hooked.rows("SELECT FROM inbound_messages")  # the token is kept nowhere


async def test_an_old_link_ties_nothing(hooked: Edge) -> None:
    made = await hooked.client(person("ada")).post("/api/v1/telegram/link", json={})
    await hooked.rows("UPDATE telegram_links SET expires_at = now() - interval '1 second'")

    await telegram(hooked, telegram_message(f"/start {made.json()['url'].partition('=')[2]}"))

    assert not await hooked.services.delivery.recipients.find_by_address("telegram", CHAT)


async def test_a_person_makes_links_for_themselves_and_a_service_for_others(hooked: Edge) -> None:
    wanted = {"user_id": "bob"}

    assert (await hooked.client(person("ada")).post("/api/v1/telegram/link", json=wanted)).status_code == 403
    assert (await hooked.client(service()).post("/api/v1/telegram/link", json=wanted)).status_code == 201


async def test_a_chat_that_blocks_the_bot_is_left_alone_until_it_unblocks_it(hooked: Edge) -> None:
    await address(hooked, "telegram", CHAT)

    def becomes(status: str, update_id: int) -> dict[str, Any]:
        chat = {"id": int(CHAT), "type": "private"}
        return {
            "update_id": update_id,
            "my_chat_member": {"chat": chat, "date": 1750000000, "new_chat_member": {"status": status}},
        }

    await telegram(hooked, becomes("kicked", 1))
    [opt_out] = await hooked.rows("SELECT * FROM opt_outs")
    assert (opt_out["value"], opt_out["reason"]) == ("telegram", "provider")
    await telegram(hooked, becomes("member", 2))
    assert not await hooked.rows("SELECT FROM opt_outs")

    await telegram(hooked, telegram_message("/stop", 3))
    await telegram(hooked, becomes("member", 4))
    [opt_out] = await hooked.rows("SELECT * FROM opt_outs")
    assert opt_out["reason"] == "keyword"  # what they have said themselves stands


# --- SendGrid ---


async def sendgrid(
    edge: Edge, raw: bytes, timestamp: str = "1750000000", signed: bytes | None = None
) -> httpx.Response:
    signature = MAIL.sign(timestamp.encode() + (raw if signed is None else signed), ECDSA(SHA256()))
    headers = {
        "X-Twilio-Email-Event-Webhook-Signature": b64encode(signature).decode(),
        "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
        "Content-Type": "application/json",
    }
    return await edge.client().post("/webhooks/sendgrid", content=raw, headers=headers)


async def test_sendgrids_events_come_several_at_once(hooked: Edge) -> None:
    delivery_id = await delivery(hooked, channel="email")
    base = {
        "email": "ada@example.com",
        "timestamp": 1750000000,
        "sg_message_id": "m1.f-0",
        "tenant": TENANT,
        "delivery_id": str(delivery_id),
    }
    events = [
        base | {"sg_event_id": "1", "event": "processed"},
        base | {"sg_event_id": "2", "event": "delivered"},
        base | {"sg_event_id": "2", "event": "delivered"},
        base | {"sg_event_id": "3", "event": "invented later"},
        {"sg_event_id": "4", "event": "delivered", "email": "somebody@else.example"},
    ]
    raw = json.dumps(events).encode() + b"\r\n"

    assert (await sendgrid(hooked, raw, signed=raw.rstrip())).status_code == 401
    assert (await sendgrid(hooked, raw)).status_code == 204

    assert await state(hooked, delivery_id) == "delivered"
    assert len(await hooked.rows("SELECT FROM provider_events")) == 4


# --- all of them ---

PATHS = ("/webhooks/twilio/status", "/webhooks/twilio/inbound", "/webhooks/meta", BOT, "/webhooks/sendgrid")


@pytest.mark.parametrize("path", PATHS)
async def test_what_is_not_configured_is_not_there(edge: Edge, path: str) -> None:
    assert (await edge.client().post(path, json={})).status_code == 404
    assert (await edge.client().get("/webhooks/meta")).status_code == 404


@pytest.mark.parametrize("path", PATHS)
async def test_a_token_of_ours_opens_no_webhook_of_a_provider(hooked: Edge, path: str) -> None:
    assert (await hooked.client(admin()).post(path, json={})).status_code == 401


async def test_a_provider_is_told_to_come_again_when_nothing_can_be_kept(hooked: Edge) -> None:
    delivery_id = await delivery(hooked)
    url = status_url(hooked, delivery_id)
    await hooked.database.close()

    assert (await twilio(hooked, url, DELIVERED)).status_code == 503


async def test_an_event_that_comes_again_after_a_fault_is_acted_on_once(hooked: Edge) -> None:
    await address(hooked, "sms", PHONE)
    form = {"MessageSid": "SM1", "From": PHONE, "To": "+1", "Body": "STOP"}
    await hooked.rows("ALTER TABLE audit_log RENAME TO audit_log_away")

    assert (await twilio(hooked, f"{PUBLIC}/webhooks/twilio/inbound", form)).status_code == 500
    assert await nothing_is_stored(hooked)
    assert not await hooked.rows("SELECT FROM opt_outs")

    await hooked.rows("ALTER TABLE audit_log_away RENAME TO audit_log")
    assert (await twilio(hooked, f"{PUBLIC}/webhooks/twilio/inbound", form)).status_code == 200
    assert len(await hooked.rows("SELECT FROM opt_outs")) == 1


async def test_no_number_word_token_or_secret_leaves_by_logs_errors_or_the_audit(
    hooked: Edge, capfd: pytest.CaptureFixture[str]
) -> None:
    canary = "CANARY-8f14"
    await address(hooked, "whatsapp", PHONE)
    delivery_id = await delivery(hooked)
    url = status_url(hooked, delivery_id)
    link = (await hooked.client(person("bob")).post("/api/v1/telegram/link", json={})).json()["url"]
    token = link.partition("=")[2]
    text = json.dumps(of_meta(messages=[meta_message(type="text", text={"body": canary})])).encode()

    answers = [
        await meta(hooked, text),
        await meta(hooked, text, meta_signature(text, canary)),
        await meta(hooked, text[:-1]),
        await twilio(hooked, url, DELIVERED | {"Body": canary}),
        await twilio(hooked, url, DELIVERED, canary),
        await telegram(hooked, telegram_message(f"/start {token}")),
        await telegram(hooked, telegram_message(canary), canary),
        await sendgrid(hooked, b"[" + canary.encode()),
    ]
    await hooked.rows("ALTER TABLE provider_events RENAME TO gone")
    answers.append(await twilio(hooked, url, DELIVERED | {"MessageStatus": "read", "Body": canary}))

    assert [answer.status_code for answer in answers] == [204, 401, 400, 204, 401, 204, 401, 400, 500]
    told = [answer.text + str(answer.headers) for answer in answers]
    told += [str(tuple(row)) for row in await hooked.rows("SELECT * FROM audit_log")]
    told += capfd.readouterr()
    secrets = (canary, PHONE, PHONE[1:], CHAT, token, TWILIO, META, VERIFY, TELEGRAM, url.partition("=")[2])
    for one in told:
        assert not any(secret in one for secret in secrets)
