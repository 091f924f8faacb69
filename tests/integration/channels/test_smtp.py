"""Mail by SMTP: what arrives, how connections are kept, and what every broken one means."""

from __future__ import annotations

import asyncio
import email
import email.policy
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core.outcome import Defer, Fail, Halt, Retry, Sent, Unknown
from delivery.channel import Message
from delivery.channels.email import EmailSettings, SmtpProvider
from tests.loop_time import in_vain
from tests.messages import message
from tests.providers.certificates import certificate
from tests.providers.server import Fault, Hold, Refuse, Reset
from tests.providers.smtp import Point, SmtpServer

MESSAGE = message("email", "ada@example.com")
BEFORE_THE_DOT: list[Point] = ["greeting", "ehlo", "mail", "rcpt", "data"]


@asynccontextmanager
async def mailing(server: SmtpServer, **settings: Any) -> AsyncIterator[SmtpProvider]:
    """A provider that sends by this server, closed at the end."""
    values: dict[str, Any] = {
        "smtp_tls": "off",
        "email_from": "hub@example.org",
        "email_from_name": "Carillon",
    }
    values |= {"smtp_host": "127.0.0.1", "smtp_port": server.port} | settings
    provider = SmtpProvider(EmailSettings(**values), "127.0.0.1")
    try:
        yield provider
    finally:
        await provider.close()


def numbered(number: int, **changed: Any) -> Message:
    return message("email", f"user{number}@example.com", reference=f"n-{number}", **changed)


# --- what arrives ----------------------------------------------------------------------------------------------------


async def test_a_mail_arrives_with_both_parts_and_its_headers() -> None:
    async with SmtpServer() as server, mailing(server, email_reply_to="office@example.org") as provider:
        outcome = await provider.send(MESSAGE)

        assert outcome == Sent(provider_ref="<018f-7@example.org>", is_final=True)
        [mail] = server.accepted
    assert (mail.sender, mail.recipient) == ("hub@example.org", "ada@example.com")
    read = email.message_from_bytes(mail.content, policy=email.policy.default)
    assert read["subject"] == "Grüße an Ada"
    assert str(read["from"]) == "Carillon <hub@example.org>"
    assert str(read["to"]) == "Ada Lovelace <ada@example.com>"
    assert str(read["reply-to"]) == "office@example.org"
    assert read["list-unsubscribe"] == "<https://hub.example/u/token>"
    assert read["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
    parts = list(read.iter_parts())
    assert [part.get_content_type() for part in parts] == ["text/plain", "text/html"]
    text, html = (part.get_content().replace("\r\n", "\n") for part in parts)
    assert "The plan\n.is <ready> & waits." in text
    assert "https://app.example/plans/7?a=1&b=2" in text
    assert "https://hub.example/u/token" in text
    assert "The plan<br>.is &lt;ready&gt; &amp; waits." in html
    assert 'href="https://app.example/plans/7?a=1&amp;b=2"' in html


async def test_lines_that_begin_with_a_dot_arrive_as_they_were() -> None:
    text = ".\n..\n.a\r\n.\r\n...b\n" + "." * 500
    async with SmtpServer() as server, mailing(server) as provider:
        await provider.send(message("email", "ada@example.com", title="dots", text=text))

        [mail] = server.accepted
    read = email.message_from_bytes(mail.content, policy=email.policy.default)
    plain = next(iter(read.iter_parts())).get_content()
    assert plain.replace("\r\n", "\n").startswith("dots\n\n" + text.replace("\r\n", "\n"))


async def test_a_hostile_title_never_reaches_the_server() -> None:
    async with SmtpServer() as server, mailing(server) as provider:
        outcome = await provider.send(
            message("email", "ada@example.com", title="=?utf-8?q?a=0d=0aBcc:_eve=40example.com?=")
        )

        assert isinstance(outcome, Fail)
        assert server.connections == 0


# --- credentials and TLS ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["starttls", "implicit"])
async def test_a_mail_goes_by_tls_and_with_credentials(mode: str, tmp_path: Path) -> None:
    tls, trusted = certificate(tmp_path)
    server = SmtpServer(tls=tls, is_implicit=mode == "implicit", credentials=("hub", "secret"))
    async with (
        server,
        mailing(
            server, smtp_tls=mode, smtp_ca_file=trusted, smtp_username="hub", smtp_password="secret"
        ) as provider,
    ):
        assert isinstance(await provider.send(MESSAGE), Sent)
        assert isinstance(await provider.send(MESSAGE), Sent)

        assert [(mail.by_tls, mail.user) for mail in server.accepted] == [(True, "hub")] * 2
        assert server.connections == 1


async def test_a_wrong_password_halts_the_account_and_is_not_repeated(tmp_path: Path) -> None:
    tls, trusted = certificate(tmp_path)
    async with (
        SmtpServer(tls=tls, credentials=("hub", "secret")) as server,
        mailing(
            server, smtp_tls="starttls", smtp_ca_file=trusted, smtp_username="hub", smtp_password="hunter2"
        ) as provider,
    ):
        outcome = await provider.send(MESSAGE)

        assert isinstance(outcome, Halt)
        assert outcome.code == "535 5.7.8"
        assert "hunter2" not in repr(outcome)
        assert server.received == []


async def test_a_server_without_starttls_gets_neither_password_nor_mail() -> None:
    async with (
        SmtpServer(credentials=("hub", "secret")) as server,
        mailing(server, smtp_tls="starttls", smtp_username="hub", smtp_password="secret") as provider,
    ):
        outcome = await provider.send(MESSAGE)

        assert outcome == Halt(reason="the mail server offers no STARTTLS")
        assert server.commands == ["greeting", "ehlo"]


async def test_a_server_without_auth_halts_the_account(tmp_path: Path) -> None:
    tls, trusted = certificate(tmp_path)
    async with (
        SmtpServer(tls=tls) as server,
        mailing(
            server, smtp_tls="starttls", smtp_ca_file=trusted, smtp_username="hub", smtp_password="secret"
        ) as provider,
    ):
        assert isinstance(await provider.send(MESSAGE), Halt)


@pytest.mark.parametrize("mode", ["starttls", "implicit"])
async def test_a_certificate_that_nobody_vouches_for_is_refused(mode: str, tmp_path: Path) -> None:
    tls, _ = certificate(tmp_path)
    async with (
        SmtpServer(tls=tls, is_implicit=mode == "implicit") as server,
        mailing(server, smtp_tls=mode) as provider,
    ):
        outcome = await provider.send(MESSAGE)

        assert outcome == Retry(reason="the mail server's certificate or its TLS was refused")
        assert server.received == []


# --- every point at which it may break -------------------------------------------------------------------------------


@pytest.mark.parametrize("point", BEFORE_THE_DOT)
@pytest.mark.parametrize("fault", [Reset(taken=False), Refuse(status=421, body="4.3.2 closing")])
async def test_what_breaks_before_the_dot_has_sent_nothing(point: Point, fault: Fault) -> None:
    async with SmtpServer() as server, mailing(server) as provider:
        server.faults.append((point, fault))

        outcome = await provider.send(MESSAGE)

        assert isinstance(outcome, Retry)
        assert server.received == []
        assert isinstance(await provider.send(MESSAGE), Sent)
        assert len(server.accepted) == 1


@pytest.mark.parametrize("point", [*BEFORE_THE_DOT, "body"])
async def test_a_server_that_says_nothing_before_the_dot_has_taken_nothing(point: Point) -> None:
    async with SmtpServer() as server:
        held = Hold()
        async with mailing(server) as provider:
            await _narrow(provider, server) if point == "body" else None
            server.faults.append((point, held))

            sending = provider.send(message("email", "ada@example.com", text="ü" * 300_000))
            outcome = await in_vain(sending, lambda: not server.faults)

            assert outcome == Retry(reason="no answer from the mail server in time")
            held.release.set()


async def test_a_connection_that_breaks_within_a_mail_has_sent_nothing() -> None:
    async with SmtpServer() as server, mailing(server) as provider:
        await _narrow(provider, server)
        server.faults.append(("body", Reset(taken=False)))

        outcome = await provider.send(message("email", "ada@example.com", text="ü" * 300_000))

        assert isinstance(outcome, Sent)  # by another connection: the first was one that had waited
        assert [mail.connection for mail in server.accepted if mail.recipient == "ada@example.com"] == [2]


@pytest.mark.parametrize("taken", [True, False])
async def test_what_breaks_after_the_dot_may_have_been_sent(taken: bool) -> None:
    async with SmtpServer() as server, mailing(server) as provider:
        server.faults.append(("content", Reset(taken=taken)))

        outcome = await provider.send(MESSAGE)

        assert outcome == Unknown(reason="the connection to the mail server broke after it was sent")
        assert isinstance(await provider.send(MESSAGE), Sent)
        assert {mail.message_id for mail in server.received} == {"<018f-7@example.org>"}


async def test_what_breaks_after_the_dot_is_unknown_on_a_connection_that_had_waited_too() -> None:
    async with SmtpServer() as server, mailing(server) as provider:
        await provider.send(numbered(1))
        server.faults.append(("content", Reset(taken=True)))

        assert isinstance(await provider.send(numbered(2)), Unknown)

        assert Counter(mail.recipient for mail in server.received) == {
            "user1@example.com": 1,
            "user2@example.com": 1,
        }


async def test_no_answer_to_the_dot_may_have_been_sent() -> None:
    async with SmtpServer() as server, mailing(server) as provider:
        held = Hold()
        server.faults.append(("content", held))

        outcome = await in_vain(provider.send(MESSAGE), lambda: not server.faults)

        assert outcome == Unknown(reason="no answer from the mail server in time after it was sent")
        held.release.set()


async def test_an_answer_to_the_dot_that_is_no_smtp_may_have_been_sent() -> None:
    async with SmtpServer() as server, mailing(server) as provider:
        server.faults.append(("content", Refuse(status=999, body="?")))

        assert isinstance(await provider.send(MESSAGE), Unknown)


@pytest.mark.parametrize(
    ("point", "status", "words", "expected"),
    [
        ("content", 451, "4.3.0 local error", Retry),
        ("content", 421, "4.3.2 closing", Retry),
        ("content", 550, "5.7.1 spam", Fail),
        ("content", 552, "5.3.4 too big", Fail),
        ("data", 554, "5.5.1 no valid recipients", Fail),
        ("rcpt", 450, "4.7.1 Greylisted", Defer),
        ("rcpt", 550, "5.1.1 no such user", Fail),
        ("rcpt", 552, "5.2.2 full", Defer),
        ("mail", 550, "5.7.1 sender refused", Halt),
        ("greeting", 554, "5.7.1 go away", Halt),
        ("ehlo", 421, "4.3.2 closing", Retry),
    ],
)
async def test_a_refusal_has_sent_nothing_and_harms_no_mail_after_it(
    point: Point, status: int, words: str, expected: type
) -> None:
    async with SmtpServer() as server, mailing(server) as provider:
        server.faults.append((point, Refuse(status=status, body=words)))

        outcome = await provider.send(numbered(1))

        assert type(outcome) is expected
        assert server.accepted == []
        assert isinstance(await provider.send(numbered(2)), Sent)
        assert [mail.recipient for mail in server.accepted] == ["user2@example.com"]


async def test_a_port_where_nobody_listens_is_tried_again() -> None:
    server = SmtpServer()
    await server.start()
    await server.stop()
    async with mailing(server) as provider:
        assert await provider.send(MESSAGE) == Retry(reason="no connection to the mail server")


# --- connections that are kept ---------------------------------------------------------------------------------------


async def test_mails_in_a_row_share_one_connection() -> None:
    async with SmtpServer() as server, mailing(server) as provider:
        for number in range(20):
            assert isinstance(await provider.send(numbered(number)), Sent)

        assert server.connections == 1
        assert server.commands.count("ehlo") == 1


async def test_an_address_that_is_refused_costs_no_connection() -> None:
    async with SmtpServer() as server, mailing(server) as provider:
        server.faults.append(("rcpt", Refuse(status=550, body="5.1.1 no such user")))

        await provider.send(numbered(1))
        await provider.send(numbered(2))

        assert server.connections == 1
        assert server.commands[-4:] == ["rset", "mail", "rcpt", "data"]


async def test_mails_at_once_have_a_connection_each_and_none_mixes_with_another() -> None:
    async with SmtpServer() as server, mailing(server, email_concurrency=8) as provider:

        async def some(first: int) -> None:
            for number in range(first, first + 10):
                assert isinstance(await provider.send(numbered(number, title=f"title {number}")), Sent)

        await asyncio.gather(*(some(first) for first in range(0, 80, 10)))

        assert server.most_at_once <= 8
        assert server.connections <= 8
        found = {
            (mail.recipient, email.message_from_bytes(mail.content, policy=email.policy.default)["subject"])
            for mail in server.accepted
        }
        assert found == {(f"user{number}@example.com", f"title {number}") for number in range(80)}
        assert len(server.accepted) == 80


async def test_no_more_connections_wait_than_may_be_used() -> None:
    async with SmtpServer() as server, mailing(server, email_concurrency=2) as provider:
        await asyncio.gather(*(provider.send(numbered(number)) for number in range(6)))
        await _until(lambda: server.open_connections <= 2)

        assert len(server.accepted) == 6


@pytest.mark.parametrize("fault", [Reset(taken=False), Refuse(status=421, body="4.4.2 idle for too long")])
async def test_a_connection_that_went_stale_doubles_nothing_and_costs_no_attempt(fault: Fault) -> None:
    async with SmtpServer() as server, mailing(server) as provider:
        await provider.send(numbered(1))
        server.faults.append(("mail", fault))

        assert isinstance(await provider.send(numbered(2)), Sent)

        assert [(mail.recipient, mail.connection) for mail in server.received] == [
            ("user1@example.com", 1),
            ("user2@example.com", 2),
        ]


async def test_a_server_that_hung_up_or_restarted_is_called_again() -> None:
    async with SmtpServer() as server, mailing(server) as provider:
        await asyncio.gather(*(provider.send(numbered(number)) for number in range(4)))
        await server.hang_up()

        assert isinstance(await provider.send(numbered(4)), Sent)
        await server.stop()
        await server.start()
        assert isinstance(await provider.send(numbered(5)), Sent)

        assert len(server.received) == len(server.accepted) == 6


async def test_a_connection_that_has_waited_too_long_is_not_used_again() -> None:
    async with SmtpServer() as server, mailing(server, smtp_idle=timedelta(0)) as provider:
        await provider.send(numbered(1))
        await provider.send(numbered(2))

        assert [mail.connection for mail in server.accepted] == [1, 2]


async def test_a_mail_that_is_cancelled_leaves_nobody_its_connection() -> None:
    async with SmtpServer() as server, mailing(server) as provider:
        held = Hold()
        server.faults.append(("rcpt", held))
        sending = asyncio.create_task(provider.send(numbered(1)))
        await server.wait_for_command("rcpt")

        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending

        held.release.set()
        assert isinstance(await provider.send(numbered(2)), Sent)
        assert [(mail.recipient, mail.connection) for mail in server.accepted] == [("user2@example.com", 2)]


async def test_closing_says_goodbye_and_leaves_nothing_open() -> None:
    async with SmtpServer() as server, mailing(server) as provider:
        await provider.send(MESSAGE)

        await provider.close()

        await _until(lambda: server.open_connections == 0)


async def _narrow(provider: SmtpProvider, server: SmtpServer) -> None:
    """Make the connection that waits so narrow that a mail does not fit into the buffers on its way."""
    assert isinstance(await provider.send(numbered(0)), Sent)
    for end, option in (
        (provider._idle[0].client.transport, socket.SO_SNDBUF),
        (server.newest(), socket.SO_RCVBUF),
    ):
        assert end is not None
        end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, 4096)


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0.005)
