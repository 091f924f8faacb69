"""
A hub that keeps to the protocol and can be told to fail: what the browser SDK is tested against.

One person, three streams, everything in memory. The real server cannot be asked to skip an entry, to
refuse a ticket or to fall silent; this one can. It runs in the loop of the test that made it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from app.console import WORKER_POLICY, without_comments
from app.server import Server
from push.keys import application_server_key, new_key

CLIENT = Path(__file__).parents[2] / "static" / "client.js"
PUSH = CLIENT.with_name("push.js")
WORKER = CLIENT.with_name("sw.js")
STATES = {
    "mark_read": "read",
    "mark_unread": "unread",
    "mark_seen": "seen",
    "archive": "archived",
    "unarchive": "unarchived",
    "snooze": "snoozed",
}
CHANGES: dict[str, dict[str, Any]] = {
    "read": {"read": True, "seen": True, "snoozed_until": None},
    "unread": {"read": False, "seen": True, "snoozed_until": None},
    "seen": {"seen": True},
    "archived": {"archived": True, "snoozed_until": None},
    "unarchived": {"archived": False},
}

PAGE = """<!doctype html><meta charset="utf-8"><title>SDK</title><link rel="icon" href="data:,">
<script type="module" src="/page.js"></script>"""

# What every test page does: log each event, count the tokens it was asked for.
PAGE_SCRIPT = """
import * as sdk from "/static/client.js";
window.sdk = sdk;
window.log = [];
window.tokens = 0;
window.make = (options = {}) => {
  const getToken = async ({ refresh }) => { tokens += 1; return `token-${tokens}`; };
  window.hub = sdk.createHub({ getToken, ...options });
  hub.on("*", (event) => log.push(event));
  return hub;
};
window.states = () => log.filter((event) => event.type === "state").map((event) => event.state);
window.shown = () => log.filter((event) => event.type === "notification").map((event) => event.notification.title);
window.ready = true;
"""

# The worker of an application, which has notifications of its own, with ours inside.
BESIDE_SCRIPT = """
self.carillon = { icon: "/icon.png" };
importScripts("/sw.js");
self.clicked = [];
addEventListener("notificationclick", (event) => {
  if (!event.notification.data?.carillon) clicked.push(event.notification.title);
});
"""

WORKER_SCRIPT = """
import { createHub } from "/static/client.js";
postMessage(createHub({ getToken: () => "" }).state.state);
"""


class Peer:
    """One WebSocket of the browser, seen from here."""

    def __init__(self, socket: WebSocket, ticket: str) -> None:
        self.socket = socket
        self.ticket = ticket
        self.received: list[dict[str, Any]] = []
        self.is_open = True
        self.channels: set[str] = set()

    async def send(self, message: dict[str, Any]) -> None:
        if self.is_open:
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # it left between two frames
                await self.socket.send_text(json.dumps(message))

    async def close(self, code: int) -> None:
        self.is_open = False
        with contextlib.suppress(RuntimeError):
            await self.socket.close(code)

    def said(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.received if message["type"] == kind]


class SdkServer:
    """The hub of one person, `ada`, who follows `topic:news`."""

    def __init__(self, rewrite: Callable[[str], str] = lambda source: source) -> None:
        self.rewrite = rewrite  # of client.js: how a test makes a naive one
        self.epoch = "e1"
        self.streams: dict[str, list[dict[str, Any]]] = {"user": [], "tenant": [], "topic:news": []}
        self.followed = {"news"}
        self.items: dict[str, dict[str, Any]] = {}
        self.peers: list[Peer] = []
        self.tickets: list[str] = []  # the bearer tokens they were asked with
        self.rest: list[str] = []  # method and path of every REST call but tickets
        self.heartbeat_ms = 25_000
        self.push_key = application_server_key(new_key())
        self.subscribed: list[dict[str, Any]] = []  # bodies, as they came
        self.replaced: list[dict[str, Any]] = []
        self.receipts: list[tuple[str, str]] = []  # token and event
        self.spilled: dict[str, dict[str, Any]] = {}  # token -> payload, given once
        # Faults, each until it is taken back.
        self.ticket_answers: list[Response] = []  # given instead of a ticket, the first first
        self.welcome_with_close: list[int] = []  # close codes instead of a welcome
        self.is_mute = False  # hears everything, says nothing
        self.is_deaf_to: set[str] = set()  # command types without a reply
        self.refuses: dict[str, dict[str, Any]] = {}  # command type -> error members
        self.url = ""
        self._numbers = itertools.count(1)
        self._moved = asyncio.Condition()

    # -- what a test does ----------------------------------------------------------------------

    def drop(self) -> None:
        """Cut every TCP connection, as a lost network does: the browser sees 1006."""
        for protocol in list(self._uvicorn.server_state.connections):
            protocol.transport.abort()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60), self._moved:
            await self._moved.wait_for(condition)

    async def peer(self, number: int) -> Peer:
        """The browser's nth connection, from 1, once it is there."""
        await self.until(lambda: len(self.peers) >= number)
        return self.peers[number - 1]

    async def notify(self, *streams: str, skip: bool = False, twice: bool = False, **members: Any) -> str:
        """One notification, an entry in each of `streams`. `skip`: its frames get lost; `twice`: they double."""
        number = next(self._numbers)
        item = {
            "id": f"00000000-0000-7000-8000-{number:012d}",
            "title": f"n{number}",
            "message": "",
            "notification_type": "system",
            "priority": "normal",
            "action_url": None,
            "metadata": {},
            "created_at": (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)).isoformat(),
            "expires_at": None,
            **members,
        }
        streams = streams or ("user",)
        if not self.heads.keys().isdisjoint(streams):  # else it is of a channel, and in nobody's inbox
            untouched = {"read": False, "seen": False, "archived": False, "snoozed_until": None}
            self.items[item["id"]] = {**item, **untouched}
        for stream in streams:
            await self.append(stream, {"type": "notification", "data": item, "timestamp": now()}, skip, twice)
        return str(item["id"])

    async def change(
        self, kind: str, *ids: str, skip: bool = False, twice: bool = False, until: str | None = None
    ) -> None:
        """A change of state, made by another device of ada's."""
        snoozed = {"snoozed_until": until, "read": False, "seen": True, "archived": False}
        for one in ids:
            if one in self.items:
                self.items[one].update(CHANGES.get(kind, snoozed))
        members: dict[str, Any] = {"notification_ids": list(ids)}
        if len(ids) == 1:
            members["notification_id"] = ids[0]
        if until is not None:
            members["until"] = until
        await self.append("user", {"type": kind, **members}, skip, twice)

    async def recall(self, one: str, skip: bool = False, twice: bool = False) -> None:
        """Gone, in every stream that carried it; whoever reads it there later meets the recall in its place."""
        self.items.pop(one, None)
        recalled = {"type": "recalled", "notification_id": one, "reason": "recalled"}
        for stream, entries in self.streams.items():
            places = [
                entry["seq"]
                for entry in entries
                if entry["type"] == "notification" and entry["data"]["id"] == one
            ]
            for seq in places:
                entries[seq - 1] = {**recalled, "stream": stream, "seq": seq}
            if places:
                await self.append(stream, recalled, skip, twice)

    async def read_all(self, positions: dict[str, int], skip: bool = False, twice: bool = False) -> None:
        for stream, entries in self.streams.items():
            for entry in entries[: positions.get(stream, 0)]:
                item = self.items.get(entry["data"]["id"]) if entry["type"] == "notification" else None
                if item is not None and not item["snoozed_until"]:
                    item.update(read=True, seen=True)
        await self.append("user", {"type": "read_all", "positions": positions}, skip, twice)

    async def append(
        self, stream: str, entry: dict[str, Any], skip: bool = False, twice: bool = False
    ) -> None:
        entries = self.streams.setdefault(stream, [])
        entries.append({**entry, "stream": stream, "seq": len(entries) + 1})
        topic = stream.removeprefix("topic:")
        for peer in self.peers:
            if stream in self.heads or topic in peer.channels:
                for _ in range(0 if skip else 2 if twice else 1):
                    await self.say(entries[-1], peer)

    async def say(self, message: dict[str, Any], *peers: Peer) -> None:
        """To these connections; without any named, to all."""
        for peer in peers or self.peers:
            if not self.is_mute:
                await peer.send(message)

    async def follow(self, topic: str) -> None:
        self.followed.add(topic)
        joined = len(self.streams.setdefault(f"topic:{topic}", []))
        await self.append("user", {"type": "followed", "topic": topic, "joined_seq": joined})

    async def unfollow(self, topic: str) -> None:
        self.followed.discard(topic)
        await self.append("user", {"type": "unfollowed", "topic": topic})

    @property
    def heads(self) -> dict[str, int]:
        topics = [f"topic:{topic}" for topic in sorted(self.followed)]
        return {stream: len(self.streams[stream]) for stream in ("user", "tenant", *topics)}

    @property
    def unread(self) -> int:
        return sum(
            not (item["read"] or item["archived"] or item["snoozed_until"]) for item in self.items.values()
        )

    @property
    def newest(self) -> list[dict[str, Any]]:
        return sorted(self.items.values(), key=lambda item: str(item["created_at"]), reverse=True)

    # -- what the browser meets ----------------------------------------------------------------

    async def _ticket(self, request: Request) -> Response:
        self.tickets.append(request.headers.get("authorization", "").removeprefix("Bearer "))
        await self._tell()
        if self.ticket_answers:
            return self.ticket_answers.pop(0)
        expires_at = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
        return JSONResponse({"ticket": f"ticket-{len(self.tickets)}", "expires_at": expires_at}, 201)

    async def _list(self, request: Request) -> Response:
        await self._note(request)
        return JSONResponse({"notifications": self.newest, "next_cursor": None, "unread_count": self.unread})

    async def _counts(self, request: Request) -> Response:
        await self._note(request)
        return JSONResponse({"unread": self.unread, "unseen": 0, "positions": self.heads})

    async def _bulk(self, request: Request) -> Response:
        await self._note(request)
        body = await request.json()
        if not self.items.keys() >= set(body["notification_ids"]):
            return problem(404, "not_found")
        await self.change(body["change"], *body["notification_ids"], until=body.get("until"))
        return JSONResponse({"unread_count": self.unread, "more": False})

    async def _push(self, request: Request) -> Response:
        what = request.path_params["what"]
        body = json.loads(await request.body() or b"{}")
        if what == "vapid-public-key":
            return JSONResponse({"public_key": self.push_key, "key_id": self.push_key[:16]})
        if what == "fetch":
            payload = self.spilled.pop(request.query_params["token"], None)
            return problem(404, "not_found") if payload is None else JSONResponse(payload)
        if what == "receipts":
            self.receipts.append((body["token"], body["event"]))
        elif what == "subscribe":
            self.subscribed.append(body)
        elif what == "replace":
            self.replaced.append(body)
        await self._note(request)
        return JSONResponse({"id": "browser-1"})

    async def _connect(self, socket: WebSocket) -> None:
        await socket.accept()
        peer = Peer(socket, socket.query_params["ticket"])
        if self.welcome_with_close:
            await peer.close(self.welcome_with_close.pop(0))
            self.peers.append(peer)
            await self._tell()
            return
        welcome = {
            "connection_id": "c",
            "user_id": "ada",
            "tenant_id": "default",
            "heartbeat_ms": self.heartbeat_ms,
        }
        state = {"epoch": self.epoch, "positions": self.heads, "unread_count": self.unread}
        self.peers.append(peer)
        await peer.send({"type": "welcome", **welcome, **state})
        await self._tell()
        try:
            while True:
                message = json.loads(await socket.receive_text())
                peer.received.append(message)
                if not self.is_mute and message["type"] not in self.is_deaf_to:
                    await self._answer(peer, message)
                await self._tell()
        except (WebSocketDisconnect, RuntimeError):
            peer.is_open = False
            await self._tell()

    async def _answer(self, peer: Peer, message: dict[str, Any]) -> None:
        kind = message["type"]
        reply = {"id": message["id"]} if "id" in message else {}
        if kind in self.refuses:
            error = self.refuses[kind]
            nameless = error["code"] == "rate_limited"  # a frame over the limit is not even read
            await peer.send({"type": "error", **({} if nameless else reply), **error})
        elif kind == "ping":
            await peer.send({"type": "pong", "timestamp": message["timestamp"]})
        elif kind == "resume":
            await self._resume(peer, message)
        elif kind in STATES:
            ids = message.get("notification_ids") or [message["notification_id"]]
            if not self.items.keys() >= set(ids):
                return await peer.send({"type": "error", **reply, "code": "not_found", "message": ""})
            await self.change(STATES[kind], *ids, until=message.get("until"))
            await peer.send({"type": "ack", **reply, "unread_count": self.unread})
        elif kind == "mark_all_read":
            await self.read_all(message["positions"])
            await peer.send({"type": "ack", **reply, "unread_count": self.unread})
        elif kind == "subscribe_channel":
            await self._subscribe(peer, message, reply)
        elif kind == "unsubscribe_channel":
            peer.channels.discard(message["channel"])
            await peer.send({"type": "unsubscribed", **reply, "channel": message["channel"]})
        elif kind == "refresh":
            await peer.send({"type": "refreshed", **reply, "expires_at": now()})
        elif kind == "publish":
            await peer.send({"type": "ack", **reply})
            await self.say({"type": "message", "channel": message["channel"], "data": message["data"]})
        elif kind in ("follow_topic", "unfollow_topic"):
            await (self.follow if kind == "follow_topic" else self.unfollow)(message["topic"])
            await peer.send({"type": "ack", **reply})
        return None

    async def _resume(self, peer: Peer, message: dict[str, Any]) -> None:
        positions = message["positions"]
        if message["epoch"] != self.epoch or any(
            seq > len(self.streams[name]) for name, seq in positions.items()
        ):
            await self.resync(peer)
            return
        for stream, since in positions.items():
            for entry in self.streams[stream][since:]:
                await peer.send(entry)
        await peer.send({"type": "resumed", "positions": self.heads, "recovered": True})

    async def resync(self, peer: Peer) -> None:
        state = {"epoch": self.epoch, "positions": self.heads, "unread_count": self.unread}
        await peer.send({"type": "resync", **state, "newest": self.newest[:50]})

    async def _subscribe(self, peer: Peer, message: dict[str, Any], reply: dict[str, Any]) -> None:
        channel = message["channel"]
        peer.channels.add(channel)
        entries = self.streams.setdefault(f"topic:{channel}", [])
        recovered = message.get("epoch") == self.epoch and message.get("since", 0) <= len(entries)
        missed = entries[message["since"] :] if recovered else []
        for entry in missed:
            await peer.send(entry)
        position = {"channel": channel, "epoch": self.epoch, "seq": len(entries)}
        await peer.send({"type": "subscribed", **reply, **position, "recovered": recovered})

    async def _note(self, request: Request) -> None:
        self.rest.append(f"{request.method} {request.url.path}")
        await self._tell()

    async def _tell(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    def routes(self) -> list[BaseRoute]:
        def script(source: str) -> Response:
            return Response(source, media_type="text/javascript")

        client = without_comments(self.rewrite(CLIENT.read_text()))
        policy = {"Content-Security-Policy": WORKER_POLICY}
        worker = Response(without_comments(WORKER.read_text()), media_type="text/javascript", headers=policy)
        return [
            Route("/", lambda _: HTMLResponse(PAGE)),
            Route("/page.js", lambda _: script(PAGE_SCRIPT)),
            Route("/worker.js", lambda _: script(WORKER_SCRIPT)),
            Route("/static/client.js", lambda _: script(client)),
            Route("/static/push.js", lambda _: script(without_comments(PUSH.read_text()))),
            Route("/sw.js", lambda _: worker),
            Route("/beside.js", lambda _: script(BESIDE_SCRIPT)),
            Route("/module.js", lambda _: script('import "/sw.js";')),
            Route("/api/v1/push/{what:path}", self._push, methods=["GET", "POST", "PATCH", "DELETE"]),
            Route("/api/v1/ws/ticket", self._ticket, methods=["POST"]),
            Route("/api/v1/notifications", self._list),
            Route("/api/v1/notifications/counts", self._counts),
            Route("/api/v1/notifications/bulk", self._bulk, methods=["POST"]),
            WebSocketRoute("/ws/notify", self._connect),
        ]

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[SdkServer]:
        settings = uvicorn.Config(
            Starlette(routes=self.routes()),
            host="127.0.0.1",
            port=0,
            log_level="error",
            ws="websockets-sansio",
            lifespan="off",
        )
        server = self._uvicorn = Server(settings)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
        try:
            yield self
        finally:
            server.should_exit = server.force_exit = True
            await serving


def now() -> str:
    return datetime.now(UTC).isoformat()


def problem(status: int, code: str, **headers: str) -> Response:
    body = {"title": code, "status": status, "error": code}
    return JSONResponse(body, status, headers, media_type="application/problem+json")
