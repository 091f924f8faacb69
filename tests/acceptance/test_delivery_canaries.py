"""
Everything that says who is reached, where, by whose account and in which words goes through every way out: sent,
refused with its own words quoted back, lost, retried, edited, replayed, reported, answered, previewed and captured by
a sandbox, with the log at debug. None of it stands in a log, a metric, an error, an answer that is about something
else, or readable in the database (threats 29 and 30).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import httpx
import pytest

from tests.process import ENCRYPTION_KEYS, ROOT, SECRET, Node, admin, nodes, service, token
from tests.providers.meta import MetaServer
from tests.providers.server import Refuse, Reset
from tests.providers.smtp import SmtpServer
from tests.providers.telegram import TelegramServer
from tests.providers.twilio import TwilioServer
from tests.providers.webhook_receiver import WebhookReceiver

PHONE, OTHER_PHONE = "+250788555701", "+250788555702"
EMAIL, OTHER_EMAIL = "canary.mail.5b1@example.test", "canary.other.5b1@example.test"
CHAT = 7654321098701
HOOK_PATH, ENDPOINT_PATH = "canary-hook-5b1", "canary-endpoint-5b1"
TITLE, WORDS, VARIABLE = "canary title 5b1", "canary words 5b1", "canary variable 5b1"
EDIT, REPLY = "canary edit 5b1", "canary reply 5b1"
SMTP_PASSWORD, SENDGRID_API_KEY = "canary-smtp-password-5b1", "SG.canary-sendgrid-5b1"
PUBLIC = "https://notify.example.test"

#: What says where somebody is: shown to nobody, sealed in the database.
ADDRESSES = (
    PHONE,
    PHONE[1:],
    OTHER_PHONE[1:],
    EMAIL,
    OTHER_EMAIL,
    str(CHAT),
    HOOK_PATH,
    ENDPOINT_PATH,
)
#: What is said: in the answers about the notification itself, and in no other.
SAID = (TITLE, WORDS, VARIABLE, EDIT, REPLY)


@dataclass
class Providers:
    """Everybody whom we send by, and what they must not be told of elsewhere."""

    smtp: SmtpServer
    twilio: TwilioServer
    meta: MetaServer
    telegram: TelegramServer
    webhook: WebhookReceiver
    secrets: list[str] = field(default_factory=list)

    def settings(self) -> dict[str, Any]:
        return {
            "LOG_LEVEL": "debug",
            "EMAIL_FROM": "school@example.test",
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(self.smtp.port),
            "SMTP_TLS": "off",
            "SMTP_USERNAME": "school",
            "SMTP_PASSWORD": SMTP_PASSWORD,
            "SENDGRID_API_KEY": SENDGRID_API_KEY,
            "SENDGRID_BASE_URL": "http://127.0.0.1:9",  # nobody is there
            "TWILIO_ACCOUNT_SID": self.twilio.account_sid,
            "TWILIO_AUTH_TOKEN": self.twilio.auth_token,
            "TWILIO_PHONE_NUMBER": "+15005550006",
            "TWILIO_BASE_URL": self.twilio.url,
            "WHATSAPP_PHONE_NUMBER_ID": self.meta.phone_number_id,
            "WHATSAPP_ACCESS_TOKEN": self.meta.access_token,
            "WHATSAPP_APP_SECRET": self.meta.app_secret,
            "WHATSAPP_VERIFY_TOKEN": self.meta.verify_token,
            "WHATSAPP_GRAPH_URL": self.meta.graph_url,
            "TELEGRAM_BOT_TOKEN": self.telegram.token,
            "TELEGRAM_BOT_NAME": "a_bot",
            "TELEGRAM_WEBHOOK_SECRET": self.telegram.secret,
            "TELEGRAM_BASE_URL": self.telegram.url,
            "DELIVERY_WEBHOOK_HTTP": "on",
            "DELIVERY_WEBHOOK_PRIVATE": "on",
            "DELIVERY_RETRY_BASE": "0.05",
            "DELIVERY_RETRY_CAP": "0.1",
            "DELIVERY_DEFER_BASE": "0.05",
            "DELIVERY_DEFER_CAP": "0.1",
            "DELIVERY_HALT_WAIT": "0.1",
            "DELIVERY_RECONCILE_AFTER": "0.2",
            "HUB_PUBLIC_URL": PUBLIC,
        }

    @property
    def credentials(self) -> tuple[str, ...]:
        """What opens a door: in no answer but the one that made it, and nowhere in the database."""
        ours = (SMTP_PASSWORD, SENDGRID_API_KEY, SECRET, ENCRYPTION_KEYS.partition(":")[2])
        theirs = (
            self.twilio.auth_token,
            self.meta.access_token,
            self.meta.app_secret,
            self.meta.verify_token,
            self.telegram.token,
            self.telegram.secret,
        )
        return (*ours, *theirs, *self.secrets)


@pytest.fixture
async def providers() -> AsyncIterator[Providers]:
    async with AsyncExitStack() as stack:
        made = Providers(
            SmtpServer(credentials=("school", SMTP_PASSWORD)),
            TwilioServer(),
            MetaServer(),
            TelegramServer(),
            WebhookReceiver(),
        )
        for one in (made.twilio, made.meta, made.telegram, made.webhook):
            await stack.enter_async_context(one)
        await made.smtp.start()
        stack.push_async_callback(made.smtp.stop)
        made.telegram.chats.add(CHAT)
        yield made


def echo(status: int, code: int = 0) -> Refuse:
    """A provider that tells everything it was told, as they do: in the words of its error."""
    told = " ".join((PHONE, EMAIL, str(CHAT), HOOK_PATH, TITLE, WORDS, VARIABLE))
    body = {
        "code": code,
        "message": told,
        "description": told,
        "more_info": told,
        "status": status,
        "ok": False,
        "error_code": status,
        "error": {"code": code, "message": told, "error_data": {"details": told}, "type": "OAuthException"},
    }
    return Refuse(status=status, body=body, headers={"X-Told": told, "Retry-After": "0"})


@dataclass
class Told:
    """What came back, by where it came from. own: answers that are about the words, and may say them."""

    texts: dict[str, str] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)
    statuses: set[int] = field(default_factory=set)

    def keep(self, answer: httpx.Response, *, own: bool = False) -> Any:
        where = f"{answer.request.method} {answer.request.url.path} {answer.status_code} #{len(self.texts)}"
        text = answer.text + str(answer.headers)
        (self.own if own and answer.status_code < 400 else self.texts)[where] = text
        self.statuses.add(answer.status_code)
        return answer.json() if "json" in answer.headers.get("content-type", "") else None


BODY = {
    "title": TITLE,
    "message": WORDS,
    "notification_type": "canaries",
    "metadata": {"variable": VARIABLE},
    "action_url": "/canary",
    "channels": ["email", "sms", "whatsapp", "telegram", "webhook"],
}


async def settled(node: Node, notification_id: str, told: Told) -> list[dict[str, Any]]:
    """The deliveries of a notification once none of them is open."""
    path = f"/api/v1/notifications/{notification_id}/deliveries"
    answer = await node.ask("GET", path, as_=admin())
    try:
        async with asyncio.timeout(90):
            while not all(one["finished_at"] for one in answer.json()["deliveries"]):
                await asyncio.sleep(0.05)  # another process: there is no event to await
                answer = await node.ask("GET", path, as_=admin())
    except TimeoutError:
        pytest.fail(f"still open: {answer.text}")
    found: list[dict[str, Any]] = told.keep(answer)["deliveries"]
    return found


async def everything_goes_wrong_once(node: Node, providers: Providers, told: Told) -> list[dict[str, Any]]:
    """Five channels, whose providers quote what they were told, lose answers, and refuse for good."""
    hook = f"{providers.webhook.url}/{HOOK_PATH}"
    person = {
        "user_id": "ada",
        "name": "Ada",
        "email": EMAIL,
        "phone": PHONE,
        "telegram": str(CHAT),
        "webhook": hook,
    }
    providers.twilio.faults += [echo(500), echo(503, 20503)]
    providers.meta.faults += [echo(500, 131000)]
    providers.telegram.faults += [echo(502), Reset(taken=False), echo(400)]
    providers.webhook.faults += [echo(500), Reset(taken=True)]
    providers.smtp.faults += [
        ("rcpt", Refuse(status=451, body=f"4.2.0 <{EMAIL}> {WORDS} later")),
        ("content", Refuse(status=550, body=f"5.7.1 <{EMAIL}> {WORDS} is spam")),
    ]
    sent = await node.ask("POST", "/api/v1/notifications", {**BODY, "recipients": [person]}, as_=service())
    found = await settled(node, told.keep(sent, own=True)["id"], told)
    assert {one["state"] for one in found} == {"sent", "failed"}
    providers.twilio.faults += [echo(400, 21610)]
    providers.meta.faults += [echo(400, 131026)]
    providers.webhook.faults += [echo(410)]
    again = await node.ask("POST", "/api/v1/notifications", {**BODY, "user_id": "ada"}, as_=service())
    return [*found, *await settled(node, told.keep(again, own=True)["id"], told)]


async def operators_look_and_mend(node: Node, found: list[dict[str, Any]], told: Told) -> None:
    """Timelines, dead letters with their edits and replays, lists, the audit log, the state of the channels."""
    dead = [one for one in found if one["state"] in ("failed", "undelivered", "suppressed")]
    assert dead, [one["state"] for one in found]
    for one in found:
        path = f"/api/v1/deliveries/{one['id']}"
        told.keep(await node.ask("GET", path, as_=admin()))
        told.keep(await node.ask("PATCH", path, {"title": EDIT, "text": EDIT}, as_=admin()))
        told.keep(await node.ask("PATCH", path, {"title": EDIT * 50, "address_id": PHONE}, as_=admin()))
        told.keep(await node.ask("POST", f"{path}/retry", as_=admin()))
        told.keep(await node.ask("POST", f"{path}/cancel", as_=service()))
    replay = {"filter": {"code": WORDS}}
    told.keep(await node.ask("POST", "/api/v1/dead-letters/replay", replay, as_=admin()))
    for path in (
        "/api/v1/deliveries",
        "/api/v1/dead-letters",
        "/api/v1/broadcasts",
        "/api/v1/audit",
        "/api/v1/channels",
        "/api/v1/recipients",
        "/api/v1/recipients/ada",
        "/api/v1/recipients/ada/addresses",
        "/api/v1/webhooks",
        "/api/v1/preferences/opt-outs?user_id=ada",
        "/api/subjects/list/",
        "/api/monitoring/notifications/status",
        f"/api/v1/deliveries?user_id={EMAIL}&code={WORDS}",
        f"/api/v1/deliveries?channel={PHONE}",
        f"/api/v1/deliveries/{EMAIL}",
    ):
        told.keep(await node.ask("GET", path, as_=admin()))


async def people_and_strangers(node: Node, providers: Providers, told: Told) -> None:
    """Addresses that are none or nobody's, codes, links, secrets, other systems' paths, bad bodies."""
    ada = "/api/v1/recipients/ada"
    own = token("ada")
    for body in (
        {"channel": "sms", "value": PHONE + "9999999999"},
        {"channel": "email", "value": f"{EMAIL}\r\nBcc: {OTHER_EMAIL}"},
        {"channel": "telegram", "value": f"{CHAT} {WORDS}"},
        {"channel": "webhook", "value": f"ftp://{WORDS}/{HOOK_PATH}"},
        {"channel": PHONE, "value": PHONE},
        {"channel": "email", "value": OTHER_EMAIL},
        {"channel": "email", "value": EMAIL},
    ):
        told.keep(await node.ask("POST", f"{ada}/addresses", body, as_=own))
    listed = (await node.ask("GET", f"{ada}/addresses", as_=own)).json()["addresses"]
    for address in listed:
        one = f"{ada}/addresses/{address['id']}"
        told.keep(await node.ask("POST", f"{one}/verification", as_=own))
        told.keep(await node.ask("POST", f"{one}/verification/confirm", {"code": PHONE}, as_=own))
        made = await node.ask("POST", f"{one}/secret", as_=service())
        if made.status_code == 200:
            providers.secrets.append(made.json()["secret"])
        else:
            told.keep(made)
    endpoint = {"url": f"{providers.webhook.url}/{ENDPOINT_PATH}", "description": "all of it"}
    made = await node.ask("POST", "/api/v1/webhooks", endpoint, as_=admin())
    assert made.status_code == 201, made.text
    providers.secrets.append(made.json()["secret"])
    told.keep(await node.ask("POST", f"/api/v1/webhooks/{made.json()['id']}/test", as_=admin()))
    told.keep(await node.ask("POST", "/api/v1/webhooks", {"url": f"gopher://{ENDPOINT_PATH}"}, as_=admin()))
    told.keep(await node.ask("POST", "/api/v1/channels/telegram/webhook", as_=admin()))
    subject = {"name": "Bob", "phone_number": OTHER_PHONE}
    bob = told.keep(await node.ask("POST", "/api/subjects/create/", subject, as_=service()))["id"]
    keryu = {"subject_id": bob, "template_id": "notification_alert", "variables": [VARIABLE] * 4}
    made = await node.ask("POST", "/api/notifications/create/", keryu, as_=service())
    one = told.keep(made, own=True)["id"]
    told.keep(
        await node.ask("POST", "/api/notifications/create/", {**keryu, "subject_id": PHONE}, as_=service())
    )
    told.keep(await node.ask("PUT", f"/api/subjects/{bob}/update/", {"phone_number": "12"}, as_=service()))
    told.keep(await node.ask("POST", f"/api/notifications/{one}/retry/", as_=service()))
    inline = {"user_id": "eve", "phone": f"{PHONE}x", "email": f"{EMAIL}=?", "telegram": WORDS}
    told.keep(
        await node.ask("POST", "/api/v1/notifications", {**BODY, "recipients": [inline]}, as_=service())
    )


async def providers_report(node: Node, providers: Providers, told: Told) -> None:
    """Receipts and replies, as they come and with a signature that is wrong."""
    async with aiohttp.ClientSession() as http:
        here = {"through": node.url}
        for taken in providers.twilio.accepted:
            await providers.twilio.report(http, taken, "failed", error_code=30005, **here)
        inbound = f"{PUBLIC}/webhooks/twilio/inbound"
        answered = await providers.twilio.reply(
            http, inbound, sender=PHONE, to="+15005550006", body=REPLY, **here
        )
        assert answered == 200
        hook = f"{node.url}/webhooks/meta"
        for taken in providers.meta.accepted:
            assert await providers.meta.call(
                http, hook, providers.meta.status(taken, "failed", code=131047)
            ) in (200, 204)
        assert await providers.meta.call(http, hook, providers.meta.reply(PHONE, REPLY)) in (200, 204)
        await providers.meta.verify(http, hook, WORDS)
    forged = {"X-Hub-Signature-256": "sha256=" + "0" * 64, "X-Twilio-Signature": SMTP_PASSWORD}
    for path in (
        "/webhooks/meta",
        "/webhooks/twilio/status",
        "/webhooks/twilio/inbound",
        f"/webhooks/telegram/{WORDS}",
    ):
        told.keep(await node.ask("POST", path, {"text": REPLY, "from": PHONE}, headers=forged))
    told.keep(await node.ask("GET", "/api/v1/inbound", as_=admin()), own=True)


async def nothing_can_be_written(node: Node, database: str, told: Told) -> None:
    """The database refuses rows, and quotes them: first those of workers, then those of everybody."""
    connection = await asyncpg.connect(database)
    refusing: list[str] = []

    async def refuse(*tables: str) -> None:
        for table in tables:
            await connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT never CHECK (false) NOT VALID")
            refusing.append(table)

    queued = {**BODY, "user_id": "ada"}
    known = {"addresses": [{"channel": "sms", "value": PHONE}]}
    try:
        await refuse("delivery_attempts")
        waiting = await node.ask("POST", "/api/v1/notifications", queued, as_=service())
        assert waiting.status_code == 201
        await node.logged("NOTIFY_WORKER_ERROR")
        await refuse("notification_deliveries", "recipient_addresses", "recipients", "inbound_messages")
        for answer in (
            await node.ask("POST", "/api/v1/notifications", queued, as_=service()),
            await node.ask("PUT", "/api/v1/recipients/eve", known, as_=service()),
        ):
            assert answer.status_code in (500, 503), answer.text
            told.keep(answer)
    finally:
        for table in refusing:
            await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT never")
        await connection.close()


async def work(dsn: str, settings: Mapping[str, str], *arguments: str) -> str:
    """What `carillon work` prints and logs until its end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "work", "--once", *arguments),
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "DATABASE_URL": dsn,
            "JWT_SECRET_KEY": SECRET,
            "DELIVERY_ENCRYPTION_KEYS": ENCRYPTION_KEYS,
            **settings,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(180):
        printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    return printed.decode()


async def rows(dsn: str) -> str:
    """Every row of every table, and its bytes read as text."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("SET bytea_output = escape")
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return "\n".join(
            [
                text
                for (table,) in tables
                for (text,) in await connection.fetch(f"SELECT row::text FROM {table} AS row")
            ]
        )
    finally:
        await connection.close()


@pytest.mark.slow
async def test_nobodys_address_word_or_key_is_told_by_any_way_out(
    database: str, providers: Providers
) -> None:
    told, settings = Told(), providers.settings()
    async with nodes(database, allow_faults=True, **settings) as [node]:
        found = await everything_goes_wrong_once(node, providers, told)
        await people_and_strangers(node, providers, told)
        await operators_look_and_mend(node, found, told)
        await settled(node, found[0]["notification_id"], told)
        await providers_report(node, providers, told)
        await nothing_can_be_written(node, database, told)
        told.texts["log"] = node.log
        told.texts["printed"] = node.printed
        told.texts["metrics"] = (await node.ask("GET", "/metrics", as_=admin())).text
        told.keep(await node.ask("GET", "/health"))
    async with nodes(database, role="web", **settings) as [node]:
        waiting = {**BODY, "user_id": "ada", "title": f"{TITLE} {uuid4()}"}
        assert (await node.ask("POST", "/api/v1/notifications", waiting, as_=service())).status_code == 201
    told.texts["dry run"] = await work(database, settings, "--dry-run")
    told.texts["one round"] = await work(database, settings)
    async with nodes(database, **settings, DELIVERY_MODE="sandbox") as [node]:
        sent = (
            await node.ask("POST", "/api/v1/notifications", {**BODY, "user_id": "ada"}, as_=service())
        ).json()
        await settled(node, sent["id"], told)
        captured = told.keep(await node.ask("GET", "/api/v1/sandbox/messages", as_=admin()), own=True)
        told.texts["sandbox log"] = node.log + node.printed
        told.texts["sandbox metrics"] = (await node.ask("GET", "/metrics", as_=admin())).text

    # The flows were those that they are meant to be.
    assert any(WORDS in one["text"] for one in captured["messages"])
    assert "send by" in told.texts["dry run"]
    assert told.statuses >= {200, 201, 401, 404, 409, 422}, told.statuses
    for event in ("NOTIFY_SEND_FAIL", "NOTIFY_SEND_OK", "NOTIFY_WORKER_ERROR"):
        assert event in told.texts["log"], event
    assert any(PHONE in str(one.fields) for one in providers.twilio.accepted)
    assert REPLY in str(told.own)

    everywhere = {**told.texts, **told.own}
    hits = [(where, one) for where, text in everywhere.items() for one in ADDRESSES if one in text]
    hits += [
        (where, one) for where, text in everywhere.items() for one in providers.credentials if one in text
    ]
    hits += [(where, one) for where, text in told.texts.items() for one in SAID if one in text]
    stored = await rows(database)
    hits += [("stored", one) for one in (*ADDRESSES, *providers.credentials, EDIT, REPLY) if one in stored]
    for where, canary in hits:
        print(where, canary, everywhere.get(where, "")[:300])
    assert hits == []
