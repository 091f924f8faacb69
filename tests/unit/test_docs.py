"""What the documents say is what the code does: their tables are made from it, their names exist, their links lead somewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from app import error_tables, settings_table
from app.api import routes
from app.api.asyncapi import SAYS, payload
from app.api.openapi import path_of
from app.api.problems import type_of
from app.settings import variables
from core.errors import CODES
from core.identity import ROLES, SCOPES, Reason
from hub.protocol import COMMANDS, decode

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks/README.md", *ROOT.glob("docs/**/*.md")]
)

#: Not a field of a struct: read as JSON, described below its table.
_NOT_FIELDS = {"HUB_CHANNELS"}

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_SETTING = re.compile(
    r"`((?:HUB|JWT|JWKS|CARILLON|LOG|DATABASE|REDIS|PUSH|VAPID|DELIVERY|DIGEST)_[A-Z_]+)(?:=[^`]*)?`"
)
_CODE_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return _CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for target in _LINK.findall(prose(page)):
            if "://" not in target:
                yield page, target


def names() -> set[str]:
    return {name for _, _, name in variables()} | _NOT_FIELDS


def ids(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


@pytest.mark.parametrize(("page", "target"), list(links()), ids=ids)
def test_every_relative_link_leads_somewhere(page, target):
    path, _, anchor = target.partition("#")
    found = (page.parent / path).resolve() if path else page

    assert found.exists()
    assert not anchor or anchor in anchors(found)


def test_the_page_of_errors_holds_the_table_of_the_code():
    assert error_tables.errors() in text("docs/errors.md"), "python -m app.error_tables"


def test_the_documentation_page_that_problems_point_to_has_a_place_for_every_code():
    from app.api.docs import _page

    assert all(f'id="{type_of(code).removeprefix("/docs#")}"' in _page() for code in CODES)


@pytest.mark.parametrize("page", ["docs/errors.md", "docs/protocol.md"])
def test_close_codes_are_those_of_the_code(page):
    assert error_tables.close_codes() in text(page), "python -m app.error_tables"


def test_the_page_of_settings_is_the_one_that_the_code_makes():
    assert text("docs/settings.md") == settings_table.table(), (
        "python -m app.settings_table > docs/settings.md"
    )


def test_every_setting_says_what_it_means_unless_its_name_does():
    speaking = {
        "HOST",
        "CARILLON_ROLES",
        "LOG_LEVEL",
        "LOG_FORMAT",
        "JWKS_REFRESH",
        "HUB_CONNECTIONS_PER_USER",
    }
    rows = re.findall(r"^\| `([A-Z_]+)` \| .* \|  \|$", settings_table.table(), re.MULTILINE)

    assert {name for name in rows if not name.endswith(("_INTERVAL", "_TIMEOUT", "_MIN", "_MAX"))} <= speaking


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_settings_that_a_page_names_exist(page):
    of_tests = {
        name
        for file in ROOT.glob("tests/acceptance/test_*.py")
        for name in re.findall(r'os\.environ\.get\("(\w+)"', file.read_text(encoding="utf-8"))
    }

    assert set(_SETTING.findall(page.read_text(encoding="utf-8"))) <= names() | of_tests


def test_the_protocol_page_names_every_command():
    page = text("docs/protocol.md")

    unnamed = {str(command.__struct_config__.tag) for command in COMMANDS} - _words(page)

    assert unnamed == set()


def test_the_protocol_page_names_every_frame():
    assert SAYS.keys() - _words(text("docs/protocol.md")) == set()


def frames() -> Iterator[dict[str, Any]]:
    """The frames that stand as examples on the page of the protocol."""
    for block in re.findall(r"^```json\n(.*?)^```$", text("docs/protocol.md"), re.MULTILINE | re.DOTALL):
        rest = block.strip()
        while rest:
            frame, end = json.JSONDecoder().raw_decode(rest)
            yield frame
            rest = rest[end:].strip()


@pytest.mark.parametrize("frame", list(frames()), ids=lambda frame: frame["type"])
def test_a_frame_that_the_protocol_page_shows_is_one(frame):
    if frame["type"] not in SAYS:
        assert decode(json.dumps(frame))
        return
    described = payload(frame["type"])
    assert set(described["required"]) <= frame.keys() <= described["properties"].keys()


def test_the_page_of_troubles_names_every_reason_for_which_a_token_is_refused():
    section = text("docs/troubleshooting.md").partition("## 401")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)

    assert set(re.findall(r"`(\w+)`", " ".join(rows))) - {"reason"} == set(get_args(Reason))


def test_what_the_page_of_troubles_quotes_from_the_log_is_logged():
    quoted = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)` (?:in the log|again)", text("docs/troubleshooting.md")))
    files = [
        file for package in ("app", "hub", "delivery", "push") for file in (ROOT / package).glob("**/*.py")
    ]
    code = "".join(file.read_text(encoding="utf-8") for file in files)

    assert quoted
    assert {name for name in quoted if f'"{name}"' not in code} == set()


def _words(page: str) -> set[str]:
    """What begins a span of code, or is the type of a frame in an example."""
    return {first or second for first, second in re.findall(r'`(\w+)[^`]*`|"type":"(\w+)"', page)}


def test_the_page_of_the_api_names_every_operation():
    page = text("docs/api.md")
    every = {f"{one.method} {path_of(one)}" for one in routes.everything() if one.tag != "docs"}

    assert {one for one in every if f"`{one}`" not in page} == set()


def test_the_page_of_the_api_names_every_scope_and_role():
    page = text("docs/api.md")

    assert {word for word in {*SCOPES, *ROLES} if f"`{word}`" not in page} == set()


def test_every_test_that_the_page_of_threats_names_is_there() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", text("docs/threats.md"))

    assert len(named) > 30
    for file, name in named:
        assert re.search(rf"^(async )?def {name}\(", text(f"tests/{file}"), re.MULTILINE), (file, name)
