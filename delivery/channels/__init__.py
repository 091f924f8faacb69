"""The ways out, one file each; the list of them is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp

from core.clock import Clock
from delivery.channel import UNKNOWN, Channel, Provider
from delivery.channels import email, sms, telegram, webhook, whatsapp
from delivery.channels.email import EmailSettings
from delivery.channels.push import PushProvider
from delivery.channels.simulator import Report, Simulator, SimulatorSettings
from delivery.channels.sms import SmsSettings
from delivery.channels.telegram import TelegramSettings
from delivery.channels.webhook import WebhookSettings
from delivery.channels.whatsapp import WhatsAppSettings
from delivery.plugins import plugin, providers_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSettings:
    """Of every channel."""

    email: EmailSettings
    sms: SmsSettings
    whatsapp: WhatsAppSettings
    telegram: TelegramSettings
    webhook: WebhookSettings
    simulator: SimulatorSettings
    plugins: Mapping[str, Mapping[str, str]] = field(
        default_factory=dict, repr=False
    )  # variables, by channel


def channels(
    settings: ChannelSettings,
    http: aiohttp.ClientSession,
    clock: Clock,
    report: Report | None = None,
    *,
    push: PushProvider | None = None,
) -> dict[str, Channel]:
    """
    Every channel by its name, those of plugins and those that are not configured too.

    report: told what becomes of what the simulator took. push: it alone keeps browsers of its own, so it is made
    where the database is.

    Raises BadPlugin.
    """
    found: dict[str, Sequence[Provider]] = {
        "push": () if push is None else (push,),
        "email": email.providers(settings.email, http),
        "sms": sms.providers(settings.sms, http),
        "whatsapp": whatsapp.providers(settings.whatsapp, http),
        "telegram": telegram.providers(settings.telegram, http),
        "webhook": webhook.providers(settings.webhook, http),
    }
    unknown = dict(UNKNOWN)
    for name, given in settings.plugins.items():
        if (theirs := plugin(name)) is not None:
            found[name], unknown[name] = providers_of(name, given, http), theirs.unknown
    for name in settings.simulator.channels:
        found[name] = (Simulator(settings.simulator, name, clock, report),)
    return {
        name: Channel(name=name, providers=providers, unknown=unknown[name])
        for name, providers in found.items()
    }


async def close(opened: dict[str, Channel]) -> None:
    """Close what providers keep open of their own."""
    for channel in opened.values():
        for provider in channel.providers:
            if (end := getattr(provider, "close", None)) is not None:
                await end()
