"""Mail by SMTP: what arrives, how connections are kept, and what every broken one means."""

from __future__ import annotations

import email
import email.policy
from datetime import UTC, datetime
from uuid import UUID

from core.outcome import Sent
from delivery.channel import Address, Message
from delivery.channels.email import EmailSettings, SmtpProvider
from tests.providers.smtp import SmtpServer

MESSAGE = Message(
    tenant_id="school",
    delivery_id=UUID(int=7),
    attempt=1,
    reference="018f-7",
    address=Address(id=None, channel="email", value="ada@example.com", hint="a***@e***.com"),
    title="Grüße an Ada",
    text="The plan\n.is ready.",
    notification_id=UUID(int=8),
    notification_type="plan_ready",
    priority="urgent",
    action_url="https://app.example/plans/7?a=1&b=2",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    recipient_name="Ada Lovelace",
    locale="en",
    unsubscribe_url="https://hub.example/u/token",
)


def provider_of(server: SmtpServer, **settings: object) -> SmtpProvider:
    values: dict[str, object] = {
        "smtp_tls": "off",
        "email_from": "hub@example.org",
        "email_from_name": "Carillon",
    }
    made = EmailSettings(**{**values, "smtp_host": "127.0.0.1", "smtp_port": server.port, **settings})  # type: ignore[arg-type]  # names are checked by the struct
    return SmtpProvider(made, "127.0.0.1")


async def test_a_mail_arrives_with_both_parts_and_its_headers() -> None:
    async with SmtpServer() as server:
        provider = provider_of(server, email_reply_to="office@example.org")

        outcome = await provider.send(MESSAGE)

        await provider.close()
    assert outcome == Sent(provider_ref="<018f-7@example.org>", is_final=True)
    [mail] = server.accepted
    assert (mail.sender, mail.recipient) == ("hub@example.org", "ada@example.com")
    read = email.message_from_bytes(mail.content, policy=email.policy.default)
    assert read["subject"] == "Grüße an Ada"
    assert read["from"].addresses[0].display_name == "Carillon"
    assert str(read["to"]) == "Ada Lovelace <ada@example.com>"
    assert read["list-unsubscribe"] == "<https://hub.example/u/token>"
    assert read["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
    text, html = (part.get_content().replace("\r\n", "\n") for part in read.iter_parts())
    assert "The plan\n.is ready." in text
    assert "https://app.example/plans/7?a=1&b=2" in text
    assert "https://hub.example/u/token" in text
    assert "https://app.example/plans/7?a=1&amp;b=2" in html
