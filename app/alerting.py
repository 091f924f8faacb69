"""Alerts at the start: the routes are read, and whom they go to is known by the addresses of the settings."""

from __future__ import annotations

from app.delivering import Alerting
from app.settings import BadSetting
from core.identity import DEFAULT_TENANT
from delivery.addresses import normalise
from delivery.recipients_store import Introduction, Recipients
from delivery.routing import OUR_ROUTES, AlertSettings, read_routes


def alerting(settings: AlertSettings) -> Alerting:
    """Raises BadSetting for a file of routes that cannot be read or meant."""
    if settings.routes is None:
        return Alerting(settings=settings, routes=OUR_ROUTES)
    try:
        routes = read_routes(settings.routes.read_bytes())
    except OSError as error:
        raise BadSetting("DELIVERY_ALERT_ROUTES", f"cannot be read: {error.strerror}") from None
    except ValueError as error:  # says what is wrong with the routes, which are no secret
        raise BadSetting("DELIVERY_ALERT_ROUTES", str(error)) from None
    return Alerting(settings=settings, routes=routes)


async def know_operators(recipients: Recipients, settings: AlertSettings) -> None:
    """The default route (X-86): the two addresses are those of one recipient of the default tenant."""
    addresses = [
        (channel, normalise(channel, value)) for channel, value in sorted(settings.addresses.items())
    ]
    if addresses:
        operators = Introduction(user_id=settings.recipient, addresses=addresses)
        await recipients.introduce(DEFAULT_TENANT, [operators], "settings", verified=True)
