"""The docs page: our own, with our own assets, readable without JavaScript where it matters (the errors)."""

from __future__ import annotations

from html import escape
from importlib.resources import files

from starlette.responses import Response

from app.api.operation import Call
from core.errors import CODES, not_found

#: Nothing from elsewhere, nothing inline. `connect-src` is for /openapi.json.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

ASSETS = {"docs.js": "text/javascript", "docs.css": "text/css"}


async def page(call: Call) -> Response:
    """Every operation, schema and error of this service, for people."""
    return Response(_page(), media_type="text/html", headers={"Content-Security-Policy": POLICY})


async def asset(call: Call) -> Response:
    """A script or style of the docs page."""
    name = call.path_params["asset"]
    if name not in ASSETS:
        raise not_found("file")
    content = files("static").joinpath("docs", name).read_bytes()
    return Response(content, media_type=ASSETS[name], headers={"Cache-Control": "no-cache"})


def _page() -> str:
    errors = "\n".join(
        f'<tr id="error-{code.replace("_", "-")}"><td><code>{code}</code></td><td>{spec.status}</td>'
        f"<td>{escape(spec.title)}</td><td>{'yes' if spec.temporary else 'no'}</td></tr>"
        for code, spec in CODES.items()
    )
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Carillon API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/docs.css">
<script type="module" src="/docs/docs.js"></script>
<header>
  <h1>Carillon API</h1>
  <p>Described for machines in <a href="/openapi.json">/openapi.json</a> (REST) and
  <a href="/asyncapi.json">/asyncapi.json</a> (WebSocket).</p>
</header>
<div class="columns">
  <nav id="contents" aria-label="Contents"></nav>
  <main>
    <noscript><p>The list of operations needs JavaScript; /openapi.json is readable without.</p></noscript>
    <div id="operations"><p>Loading…</p></div>
    <section id="errors">
      <h2>Errors</h2>
      <p>Every error is <code>application/problem+json</code> (RFC 9457); <code>error</code> holds the code.</p>
      <table>
        <thead><tr><th>Code</th><th>Status</th><th>Meaning</th><th>May succeed later</th></tr></thead>
        <tbody>
{errors}
        </tbody>
      </table>
    </section>
    <section id="schemas"><h2>Schemas</h2></section>
  </main>
</div>
</html>
"""
