"""
Serves static/: the demo page at `/`, the push worker at `/sw.js`, and every file below `/static/`.

Files are read once, at start. A page names its files with the version of the whole folder in the
path, so that browsers keep them for ever and never mix two versions.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from core.errors import invalid, not_found

STATIC = Path(__file__).parents[1] / "static"

#: A user id in, a token for them out.
Mint = Callable[[str], str]

#: Of pages. No inline script or style, nothing from elsewhere, no text made into markup.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "manifest-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types carillon-push"  # the one that names the worker
)

#: Of the push worker: it runs nothing but itself and talks to nobody but the hub.
WORKER_POLICY = "default-src 'none'; connect-src 'self'; img-src 'self'"

#: Of files; what has no line here is not served. The machine's own table of types is not asked.
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".ts": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
}

#: How the machine's own people call it.
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_VERSION = re.compile(r"v-[0-9a-f]{16}\Z")
_COMMENT = re.compile(
    r"^[ \t]*(?:/\*(?:(?!\*/).)*\*/|//[^\n]*)$"  # lines of their own
    r"|(?<=[\]),;{}]) // [^\n]*$"  # after code
    r"|^ +",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class File:
    """One file as it goes out."""

    content: bytes
    compressed: bytes  # by gzip
    media_type: str
    etag: str


def without_comments(source: str) -> str:
    """
    JavaScript or CSS as browsers get it, without indentation too. Every line keeps its number, so that an
    error points at the source. Good for our own files only: none has a string that looks like a comment, or
    one over several lines in which blanks count.
    """
    return _COMMENT.sub(lambda found: "\n" * found[0].count("\n"), source)


def read_files(folder: Path = STATIC) -> tuple[str, Mapping[str, File]]:
    """The version of the folder, and its files by their path in it."""
    sources = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in MEDIA_TYPES
    }
    digest = sha256(b"\0".join(name.encode() + b"\0" + source for name, source in sources.items()))
    version = f"v-{digest.hexdigest()[:16]}"
    return version, {name: _file(name, source, version) for name, source in sources.items()}


def _file(name: str, content: bytes, version: str) -> File:
    suffix = Path(name).suffix
    if suffix in (".js", ".css"):
        content = without_comments(content.decode()).encode()
    elif suffix == ".html":
        content = content.replace(b'"/static/', f'"/static/{version}/'.encode())
    return File(
        content=content,
        compressed=gzip.compress(content, 9, mtime=0),
        media_type=MEDIA_TYPES[suffix],
        etag=f'"{sha256(content).hexdigest()[:32]}"',
    )


def console_routes(mint: Mint | None = None, *, folder: Path = STATIC) -> list[BaseRoute]:
    """
    `/`, `/static/…` and, where `mint` is given, `/demo/session`: a token for whoever asks. So `mint`
    is given in development only.
    """
    version, files = read_files(folder)

    async def page(request: Request) -> Response:
        """GET /: the demo page."""
        return _answer(request, files["demo/index.html"], lasting=False)

    async def worker(request: Request) -> Response:
        """GET /sw.js: the push worker. One address for ever, because browsers look there for its successor."""
        headers = {"Content-Security-Policy": WORKER_POLICY, "Service-Worker-Allowed": "/"}
        return _answer(request, files["sw.js"], lasting=False, headers=headers)

    async def static(request: Request) -> Response:
        """GET /static/…: one file. Under this version it never changes; any other may be that of another node."""
        path: str = request.path_params["path"]
        named, _, rest = path.partition("/")
        name = rest if _VERSION.match(named) else path
        if name not in files:
            raise not_found("file")
        return _answer(request, files[name], lasting=named == version)

    routes: list[BaseRoute] = [
        Route("/", page),
        Route("/sw.js", worker),
        Route("/static/{path:path}", static),
    ]
    if mint is not None:
        routes.append(Route("/demo/session", _session(mint)))
    return routes


def _answer(
    request: Request, file: File, *, lasting: bool, headers: Mapping[str, str] = MappingProxyType({})
) -> Response:
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable" if lasting else "no-cache",
        "Content-Security-Policy": POLICY,
        "Content-Type": file.media_type,
        "ETag": file.etag,
        "Referrer-Policy": "no-referrer",
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
        **headers,
    }
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if file.etag in known:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.compressed, headers={**headers, "Content-Encoding": "gzip"})
    return Response(file.content, headers=headers)


def _session(mint: Mint) -> Callable[[Request], Any]:
    async def session(request: Request) -> Response:
        """GET /demo/session?user=: a development token for that person, `demo` where none is named."""
        user_id = request.query_params.get("user", "demo")
        if not _USER.match(user_id):
            raise invalid("user", "1 to 64 letters, digits and . _ - please, the first a letter or digit.")
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise not_found("page")  # another site's page asks
        if request.url.hostname not in LOOPBACK:
            raise not_found(
                "page"
            )  # a name that somebody else has pointed at this machine, or another machine
        body = {"token": mint(user_id), "user_id": user_id}
        return JSONResponse(body, headers={"Cache-Control": "no-store"})

    return session
