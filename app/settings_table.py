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
            meaning = _sentence(comments.get(one.name, "")).replace("|", "\\|")
            yield f"| `{variable(section, one.name)}` | {_default(one)} | {meaning} |"


def _sentence(comment: str) -> str:
    """A comment as a sentence begins, unless it begins with an address or a value."""
    return comment if re.match(r"\w+\+?\w*://", comment) else comment[:1].upper() + comment[1:]


def _comments(struct: type[Any]) -> Mapping[str, str]:
    """The comment beside each field, also where the formatter has put it on the lines of its value."""
    comments: dict[str, str] = {}
    current = ""
    for line in inspect.getsource(struct).splitlines():
        if line.startswith("    def "):  # its fields stand before a struct's methods
            break
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
            return _number(value.total_seconds())
        case Rate():
            return f"{_number(value.per_second)}/{_number(value.burst)}"
        case frozenset() | tuple() | set():
            return ",".join(sorted(value)) or "(none)"
        case Path():
            return str(value)
    return str(value)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


if __name__ == "__main__":
    sys.stdout.write(table())
