"""The ways out of this installation: which there are, how they do, and a message to try one."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, get_args
from uuid import UUID

from pydantic import ConfigDict, Field
from starlette.responses import Response

from app.api.models import Answer, Body, UserId
from app.api.operation import Call, Operation, answer
from app.api.reading import read
from core.errors import ServiceError, not_found
from core.notification import Priority
from delivery.accounts_store import Backlog
from delivery.breaker import Account, Key
from delivery.channel import PROVIDER_CHANNELS, Channel
from delivery.deliveries_store import Selection
from delivery.draft import Submission, Users
from delivery.sandbox import BANNER

Breaker = Literal["closed", "open", "halted"]

#: What test messages are called; people may switch the type off like any other.
TEST_TYPE = "channel_test"

#: Its accounts are the hosts of other people's endpoints.
_BY_HOST = "webhook"


class AccountAnswer(Answer):
    """An account by which a channel sends."""

    model_config = ConfigDict(title="ChannelAccount")

    provider: str
    account: str
    breaker: Breaker = Field(
        description="open: in trouble, looked at once a second. halted: somebody must act."
    )
    failures: int = Field(description="In a row.")
    resume_at: datetime | None = Field(description="Nobody sends before.")
    last_sent_at: datetime | None
    last_error_at: datetime | None
    last_code: str | None
    last_reason: str | None


class ChannelAnswer(Answer):
    """A way out."""

    model_config = ConfigDict(title="DeliveryChannel")

    name: str
    is_configured: bool = Field(description="Whether there is a provider: without credentials there is none.")
    providers: list[str] = Field(description="In the order in which they are tried.")
    breaker: Breaker = Field(description="The worst of its accounts.")
    accounts: list[AccountAnswer]
    backlog: int = Field(description="Deliveries of the caller's tenant that wait; counting stops at 10,000.")
    oldest_due_at: datetime | None = Field(description="Since when the oldest of them could have gone out.")


class ChannelsAnswer(Answer):
    """Every channel that needs a provider."""

    model_config = ConfigDict(title="DeliveryChannels")

    mode: Literal["live", "sandbox"]
    notice: str | None = Field(description="Of a sandbox: that it is one.")
    channels: list[ChannelAnswer]


class ChannelTest(Body):
    """To whom the test goes."""

    user_id: UserId | None = Field(default=None, description="Without it, to the caller.")


class TestSent(Answer):
    """A test that is on its way: its delivery says what becomes of it."""

    notification_id: UUID
    delivery_id: UUID


class ChannelResume(Body):
    """Which accounts of the channel; without any member, all of them."""

    provider: str | None = Field(default=None, min_length=1, max_length=64)
    account: str | None = Field(default=None, min_length=1, max_length=255)


class ResumedAccount(Answer):
    """An account that is sent by again."""

    provider: str
    account: str
    was: Breaker


class ResumedAnswer(Answer):
    """What was resumed."""

    model_config = ConfigDict(title="ChannelResumed")

    accounts: list[ResumedAccount]


async def channels(call: Call) -> Response:
    """
    How the channels do. Accounts of webhooks are the hosts of all tenants' endpoints, and shown only with the
    scope tenants:all.
    """
    delivery = call.services.delivery
    accounts = await delivery.accounts.load()
    waiting = await delivery.accounts.backlog(call.identity.tenant_id, PROVIDER_CHANNELS)
    shown = [
        _shown(name, delivery.channels.get(name), accounts, waiting[name], with_hosts=_sees_hosts(call))
        for name in PROVIDER_CHANNELS
    ]
    return answer(
        ChannelsAnswer(
            mode="sandbox" if delivery.is_sandbox else "live",
            notice=BANNER if delivery.is_sandbox else None,
            channels=shown,
        )
    )


async def test(call: Call) -> Response:
    """Send a message the way every other goes: policy, opt-outs and expiry hold for it too."""
    wanted = await read(call, ChannelTest)
    name, identity, delivery = _name(call), call.identity, call.services.delivery
    channel = delivery.channels.get(name)
    if channel is None or not channel.is_configured:
        raise ServiceError("conflict", f"The channel {name} is not configured.")
    user_id = wanted.user_id or identity.user_id
    accepted = await call.services.ingest.submit(
        Submission(
            tenant_id=identity.tenant_id,
            audience=Users.of(user_id),
            title="Test message",
            message=f"This message was sent to try the channel {name}.",
            notification_type=TEST_TYPE,
            priority=Priority.HIGH,
            channels=(name,),
        ),
        identity,
    )
    [notification_id] = accepted.notification_ids
    selection = Selection(notification_id=notification_id, user_id=user_id)
    [written] = (await delivery.deliveries.list(identity.tenant_id, selection)).deliveries
    delivery.wake()
    return answer(TestSent(notification_id=notification_id, delivery_id=written["id"]), 201)


async def resume(call: Call) -> Response:
    """
    Send by stopped accounts again: after a halt, once what the provider complained of is mended, or while a
    breaker is open. Accounts of webhooks are named, unless the caller has the scope tenants:all.
    """
    wanted = await read(call, ChannelResume)
    name, delivery = _name(call), call.services.delivery
    if name == _BY_HOST and wanted.account is None and not _sees_hosts(call):
        raise ServiceError("invalid", "account: name the host; others' endpoints are not yours to resume")
    freed = await delivery.accounts.resume(call.identity, name, wanted.provider, wanted.account)
    delivery.wake()
    told = [
        ResumedAccount(provider=one.provider, account=one.account, was=_breaker(one.was)) for one in freed
    ]
    return answer(ResumedAnswer(accounts=told))


def _name(call: Call) -> str:
    name: str = call.path_params["channel"]
    if name not in PROVIDER_CHANNELS:
        raise not_found("channel")
    return name


def _sees_hosts(call: Call) -> bool:
    return call.identity.has("tenants:all")


def _shown(
    name: str, channel: Channel | None, known: dict[Key, Account], waiting: Backlog, *, with_hosts: bool
) -> ChannelAnswer:
    accounts = [
        AccountAnswer(
            provider=provider,
            account=account,
            breaker=state.breaker,
            failures=state.failures,
            resume_at=state.resume_at,
            last_sent_at=state.last_sent_at,
            last_error_at=state.last_error_at,
            last_code=state.last_code,
            last_reason=state.last_reason,
        )
        for (of, provider, account), state in known.items()
        if of == name
    ]
    worst = max((one.breaker for one in accounts), key=get_args(Breaker).index, default="closed")
    return ChannelAnswer(
        name=name,
        is_configured=channel is not None and channel.is_configured,
        providers=[provider.name for provider in channel.providers] if channel is not None else [],
        breaker=_breaker(worst),
        accounts=accounts if with_hosts or name != _BY_HOST else [],
        backlog=waiting.open,
        oldest_due_at=waiting.oldest_due_at,
    )


def _breaker(word: str) -> Breaker:
    return "open" if word == "open" else "halted" if word == "halted" else "closed"


def operations() -> tuple[Operation, ...]:
    return (
        Operation(
            method="GET",
            path="/api/v1/channels",
            handler=channels,
            summary="How the channels do",
            tag="operations",
            scopes=("admin",),
            answers={200: ChannelsAnswer},
        ),
        Operation(
            method="POST",
            path="/api/v1/channels/{channel}/test",
            handler=test,
            summary="Try a channel",
            tag="operations",
            scopes=("admin",),
            body=ChannelTest,
            answers={201: TestSent},
            problems=("conflict", "not_found"),
            examples={"to oneself": {}, "to somebody": {"user_id": "ada"}},
        ),
        Operation(
            method="POST",
            path="/api/v1/channels/{channel}/resume",
            handler=resume,
            summary="Resume a channel",
            tag="operations",
            scopes=("admin",),
            body=ChannelResume,
            answers={200: ResumedAnswer},
            problems=("conflict", "not_found"),
            examples={"all of its accounts": {}},
        ),
    )
