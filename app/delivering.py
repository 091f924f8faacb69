"""What the edge and the worker need of delivery, made in one place from what build has opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from app.pushing import Pushing
from core.clock import Clock
from core.database import Database
from core.vault import Vault
from delivery.accounts_store import Accounts
from delivery.audit_store import Audit
from delivery.broadcasts_store import Broadcasts, BroadcastSettings
from delivery.channel import Channel
from delivery.channels.telegram_webhook import TelegramWebhook
from delivery.composing import Composer, LinkSettings
from delivery.conclusion import RetrySettings
from delivery.deliveries_store import Deliveries
from delivery.endpoints_store import Endpoints
from delivery.facts import FactsReader
from delivery.hooks import Hooks
from delivery.inbound_store import InboundMessages
from delivery.keryu_store import KeryuNotifications
from delivery.preferences_link import PreferencesLinks
from delivery.preferences_store import Preferences
from delivery.pushes_store import Pushes
from delivery.receipts_store import Receipts
from delivery.recipients_store import Recipients, RecipientSettings
from delivery.routing import OUR_ROUTES, AlertSettings, Routes
from delivery.sandbox import SandboxMessages
from delivery.telegram_links_store import TelegramLinks
from delivery.telemetry import DeliveryEvents
from delivery.tenants_store import Tenants
from delivery.unsubscribe import Unsubscribing
from delivery.verification_store import Verifications, VerificationSettings
from delivery.yoop_store import LastAlerts
from hub.publisher import Publisher


@dataclass(frozen=True, slots=True, kw_only=True)
class Alerting:
    """Where alerts go."""

    settings: AlertSettings = AlertSettings()
    routes: Routes = OUR_ROUTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivering:
    """The stores of delivery, by what they keep."""

    vault: Vault
    preferences: Preferences
    unsubscribing: Unsubscribing
    preferences_links: PreferencesLinks
    accounts: Accounts
    deliveries: Deliveries
    audit: Audit
    broadcasts: Broadcasts
    sandbox: SandboxMessages
    recipients: Recipients
    verifications: Verifications
    endpoints: Endpoints
    push: Pushing
    pushes: Pushes
    receipts: Receipts
    inbound: InboundMessages
    telegram_links: TelegramLinks
    hooks: Hooks
    tenants: Tenants
    keryu: KeryuNotifications
    last_alerts: LastAlerts
    alerting: Alerting
    channels: Mapping[str, Channel] = field(default_factory=dict)  # by name
    telegram_webhook: TelegramWebhook | None = None
    wake: Callable[[], None] = lambda: None  # there is work for the workers
    is_sandbox: bool = False  # nothing of this reaches anybody


def delivering(
    database: Database,
    publisher: Publisher,
    vault: Vault,
    clock: Clock,
    *,
    push: Pushing,
    links: LinkSettings | None = None,
    alerting: Alerting | None = None,
    addresses: RecipientSettings | None = None,
    codes: VerificationSettings | None = None,
    hooks: Hooks | None = None,
    telegram_webhook: TelegramWebhook | None = None,
    retries: RetrySettings | None = None,
    events: DeliveryEvents | None = None,
    channels: Mapping[str, Channel] | None = None,
    broadcasts: BroadcastSettings | None = None,
    wake: Callable[[], None] = lambda: None,
    is_sandbox: bool = False,
) -> Delivering:
    """The stores over one database. retries: say which channel takes over where a provider reports a failure."""
    recipients = Recipients(database, vault, addresses)
    telegram_links = TelegramLinks(database, recipients)
    return Delivering(
        vault=vault,
        preferences=Preferences(database),
        unsubscribing=Unsubscribing(database, vault),
        preferences_links=PreferencesLinks(database, vault, clock),
        accounts=Accounts(database),
        deliveries=Deliveries(database, vault),
        audit=Audit(database),
        broadcasts=Broadcasts(database, broadcasts),
        sandbox=SandboxMessages(database, vault),
        recipients=recipients,
        verifications=Verifications(database, vault, recipients, publisher, codes),
        endpoints=Endpoints(database, vault, clock),
        push=push,
        pushes=Pushes(
            database, FactsReader(database, vault, ["push"]), Composer(vault, links or LinkSettings())
        ),
        receipts=Receipts(database, clock, (retries or RetrySettings()).fallbacks(), wake, events),
        inbound=InboundMessages(database, vault, recipients, telegram_links, clock),
        telegram_links=telegram_links,
        hooks=hooks or Hooks(),
        telegram_webhook=telegram_webhook,
        wake=wake,
        channels=channels or {},
        is_sandbox=is_sandbox,
        tenants=Tenants(database),
        keryu=KeryuNotifications(database),
        last_alerts=LastAlerts(database),
        alerting=alerting or Alerting(),
    )
