"""
Channels that others have written: packages installed beside this one, each naming a class under the entry point group
`carillon.channels`. Only their names are read here; the classes are loaded where channels are made (delivery/plugins.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

GROUP = "carillon.channels"

#: How a channel may be called, as the schema has it: a pattern.
CHANNEL_NAME = "[a-z][a-z0-9_]{1,31}"

#: What ours are called, and what stands for every channel.
BUILT_IN = ("websocket", "in_app", "push", "email", "sms", "whatsapp", "telegram", "webhook")


@cache
def installed() -> Mapping[str, EntryPoint]:
    """The classes by the names of their channels, sorted. Raises ValueError for a name that cannot be one."""
    return checked(entry_points(group=GROUP))


def checked(found: Iterable[EntryPoint]) -> Mapping[str, EntryPoint]:
    """Raises ValueError for a name that is ours, is given twice, or cannot be stored."""
    named: dict[str, EntryPoint] = {}
    for entry in sorted(found, key=lambda one: one.name):
        where = f"the entry point {entry.name!r} of {GROUP} ({entry.value})"
        if not re.fullmatch(CHANNEL_NAME, entry.name):
            raise ValueError(f"{where} must be named by 2-32 lower-case letters, digits and _")
        if entry.name in BUILT_IN:
            raise ValueError(f"{where} has the name of a channel that comes with Carillon")
        if entry.name in named:
            raise ValueError(f"{where} has the name of another one that is installed")
        named[entry.name] = entry
    return named
