"""
The composition root: settings in, started parts out. What is opened here is closed here, in reverse order.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import aiohttp
import structlog
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import ASGIApp

from app.alerting import alerting, know_operators
from app.api import checks, routes
from app.api.application import make_app
from app.api.checks import Health
from app.api.metrics import Metrics
from app.api.services import Services
from app.api.throttle import Throttle
from app.authentication import Authentication, RevocationFeed
from app.console import console_routes
from app.delivering import delivering
from app.jwks import PublishedKeys
from app.migrate import migrate, pending
from app.own_tokens import own_token
from app.pushing import Pushing, open_push
from app.settings import BadSetting, Settings
from app.working import worker
from core.clock import SystemClock
from core.database import Database, open_database
from core.identity import Identity, Verifier
from core.keys import Key, KeySet
from core.locale import TZDATA
from core.plugins import GROUP
from core.revocation import Revocations
from core.vault import SealBroken, Vault, read_keys
from delivery.accounts_store import Accounts
from delivery.api_keys_store import ApiKeys
from delivery.channel import Channel
from delivery.channels import channels, close
from delivery.channels.push import PushProvider
from delivery.channels.simulator import SimulatedReceipt
from delivery.channels.telegram_webhook import TelegramWebhook
from delivery.connections_store import ConnectionLog, PastConnection
from delivery.hooks import hooks
from delivery.inbox import PostgresInbox
from delivery.ingest import Ingest
from delivery.jobs import Jobs
from delivery.plugins import BadPlugin
from delivery.receipts import Receipt
from delivery.receipts_store import Receipts
from delivery.recipients_store import RecipientSettings
from delivery.revocations_store import RevocationStore
from delivery.sandbox import may_start, sandboxed
from delivery.store import Notifications
from delivery.telemetry import DeliveryEvents, QueueDepth
from delivery.tickets_store import Tickets
from delivery.worker import Worker
from digest.job import DigestJob
from digest.rendering import words
from digest.schedule import DigestTicker
from digest.store import Digests
from hub.broker import Broker, MemoryBroker
from hub.broker_redis import RedisBroker
from hub.endpoint import Endpoint
from hub.envelope import Envelope, Seal
from hub.history_postgres import PostgresHistory, envelope_key
from hub.hub import Hub
from hub.node import Ended, Node
from hub.peers import NodeStatus, Peers
from hub.presence import MemoryPresence, Presence
from hub.presence_redis import RedisPresence

log = structlog.stdlib.get_logger("app.build")

#: What the processes of a cluster say to each other when there are deliveries to carry out.
WORK = "deliveries"

#: How long a token of the demo page lives.
DEMO_TOKEN_LIFE = timedelta(hours=12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A started node."""

    public: ASGIApp
    internal: ASGIApp | None  # /internal and /metrics, where they have a listener of their own
    drain: Callable[[], Awaitable[None]]  # send the clients elsewhere


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """
    One process of a node with the roles that the settings give it.

    Raises ServiceError (unavailable) when the database is away.
    """
    async with AsyncExitStack() as stack:
        yield await _build(settings, stack)


async def _build(settings: Settings, stack: AsyncExitStack) -> Running:
    clock = SystemClock()
    if settings.process.migrate:
        applied = await migrate(settings.database.url)
        if applied:
            log.info("migrated", revisions=applied)
    database = await open_database(settings.database)
    stack.push_async_callback(database.close)
    if settings.production:
        await _refuse_forgetful(database)
    # The worker bounds the calls of each provider; no provider's cookie is carried from one person to the next.
    http = await stack.enter_async_context(
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        )
    )
    vault = Vault(read_keys(settings.secrets.delivery_encryption_keys or ""))
    history = PostgresHistory(database, synchronous_failover=settings.hub.synchronous_failover)
    broker, presence = _fan_out(settings, clock)

    metrics = Metrics()
    peers: Peers
    feed: RevocationFeed

    at_work: list[Worker] = []

    def on_control(envelope: Envelope) -> None:
        peers.on_control(envelope)
        feed.on_control(envelope)
        if envelope.name == WORK:
            for one in at_work:
                one.wake()

    def wake() -> None:
        hub.publish_control("", WORK, b"")

    hub = Hub(
        node=f"{settings.process.node}-{secrets.token_hex(4)}",
        history=history,
        broker=broker,
        seal=Seal(await envelope_key(database)),
        clock=clock,
        settings=settings.hub,
        on_control=on_control,
        on_latency=metrics.delivery_latency.observe,
    )
    inbox = PostgresInbox(database, hub)
    verifier = Verifier(_own_keys(settings), settings.tokens, Revocations())
    api_keys, tickets = ApiKeys(database, clock), Tickets(database)
    authentication = Authentication(
        verifier=verifier,
        verify=await _verify(settings, verifier, clock, http, stack),
        api_keys=api_keys,
        tickets=tickets,
        clock=clock,
    )
    past = ConnectionLog(database, clock, settings.connections)
    await past.start()
    stack.push_async_callback(past.close)
    node = Node(
        hub=hub,
        inbox=inbox,
        clock=clock,
        authenticate=authentication.authenticate,
        redeem=authentication.redeem,
        is_revoked=authentication.is_revoked,
        presence=presence,
        on_ended=lambda ended: _record(ended, hub.node, metrics, past),
        settings=settings.node,
        limits=settings.limits,
        channels=settings.channels,
        session_settings=settings.session,
    )
    peers = Peers(lambda: _status(hub, node), hub.publish_control, clock)
    revocations = RevocationStore(database)
    feed = RevocationFeed(
        store=revocations,
        verifier=verifier,
        clock=clock,
        announce=hub.publish_control,
        on_change=node.close_revoked,
    )
    await hub.start()
    stack.push_async_callback(hub.close)
    node.start()
    stack.push_async_callback(node.close)
    await feed.read()
    events, depth = DeliveryEvents(clock), QueueDepth(Accounts(database), clock)
    metrics.read_deliveries(events, depth.read)
    push = await _open_push(settings, database, vault, clock, stack)
    _go_on(stack, push.follow_keys(clock))
    metrics.read_pushes(lambda: push.sender.stats, lambda: push.sender.guard.blocked)
    ways = await open_channels(
        settings, database, vault, http, clock, wake, stack, events, push=push.provider
    )
    ingest = Ingest(database, hub, clock, settings.ingest, wake=wake)
    await ingest.start()
    stack.push_async_callback(ingest.close)
    _go_on(stack, feed.run())
    _go_on(stack, peers.run())
    digests = Digests(database, settings.digest)
    digest_job = DigestJob(
        database,
        digests,
        hub,
        words,
        clock,
        settings.digest,
        wake=wake,
        on_lateness=metrics.digest_lateness.observe,
        looking=presence.looking,
    )
    if "scheduler" in settings.process.roles:
        jobs = Jobs(
            database,
            hub,
            clock,
            settings.jobs,
            wake=wake,
            prune=push.prune,
            prune_digests=lambda limit: digests.prune(limit, settings.jobs.retention_days),
        )
        _go_on(stack, jobs.run())
        _go_on(stack, DigestTicker(digest_job, settings.digest).run())
        _watch_jobs(metrics, jobs)
        _watch_digests(metrics, digest_job)

    if "worker" in settings.process.roles:
        at_work.append(
            worker(settings, database, vault, ways, events, clock, presence.looking, inbox.unread_counts)
        )
        _go_on(stack, depth.run())
        _go_on(stack, at_work[0].run())

    _watch(metrics, hub, node, ingest)
    metrics.say("digest_time_zone_data", "The time zone data by which digests are computed.", version=TZDATA)
    given = hooks(settings.links.public_url, settings.sms.twilio, settings.telegram, settings.hooks)
    delivery = delivering(
        database,
        hub,
        vault,
        clock,
        push=push,
        links=settings.links,
        alerting=alerting(settings.alerts),
        addresses=RecipientSettings(webhook_http=settings.webhook.http),
        codes=settings.codes,
        broadcasts=settings.broadcasts,
        hooks=given,
        telegram_webhook=TelegramWebhook(settings.telegram, given, http),
        retries=settings.retries,
        events=events,
        channels=ways,
        wake=wake,
        is_sandbox=settings.sandbox.is_on,
    )
    await know_operators(delivery.recipients, settings.alerts)
    services = Services(
        settings=settings.api,
        clock=clock,
        authenticate=authentication.authenticate,
        ingest=ingest,
        notifications=Notifications(database, hub, wake=wake),
        inbox=inbox,
        tickets=tickets,
        api_keys=api_keys,
        revocations=revocations,
        announce=feed.announce,
        publisher=hub,
        node=node,
        peers=peers,
        presence=presence,
        delivery=delivery,
        digests=digests,
        digest_job=digest_job,
        push_tests=Throttle(settings.api.push_test_rate, clock, holds_services=True),
        health=Health(
            [
                checks.database(database),
                checks.broker(broker),
                checks.epoch(history, lambda: hub.epoch),
                checks.migrations(lambda: pending(settings.database.url)),
            ],
            clock,
        ),
        metrics=metrics,
    )
    return _applications(settings, services, node)


def _applications(settings: Settings, services: Services, node: Node) -> Running:
    """What is served on which listener, by the roles of this process."""
    if "web" not in settings.process.roles:
        return Running(public=make_app(services, routes.watching()), internal=None, drain=_nothing)
    endpoint = Endpoint(node, settings.endpoint)
    before: list[BaseRoute] = [WebSocketRoute("/ws/notify", endpoint.__call__)]
    after = console_routes(_demo_tokens(settings))
    apart = settings.process.internal_port is not None
    public = routes.public() if apart else routes.everything()
    return Running(
        public=make_app(services, public, before=before, after=after),
        internal=make_app(services, routes.internal()) if apart else None,
        drain=lambda: node.drain(settings.process.drain),
    )


async def _refuse_forgetful(database: Database) -> None:
    """Raises BadSetting for a PostgreSQL that acknowledges what it may lose in a crash."""
    async with database.connection() as connection:
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            if await connection.fetchval("SELECT current_setting($1)", name) == "off":
                raise BadSetting(
                    "DATABASE_URL", f"this PostgreSQL runs with {name}=off and may lose what it acknowledged"
                )


async def _nothing() -> None:
    return


def _fan_out(settings: Settings, clock: SystemClock) -> tuple[Broker, Presence]:
    if settings.redis is None:
        return MemoryBroker(), MemoryPresence(settings.presence, clock)
    broker = RedisBroker(settings.redis)
    return broker, RedisPresence(broker, settings.presence)


async def _open_push(
    settings: Settings, database: Database, vault: Vault, clock: SystemClock, stack: AsyncExitStack
) -> Pushing:
    """Raises BadSetting for keys that do not fit what is stored."""
    try:
        return await open_push(
            settings.push,
            database,
            vault,
            clock,
            stack,
            sending=settings.pushing,
            deadline=settings.worker.provider_timeout,
        )
    except SealBroken as error:
        raise BadSetting("DELIVERY_ENCRYPTION_KEYS", str(error)) from None


async def open_channels(
    settings: Settings,
    database: Database,
    vault: Vault,
    http: aiohttp.ClientSession,
    clock: SystemClock,
    wake: Callable[[], None],
    stack: AsyncExitStack,
    events: DeliveryEvents | None = None,
    *,
    push: PushProvider | None = None,
) -> Mapping[str, Channel]:
    """
    The channels of this process.

    Raises BadSetting for a sandbox on a database of a production, and for a plugin that makes no providers.
    """
    receipts = Receipts(database, clock, settings.retries.fallbacks(), wake, events)

    async def report(one: SimulatedReceipt) -> None:
        receipt = Receipt(
            provider="simulator",
            event_id=one.provider_ref,
            status=one.status,
            state=one.status,
            ref=one.provider_ref,
            delivery=(one.tenant_id, one.delivery_id),
            occurred_at=clock.now(),
        )
        await receipts.record([receipt])

    try:
        opened = channels(settings.ways, http, clock, report, push=push)
    except BadPlugin as error:
        raise BadSetting(GROUP, str(error)) from error
    stack.push_async_callback(close, opened)
    sandbox = settings.sandbox.is_on
    if not await may_start(database, sandbox=sandbox, production=settings.production):
        raise BadSetting("DELIVERY_MODE", "is sandbox, and a production process has started on this database")
    return sandboxed(opened, database, vault, settings.sandbox) if sandbox else opened


def _own_keys(settings: Settings) -> KeySet:
    secret = settings.secrets.jwt_secret_key
    return KeySet([Key.secret(secret, settings.secrets.jwt_algorithm)] if secret is not None else [])


async def _verify(
    settings: Settings,
    verifier: Verifier,
    clock: SystemClock,
    http: aiohttp.ClientSession,
    stack: AsyncExitStack,
) -> Callable[[str], Awaitable[Identity]]:
    if settings.jwks is None:

        async def verify(token: str) -> Identity:
            return verifier.verify(token, clock.now().timestamp())

        return verify
    published = PublishedKeys(settings.jwks, verifier, http, clock)
    stack.push_async_callback(published.close)
    _go_on(stack, published.run())
    return published.verify


def _demo_tokens(settings: Settings) -> Callable[[str], str] | None:
    """What signs tokens for whoever opens the demo page; in development only."""
    secret = settings.secrets.jwt_secret_key
    if settings.production or secret is None:
        return None
    return lambda user_id: own_token(settings, secret, user_id, life=DEMO_TOKEN_LIFE)


def _go_on(stack: AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
    """Run something for as long as the node runs."""
    task = asyncio.create_task(work)
    task.add_done_callback(_report)

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(end)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("background_failed", exc_info=error)


def _status(hub: Hub, node: Node) -> NodeStatus:
    return NodeStatus(
        node=hub.node,
        connections=node.connections,
        users=node.people,
        streams=hub.streams,
        in_doubt=hub.in_doubt,
        live=hub.live,
    )


def _record(ended: Ended, node: str, metrics: Metrics, past: ConnectionLog) -> None:
    metrics.connection_duration.observe(ended.seconds)
    metrics.closed.labels(str(ended.close_code)).inc()
    if ended.identity is not None:
        past.record(
            PastConnection(
                tenant_id=ended.identity.tenant_id,
                connection_id=ended.connection_id,
                user_id=ended.identity.user_id,
                node=node,
                transport=ended.transport,
                opened_at=ended.opened_at,
                closed_at=ended.closed_at,
                close_code=ended.close_code,
            )
        )


def _watch_jobs(metrics: Metrics, jobs: Jobs) -> None:
    """Numbers that the scheduler role keeps."""
    metrics.read_counters(
        lambda: {
            "jobs_published": jobs.stats.published,
            "jobs_batches": jobs.stats.batches,
            "jobs_woken": jobs.stats.woken,
            "jobs_removed": jobs.stats.removed,
            "jobs_failures": jobs.stats.failures,
        },
        {
            "jobs_published": "Scheduled notifications that became due.",
            "jobs_batches": "Batches of notifications that were closed.",
            "jobs_woken": "Snoozes that ended.",
            "jobs_removed": "Rows that retention has deleted.",
            "jobs_failures": "Jobs that ended early; the next tick goes on.",
        },
    )


def _watch_digests(metrics: Metrics, job: DigestJob) -> None:
    """Numbers of the digests of this scheduler."""
    metrics.read_counters(
        lambda: {
            "digest_sent": job.stats.sent,
            "digest_skipped_empty": job.stats.skipped_empty,
            "digest_skipped_late": job.stats.skipped_late,
            "digest_skipped_weekend": job.stats.skipped_weekend,
            "digest_failures": job.stats.failed,
        },
        {
            "digest_sent": "Digests that were submitted.",
            "digest_skipped_empty": "Digests with nothing to tell.",
            "digest_skipped_late": "Digests that came too late and were merged into the next.",
            "digest_skipped_weekend": "Digests that fell on days off and were merged into the next.",
            "digest_failures": "Digests that could not be submitted.",
        },
    )


def _watch(metrics: Metrics, hub: Hub, node: Node, ingest: Ingest) -> None:
    """Numbers that the hub and the ingest keep, read at each scrape."""
    metrics.read_handed_over(lambda: hub.stats.deliveries)
    metrics.read_gauges(
        lambda: {
            "websocket_connections_active": node.connections,
            "hub_streams_live": hub.streams,
            "hub_streams_in_doubt": hub.in_doubt,
            "hub_broker_live": float(hub.live),
            "hub_audit_seconds": hub.stats.audit_seconds,
            "ingest_waiting": ingest.waiting,
        },
        {
            "websocket_connections_active": "Open connections of this process: WebSockets, event streams, long polls.",
            "hub_streams_live": "Streams that somebody listens to.",
            "hub_streams_in_doubt": "Streams that are being brought to their heads from the store.",
            "hub_broker_live": "1 when publications of other nodes arrive at once.",
            "hub_audit_seconds": "Database time of the last comparison of all streams.",
            "ingest_waiting": "Requests in the queue for the next transaction.",
        },
    )
    metrics.read_counters(
        lambda: {
            "websocket_connections_opened": node.stats.opened,
            "websocket_handshakes_refused": node.stats.refused,
            "websocket_slow_consumers": node.stats.slow,
            "websocket_receipts": node.stats.receipts,
            "hub_entries_published": hub.stats.published,
            "hub_publications_received": hub.stats.received,
            "hub_frames_delivered": hub.stats.deliveries,
            "hub_writes": hub.stats.writes,
            "hub_gaps": hub.stats.gaps,
            "hub_repairs": hub.stats.repairs,
            "hub_entries_repaired": hub.stats.repaired,
            "hub_resyncs": hub.stats.resyncs,
            "hub_audits": hub.stats.audits,
            "hub_bad_envelopes": hub.stats.bad_envelopes,
            "ingest_accepted": ingest.stats.accepted,
            "ingest_replayed": ingest.stats.replayed,
            "ingest_refused": ingest.stats.refused,
            "ingest_failed": ingest.stats.failed,
            "ingest_commits": ingest.stats.commits,
            "ingest_commit_seconds": ingest.stats.commit_seconds,
        },
        {
            "websocket_connections_opened": "Connections since the start.",
            "websocket_handshakes_refused": "Handshakes turned away because the node is full or leaving.",
            "websocket_slow_consumers": "Times a connection left the live set because it read too slowly.",
            "websocket_receipts": "Entries that clients have said to have received.",
            "hub_entries_published": "Stream entries of this node's own commits.",
            "hub_publications_received": "Publications of other nodes.",
            "hub_frames_delivered": "Frames handed to connections.",
            "hub_writes": "Writes to connections; frames of one turn share one.",
            "hub_gaps": "Publications that outwaited the one before them.",
            "hub_repairs": "Times a stream was read from the store.",
            "hub_entries_repaired": "Entries that came from the store instead of the broker.",
            "hub_resyncs": "Streams whose members were told to begin anew.",
            "hub_audits": "Comparisons of all streams with the store.",
            "hub_bad_envelopes": "Messages on the broker that no node of ours has signed.",
            "ingest_accepted": "Requests that were committed.",
            "ingest_replayed": "Requests that were answered as before, by their idempotency key.",
            "ingest_refused": "Requests turned away because the queue was full.",
            "ingest_failed": "Requests left undecided: the database was away or too slow.",
            "ingest_commits": "Transactions; requests that come together share one.",
            "ingest_commit_seconds": "Time in transactions, together.",
        },
    )
