"""The worker of this process, made from what build has opened."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from random import SystemRandom

from app.settings import Settings
from core.clock import Clock
from core.database import Database
from core.notification import Content
from core.vault import Vault
from delivery.accounts_store import Accounts
from delivery.broadcasts_store import Broadcasts
from delivery.budget_store import Budget
from delivery.capacity import Capacity
from delivery.channel import Channel
from delivery.composing import Composer, Rendered
from delivery.endpoints_store import Endpoints
from delivery.facts import FactsReader, Looking, Unread, nobody_counts, nobody_looks
from delivery.observer import Observer
from delivery.outbox import Outbox
from delivery.recording import Recorder
from delivery.worker import Worker
from digest.job import DIGEST_TYPE
from digest.rendering import is_document, mail


def digest_mail(content: Content, locale: str | None, site_url: str | None) -> Rendered:
    """A digest's own mail; what is no whole digest is shown as any other notification."""
    document = content.metadata.get("digest")
    if not isinstance(document, dict) or not is_document(document):
        return Rendered(content.title, content.message, None)
    made = mail(document, locale, site_url=site_url)
    return Rendered(made.subject, made.text, made.html)


def worker(
    settings: Settings,
    database: Database,
    vault: Vault,
    channels: Mapping[str, Channel],
    observer: Observer,
    clock: Clock,
    looking: Looking = nobody_looks,
    unread: Unread = nobody_counts,
) -> Worker:
    """A worker that has not begun. looking: who has the application before their eyes is not pushed to. unread: for badges."""
    name = f"{settings.process.node}-{secrets.token_hex(4)}"
    made: Worker

    def wake() -> None:
        made.wake()

    made = Worker(
        name=name,
        outbox=Outbox(database, name, settings.worker.lease),
        facts=FactsReader(
            database, vault, [one.name for one in channels.values() if one.is_configured], looking, unread
        ),
        endpoints=Endpoints(database, vault, clock),
        broadcasts=Broadcasts(database, settings.broadcasts),
        accounts=Accounts(database),
        budget=Budget(database, settings.budget),
        recorder=Recorder(database, clock, on_fallback=wake, failpoints=settings.process.failpoints),
        channels=channels,
        capacity=Capacity(channels, clock, settings.breaker, batch_limit=settings.worker.batch_limit),
        compose=Composer(vault, settings.links, {DIGEST_TYPE: digest_mail}),
        observer=observer,
        clock=clock,
        random=SystemRandom(),
        settings=settings.worker,
        retries=settings.retries,
    )
    return made
