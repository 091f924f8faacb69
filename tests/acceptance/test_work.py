"""`carillon work`: deliveries carried out, or only looked at, by a process that serves nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import asyncpg
import pytest

from tests.process import ENCRYPTION_KEYS, ROOT, SECRET, Node, nodes, service
from tests.providers.telegram import TelegramServer

CHAT = 471104711


class Setup(NamedTuple):
    """A service whose processes serve and do not work, and the environment of who shall."""

    node: Node
    telegram: TelegramServer
    dsn: str

    async def alert(self, **members: Any) -> None:
        body = {"action": "BUY", "message": "Canary 5107", **members}
        answer = await self.node.ask("POST", "/api/monitoring/notifications/alerts", body, as_=service())
        assert answer.status_code == 202, answer.text

    async def work(self, *arguments: str) -> asyncio.subprocess.Process:
        environment = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": self.dsn,
            "JWT_SECRET_KEY": SECRET,
            "DELIVERY_ENCRYPTION_KEYS": ENCRYPTION_KEYS,
            "TELEGRAM_BOT_TOKEN": self.telegram.token,
            "TELEGRAM_BASE_URL": self.telegram.url,
        }
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app", "work", *arguments),
            cwd=ROOT,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def told(self, *arguments: str) -> str:
        """What it prints until its end."""
        process = await self.work(*arguments)
        async with asyncio.timeout(120):
            printed, logged = await process.communicate()
        assert process.returncode == 0, logged.decode()
        return printed.decode()

    async def rows(self) -> list[Any]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return list(
                await connection.fetch(
                    "SELECT state, attempt FROM notification_deliveries WHERE kind = 'notification' ORDER BY id"
                )
            )
        finally:
            await connection.close()


@pytest.fixture
async def setup(database: str) -> AsyncIterator[Setup]:
    async with TelegramServer() as telegram:
        telegram.chats.add(CHAT)
        async with nodes(database, CARILLON_ROLES="web", TELEGRAM_CHAT_ID=str(CHAT)) as [node]:
            yield Setup(node, telegram, database)


async def test_a_dry_run_tells_what_would_be_sent_and_claims_and_sends_nothing(setup: Setup) -> None:
    await setup.alert()
    await setup.alert(user_id="nobody")

    told = await setup.told("--once", "--dry-run")

    lines = told.splitlines()
    assert len([line for line in lines if "telegram  ***11  send by telegram" in line]) == 1
    assert len([line for line in lines if "telegram  -  drop: " in line]) == 1
    assert lines[-1] == "2 due; nothing was claimed or sent"
    assert "published: published" in told
    assert "Canary" not in told
    assert str(CHAT) not in told
    assert setup.telegram.received == []
    assert [tuple(row) for row in await setup.rows()] == [("queued", 0), ("queued", 0)]


async def test_one_round_sends_what_is_due_and_ends(setup: Setup) -> None:
    for _ in range(3):
        await setup.alert()

    told = await setup.told("--once")
    again = await setup.told("--once")

    assert told == "attempted 3, sent 3, unknown 0\n"
    assert again == "attempted 0, sent 0, unknown 0\n"
    assert len(setup.telegram.accepted) == 3
    assert {row["state"] for row in await setup.rows()} == {"sent"}


async def test_rounds_go_on_until_a_signal_ends_them(setup: Setup) -> None:
    process = await setup.work("--interval", "1")
    assert process.stdout is not None
    async with asyncio.timeout(120):
        await process.stdout.readline()  # a round has been: what comes now is another one's
        await setup.alert()
        await setup.telegram.wait_for(1, accepted=True)
        process.send_signal(signal.SIGTERM)
        await process.communicate()

    assert process.returncode == 0
    assert {row["state"] for row in await setup.rows()} == {"sent"}


async def test_a_database_that_is_away_ends_the_one_round_with_a_failure(setup: Setup) -> None:
    nowhere = setup._replace(dsn="postgresql://nobody@127.0.0.1:1/none")

    process = await nowhere.work("--once", "--dry-run")
    async with asyncio.timeout(120):
        _, logged = await process.communicate()

    assert process.returncode == 1
    assert b"Traceback" not in logged
