"""
Reads the environment once and fills each package's own settings struct.

Every field of those structs is a variable: its name is the field's, upper case, behind the section's
prefix, unless the section names it otherwise. docs/settings.md is generated from the same sections.
"""

from __future__ import annotations

import dataclasses
import json
import re
import socket
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from app.api.services import ApiSettings
from app.http_protocol import HttpLimits
from app.jwks import JwksSettings
from core.database import DatabaseSettings
from core.identity import TokenSettings, is_user_id
from core.keys import SECRET_MIN_BYTES
from core.plugins import GROUP, installed
from core.vault import read_keys
from delivery.addresses import normalise
from delivery.breaker import BreakerSettings
from delivery.broadcasts_store import BroadcastSettings
from delivery.budget_store import BudgetSettings
from delivery.channel import PROVIDER_CHANNELS
from delivery.channels import ChannelSettings
from delivery.channels.email import EmailSettings
from delivery.channels.simulator import SimulatorSettings
from delivery.channels.sms import SmsSettings
from delivery.channels.telegram import TelegramSettings
from delivery.channels.twilio import TwilioSettings
from delivery.channels.webhook import WebhookSettings
from delivery.channels.whatsapp import WhatsAppSettings
from delivery.composing import LinkSettings
from delivery.conclusion import RetrySettings
from delivery.connections_store import ConnectionLogSettings
from delivery.hooks import HookSettings
from delivery.ingest import IngestSettings
from delivery.jobs import JobsSettings
from delivery.plugins import BadPlugin, plugin, settings_of
from delivery.routing import AlertSettings
from delivery.sandbox import SandboxSettings
from delivery.verification_store import VerificationSettings
from delivery.worker import WorkerSettings
from digest.store import DigestSettings
from hub.broker_redis import RedisSettings
from hub.channels import Channels, Namespace
from hub.endpoint import EndpointSettings
from hub.hub import HubSettings
from hub.limits import LimitSettings, Rate
from hub.node import NodeSettings
from hub.presence import PresenceSettings
from hub.session import SessionSettings
from hub.target_redis import target
from hub.transport import WireSettings
from push.keys import PushSettings, is_local
from push.sender import SenderSettings

S = TypeVar("S")

Role = Literal["web", "worker", "scheduler"]
ROLES: tuple[Role, ...] = ("web", "worker", "scheduler")


class BadSetting(ValueError):
    """A variable whose value cannot be used; names the variable, never the value of a secret."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem}")
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSettings:
    """The process itself."""

    env: Literal["development", "production"] = (
        "development"  # production refuses what is made for a first try
    )
    host: str = "127.0.0.1"
    port: int = 8003  # 0: any free one, printed at the start
    internal_port: int | None = None  # /internal and /metrics on a listener of their own; None: on the same
    roles: frozenset[str] = frozenset(ROLES)
    workers: int = 1  # web processes on the port; several need REDIS_URL
    senders: int = 0  # processes that only deliver; 0: whoever has the role worker does
    sender_nice: int = (
        10  # how far those give way to the others for processor time: 0 not at all, 19 furthest
    )
    sender_connections: int = 1  # of each to the database: more send faster, and slow live connections more
    node: str = field(default_factory=socket.gethostname)  # the node's name in logs and on status pages
    migrate: bool = True  # bring the database to this version's schema at the start
    state: Path = Path(".carillon")  # generated keys and the embedded database
    drain: timedelta = timedelta(seconds=10)  # over which connections are sent elsewhere at the end
    shutdown: timedelta = timedelta(seconds=15)  # for requests under way, after the drain
    send_buffer_bytes: int = (
        256 * 1024
    )  # the kernel's, of each connection: what a client that never reads may hold
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "text"
    forwarded_from: str = "127.0.0.1"  # proxies whose X-Forwarded-For counts, comma-separated; "*": any
    failpoints: frozenset[str] = frozenset()  # named faults of test builds; refused in production


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretSettings:
    """What opens doors: keys, and the addresses of the database, of Redis and of an issuer's keys."""

    jwt_secret_key: str | None = field(default=None, repr=False)  # HMAC; generated once in development
    jwt_algorithm: Literal["HS256", "HS384", "HS512"] = "HS256"  # of JWT_SECRET_KEY
    redis_url: str | None = field(
        default=None, repr=False
    )  # redis://, rediss:// (TLS), redis+sentinel://, unix://; several hosts: the seeds of a cluster
    database_url: str | None = field(default=None, repr=False)  # postgresql://; None: the embedded PostgreSQL
    delivery_encryption_keys: str | None = field(
        default=None, repr=False
    )  # id:base64 of 32 bytes, comma-separated, the newest first: seal addresses and secrets at rest
    jwks_url: str | None = None  # public keys of an issuer: RS256, ES256, EdDSA


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything, read."""

    process: ProcessSettings
    secrets: SecretSettings
    database: DatabaseSettings
    redis: RedisSettings | None
    tokens: TokenSettings
    jwks: JwksSettings | None
    hub: HubSettings
    node: NodeSettings
    session: SessionSettings
    limits: LimitSettings
    wire: WireSettings
    http: HttpLimits
    endpoint: EndpointSettings
    channels: Channels
    ingest: IngestSettings
    jobs: JobsSettings
    api: ApiSettings
    connections: ConnectionLogSettings
    presence: PresenceSettings
    alerts: AlertSettings
    worker: WorkerSettings
    retries: RetrySettings
    breaker: BreakerSettings
    budget: BudgetSettings
    digest: DigestSettings
    links: LinkSettings
    sms: SmsSettings
    whatsapp: WhatsAppSettings
    telegram: TelegramSettings
    hooks: HookSettings
    simulator: SimulatorSettings
    email: EmailSettings
    webhook: WebhookSettings
    codes: VerificationSettings
    broadcasts: BroadcastSettings
    sandbox: SandboxSettings
    push: PushSettings
    pushing: SenderSettings
    plugins: Mapping[str, Mapping[str, str]] = field(
        default_factory=dict, repr=False
    )  # by channel: its variables

    @property
    def ways(self) -> ChannelSettings:
        """Of every way out."""
        return ChannelSettings(
            email=self.email,
            sms=self.sms,
            whatsapp=self.whatsapp,
            telegram=self.telegram,
            webhook=self.webhook,
            simulator=self.simulator,
            plugins=self.plugins,
        )

    @property
    def production(self) -> bool:
        return self.process.env == "production"


class Section(NamedTuple):
    """One struct and its variables."""

    struct: type[Any]
    prefix: str
    names: Mapping[str, str] = {}  # of fields whose variables are called otherwise
    fixed: Collection[str] = ()  # fields that come from elsewhere


SECTIONS = (
    Section(
        ProcessSettings,
        "HUB_",
        {
            "env": "CARILLON_ENV",
            "host": "HOST",
            "port": "PORT",
            "state": "CARILLON_STATE",
            "roles": "CARILLON_ROLES",
            "workers": "CARILLON_WORKERS",
            "senders": "CARILLON_SENDERS",
            "sender_nice": "CARILLON_SENDER_NICE",
            "sender_connections": "CARILLON_SENDER_CONNECTIONS",
            "node": "CARILLON_NODE",
            "log_level": "LOG_LEVEL",
            "log_format": "LOG_FORMAT",
        },
    ),
    Section(SecretSettings, ""),
    Section(DatabaseSettings, "HUB_DATABASE_", fixed=("url",)),
    Section(RedisSettings, "HUB_REDIS_", fixed=("url",)),
    Section(TokenSettings, "JWT_", {"audiences": "JWT_AUDIENCE"}),
    Section(JwksSettings, "JWKS_", fixed=("url",)),
    Section(HubSettings, "HUB_"),
    Section(NodeSettings, "HUB_"),
    Section(SessionSettings, "HUB_", {"channels": "HUB_CHANNELS_PER_CONNECTION"}, fixed=("heartbeat_ms",)),
    Section(
        LimitSettings,
        "HUB_",
        {
            "messages": "HUB_MESSAGE_RATE",
            "handshakes": "HUB_HANDSHAKE_RATE",
            "connections_per_address": "HUB_CONNECTIONS_PER_IP",
            "silent_per_address": "HUB_SILENT_PER_IP",
        },
        fixed=("channels_per_connection",),
    ),
    Section(WireSettings, "HUB_", fixed=("max_message_bytes",)),
    Section(HttpLimits, "HUB_HTTP_"),
    Section(EndpointSettings, "HUB_", fixed=("any_origin",)),
    Section(IngestSettings, "HUB_INGEST_", fixed=("failpoints",)),
    Section(JobsSettings, "HUB_", fixed=("idempotency_life",)),
    Section(ConnectionLogSettings, "HUB_CONNECTION_", {"share": "HUB_CONNECTION_HISTORY"}),
    Section(PresenceSettings, "HUB_PRESENCE_", fixed=("renew_interval",)),
    Section(WorkerSettings, "DELIVERY_"),
    Section(RetrySettings, "DELIVERY_"),
    Section(BreakerSettings, "DELIVERY_BREAKER_"),
    Section(BudgetSettings, "DELIVERY_"),
    Section(DigestSettings, "DIGEST_"),
    Section(
        LinkSettings,
        "HUB_",
        {"site_url": "DELIVERY_SITE_URL", "preferences_life": "DELIVERY_PREFERENCES_LINK_LIFE"},
    ),
    Section(ApiSettings, "HUB_", {"push_test_rate": "PUSH_TEST_RATE"}, fixed=("version",)),
    Section(
        AlertSettings,
        "DELIVERY_ALERT_",
        {
            "channels": "NOTIFICATION_CHANNELS",
            "whatsapp_to": "WHATSAPP_TO",
            "telegram_chat_id": "TELEGRAM_CHAT_ID",
        },
    ),
    Section(TwilioSettings, "TWILIO_"),
    Section(SmsSettings, "SMS_", fixed=("twilio",)),
    Section(WhatsAppSettings, "WHATSAPP_", {"from_": "WHATSAPP_FROM"}, fixed=("twilio",)),
    Section(TelegramSettings, "TELEGRAM_"),
    Section(EmailSettings, ""),
    Section(WebhookSettings, "DELIVERY_WEBHOOK_"),
    Section(VerificationSettings, "DELIVERY_CODE_"),
    Section(BroadcastSettings, "DELIVERY_BROADCAST_", {"timezone": "DELIVERY_TIMEZONE"}),
    Section(SandboxSettings, "DELIVERY_"),
    Section(
        PushSettings,
        "PUSH_",
        {
            "vapid_public_key": "VAPID_PUBLIC_KEY",
            "vapid_private_key": "VAPID_PRIVATE_KEY",
            "vapid_email": "VAPID_EMAIL",
        },
    ),
    Section(SenderSettings, "PUSH_"),
    Section(HookSettings, ""),
    Section(SimulatorSettings, "DELIVERY_SIMULATOR_", {"channels": "DELIVERY_SIMULATE"}),
)


def read(environment: Mapping[str, str], *, version: str = "0") -> Settings:
    """
    The settings of this process. Unknown variables are nobody's business; empty ones count as absent.

    Raises BadSetting for the first value that cannot be used.
    """
    given = {name: value.strip() for name, value in environment.items() if value.strip()}
    process = _fill(ProcessSettings, given)
    secrets = _fill(SecretSettings, given)
    _check(process, secrets)
    _check_redis(secrets.redis_url)
    _check_keys(secrets.delivery_encryption_keys)
    node = _fill(NodeSettings, given)
    limits = _fill(LimitSettings, given)
    ingest = _fill(IngestSettings, given, failpoints=process.failpoints)
    twilio = _fill(TwilioSettings, given)
    simulator = _fill(SimulatorSettings, given)
    if simulator.channels and process.env == "production":
        raise BadSetting("DELIVERY_SIMULATE", "sends nothing: it is not for production")
    webhook = _fill(WebhookSettings, given)
    if webhook.private and process.env == "production":
        raise BadSetting(
            "DELIVERY_WEBHOOK_PRIVATE", "lets strangers reach this network: it is not for production"
        )
    push = _fill(PushSettings, given)
    if process.env == "production":
        _check_push(push)
    alerts = _fill(AlertSettings, given)
    _check_alerts(alerts)
    return Settings(
        plugins=_plugins(given),
        process=process,
        secrets=secrets,
        database=_fill(DatabaseSettings, given, url=secrets.database_url or ""),
        redis=_fill(RedisSettings, given, url=secrets.redis_url) if secrets.redis_url else None,
        tokens=_fill(TokenSettings, given),
        jwks=_fill(JwksSettings, given, url=secrets.jwks_url) if secrets.jwks_url else None,
        hub=_fill(HubSettings, given),
        node=node,
        session=_fill(SessionSettings, given, heartbeat_ms=round(node.ping_interval.total_seconds() * 1000)),
        limits=limits,
        wire=_fill(WireSettings, given, max_message_bytes=limits.frame_bytes),
        http=_fill(HttpLimits, given),
        endpoint=_fill(EndpointSettings, given, any_origin=process.env == "development"),
        channels=_channels(given.get("HUB_CHANNELS")),
        ingest=ingest,
        jobs=_fill(JobsSettings, given, idempotency_life=ingest.key_life),
        api=_fill(ApiSettings, given, version=version),
        connections=_fill(ConnectionLogSettings, given),
        presence=_fill(PresenceSettings, given, renew_interval=node.presence_interval),
        worker=_fill(WorkerSettings, given),
        retries=_fill(RetrySettings, given),
        breaker=_fill(BreakerSettings, given),
        budget=_fill(BudgetSettings, given),
        digest=_fill(DigestSettings, given),
        links=_fill(LinkSettings, given),
        codes=_fill(VerificationSettings, given),
        broadcasts=_fill(BroadcastSettings, given),
        sandbox=_fill(SandboxSettings, given),
        push=push,
        pushing=_fill(SenderSettings, given),
        alerts=alerts,
        sms=_fill(SmsSettings, given, twilio=twilio),
        whatsapp=_fill(WhatsAppSettings, given, twilio=twilio),
        telegram=_fill(TelegramSettings, given),
        hooks=_fill(HookSettings, given),
        simulator=simulator,
        email=_fill(EmailSettings, given),
        webhook=webhook,
    )


def variables() -> Iterator[tuple[Section, dataclasses.Field[Any], str]]:
    """Every variable with the field it fills; for the docs and for `doctor`."""
    for section in SECTIONS:
        for one in dataclasses.fields(section.struct):
            if one.name not in section.fixed:
                yield section, one, variable(section, one.name)


def variable(section: Section, name: str) -> str:
    return section.names.get(name, section.prefix + name.upper())


def _check(process: ProcessSettings, secrets: SecretSettings) -> None:
    if process.port > 65535:
        raise BadSetting("PORT", "must be 0-65535")
    if process.internal_port is not None and (
        not 0 < process.internal_port < 65536 or process.internal_port == process.port
    ):
        raise BadSetting("HUB_INTERNAL_PORT", "must be 1-65535 and another than PORT")
    scheme = (secrets.database_url or "postgresql://").partition("://")[0].partition("+")[0]
    if scheme not in ("postgresql", "postgres"):
        raise BadSetting("DATABASE_URL", "must begin with postgresql://")
    unknown = process.roles - set(ROLES)
    if unknown or not process.roles:
        raise BadSetting("CARILLON_ROLES", f"must be some of {', '.join(ROLES)}")
    if process.workers < 1:
        raise BadSetting("CARILLON_WORKERS", "must be 1 or more")
    if process.workers > 1 and not secrets.redis_url:
        raise BadSetting(
            "CARILLON_WORKERS",
            "several processes need REDIS_URL: without it, what one is told would not reach the others' clients at once",
        )
    if process.senders and "worker" not in process.roles:
        raise BadSetting("CARILLON_SENDERS", "needs the role worker in CARILLON_ROLES")
    if not 0 <= process.sender_nice <= 19:
        raise BadSetting("CARILLON_SENDER_NICE", "must be 0 to 19")
    if process.sender_connections < 1:
        raise BadSetting("CARILLON_SENDER_CONNECTIONS", "must be 1 or more")
    if process.env != "production":
        return
    if secrets.jwt_secret_key is None and secrets.jwks_url is None:
        raise BadSetting("JWT_SECRET_KEY", "must be given in production (or JWKS_URL): no key is generated")
    if secrets.jwt_secret_key is not None and len(secrets.jwt_secret_key.encode()) < SECRET_MIN_BYTES:
        raise BadSetting("JWT_SECRET_KEY", f"must have at least {SECRET_MIN_BYTES} bytes in production")
    if secrets.database_url is None:
        raise BadSetting(
            "DATABASE_URL", "must be given in production: the embedded database is for a first try"
        )
    if process.failpoints:
        raise BadSetting("HUB_FAILPOINTS", "is for test builds, not for production")
    if secrets.delivery_encryption_keys is None:
        raise BadSetting(
            "DELIVERY_ENCRYPTION_KEYS",
            "must be given in production: without it stored addresses cannot be opened again",
        )


def _check_keys(text: str | None) -> None:
    try:
        read_keys(text) if text is not None else None
    except ValueError as error:  # one of its own sentences
        raise BadSetting("DELIVERY_ENCRYPTION_KEYS", str(error)) from None


def _plugins(given: Mapping[str, str]) -> dict[str, Mapping[str, str]]:
    """The variables of each channel that somebody else has written."""
    try:
        return {name: settings_of(name, given) for name in installed() if plugin(name) is not None}
    except BadPlugin as error:
        raise BadSetting(GROUP, str(error)) from error


def _check_alerts(alerts: AlertSettings) -> None:
    if not alerts.channels <= set(PROVIDER_CHANNELS):
        raise BadSetting("NOTIFICATION_CHANNELS", f"must be some of {', '.join(PROVIDER_CHANNELS)}")
    if not is_user_id(alerts.recipient):
        raise BadSetting("DELIVERY_ALERT_RECIPIENT", "must be 1-255 printable characters")
    names = {"whatsapp": "WHATSAPP_TO", "telegram": "TELEGRAM_CHAT_ID"}
    for channel, value in alerts.addresses.items():
        try:
            normalise(channel, value)
        except ValueError as error:  # one of its own sentences: it does not repeat the address
            raise BadSetting(names[channel], str(error)) from None


def _check_push(push: PushSettings) -> None:
    if push.subject is not None and is_local(push.subject):
        raise BadSetting("VAPID_EMAIL", "must be of a public domain in production: Apple refuses any other")
    if push.resolve:
        raise BadSetting("PUSH_RESOLVE", "sends messages to other machines: it is not for production")


def _check_redis(url: str | None) -> None:
    try:
        target(url or "redis://")
    except ValueError as error:  # one of its own sentences: the address may hold a password
        raise BadSetting("REDIS_URL", str(error)) from None


#: Longer than anything here lasts: a hundred years.
_LONGEST_S = 3_155_760_000

#: Where 0 would mean work without a pause, or none at all.
_ABOVE_ZERO = frozenset(
    {
        "DELIVERY_ACCOUNTS_INTERVAL",
        "DELIVERY_BROADCAST_INTERVAL",
        "DELIVERY_EXPIRY_INTERVAL",
        "DELIVERY_POLL",
        "DIGEST_TICK",
        "DELIVERY_WEBHOOK_CONCURRENCY",
        "DELIVERY_WEBHOOK_RATE",
        "DELIVERY_WEBHOOK_TIMEOUT",
        "EMAIL_CONCURRENCY",
        "EMAIL_RATE",
        "EMAIL_TIMEOUT",
        "HUB_AUDIT_BATCH",
        "HUB_AUDIT_INTERVAL",
        "HUB_AUDIT_SHARE",
        "HUB_CONNECTION_INTERVAL",
        "HUB_DATABASE_ACQUIRE_TIMEOUT",
        "HUB_DATABASE_CONNECTIONS",
        "HUB_DATABASE_DEADLINE",
        "HUB_INGEST_BATCH_LIMIT",
        "HUB_INGEST_PATIENCE",
        "HUB_PING_INTERVAL",
        "HUB_PRESENCE_INTERVAL",
        "HUB_REDIS_BATCH",
        "HUB_REDIS_BEAT_INTERVAL",
        "HUB_RETENTION_BATCH",
        "HUB_SCHEDULER_BATCH",
        "HUB_SCHEDULER_TICK",
        "HUB_SWEEP_INTERVAL",
        "JWKS_REFRESH",
        "PUSH_BATCH_KEY",
        "PUSH_TIMEOUT",
        "PUSH_CONNECT_TIMEOUT",
        "PUSH_IDLE",
    }
)


def _fill(struct: type[S], given: Mapping[str, str], **known: Any) -> S:
    section = next(section for section in SECTIONS if section.struct is struct)
    hints = get_type_hints(struct)
    values = dict(known)
    used = ""
    for one in dataclasses.fields(struct):  # type: ignore[arg-type]  # every struct of SECTIONS is a dataclass
        if one.name in section.fixed:
            continue
        name = variable(section, one.name)
        if name in given:
            used = used or name
            try:
                values[one.name] = _parse(hints[one.name], given[name])
            except ValueError as error:
                raise BadSetting(name, str(error)) from None
            if name in _ABOVE_ZERO and not values[one.name]:
                raise BadSetting(name, "must be above zero")
    try:
        return struct(**values)
    except ValueError as error:
        raise _bad(used or f"{section.prefix}*", str(error)) from None


def _bad(name: str, problem: str) -> BadSetting:
    """name: of a variable of the struct that was refused; a sentence that begins with another blames that one."""
    blamed = re.match(r"([A-Z][A-Z0-9]*_[A-Z0-9_]+):? (.+)", problem, re.DOTALL)
    return BadSetting(blamed[1], blamed[2]) if blamed else BadSetting(name, problem)


def _parse(kind: Any, text: str) -> Any:
    """Raises ValueError that says what was expected; never repeats the text, which may be a secret."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (types.UnionType, Union):  # X | None: absence is the only way to None
        return _parse(next(one for one in arguments if one is not type(None)), text)
    if origin is Literal:
        if text not in arguments:
            raise ValueError(f"must be one of {', '.join(arguments)}")
        return text
    if origin in (frozenset, set, tuple) or (origin is not None and issubclass(origin, Collection)):
        return frozenset(part.strip() for part in text.split(",") if part.strip())
    parser = _PARSERS.get(kind)
    if parser is None:
        raise AssertionError(f"no parser for {kind}")
    return parser(text)


def _integer(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ValueError("must be a whole number") from None
    if value < 0:
        raise ValueError("must not be negative")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("must be a number") from None
    if not 0 <= value < float("inf"):
        raise ValueError("must be a number, not negative")
    return value


def _seconds(text: str) -> timedelta:
    value = _number(text)
    if value > _LONGEST_S:
        raise ValueError(f"must be at most {_LONGEST_S} seconds")
    return timedelta(seconds=value)


def _boolean(text: str) -> bool:
    words = {
        "on": True,
        "true": True,
        "yes": True,
        "1": True,
        "off": False,
        "false": False,
        "no": False,
        "0": False,
    }
    try:
        return words[text.lower()]
    except KeyError:
        raise ValueError("must be on or off") from None


def _rate(text: str) -> Rate:
    per_second, slash, burst = text.partition("/")
    if not slash:
        raise ValueError("must be <per second>/<burst>, as in 20/60")
    return Rate(_number(per_second), burst=_number(burst))


_PARSERS: Mapping[Any, Callable[[str], Any]] = {
    str: str,
    int: _integer,
    float: _number,
    bool: _boolean,
    Path: Path,
    Rate: _rate,
    timedelta: _seconds,
}


def _channels(text: str | None) -> Channels:
    """{"default": {…}, "<namespace>": {"subscribe": "everyone|services|nobody", "publish": …, "owner_only": bool}}"""
    if text is None:
        return Channels()
    try:
        given = json.loads(text)
        rules = {name: Namespace(**rule) for name, rule in given.items()}
    except (ValueError, TypeError, AttributeError):
        raise BadSetting("HUB_CHANNELS", "must be a JSON object of namespaces (docs/settings.md)") from None
    for name, rule in rules.items():
        for who in (rule.subscribe, rule.publish):
            if who not in ("everyone", "services", "nobody"):
                raise BadSetting("HUB_CHANNELS", f"{name}: must be everyone, services or nobody")
    return Channels(default=rules.pop("default", Namespace()), namespaces=rules)
