"""
A service whose senders do not remember which browsers have a push: a retry goes to all of them.

    python -m tests.acceptance.chaos.forgetful serve --port 0
"""

from __future__ import annotations

import sys

import push.store
from app.__main__ import main

_REMEMBERED = "p.outcome = 'sent' OR"


if __name__ == "__main__":
    waiting = push.store.SQL["waiting"]
    assert _REMEMBERED in waiting, "what is taken away is there"
    push.store.SQL = {**push.store.SQL, "waiting": waiting.replace(_REMEMBERED, "")}
    sys.exit(main())
