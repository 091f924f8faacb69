"""
What a first run needs and nobody has set: a PostgreSQL of its own and generated keys, under `.carillon/`.

Processes that name the same directory share one server. Each holds a shared lock on `postgres.users`
for as long as it uses the server; whoever gets that lock for itself knows that nobody else is there and may stop the
server. The kernel gives a lock up when its process ends, however it ends. So a watcher (`app/watch.py`), started
with the server, waits for that lock: a process that is killed takes its server along.
"""

import asyncio
import base64
import fcntl
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app import watch
from app.cluster import Cluster, account, binaries, own_folder, state_folder

DIRECTORY = Path(".carillon")
"""Where a checkout keeps what it generated, relative to the working directory."""

DATABASE = "carillon"
SECRET_BYTES = 32

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """A server that this process uses, and perhaps others too."""

    dsn: str
    _cluster: Cluster
    _users: int  # file descriptor of the lock that says that we are here

    async def stop(self) -> None:
        """Leave the server. The last user stops it, and returns when it has stopped."""
        await asyncio.to_thread(self._leave)

    def _leave(self) -> None:
        fcntl.flock(self._users, fcntl.LOCK_UN)
        try:
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Either others are here, then this is granted at once, or the watcher is just stopping
            # the server, then it is granted when that is done.
            fcntl.flock(self._users, fcntl.LOCK_SH)
        else:
            self._cluster.stop()
        finally:
            os.close(self._users)


async def start_postgres(directory: Path) -> EmbeddedPostgres:
    """
    Use the server of `directory`, made and started if need be; its database is `carillon`.

    Raises ClusterError, with the server's own words, when it cannot be had.
    """
    return await asyncio.to_thread(_start, directory)


def _start(directory: Path) -> EmbeddedPostgres:
    owner = account()
    _make_private(directory)
    folder = state_folder(directory / "postgres", owner)
    if folder.parent != directory.absolute():
        log.warning(
            "embedded_postgres_elsewhere", folder=str(folder), reason="its account cannot enter the directory"
        )
    cluster = Cluster(folder, binaries(owner), owner)

    users = _open(directory / "postgres.users")
    try:
        fcntl.flock(users, fcntl.LOCK_SH)
        with _locked(directory / "postgres.start"):
            cluster.create()
            _watch(cluster, directory)
            if cluster.pid() is None:
                cluster.start()
            asyncio.run(_create_database(cluster))
    except BaseException:
        os.close(users)
        raise
    return EmbeddedPostgres(cluster.dsn(DATABASE), cluster, users)


async def _create_database(cluster: Cluster) -> None:
    connection = await asyncpg.connect(cluster.dsn("postgres"))
    try:
        if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
            await connection.execute(f'CREATE DATABASE "{DATABASE}"')
    finally:
        await connection.close()


def _watch(cluster: Cluster, directory: Path) -> None:
    """Start the watcher unless one is there; it holds its own lock by a descriptor that it inherits."""
    watcher = _open(directory / "postgres.watcher")
    users = _open(directory / "postgres.users")
    try:
        try:
            fcntl.flock(watcher, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        owner = cluster.owner
        subprocess.run(
            [
                *(sys.executable, "-m", watch.__name__),
                *(str(users), str(watcher), str(cluster.folder), str(cluster.programs)),
                *([] if owner is None else [str(owner.uid), str(owner.gid)]),
            ],
            cwd="/",
            env={"PYTHONPATH": str(Path(__file__).parent.parent)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is for us, not for it
            pass_fds=(users, watcher),
            check=True,
        )
    finally:
        os.close(watcher)
        os.close(users)


def generated_secret(directory: Path, name: str) -> str:
    """
    A random secret of 256 bits, made at the first call and the same ever after.

    name: of its file in `directory`, mode 0600. Two processes that start together get the same one.
    """
    return _generated(directory / name, lambda: secrets.token_urlsafe(SECRET_BYTES))


@dataclass(frozen=True, slots=True)
class VapidKeys:
    """The key pair by which push services know this server (RFC 8292 §3.2)."""

    private_key: str = field(repr=False)  # PEM, PKCS #8, P-256
    public_key: str  # base64url without padding, of the uncompressed point


def generated_vapid_keys(directory: Path) -> VapidKeys:
    """The generated VAPID pair of `directory`, made at the first call: whoever subscribed stays subscribed."""
    pem = _generated(directory / "vapid_private_key.pem", _new_private_key)
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    point = key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    return VapidKeys(private_key=pem, public_key=base64.urlsafe_b64encode(point).rstrip(b"=").decode())


def _new_private_key() -> str:
    return (
        ec.generate_private_key(ec.SECP256R1())
        .private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        .decode()
    )


def _generated(file: Path, make: Callable[[], str]) -> str:
    """What is in `file`; if it is not there, it is made, whole or not at all, and a warning says so."""
    _make_private(file.parent)
    if not file.exists():
        draft = file.with_name(f"{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
                stream.write(make())
            os.link(draft, file)  # fails where another process was first
        except FileExistsError:
            pass  # that one's secret is everybody's
        else:
            log.warning(
                "secret_generated", file=str(file), reason="none is set; production needs one of its own"
            )
        finally:
            draft.unlink(missing_ok=True)
    return file.read_text()


def _make_private(directory: Path) -> None:
    """
    The directory itself: nobody may list it. As root it can be walked through, by the account of the server to
    its data; each secret in it has mode 0600.
    """
    own_folder(directory, os.geteuid(), os.getegid(), mode=0o711 if os.geteuid() == 0 else 0o700)


def _open(file: Path) -> int:
    """A descriptor for a lock of its own: locks belong to descriptors, not to processes."""
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Alone among the processes that lock the same file."""
    descriptor = _open(file)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
