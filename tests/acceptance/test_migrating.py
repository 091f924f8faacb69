"""Every command of docs/migrating.md, run by a shell against a running server, answers what stands below it."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from tests.acceptance.test_api_examples import Shell, check, examples
from tests.machine import program
from tests.process import ROOT, SECRET, nodes

PAGE = ROOT / "docs/migrating.md"


async def test_every_example_for_older_clients_is_true(database: str, tmp_path: Path) -> None:
    program("curl")
    alerts = {"WHATSAPP_TO": "+14155552671", "TELEGRAM_CHAT_ID": "471104711"}
    async with nodes(database, DELIVERY_SIMULATE="whatsapp,telegram", **alerts) as [node]:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "JWT_SECRET_KEY": SECRET}
        shell = Shell(tmp_path, environment)
        page = PAGE.read_text(encoding="utf-8")
        page = page.replace("http://localhost:8003", node.url)
        page = page.replace(".venv/bin/carillon", f"{shlex.quote(sys.executable)} -m app")

        count = 0
        for example in examples(page):
            output = shell.run(example.command)
            if example.answer:
                check(example, output, shell)
                count += 1

    assert count >= 11
