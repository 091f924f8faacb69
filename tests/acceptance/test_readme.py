"""What the README shows works as it stands, and its commands do what the documents say."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from aiohttp import web
from playwright.async_api import expect

from tests.acceptance.browsers import chromium
from tests.machine import program
from tests.postgres import TEMPLATE, PostgresServer
from tests.process import ROOMY, SECRET, Node, ServiceProcess, StartRefused, admin, nodes, service, token
from tests.servers import RedisServer, free_port, redis_binary

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOWHERE = "postgresql://carillon:hidden@127.0.0.1:1/carillon"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def here(text: str, node: Node) -> str:
    """The example, aimed at this server."""
    return text.replace("localhost:8003", f"127.0.0.1:{node.port}")


class Ended(NamedTuple):
    """A command that was run."""

    code: int
    printed: str
    said: str  # on standard error


async def carillon(*arguments: str, **settings: str) -> Ended:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", *arguments),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(180):
        printed, said = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, printed.decode(), said.decode())


# -- the examples


async def test_the_two_curl_commands_reach_the_people_they_name(database):
    program("curl")
    [example] = [block for block in blocks("sh") if "/internal/broadcast" in block]
    async with nodes(database) as [node]:
        await node.ask("GET", "/api/v1/notifications/counts", as_=token("demo"))  # seen before the broadcast

        process = await asyncio.create_subprocess_exec(
            *("sh", "-ec", here(example, node)),
            env={"PATH": os.environ["PATH"], "TOKEN": service()},
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await process.communicate()

        inbox = await node.ask("GET", "/api/v1/notifications", as_=token("demo"))
        other = await node.ask("GET", "/api/v1/notifications?stream=user", as_=token("somebody"))
    assert process.returncode == 0
    assert printed.count(b'"id"') == 2
    assert [one["title"] for one in inbox.json()["notifications"]] == ["Ding", "Hello"]
    assert other.json()["notifications"] == []


@asynccontextmanager
async def site(port: int, pages: dict[str, str]) -> AsyncIterator[str]:
    """A web site of somebody's own, which is not the hub's."""

    async def page(request: web.Request) -> web.Response:
        kind = "text/html" if request.path == "/" else "text/plain"
        return web.Response(text=pages[request.path], content_type=kind)

    application = web.Application()
    application.add_routes([web.get(path, page) for path in pages])
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def test_a_page_of_another_site_that_uses_the_sdk_as_shown_is_told(database):
    [example] = blocks("html")
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    async with chromium() as browser, nodes(database, HUB_CORS_ORIGINS=origin) as [node]:
        html = f'<!doctype html><title>inbox</title><link rel="icon" href="data:,">{here(example, node)}'
        pages = {"/": html, "/my-token": token("demo")}
        async with site(port, pages), await browser.new_page() as page:
            logged: list[str] = []
            page.on("console", lambda message: logged.append(message.text))
            await page.goto(origin)
            await expect(page).to_have_title("(0) inbox")

            await node.notify("Hello", user_id="demo")

            await expect(page).to_have_title("(1) inbox")
    assert logged == ["Hello There is news."]


async def test_the_lines_without_the_sdk_show_a_notification(database):
    [example] = blocks("js")
    async with chromium() as browser, nodes(database) as [node]:
        script = f"const token = {token('demo')!r}; const show = ({{ title }}) => (document.title = title);"
        html = f"<!doctype html><title>…</title><script>{script}\n{here(example, node)}</script>"
        async with site(free_port(), {"/": html}) as origin, await browser.new_page() as page:
            welcomed = asyncio.Event()
            page.on("websocket", lambda socket: socket.on("framereceived", lambda _: welcomed.set()))
            await page.goto(origin)
            async with asyncio.timeout(60):
                await welcomed.wait()

            await node.notify("Hello", user_id="demo")

            await expect(page).to_have_title("Hello")


# -- the commands


async def test_a_printed_token_opens_what_its_role_opens(database):
    async with nodes(database) as [node]:
        ended = await carillon("token", "curl", "--role", "service", JWT_SECRET_KEY=SECRET)

        answer = await node.ask(
            "POST", "/internal/publish", {"channel": "a", "data": 1}, as_=ended.printed.strip()
        )
        person = await carillon("token", "ada", JWT_SECRET_KEY=SECRET)
        refused = await node.ask(
            "POST", "/internal/publish", {"channel": "a", "data": 1}, as_=person.printed.strip()
        )
    assert (ended.code, ended.said) == (0, "")
    assert answer.status_code == 202
    assert refused.status_code == 403


async def test_in_production_no_token_is_signed_with_a_generated_key():
    ended = await carillon("token", "curl", CARILLON_ENV="production")

    assert ended.code == 2
    assert ended.printed == ""
    assert "JWT_SECRET_KEY" in ended.said


async def test_migrate_says_what_it_applied_and_then_that_nothing_is_left(empty_database):
    first = await carillon("migrate", DATABASE_URL=empty_database)
    second = await carillon("migrate", DATABASE_URL=empty_database)

    assert (first.code, first.printed.splitlines()[0]) == (0, "applied 0001")
    assert (second.code, second.printed) == (0, "the schema is up to date\n")


async def test_epoch_bump_tells_every_client_to_begin_anew(database):
    async with nodes(database) as [node]:
        headers = {"Accept": "application/json"}
        since = (await node.ask("GET", "/api/v1/events", as_=token(), headers=headers)).json()["since"]

        ended = await carillon("epoch", "bump", DATABASE_URL=database)
        answer = await node.ask("GET", f"/api/v1/events?since={since}&wait=10", as_=token(), headers=headers)

    assert (ended.code, ended.printed) == (0, "epoch 1\n")
    assert [event["type"] for event in answer.json()["events"]] == ["resync"]


async def test_healthcheck_ends_with_0_while_the_process_lives_and_with_1_after(database):
    async with nodes(database) as [node]:
        living = await carillon("healthcheck", PORT=str(node.port))
        port = node.port
    gone = await carillon("healthcheck", PORT=str(port))

    assert (living.code, gone.code) == (0, 1)


async def test_doctor_finds_a_durable_installation_well():
    with PostgresServer(fsync="on", full_page_writes="on") as server:
        await server.create_template()
        ended = await carillon("doctor", DATABASE_URL=server.dsn(TEMPLATE), JWT_SECRET_KEY=SECRET)

    assert ended.code == 0
    assert "ok    durability: commits are on disk when they are acknowledged" in ended.printed
    assert "FAIL" not in ended.printed


async def test_doctor_names_what_must_be_mended_and_how(database):
    ended = await carillon(
        "doctor", DATABASE_URL=database, JWT_SECRET_KEY="short", REDIS_URL="redis://127.0.0.1:1/0"
    )

    assert ended.code == 1
    assert "FAIL  fsync: off" in ended.printed
    assert "mend: ALTER SYSTEM SET fsync = on" in ended.printed
    assert "WARN  JWT_SECRET_KEY: 5 bytes can be guessed" in ended.printed
    assert "FAIL  Redis: no beat of ours came back" in ended.printed


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("migrate",), ("epoch", "bump"), ("doctor",)])
async def test_a_database_that_is_away_ends_a_command_with_1_and_without_its_password(command):
    ended = await carillon(*command, DATABASE_URL=NOWHERE, JWT_SECRET_KEY=SECRET)

    assert ended.code == 1
    assert "Traceback" not in ended.said
    assert "hidden" not in ended.said + ended.printed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "many"),
        ("REDIS_URL", "http://example.com"),
        ("CARILLON_WORKERS", "2"),
        ("CARILLON_ROLES", "cook"),
        ("HUB_CHANNELS", "[]"),
        ("HUB_MESSAGE_RATE", "20"),
        ("CARILLON_ENV", "production"),
    ],
)
async def test_a_setting_that_cannot_be_used_ends_the_start_with_2_and_its_name(name, value):
    ended = await carillon("serve", DATABASE_URL=NOWHERE, **{name: value})

    assert ended.code == 2
    assert ended.said.startswith("carillon: ")
    assert ("JWT_SECRET_KEY" if name == "CARILLON_ENV" else name) in ended.said


async def test_a_port_that_is_taken_ends_the_start_with_1(database):
    async with nodes(database) as [node]:
        taken = ServiceProcess(
            settings={"DATABASE_URL": database, "JWT_SECRET_KEY": SECRET},
            entry=("-m", "app", "serve", "--port", str(node.port)),
        )
        with pytest.raises(StartRefused, match="in use") as refused:
            async with taken:
                pass

    assert refused.value.code == 1


async def test_several_web_processes_share_the_internal_listener_too(database):
    if redis_binary() is None:
        pytest.skip("redis-server is not installed on this machine")
    inner = free_port()
    with RedisServer() as redis:
        settings = {
            "DATABASE_URL": database,
            "JWT_SECRET_KEY": SECRET,
            "REDIS_URL": redis.url,
            "HUB_INTERNAL_PORT": str(inner),
            **ROOMY,
        }
        async with (
            ServiceProcess("--workers", "2", "--roles", "web", settings=settings) as process,
            httpx.AsyncClient(headers={"Authorization": f"Bearer {admin()}"}, timeout=30) as client,
        ):
            async with asyncio.timeout(120):
                while process.log.count('"event": "ready"') < 2 and "process_died" not in process.log:
                    await asyncio.sleep(0.02)
            inside = await client.get(f"http://127.0.0.1:{inner}/metrics")
            outside = await client.get(f"{process.url}/metrics")

            assert "process_died" not in process.log
            assert (inside.status_code, outside.status_code) == (200, 404)
