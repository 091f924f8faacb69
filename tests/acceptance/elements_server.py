"""The hub of sdk_server with pages that use the elements, under the content security policy of our own pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from app.console import POLICY, console_routes
from tests.acceptance.sdk_server import SdkServer, problem

PREFERENCES = "/api/v1/preferences"
DIGEST = "/api/v1/digest"
DIGEST_SETTINGS: dict[str, Any] = {
    "is_enabled": True,
    "delivery_time": "07:00",
    "delivery_times": ["07:00"],
    "timezone": "Europe/Berlin",
    "frequency": "daily",
    "weekly_day": None,
    "include_types": None,
    "exclude_types": [],
    "exclude_weekends": False,
    "min_priority": "low",
    "unread_only": False,
    "channels": ["in_app", "email"],
    "weekly_types": [],
    "all_quiet": False,
    "inbox_when_active": False,
    "next_run": None,
    "proposed_timezone": None,
}
CHANNELS = ("push", "email", "sms", "whatsapp", "telegram", "webhook")

PAGE = """<!doctype html>
<html lang="{lang}" dir="{dir}">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>Elements</title>
  <link rel="icon" href="/static/demo/bell.svg">
  <link rel="stylesheet" href="/page.css">
  <script type="module" src="/page.js"></script>
</head>
<body><main><h1>Elements</h1>
{body}
</main></body>
</html>
"""

STYLE = """
body { margin: 0; padding: 1.5rem; background: Canvas; color: CanvasText; font-family: system-ui, sans-serif; }
h1 { margin: 0 0 1.5rem; font-size: 1.25rem; }
"""

SCRIPT = """
import { createHub } from "/static/client.js";
import { languages, texts, useHub } from "/static/elements.js";
window.broken = [];
addEventListener("securitypolicyviolation", ({ violatedDirective }) => broken.push(violatedDirective));
window.events = [];
for (const type of ["click", "action", "error", "open", "close", "count", "toast", "change", "save", "digest", "send"]) {
  document.addEventListener(`notify-${type}`, (event) => events.push([event.type, event.detail]));
}
Object.assign(window, { createHub, languages, texts, useHub });
window.hub = createHub({ getToken: () => "token" });
document.documentElement.dataset.ready = "true";
"""


class ElementsServer(SdkServer):
    """`body` is the page; `refuses_list` and `is_slow` are about the first page of the inbox."""

    def __init__(
        self, body: str, *, lang: str = "en", direction: str = "ltr", script: str = "useHub(hub);"
    ) -> None:
        super().__init__()
        self.html = PAGE.format(body=body, lang=lang, dir=direction)
        self.script = SCRIPT + script
        self.style = STYLE
        self.refuses_list = False
        self.next_cursor: str | None = None
        self.matrix: dict[str, dict[str, bool]] = {}
        self.opt_outs: list[dict[str, Any]] = []
        self.digest: dict[str, Any] = dict(DIGEST_SETTINGS)
        self.faults: Callable[[dict[str, Any]], dict[str, str]] = lambda _: {}  # of what is put: by member
        self.refuses_digest = False
        self.runs: list[dict[str, Any]] = []
        self.waiting: list[dict[str, Any]] = []
        self.digests_sent = 0
        self.windows_moved = 0
        self.device_timezone: str | None = None

    def routes(self) -> list[BaseRoute]:
        ours = [
            Route("/", lambda _: HTMLResponse(self.html, headers={"Content-Security-Policy": POLICY})),
            Route("/my-token", lambda _: PlainTextResponse("token")),
            Route("/page.css", lambda _: Response(self.style, media_type="text/css")),
            Route("/page.js", lambda _: Response(self.script, media_type="text/javascript")),
            Route("/api/v1/notifications", self._page),
            Route("/api/v1/notifications/read-all", self._read_all, methods=["POST"]),
            Route(PREFERENCES, self._preferences, methods=["GET", "PUT"]),
            Route(f"{PREFERENCES}/opt-outs", self._opt_outs, methods=["GET", "DELETE"]),
            Route(f"{DIGEST}/subscription", self._digest, methods=["GET", "PUT"]),
            Route(f"{DIGEST}/{{what:str}}", self._of_digest, methods=["GET", "POST"]),
        ]
        pages = [route for route in console_routes() if isinstance(route, Route) and route.path != "/"]
        others = [
            route for route in super().routes() if getattr(route, "path", "").startswith(("/api", "/ws"))
        ]
        return [*ours, *pages, *others]

    async def _page(self, request: Request) -> Response:
        if self.refuses_list:
            await self._note(request)
            return problem(503, "overloaded")
        if self.next_cursor is None:
            return await self._list(request)
        await self._note(request)
        half = len(self.newest) // 2
        is_first = "cursor" not in request.query_params
        notifications = self.newest[:half] if is_first else self.newest[half:]
        cursor = self.next_cursor if is_first else None
        return JSONResponse(
            {"notifications": notifications, "next_cursor": cursor, "unread_count": self.unread}
        )

    async def _read_all(self, request: Request) -> Response:
        await self._note(request)
        await self.read_all((await request.json()).get("positions", {}))
        return JSONResponse({"unread_count": self.unread})

    async def _preferences(self, request: Request) -> Response:
        await self._note(request)
        if request.method == "PUT":
            self.matrix = (await request.json())["matrix"]
        effective = {
            kind: {
                channel: {"is_enabled": self._is_on(kind, channel), "level": "user"} for channel in CHANNELS
            }
            for kind in {"*", *self.matrix}
        }
        return JSONResponse({"user_id": "ada", "matrix": self.matrix, "tenant": {}, "effective": effective})

    def _is_on(self, kind: str, channel: str) -> bool:
        return self.matrix.get(kind, {}).get(channel, self.matrix.get("*", {}).get(channel, True))

    async def _opt_outs(self, request: Request) -> Response:
        await self._note(request)
        if request.method == "DELETE":
            wanted = dict(request.query_params)
            self.opt_outs = [
                one for one in self.opt_outs if {"scope": one["scope"], "value": one["value"]} != wanted
            ]
            return Response(status_code=204)
        return JSONResponse({"opt_outs": self.opt_outs})

    async def _digest(self, request: Request) -> Response:
        await self._note(request)
        if self.refuses_digest:
            return problem(503, "overloaded")
        if request.method == "PUT":
            wanted = await request.json()
            if faults := self.faults(wanted):
                details = [{"path": path, "message": message} for path, message in faults.items()]
                return JSONResponse({"error": "invalid", "detail": "No.", "details": details}, 422)
            assert wanted.keys() <= DIGEST_SETTINGS.keys() - {
                "next_run",
                "delivery_time",
                "proposed_timezone",
            }
            self.digest = {**DIGEST_SETTINGS, **wanted, "delivery_times": sorted(wanted["delivery_times"])}
        self.device_timezone = request.query_params.get("device_timezone", self.device_timezone)
        return JSONResponse(self.digest)

    async def _of_digest(self, request: Request) -> Response:
        await self._note(request)
        titles = [{"title": one["title"]} for one in self.waiting]
        match request.path_params["what"]:
            case "next-runs":
                return JSONResponse({"timezone": self.digest["timezone"], "runs": self.runs})
            case "pending":
                limit = int(request.query_params["limit"])
                return JSONResponse({"total": len(self.waiting), "items": self.waiting[:limit]})
            case "preview":
                types = {"iep_update": {"count": len(titles)}}
                document = {"top_notifications": titles, "notifications_by_type": types}
                return JSONResponse({"total": len(titles), "unread": len(titles), "digest": document})
            case _ if not self.waiting:
                return problem(409, "conflict")
            case _:
                self.digests_sent += 1
                self.windows_moved += request.query_params.get("move_window") == "true"
                return JSONResponse({"id": "d1"}, 201)
