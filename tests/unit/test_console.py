"""What browsers are served, and under which rules."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette

from app.console import POLICY, STATIC, WORKER_POLICY, console_routes, read_files, without_comments
from core.errors import ServiceError


@pytest.fixture
async def browser() -> AsyncIterator[httpx.AsyncClient]:
    application = Starlette(routes=console_routes(lambda user_id: f"token of {user_id}"))
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8003") as client:
        yield client


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("client.js", "text/javascript; charset=utf-8"),
        ("client.d.ts", "text/plain; charset=utf-8"),
        ("demo/index.html", "text/html; charset=utf-8"),
        ("demo/demo.css", "text/css; charset=utf-8"),
        ("demo/bell.svg", "image/svg+xml"),
        ("demo/icon-180.png", "image/png"),
        ("demo/manifest.webmanifest", "application/manifest+json"),
        ("elements.js", "text/javascript; charset=utf-8"),
        ("texts/ar.js", "text/javascript; charset=utf-8"),
        ("custom-elements.json", "application/json"),
    ],
)
async def test_a_file_is_served_as_what_it_is_and_nothing_else(browser, name, media_type):
    answer = await browser.get(f"/static/{name}")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == media_type
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == POLICY


async def test_the_policy_allows_nothing_inline_and_nothing_from_elsewhere():
    assert POLICY.startswith("default-src 'none';")
    assert not re.search(r"unsafe|\*|https?:|data:|blob:", POLICY)


async def test_the_page_names_its_files_by_version_and_they_last(browser):
    page = (await browser.get("/")).text
    links = re.findall(r'"(/static/[^"]+)"', page)

    assert len(links) == 7
    for link in links:
        answer = await browser.get(link)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"


async def test_a_version_of_another_node_is_served_but_not_kept(browser):
    answer = await browser.get("/static/v-0123456789abcdef/client.js")

    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-cache"


async def test_the_push_worker_may_have_any_scope_and_runs_nothing_but_itself(browser):
    answer = await browser.get("/sw.js")

    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["service-worker-allowed"] == "/"
    assert answer.headers["cache-control"] == "no-cache"  # else a mended worker would be a day late
    assert answer.headers["content-security-policy"] == WORKER_POLICY
    assert "script-src" not in WORKER_POLICY
    assert WORKER_POLICY.startswith("default-src 'none';")


async def test_a_known_file_is_not_sent_again(browser):
    first = await browser.get("/static/client.js")
    again = await browser.get(
        "/static/client.js", headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'}
    )

    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["etag"] == first.headers["etag"]


async def test_a_browser_without_gzip_gets_the_same_text(browser):
    plain = await browser.get("/static/client.js", headers={"Accept-Encoding": "identity"})
    packed = await browser.get("/static/client.js", headers={"Accept-Encoding": "gzip"})

    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert plain.text == packed.text


@pytest.mark.parametrize(
    "path", ["__init__.py", "..%2Fapp/console.py", "%2e%2e/app/console.py", "demo", "", "none.js"]
)
async def test_only_what_is_meant_for_browsers_is_served(browser, path):
    with pytest.raises(ServiceError) as refused:
        await browser.get(f"/static/{path}")

    assert refused.value.code == "not_found"


def test_the_version_is_that_of_the_content(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.js").write_text(f"let {name};")

    assert read_files(tmp_path / "a")[0] != read_files(tmp_path / "b")[0]
    assert read_files(tmp_path / "a") == read_files(tmp_path / "a")


def test_comments_and_indentation_stay_at_home_and_code_keeps_its_lines():
    source = """/**
 * What it is for.
 */
const link = "https://x.example//y"; // where
  // alone
if (a) {
    a = 1 /* inside */ + 2;
}
/* one */ const b = "// not a comment";
.c { color: red } /* after */
"""

    assert (
        without_comments(source)
        == """


const link = "https://x.example//y";

if (a) {
a = 1 /* inside */ + 2;
}
/* one */ const b = "// not a comment";
.c { color: red } /* after */
"""
    )


def test_our_own_scripts_lose_only_comments():
    for path in STATIC.rglob("*.js"):
        kept = without_comments(path.read_text()).splitlines()
        for line, served in zip(path.read_text().splitlines(), kept, strict=True):
            assert line.lstrip().startswith(served)
            assert re.fullmatch(r"|\s*(//|/?\*).*", line.lstrip()[len(served) :])


async def test_whoever_asks_is_given_a_development_token(browser):
    answer = await browser.get("/demo/session", params={"user": "ada"})

    assert answer.json() == {"token": "token of ada", "user_id": "ada"}
    assert answer.headers["cache-control"] == "no-store"


async def test_another_sites_page_is_given_none(browser):
    with pytest.raises(ServiceError) as refused:
        await browser.get("/demo/session", headers={"Sec-Fetch-Site": "cross-site"})

    assert refused.value.code == "not_found"


@pytest.mark.parametrize("host", ["hub.example", "192.0.2.7", "localhost.evil.example"])
async def test_nobody_is_given_one_who_calls_this_machine_by_another_name(browser, host):
    with pytest.raises(ServiceError) as refused:
        await browser.get("/demo/session", headers={"Host": host})

    assert refused.value.code == "not_found"


@pytest.mark.parametrize("user_id", ["", "a b", "<b>", "a" * 65, "../x", "é"])
async def test_a_token_is_only_made_for_what_can_be_a_user_id(browser, user_id):
    with pytest.raises(ServiceError) as refused:
        await browser.get("/demo/session", params={"user": user_id})

    assert refused.value.code == "invalid"


def test_in_production_there_is_no_such_path():
    paths = [getattr(route, "path", "") for route in console_routes(None)]

    assert paths == ["/", "/sw.js", "/static/{path:path}"]


def test_what_is_sent_is_small():
    _, files = read_files()

    assert len(files["client.js"].compressed) < 10_000
    assert len(files["push.js"].compressed) < 5_000  # loaded by those who use it
    assert len(files["digest.js"].compressed) < 1_000  # likewise
    assert len(files["sw.js"].compressed) < 5_000
    assert gzip.decompress(files["client.js"].compressed) == files["client.js"].content
