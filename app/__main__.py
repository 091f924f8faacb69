"""The command `carillon`: serve, work, migrate, token, doctor, audit, vapid, epoch, healthcheck."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Coroutine, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
import structlog
import uvloop

from app import audit, doctor, logs, vapid
from app.build import running
from app.cluster import ClusterError
from app.first_run import prepared
from app.migrate import migrate
from app.own_tokens import own_token
from app.server import bind, run, server
from app.settings import ROLES, BadSetting, ProcessSettings, Settings, read
from app.supervisor import Child, Supervisor, environment
from app.version import VERSION
from app.welcome import welcome
from app.work import work
from core.database import open_database
from core.errors import ServiceError
from core.identity import ROLES as TOKEN_ROLES
from core.identity import SCOPES
from core.locale import use_pinned_zones
from hub.history_postgres import bump_epoch

log = structlog.stdlib.get_logger("app")

#: Told to the processes of a supervisor: its process id. The port is shared, and without it nobody ends them.
SHARED_PORT = "CARILLON_SHARED_PORT"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 well, 1 it failed, 2 the command or a setting is wrong."""
    use_pinned_zones()
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "vapid" and options.action == "create":
        return vapid.create()  # for settings that are yet to be written
    try:
        settings = read(_environment(options), version=VERSION)
    except BadSetting as error:
        print(f"carillon: {error}", file=sys.stderr)
        return 2
    logs.configure(settings.process.log_level, settings.process.log_format)
    commands = {
        "serve": serve,
        "work": lambda settings, options: _run(
            work(
                settings,
                once=options.once,
                dry_run=options.dry_run,
                interval=timedelta(seconds=options.interval),
            )
        ),
        "migrate": lambda settings, _: _run(_migrate(settings)),
        "token": token,
        "doctor": lambda settings, _: _run(doctor.run(settings)),
        "audit": lambda settings, options: _run(
            audit.verify(settings, tenant=options.tenant, against=options.against)
        ),
        "vapid": lambda settings, options: _run(
            vapid.run(settings, options.action, getattr(options, "key", None))
        ),
        "epoch": lambda settings, _: _run(_bump(settings)),
        "healthcheck": healthcheck,
    }
    try:
        return commands[options.command](settings, options)
    except BadSetting as error:
        print(f"carillon: {error}", file=sys.stderr)
        return 2
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
        print("carillon: the database lacks tables of this version: run `carillon migrate`", file=sys.stderr)
        return 1
    except (ServiceError, ClusterError, OSError) as error:
        print(f"carillon: {logs.redact(str(error))}", file=sys.stderr)
        return 1


def serve(settings: Settings, options: argparse.Namespace) -> int:
    """Run the roles of this process, or of several processes on one port."""
    if settings.process.workers > 1 or settings.process.senders:
        return _run(_supervise(settings))
    return _run(_serve(settings))


async def _serve(settings: Settings) -> int:
    process = settings.process
    shared, buffer = SHARED_PORT in os.environ, process.send_buffer_bytes
    listener = bind(process.host, process.port, shared=shared, send_buffer_bytes=buffer)
    inner = None
    if process.internal_port is not None and "web" in process.roles:
        inner = bind(process.host, process.internal_port, shared=shared, send_buffer_bytes=buffer)
    async with prepared(settings) as (settings, notices), running(settings) as node:
        servers = [(server(node.public, settings), listener)]
        if node.internal is not None and inner is not None:
            servers.append((server(node.internal, settings), inner))
        port = listener.getsockname()[1]

        def on_ready() -> None:
            gc.collect()
            gc.freeze()  # what is here now stays: no collection needs to look at it again
            log.info("ready", port=port, roles=sorted(process.roles), pid=os.getpid())
            if not settings.production and SHARED_PORT not in os.environ:
                print(welcome(settings, port, notices), flush=True)

        orphaned = asyncio.create_task(_end_with(int(os.environ[SHARED_PORT]))) if shared else None
        await run(servers, on_ready=on_ready, drain=node.drain)
        if orphaned is not None:
            orphaned.cancel()
    return 0


async def _end_with(supervisor: int) -> None:
    """Drain and end when the supervisor has died: its successor starts processes of its own on the port."""
    while os.getppid() == supervisor:
        await asyncio.sleep(1)
    log.error("supervisor_died")
    os.kill(os.getpid(), signal.SIGTERM)


async def _supervise(settings: Settings) -> int:
    """The parent holds what the children share: the embedded database, the generated key, the port."""
    process = settings.process
    reserved = bind(
        process.host, process.port, shared=True, send_buffer_bytes=process.send_buffer_bytes
    )  # never listens: it keeps the port ours
    port = reserved.getsockname()[1]
    async with prepared(settings) as (settings, notices):
        if process.migrate:
            await migrate(settings.database.url)
        known = {
            "DATABASE_URL": settings.database.url,
            "CARILLON_WORKERS": "1",
            "CARILLON_SENDERS": "0",
            "HUB_MIGRATE": "off",
            "PORT": str(port),
            SHARED_PORT: str(os.getpid()),
        }
        if settings.secrets.jwt_secret_key is not None:
            known["JWT_SECRET_KEY"] = settings.secrets.jwt_secret_key
        if settings.secrets.delivery_encryption_keys is not None:
            known["DELIVERY_ENCRYPTION_KEYS"] = settings.secrets.delivery_encryption_keys
        children = _children(process)
        if not settings.production:
            print(welcome(settings, port, notices), flush=True)
        patience = process.drain + process.shutdown + timedelta(seconds=5)
        supervisor = Supervisor(children, environment(**known), patience=patience.total_seconds())
        try:
            return supervisor.run()
        finally:
            reserved.close()


#: Seconds. Nobody waits for a sender, whose statements wait for one another: the next page of a broadcast takes its time.
_PATIENCE: Final = {"HUB_DATABASE_ACQUIRE_TIMEOUT": "8", "HUB_DATABASE_DEADLINE": "10"}


def _children(process: ProcessSettings) -> list[Child]:
    """The web processes on the port, a process for each sender, and one for all other roles."""
    webs = process.workers if "web" in process.roles else 0
    children = [Child(f"web-{number}", ["serve", "--roles", "web"]) for number in range(webs)]
    patience = {name: value for name, value in _PATIENCE.items() if name not in os.environ}
    children += [
        Child(
            f"sender-{number}",
            ["serve", "--roles", "worker", "--port", "0"],
            nice=process.sender_nice,
            own={**patience, "HUB_DATABASE_CONNECTIONS": str(process.sender_connections)},
        )
        for number in range(process.senders)
    ]
    others = sorted(process.roles - {"web"} - ({"worker"} if process.senders else set()))
    if others:
        children.append(Child("jobs", ["serve", "--roles", ",".join(others), "--port", "0"]))
    return children


async def _migrate(settings: Settings) -> int:
    async with prepared(settings) as (settings, _):
        applied = await migrate(settings.database.url)
    print("\n".join(f"applied {revision}" for revision in applied) or "the schema is up to date")
    return 0


async def _bump(settings: Settings) -> int:
    """After a restore from a backup: every client is told that its positions are void."""
    async with prepared(settings) as (settings, _):
        database = await open_database(settings.database)
        try:
            print(f"epoch {await bump_epoch(database)}")
        finally:
            await database.close()
    return 0


def token(settings: Settings, options: argparse.Namespace) -> int:
    """Print a token signed with our own key."""
    return _run(_token(settings, options))


async def _token(settings: Settings, options: argparse.Namespace) -> int:
    from_settings = settings.secrets.jwt_secret_key
    if from_settings is None and settings.production:
        print("carillon: JWT_SECRET_KEY: is not set, so there is no key to sign with", file=sys.stderr)
        return 2
    secret = from_settings or doctor.development_secret(settings)
    try:
        text = own_token(
            settings,
            secret,
            options.user,
            life=timedelta(seconds=options.life),
            tenant_id=options.tenant,
            scopes=options.scope,
            roles=options.role,
        )
    except ValueError as error:
        print(f"carillon: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


def healthcheck(settings: Settings, options: argparse.Namespace) -> int:
    """For containers: whether the process on our port answers."""
    host = "127.0.0.1" if settings.process.host in ("0.0.0.0", "::") else settings.process.host
    try:
        with urllib.request.urlopen(f"http://{host}:{settings.process.port}/livez", timeout=2) as answer:
            return 0 if answer.status == 200 else 1
    except (urllib.error.URLError, OSError) as error:
        print(f"carillon: {error}", file=sys.stderr)
        return 1


def _run(work: Coroutine[Any, Any, int]) -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _environment(options: argparse.Namespace) -> Mapping[str, str]:
    """The environment, with what the command line says in its place."""
    said = {
        "HOST": getattr(options, "host", None),
        "PORT": getattr(options, "port", None),
        "CARILLON_ROLES": getattr(options, "roles", None),
        "CARILLON_WORKERS": getattr(options, "workers", None),
        "CARILLON_SENDERS": getattr(options, "senders", None),
    }
    return {**os.environ, **{name: value for name, value in said.items() if value is not None}}


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError("must be a number of seconds, 1 or more")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="carillon", description="A self-hosted real-time notification hub.")
    parser.add_argument("--version", action="version", version=VERSION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serving = commands.add_parser("serve", help="run the hub; without settings, on embedded parts")
    serving.add_argument("--host", help="address to listen on (HOST, 127.0.0.1)")
    serving.add_argument("--port", help="port to listen on (PORT, 8003); 0: any free one")
    serving.add_argument("--roles", help=f"some of {','.join(ROLES)} (CARILLON_ROLES, all)")
    serving.add_argument(
        "--workers", help="web processes on the port (CARILLON_WORKERS, 1); several need Redis"
    )
    serving.add_argument(
        "--senders",
        help="processes that carry out deliveries and nothing else (CARILLON_SENDERS, 0: none of their own)",
    )
    working = commands.add_parser(
        "work", help="carry out deliveries round by round, without serving anything"
    )
    working.add_argument("--once", action="store_true", help="one round: whatever is due now")
    working.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would be sent where, and why not; claim and send nothing",
    )
    working.add_argument(
        "--interval", type=_seconds, default=1, metavar="SECONDS", help="between two rounds (1)"
    )
    commands.add_parser("migrate", help="bring the database to this version's schema")
    minting = commands.add_parser(
        "token", help="print a token signed with JWT_SECRET_KEY or the generated key"
    )
    minting.add_argument("user", help="whom it stands for: the claim sub")
    minting.add_argument("--tenant", default="default", help="the claim tenant_id")
    minting.add_argument(
        "--scope",
        action="append",
        default=[],
        choices=sorted(SCOPES),
        metavar="SCOPE",
        help=f"may be given several times: {', '.join(sorted(SCOPES))}",
    )
    minting.add_argument(
        "--role",
        action="append",
        default=[],
        choices=sorted(TOKEN_ROLES),
        metavar="ROLE",
        help=f"may be given several times: {', '.join(sorted(TOKEN_ROLES))}",
    )
    minting.add_argument(
        "--life", type=_seconds, default=3600, metavar="SECONDS", help="until it expires (3600)"
    )
    commands.add_parser(
        "doctor", help="look at settings, database, Redis, clock, zones and keys; say what to mend"
    )
    log_ = commands.add_parser("audit", help="the record of who did what")
    verifying = log_.add_subparsers(dest="action", required=True).add_parser(
        "verify", help="hold it against its hashes, and print the head of every tenant's chain"
    )
    verifying.add_argument("--tenant", help="of this one alone")
    verifying.add_argument(
        "--against", type=Path, metavar="FILE", help="heads that an earlier run has printed, kept elsewhere"
    )
    keys = commands.add_parser("vapid", help="the keys by which push services know this installation")
    actions = keys.add_subparsers(dest="action", required=True)
    actions.add_parser("create", help="print a new key pair for VAPID_PUBLIC_KEY and VAPID_PRIVATE_KEY")
    actions.add_parser("show", help="the keys, and how many browsers each of them reaches")
    actions.add_parser("rotate", help="make a new current key; the one before goes on sending")
    retiring = actions.add_parser(
        "retire", help="end a key that still sends, and what was subscribed with it"
    )
    retiring.add_argument("key", help="its name, as `show` prints it")
    epoch = commands.add_parser("epoch", help="the life that positions belong to")
    epoch.add_subparsers(dest="action", required=True).add_parser(
        "bump", help="void all positions, after a restore"
    )
    commands.add_parser("healthcheck", help="whether the process on our port lives; for containers")
    return parser


if __name__ == "__main__":
    sys.exit(main())
