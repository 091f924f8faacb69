"""What docs/operations.md tells operators to run and to watch is true of the running parts."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from hub.broker_redis import RedisBroker, RedisSettings
from hub.presence import PresenceSettings
from hub.presence_redis import RedisPresence
from tests.ears import Ear
from tests.postgres import TEMPLATE, PostgresServer
from tests.process import admin, nodes, token
from tests.servers import RedisServer, redis_binary, redis_cli

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text(encoding="utf-8")


async def test_the_table_of_metrics_names_every_metric_and_no_other(database):
    section = PAGE.partition("## Metrics")[2].partition("\n## ")[0]
    named = set(
        re.findall(r"`([a-z]+_[a-z_]+)`", "\n".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)))
    )
    async with nodes(database) as [node]:
        text = (await node.ask("GET", "/metrics", as_=admin())).text

    served = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    assert named == {name for name in served if not name.endswith("_created")}


async def test_the_statements_for_operators_run(database):
    statements = re.findall(r"^```sql\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    connection = await asyncpg.connect(database)
    try:
        before = await connection.fetchval("SELECT envelope_key FROM cluster")

        for statement in statements:
            await connection.execute(statement)

        held = await connection.fetchval("SELECT tenant_id FROM tenant_settings WHERE legal_hold")
        after = await connection.fetchval("SELECT envelope_key FROM cluster")
    finally:
        await connection.close()
    assert len(statements) == 4
    assert held == "hospital"
    assert after != before


async def test_a_redis_user_with_the_rights_of_the_page_can_do_everything_and_nothing_is_refused():
    if redis_binary() is None:
        pytest.skip("redis-server is not installed on this machine")
    [words] = re.findall(r"^(ACL SETUSER .*)$", PAGE, re.MULTILINE)
    with RedisServer() as server:
        redis_cli(server.port, *words.split())
        broker = RedisBroker(RedisSettings(url=f"redis://carillon:password@127.0.0.1:{server.port}/0"))
        presence = RedisPresence(broker, PresenceSettings())
        ear = Ear()
        await broker.start(ear)
        try:
            await broker.subscribe("news")
            broker.publish("news", b"1")
            await ear.heard(1)
            await presence.touch("school", "ada", "node-1", visible=True)
            seen = await presence.online("school", ["ada"])
            await presence.leave("school", "ada", "node-1")
            await broker.unsubscribe("news")

            assert seen["ada"].looking
            assert redis_cli(server.port, "ACL", "LOG") == []
        finally:
            await broker.close()


async def test_a_named_proxy_says_who_connects(database):
    def forwarded(address: str) -> dict[str, str]:
        return {"X-Forwarded-For": address}

    async with nodes(database, HUB_CONNECTIONS_PER_IP="1") as [node]:
        url = f"{node.websocket_url}?token={token()}"
        async with (
            connect(url, additional_headers=forwarded("192.0.2.1")) as first,
            connect(url, additional_headers=forwarded("192.0.2.2")) as second,
        ):
            await first.recv()
            await second.recv()

            with pytest.raises(InvalidStatus) as refused:
                async with connect(url, additional_headers=forwarded("192.0.2.1")):
                    pass

    assert refused.value.response.status_code == 429


async def test_an_unnamed_proxy_is_not_believed(database):
    settings = {"HUB_CONNECTIONS_PER_IP": "1", "HUB_FORWARDED_FROM": "192.0.2.9"}
    async with nodes(database, **settings) as [node]:
        url = f"{node.websocket_url}?token={token()}"
        async with connect(url, additional_headers={"X-Forwarded-For": "192.0.2.1"}) as first:
            await first.recv()

            with pytest.raises(InvalidStatus) as refused:
                async with connect(url, additional_headers={"X-Forwarded-For": "192.0.2.2"}):
                    pass

    assert refused.value.response.status_code == 429


async def test_a_page_behind_a_proxy_that_speaks_tls_may_connect_in_production():
    with PostgresServer(fsync="on", full_page_writes="on") as server:
        await server.create_template()
        async with nodes(server.dsn(TEMPLATE), CARILLON_ENV="production") as [node]:
            url = f"ws://hub.example/ws/notify?token={token()}"
            page = {"origin": Origin("https://hub.example"), "host": "127.0.0.1", "port": node.port}

            async with connect(url, additional_headers={"X-Forwarded-Proto": "https"}, **page) as socket:
                await socket.recv()
            with pytest.raises(InvalidStatus) as refused:
                async with connect(url, **page):
                    pass

    assert refused.value.response.status_code == 403
