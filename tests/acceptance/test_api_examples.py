"""Every command of docs/api.md, run by a shell against a running server, answers what stands below it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.machine import program
from tests.process import SECRET, nodes

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/api.md"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: Stands for what differs from run to run; as a member: for other members.
ANY = "…"


class Example(NamedTuple):
    """A command, and the answer that the page shows: as an HTTP message, or a piece of its text."""

    command: str
    answer: str
    is_http: bool


def examples(page: str) -> Iterator[Example]:
    blocks = _BLOCK.findall(page)
    for (kind, command), (next_kind, answer) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if kind == "sh":
            yield Example(command, answer if next_kind in ("http", "text") else "", next_kind == "http")


def fits(shown: Any, given: Any) -> bool:
    """Whether what is given is what is shown."""
    match shown:
        case str():
            return isinstance(given, str) and re.fullmatch(pattern(shown), given, re.DOTALL) is not None
        case dict():
            named = shown.keys() - {ANY}
            return (
                isinstance(given, dict)
                and (given.keys() >= named if ANY in shown else given.keys() == named)
                and all(fits(shown[name], given[name]) for name in named)
            )
        case list():
            return isinstance(given, list) and len(shown) == len(given) and all(map(fits, shown, given))
    return type(shown) is type(given) and shown == given


def pattern(shown: str) -> str:
    return re.escape(shown).replace(ANY, ".+")


class Shell:
    """Runs one block after the other; what one sets the next ones have."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._saved = folder / "variables"
        self._saved.touch()
        self._environment = environment

    def run(self, commands: str) -> str:
        script = f". {shlex.quote(str(self._saved))}\nset -a\n{commands}\nexport -p > {shlex.quote(str(self._saved))}\n"
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=ROOT,
            env=dict(self._environment),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def set(self, name: str, value: str) -> None:
        with self._saved.open("a") as saved:
            saved.write(f"export {name}={shlex.quote(value)}\n")


def check(example: Example, output: str, shell: Shell) -> None:
    """Compare, and let the next commands use what was answered."""
    if not example.is_http:
        assert re.search(pattern(example.answer.strip()), output, re.DOTALL), output
        return
    head, _, body = output.replace("\r\n", "\n").partition("\n\n")
    shown_head, _, shown_body = example.answer.strip().partition("\n\n")
    status, *headers = head.splitlines()
    shown_status, *shown_headers = shown_head.splitlines()
    assert status == shown_status, output
    for header in shown_headers:
        assert any(fits(header, given) for given in headers), (header, headers)
    if not shown_body:
        assert body.strip() == ""
        return
    given = json.loads(body)
    assert fits(json.loads(shown_body), given), f"shown:\n{shown_body}\ngiven:\n{body}"
    for name, value in given.items():
        if isinstance(value, str):
            shell.set(name.upper(), value)


async def test_every_example_of_the_page_is_true(database, tmp_path):
    program("curl")
    async with nodes(database) as [node]:
        shell = Shell(
            tmp_path, {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "JWT_SECRET_KEY": SECRET}
        )
        page = PAGE.read_text(encoding="utf-8")
        page = page.replace("http://localhost:8003", node.url)
        page = page.replace(".venv/bin/carillon", f"{shlex.quote(sys.executable)} -m app")
        page = page.replace("curl -sN", "curl -sN --max-time 6")

        count = 0
        for example in examples(page):
            output = shell.run(example.command)
            if example.answer:
                check(example, output, shell)
                count += 1

    assert count > 30


@pytest.mark.parametrize(
    ("shown", "given"),
    [
        ({"id": "…"}, {"id": "7", "title": "Hello"}),
        ({"id": "…", "title": "Hello"}, {"id": "7"}),
        ({"unread_count": 1}, {"unread_count": True}),
        (["…"], ["a", "b"]),
        ("ck_…", "dk_1"),
    ],
)
def test_an_answer_that_differs_from_the_page_is_seen(shown, given):
    assert not fits(shown, given)


def test_an_answer_may_differ_where_the_page_says_so():
    assert fits({"id": "…", "…": "…"}, {"id": "7", "title": "Hello"})
