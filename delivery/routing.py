"""
Where an alert goes and how urgent it is, by rules that are data (routes.json; YOO-4, X-84). Pure.

An alert says how severe it is, or what was done: a warning, an order to sell. The channels of every route that
fits are taken together; what fits none goes where `otherwise` says, and so does what fits only routes of
channels that are switched off.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import msgspec

from core.notification import DELIVERY_CHANNELS, RANKS, SHOWN, Priority
from delivery.channel import PROVIDER_CHANNELS

#: What is said besides the words: a price, a quantity, a result.
Fact = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSettings:
    """Alerts of machines to those who run them. From NOTIFICATION_CHANNELS, WHATSAPP_TO, TELEGRAM_CHAT_ID, DELIVERY_ALERT_*."""

    channels: frozenset[str] = frozenset()  # providers' channels that alerts may take; empty: every one
    whatsapp_to: str | None = field(default=None, repr=False)  # an address of DELIVERY_ALERT_RECIPIENT
    telegram_chat_id: str | None = field(default=None, repr=False)  # an address of DELIVERY_ALERT_RECIPIENT
    recipient: str = (
        "operators"  # whom alerts go to that name nobody; the two addresses are the default tenant's
    )
    routes: Path | None = None  # a file in place of our own routes.json

    @property
    def active(self) -> frozenset[str]:
        """The providers' channels that alerts may take."""
        return self.channels or frozenset(PROVIDER_CHANNELS)

    @property
    def addresses(self) -> dict[str, str]:
        """The default route, by channel."""
        given = {"whatsapp": self.whatsapp_to, "telegram": self.telegram_chat_id}
        return {channel: value for channel, value in given.items() if value is not None}


class Severity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A degree, and the priority of a notification about it."""

    name: str
    priority: str


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fits an alert that is at least so severe and does one of these actions; what is not said fits any."""

    channels: list[str]
    severity: str | None = None
    actions: list[str] | None = None


class Routes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """severities: the least severe first."""

    severities: list[Severity]
    routes: list[Route]
    otherwise: list[str]

    @property
    def named(self) -> tuple[str, ...]:
        """The providers' channels that an alert may take, in the order of DELIVERY_CHANNELS."""
        named = {channel for route in self.routes for channel in route.channels} | set(self.otherwise)
        return tuple(one for one in DELIVERY_CHANNELS if one in named - SHOWN)

    def priority(self, severity: str) -> Priority:
        """Raises KeyError for a severity that there is not."""
        return Priority(next(one.priority for one in self.severities if one.name == severity))

    def channels(self, severity: str, action: str | None, active: Collection[str]) -> tuple[str, ...]:
        """
        The channels of an alert, in the order of DELIVERY_CHANNELS.

        active: the providers' channels that may be taken; the inbox always may.
        """
        wanted = {
            channel
            for route in self.routes
            if self._fits(route, severity, action)
            for channel in route.channels
            if channel in active or channel in SHOWN
        }
        return tuple(one for one in DELIVERY_CHANNELS if one in (wanted or self.otherwise))

    def _fits(self, route: Route, severity: str, action: str | None) -> bool:
        if route.severity is not None and self._rank(severity) < self._rank(route.severity):
            return False
        return route.actions is None or (action is not None and action.upper() in route.actions)

    def _rank(self, severity: str) -> int:
        return [one.name for one in self.severities].index(severity)


#: How severe an alert may be, the least severe first (X-84).
SEVERITIES = ("debug", "info", "warning", "error", "critical")


def read_routes(text: str | bytes) -> Routes:
    """Routes out of JSON. Raises ValueError with a sentence that says what is wrong."""
    routes = msgspec.json.decode(text, type=Routes)  # msgspec.DecodeError is a ValueError
    if tuple(one.name for one in routes.severities) != SEVERITIES:
        raise ValueError(f"severities must be {', '.join(SEVERITIES)}, in this order")
    if any(one.priority not in RANKS for one in routes.severities):
        raise ValueError(f"a priority must be among {', '.join(RANKS)}")
    for channels in (routes.otherwise, *(route.channels for route in routes.routes)):
        if not channels or not set(channels) <= set(DELIVERY_CHANNELS):
            raise ValueError(f"channels must be some of {', '.join(DELIVERY_CHANNELS)}")
    if not SHOWN & set(routes.otherwise):
        raise ValueError(f"otherwise must name {' or '.join(sorted(SHOWN))}: those are never switched off")
    for route in routes.routes:
        if route.severity is not None and route.severity not in SEVERITIES:
            raise ValueError(f"a severity must be among {', '.join(SEVERITIES)}")
        if any(action != action.upper() for action in route.actions or ()):
            raise ValueError("actions must be in upper case")
    return routes


OUR_ROUTES = read_routes(files("delivery").joinpath("routes.json").read_bytes())


def title(severity: str, action: str | None) -> str:
    """What an alert is called that has no title of its own: `WARNING`, `INFO: BUY`."""
    return severity.upper() if action is None else f"{severity.upper()}: {action}"


def text(message: str | None, facts: Mapping[str, Fact]) -> str:
    """The words of an alert: its message, and a line for each fact that is known."""
    lines: Sequence[str] = [f"{name}: {_said(value)}" for name, value in facts.items() if value is not None]
    return "\n".join([message, *lines] if message else lines)


def _said(value: Fact) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
