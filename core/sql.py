"""Named queries out of a queries.sql that lies beside the code which runs them."""

import re
from collections.abc import Mapping
from importlib.resources import files

_NAME = re.compile(r"^-- name: ([a-z_]+)[ \t]*$", re.MULTILINE)


def load(package: str, file: str = "queries.sql") -> Mapping[str, str]:
    """
    The queries of one file by their names.

    A query begins with `-- name: <name>`; the comment lines after it say the intent, the
    parameters and what comes back, and are sent along: they show in pg_stat_activity.

    Raises ValueError when two queries have the same name, KeyError on a name that is not there.
    """
    text = files(package).joinpath(file).read_text(encoding="utf-8")
    parts = _NAME.split(text)
    queries: dict[str, str] = {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        if name in queries:
            raise ValueError(f"{package}/{file}: two queries are called {name}")
        queries[name] = body.strip().rstrip(";")
    return queries
