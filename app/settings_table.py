"""
docs/settings.md, made from the sections of app/settings.py: `python -m app.settings_table > docs/settings.md`.

What a variable means is the comment beside its field, so that there is one place to write it.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from app.settings import SECTIONS, Section, variable
from hub.limits import Rate

_FIELD = re.compile(r"^    (\w+): ")

HEAD = """\
# Settings

Everything is set by environment variables, read once at the start. A value that cannot be used stops the start with the name of its variable.
Times are in seconds, rates are `<per second>/<burst>`, lists are separated by commas, switches are `on` or `off`.

Made by `python -m app.settings_table`; the meaning of each variable is the comment beside its field.
"""

CHANNELS = """\
## Channels

| variable | default | meaning |
|---|---|---|
| `HUB_CHANNELS` | – | Who may do what in which channels: a JSON object of namespaces, the part of a channel's name before its first `:`. `default` holds for the rest. |

```json
{"default": {"subscribe": "everyone", "publish": "nobody"},
 "doc": {"publish": "everyone"},
 "private": {"subscribe": "everyone", "owner_only": true}}
```

`subscribe` and `publish` (ephemeral messages from a socket) are `everyone`, `services` or `nobody`, always within one tenant. With `owner_only` the channel
`private:anna:…` is for `anna` and for services.
"""


def table() -> str:
    """The whole page."""
    parts = [HEAD]
    for section in SECTIONS:
        rows = list(_rows(section))
        parts.append(
            f"## {_title(section)}\n\n| variable | default | meaning |\n|---|---|---|\n"
            + "\n".join(rows)
            + "\n"
        )
    parts.append(CHANNELS)
    return "\n".join(parts)


def _title(section: Section) -> str:
    doc = inspect.getdoc(section.struct) or section.struct.__name__
    return doc.splitlines()[0].partition(". From ")[0].rstrip(".")


def _rows(section: Section) -> Iterator[str]:
    comments = _comments(section.struct)
    for one in dataclasses.fields(section.struct):
        if one.name not in section.fixed:
            meaning = comments.get(one.name, "").replace("|", "\\|")
            yield f"| `{variable(section, one.name)}` | {_default(one)} | {meaning[:1].upper()}{meaning[1:]} |"


def _comments(struct: type[Any]) -> Mapping[str, str]:
    """The comment beside each field, also where the formatter has put it on the lines of its value."""
    comments: dict[str, str] = {}
    current = ""
    for line in inspect.getsource(struct).splitlines():
        field = _FIELD.match(line)
        if field:
            current = field[1]
        _, mark, comment = line.partition("# ")
        if mark and current and "noqa" not in comment:
            before = f"{comments[current]} " if current in comments else ""
            comments[current] = f"{before}{comment.strip()}"
    return comments


def _default(one: dataclasses.Field[Any]) -> str:
    if one.default_factory is not dataclasses.MISSING:
        return "the host's name" if one.name == "node" else "–"
    if one.default is dataclasses.MISSING or one.default is None:
        return "–"
    return f"`{_written(one.default)}`"


def _written(value: Any) -> str:
    match value:
        case bool():
            return "on" if value else "off"
        case timedelta():
            return f"{value.total_seconds():g}"
        case Rate():
            return f"{value.per_second:g}/{value.burst:g}"
        case frozenset() | tuple() | set():
            return ",".join(sorted(value)) or "(none)"
        case Path():
            return str(value)
    return str(value)


if __name__ == "__main__":
    sys.stdout.write(table())
