"""The PostgreSQL of a first run: shared, private, and gone with its last user, however that one ends."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import asyncpg
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from app.cluster import Cluster, ClusterError, account, binaries, state_folder
from app.embedded import generated_secret, generated_vapid_keys, start_postgres
from tests.machine import program

USE = """
import asyncio, sys
from pathlib import Path
from app.embedded import start_postgres

async def use():
    postgres = await start_postgres(Path(sys.argv[1]))
    print(postgres.dsn, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await postgres.stop()

asyncio.run(use())
"""


class User:
    """Another process that uses the server of a directory, until it is told to leave or killed."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USE, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def leave(self) -> None:
        self.process.communicate(timeout=30)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()


@pytest.fixture
def reachable_folder() -> Iterator[Path]:
    """A temporary folder that every account can enter; pytest's own cannot be entered by the server's."""
    with TemporaryDirectory(prefix="carillon-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def directory(reachable_folder: Path) -> Iterator[Path]:
    """A `.carillon` that is not there yet; at the end its server is awaited, so that none is left behind."""
    directory = reachable_folder / "checkout" / ".carillon"
    directory.parent.mkdir()
    yield directory
    if process := server(directory):
        await_end(process)


def cluster(directory: Path) -> Cluster:
    owner = account()
    return Cluster(state_folder(directory / "postgres", owner), binaries(owner), owner)


def server(directory: Path) -> psutil.Process | None:
    pid = cluster(directory).pid()
    return None if pid is None else psutil.Process(pid)


def runs(process: psutil.Process) -> bool:
    """Whether it still does anything; one that has ended may wait long for a parent to take note of it."""
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def await_end(process: psutil.Process) -> None:
    """Returns when the process has ended; fails after half a minute."""
    deadline = time.monotonic() + 30
    while runs(process):
        assert time.monotonic() < deadline, f"{process} is still there"
        time.sleep(0.01)  # another process's end is seen, not told


def watchers(directory: Path) -> list[psutil.Process]:
    folder = str(cluster(directory).folder)
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "app.watch" in (process.info["cmdline"] or []) and folder in process.info["cmdline"]
    ]


async def execute(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_what_was_written_is_there_at_the_next_start(directory: Path) -> None:
    first = await start_postgres(directory)
    await execute(first.dsn, "CREATE TABLE kept AS SELECT 1 AS one")
    await first.stop()
    assert server(directory) is None

    second = await start_postgres(directory)

    assert await execute(second.dsn, "SELECT one FROM kept") == 1
    assert str(await execute(second.dsn, "SHOW server_version")).startswith("18")
    await second.stop()


async def test_nobody_else_can_reach_it(directory: Path) -> None:
    postgres = await start_postgres(directory)

    assert await execute(postgres.dsn, "SHOW listen_addresses") == ""
    assert stat.S_IMODE(cluster(directory).folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(directory.stat().st_mode) & 0o066 == 0
    assert (await asyncio.to_thread(server, directory)).uids().real != 0
    await postgres.stop()


async def test_it_keeps_the_durability_of_a_real_server(directory: Path) -> None:
    postgres = await start_postgres(directory)

    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        assert await execute(postgres.dsn, f"SHOW {setting}") == "on"
    await postgres.stop()


async def test_two_processes_share_one_server_and_the_last_one_stops_it(directory: Path) -> None:
    with (
        User(directory) as first,
        User(directory) as second,
    ):  # both find nothing: one makes it, the other waits
        assert first.ready() == second.ready() != ""
        process = server(directory)
        assert process is not None

        first.leave()
        assert runs(process)
        assert len(watchers(directory)) == 1

        second.leave()
        assert not runs(process)


async def test_a_killed_process_takes_its_server_along(directory: Path) -> None:
    with User(directory) as user:
        user.ready()
        process = server(directory)
        assert process is not None

        user.kill()

        await_end(process)
        assert not cluster(directory).data.joinpath("postmaster.pid").exists()


async def test_a_killed_process_leaves_the_server_to_those_who_still_use_it(directory: Path) -> None:
    stays = await start_postgres(directory)
    with User(directory) as user:
        user.ready()

        user.kill()

        assert await execute(stays.dsn, "SELECT 1") == 1
    await stays.stop()
    assert server(directory) is None


async def test_a_server_without_a_watcher_is_adopted_and_watched_again(directory: Path) -> None:
    with User(directory) as user:
        user.ready()
        orphan = server(directory)
        for watcher in watchers(directory):
            watcher.kill()
            await_end(watcher)
        user.kill()
    assert orphan is not None
    assert runs(orphan)

    adopted = await start_postgres(directory)

    assert server(directory) == orphan
    assert len(watchers(directory)) == 1
    await adopted.stop()
    assert not runs(orphan)


async def test_a_killed_server_is_started_again(directory: Path) -> None:
    first = await start_postgres(directory)
    await execute(first.dsn, "CREATE TABLE kept AS SELECT 1 AS one")
    process = server(directory)
    assert process is not None
    children = process.children(recursive=True)
    process.kill()
    await_end(process)
    for child in children:
        await_end(child)

    second = await start_postgres(directory)

    assert await execute(second.dsn, "SELECT one FROM kept") == 1
    await first.stop()
    await second.stop()
    assert server(directory) is None


async def test_a_broken_off_initdb_leaves_nothing_in_the_way(directory: Path, reachable_folder: Path) -> None:
    programs = reachable_folder / "programs"
    programs.mkdir()
    (programs / "initdb").write_text('#!/bin/sh\nmkdir "$2"\necho 18 > "$2/PG_VERSION"\nkill -9 $$\n')
    (programs / "initdb").chmod(0o755)
    directory.mkdir(mode=0o711)
    with pytest.raises(ClusterError, match="SIGKILL"):
        replace(cluster(directory), programs=programs).create()

    postgres = await start_postgres(directory)

    assert await execute(postgres.dsn, "SELECT 1") == 1
    await postgres.stop()


async def test_a_pid_file_of_a_life_before_a_reboot_is_not_believed(directory: Path) -> None:
    first = await start_postgres(directory)
    await first.stop()
    stopped = cluster(directory)
    owner = stopped.owner.uid if stopped.owner else None
    with subprocess.Popen([program("sleep"), "60"], user=owner) as somebody_else:  # noqa: ASYNC220 - it is not awaited
        for mark in (stopped.data / "postmaster.pid", stopped.socket_folder / ".s.PGSQL.5432.lock"):
            mark.write_text(f"{somebody_else.pid}\n{stopped.data}\n0\n5432\n{stopped.socket_folder}\n\n")

        second = await start_postgres(directory)

        assert await execute(second.dsn, "SELECT 1") == 1
        await second.stop()
        somebody_else.kill()


async def test_the_folder_of_another_major_version_is_refused_with_the_reason(directory: Path) -> None:
    data = cluster(directory).data
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("16\n")

    with pytest.raises(ClusterError, match="belongs to PostgreSQL 16, not 18"):
        await start_postgres(directory)


async def test_a_failed_start_says_what_the_server_said(directory: Path) -> None:
    first = await start_postgres(directory)
    await first.stop()
    with (cluster(directory).data / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")

    with pytest.raises(ClusterError, match="no_such_setting"):
        await start_postgres(directory)


async def test_a_path_too_long_for_a_socket_gets_one_elsewhere_for_as_long_as_it_runs(
    directory: Path,
) -> None:
    deep = directory.parent / ("d" * 100) / ".carillon"

    postgres = await start_postgres(deep)

    assert await execute(postgres.dsn, "SELECT 1") == 1
    sockets = cluster(deep).socket_folder
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    await postgres.stop()
    assert not sockets.exists()


async def test_a_checkout_that_the_server_cannot_enter_keeps_its_data_elsewhere(
    directory: Path, reachable_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.cluster.STATE", reachable_folder / "state")
    directory.parent.chmod(0o700)

    postgres = await start_postgres(directory)

    assert await execute(postgres.dsn, "SELECT 1") == 1
    if os.geteuid() == 0:
        assert str(reachable_folder / "state") in postgres.dsn
        assert not (directory / "postgres").exists()
    else:  # the server runs as we do, so it can enter what we can
        assert str(directory) in postgres.dsn
    await postgres.stop()


async def test_ctrl_c_in_the_terminal_is_for_the_process_and_not_for_its_server(directory: Path) -> None:
    with User(directory) as user:
        user.ready()
        process = server(directory)
        assert process is not None

        assert os.getpgid(process.pid) != os.getpgid(user.process.pid)
        assert all(os.getpgid(watcher.pid) != os.getpgid(user.process.pid) for watcher in watchers(directory))
        user.process.send_signal(signal.SIGINT)
        user.process.communicate(timeout=30)
        await_end(process)


def test_a_secret_is_made_once_and_for_its_owner_only(directory: Path) -> None:
    secret = generated_secret(directory, "jwt_secret")

    assert len(secret) >= 43  # 256 bits in base64
    assert generated_secret(directory, "jwt_secret") == secret
    assert generated_secret(directory, "another") != secret
    assert stat.S_IMODE((directory / "jwt_secret").stat().st_mode) == 0o600
    assert sorted(file.name for file in directory.iterdir()) == ["another", "jwt_secret"]


async def test_processes_that_start_together_get_the_same_secret(directory: Path) -> None:
    secrets = await asyncio.gather(
        *(asyncio.to_thread(generated_secret, directory, "jwt_secret") for _ in range(16))
    )

    assert len(set(secrets)) == 1


def test_the_vapid_pair_is_one_pair_and_stays(directory: Path) -> None:
    keys = generated_vapid_keys(directory)

    private_key = load_pem_private_key(keys.private_key.encode(), password=None)
    assert isinstance(private_key, ec.EllipticCurvePrivateKey)
    assert private_key.curve.name == "secp256r1"
    assert len(keys.public_key) == 87  # 65 bytes in base64url
    assert generated_vapid_keys(directory) == keys
    assert "PRIVATE" not in repr(keys)
    assert stat.S_IMODE((directory / "vapid_private_key.pem").stat().st_mode) == 0o600
