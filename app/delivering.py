"""What the edge and the worker need of delivery, made in one place from what build has opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from core.clock import Clock
from core.database import Database
from core.vault import Vault
from delivery.accounts_store import Accounts
from delivery.audit_store import Audit
from delivery.broadcasts_store import Broadcasts
from delivery.channel import Channel
from delivery.deliveries_store import Deliveries
from delivery.keryu_store import KeryuNotifications
from delivery.preferences_store import Preferences
from delivery.recipients_store import Recipients
from delivery.routing import OUR_ROUTES, AlertSettings, Routes
from delivery.unsubscribe import Unsubscribing
from delivery.yoop_store import LastAlerts
from hub.publisher import Publisher


@dataclass(frozen=True, slots=True, kw_only=True)
class Alerting:
    """Where alerts go."""

    settings: AlertSettings = AlertSettings()
    routes: Routes = OUR_ROUTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivering:
    """The stores of delivery, by what they keep. configured: channels that have a provider."""

    vault: Vault
    preferences: Preferences
    unsubscribing: Unsubscribing
    accounts: Accounts
    deliveries: Deliveries
    audit: Audit
    broadcasts: Broadcasts
    recipients: Recipients
    keryu: KeryuNotifications
    last_alerts: LastAlerts
    alerting: Alerting
    configured: frozenset[str]
    channels: Mapping[str, Channel] = field(default_factory=dict)  # by name
    wake: Callable[[], None] = lambda: None  # there is work for the workers


def delivering(
    database: Database,
    publisher: Publisher,
    vault: Vault,
    clock: Clock,
    *,
    alerting: Alerting | None = None,
    configured: frozenset[str] = frozenset(),
) -> Delivering:
    """The stores over one database."""
    return Delivering(
        vault=vault,
        preferences=Preferences(database),
        unsubscribing=Unsubscribing(database, vault),
        accounts=Accounts(database),
        deliveries=Deliveries(database, vault),
        audit=Audit(database),
        broadcasts=Broadcasts(database),
        recipients=Recipients(database, vault),
        keryu=KeryuNotifications(database),
        last_alerts=LastAlerts(database),
        alerting=alerting or Alerting(),
        configured=configured,
    )
