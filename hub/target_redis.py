"""
Where Redis is, read from one URL.

    redis://[user:password@]host[:port][,host:port...][/db]     one server, or the seeds of a Redis Cluster
    redis+sentinel://[user:password@]host[:port],.../master[/db]   the master of that name, as Sentinel knows it
    unix:///path/to/socket[?db=0]                               a local socket

`rediss://` and `rediss+sentinel://` speak TLS. Options, as query parameters: `ssl_ca_certs`, `ssl_certfile`,
`ssl_keyfile` (paths), `ssl_cert_reqs=none` (no verification), `ssl_check_hostname=false`, and for Sentinels
that want a login of their own `sentinel_username`, `sentinel_password`.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """One server: a host and port, or the path of a local socket."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Login:
    """Who we are to a server. An empty password means that it wants none."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Tls:
    """How the server proves itself, and we to it. Paths of PEM files; empty: the system's roots, no client key."""

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    verify: bool = True
    check_hostname: bool = True

    def context(self) -> ssl.SSLContext:
        """Raises OSError or ssl.SSLError when a file cannot be read."""
        context = ssl.create_default_context(cafile=self.ca_file or None)
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file or None)
        if not self.verify or not self.check_hostname:
            context.check_hostname = False
        if not self.verify:
            context.verify_mode = ssl.CERT_NONE
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One Redis: its servers (or its Sentinels), our login, the database and TLS."""

    servers: tuple[Address, ...]
    login: Login = Login()
    database: int = 0
    tls: Tls | None = None
    master: str = ""  # the name Sentinel knows it by; empty: `servers` are Redis itself
    sentinel_login: Login = Login()

    def __str__(self) -> str:
        """For logs: names no secret."""
        servers = ",".join(map(str, self.servers))
        return f"{servers}/{self.master}" if self.master else servers


def target(url: str) -> Target:
    """
    Read a Redis URL.

    Raises ValueError with a reason that never repeats the URL, which may hold a password.
    """
    try:
        parts = urlsplit(url)
        options = {
            name: values[-1]
            for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()
        }
        scheme, _, kind = parts.scheme.partition("+")
        if scheme == "unix" and not kind:
            return _local(parts, options)
        if scheme not in ("redis", "rediss") or kind not in ("", "sentinel"):
            raise ValueError("a Redis URL begins with redis://, rediss://, redis+sentinel:// or unix://")
        return _remote(parts, options, tls=scheme == "rediss", sentinel=kind == "sentinel")
    except ValueError as error:
        reason = (
            str(error)
            if str(error).startswith("a Redis URL")
            else "a Redis URL looks like redis://host:6379/0"
        )
        raise ValueError(reason) from None


def _local(parts: SplitResult, options: dict[str, str]) -> Target:
    login, _ = _login(parts.netloc)
    return Target(
        servers=(Address("", 0, unquote(parts.path)),), login=login, database=int(options.get("db", "0"))
    )


def _remote(parts: SplitResult, options: dict[str, str], *, tls: bool, sentinel: bool) -> Target:
    login, hosts = _login(parts.netloc)
    path = [unquote(part) for part in parts.path.split("/") if part]
    master = path.pop(0) if sentinel and path else ""
    if sentinel and not master:
        raise ValueError("a Redis URL with +sentinel ends with the name of the master")
    if len(path) > 1:
        raise ValueError("a Redis URL has one database number after its hosts")
    default = DEFAULT_SENTINEL_PORT if sentinel else DEFAULT_PORT
    return Target(
        servers=tuple(_address(host, default) for host in hosts.split(",")),
        login=login,
        database=int(path[0] if path else options.get("db", "0")),
        tls=_tls(options) if tls else None,
        master=master,
        sentinel_login=Login(options.get("sentinel_username", ""), options.get("sentinel_password", "")),
    )


def _login(netloc: str) -> tuple[Login, str]:
    """The login and the hosts of a URL's authority part."""
    credentials, _, hosts = netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    return Login(unquote(username), unquote(password)), hosts


def _address(host: str, default_port: int) -> Address:
    """`host`, `host:port` or `[v6]:port`."""
    parts = urlsplit(f"//{host}")
    return Address(parts.hostname or "localhost", parts.port or default_port)


def _tls(options: dict[str, str]) -> Tls:
    return Tls(
        ca_file=options.get("ssl_ca_certs", ""),
        cert_file=options.get("ssl_certfile", ""),
        key_file=options.get("ssl_keyfile", ""),
        verify=options.get("ssl_cert_reqs", "required").lower() not in ("none", "0"),
        check_hostname=options.get("ssl_check_hostname", "true").lower() not in ("false", "no", "0"),
    )
