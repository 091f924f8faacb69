"""Who may listen to and speak in which channel: rules by namespace (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from core.identity import Identity

Who = Literal["everyone", "services", "nobody"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """What holds for the channels whose name begins with `<namespace>:`. Within one tenant, always."""

    subscribe: Who = "everyone"  # may listen for the life of a connection
    publish: Who = "nobody"  # may send ephemeral messages from a socket
    owner_only: bool = False  # `<namespace>:<user id>…`: only that person, and services


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """The rules of all namespaces. From HUB_CHANNELS, a JSON object."""

    default: Namespace = Namespace()
    namespaces: Mapping[str, Namespace] = field(default_factory=dict)

    def may_subscribe(self, identity: Identity, channel: str) -> bool:
        rule = self._rule(channel)
        return _is(rule.subscribe, identity) and _owns(rule, identity, channel)

    def may_publish(self, identity: Identity, channel: str) -> bool:
        rule = self._rule(channel)
        return _is(rule.publish, identity) and _owns(rule, identity, channel)

    def _rule(self, channel: str) -> Namespace:
        name, colon, _ = channel.partition(":")
        return self.namespaces.get(name, self.default) if colon else self.default


def _is(who: Who, identity: Identity) -> bool:
    return who == "everyone" or (who == "services" and identity.is_service)


def _owns(rule: Namespace, identity: Identity, channel: str) -> bool:
    if not rule.owner_only or identity.is_service:
        return True
    return channel.split(":")[1:2] == [identity.user_id]
