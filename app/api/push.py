"""Web Push: the browsers of a person, the key they subscribe with, and what they report."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema
from starlette.responses import Response

from app.api.models import Answer, Body, Moment, Parameters
from app.api.operation import PUBLIC, THROTTLE, Call, Operation, answer, nothing
from app.api.reading import query, read
from app.pushing import Pushing
from core.errors import ServiceError, invalid, not_found
from core.identity import Identity
from core.ids import uuid7
from core.vault import SealBroken
from delivery.audit_store import actor_of
from delivery.channels.push import ENDED, NAME, Ticket
from delivery.pushes_store import Privacy
from delivery.receipts import Receipt, ReportedState
from push.guard import check_endpoint, target
from push.keys import application_server_key
from push.outcome import Kind, Service, service_of
from push.payload import Push, build, whole, words
from push.store import Device, Event, Offer, Result
from push.subscription import BadSubscription, read_keys

#: What a report of a browser makes of a delivery (X-56). Whoever closes it has seen it, and not what it is about.
_REACHED: dict[Event, ReportedState] = {"shown": "delivered", "clicked": "read", "closed": "delivered"}

_TOKEN = Field(pattern=r"^[A-Za-z0-9_-]{1,1024}$")

#: Keys are a little over 88 characters; what is longer is none.
_KeyText = Annotated[str, StringConstraints(max_length=1024)]
_Endpoint = Annotated[str, StringConstraints(max_length=4096)]
_Words = Annotated[str, StringConstraints(max_length=128)]


class DeviceInfo(Body):
    """What the page knows of its browser."""

    platform: _Words | None = None
    browser: _Words | None = None


class DeviceInfoAnswer(Answer):
    platform: str | None
    browser: str | None


class NewSubscription(Body):
    """A `PushSubscription` of a browser. The keys in base64 or base64url, padded or not."""

    endpoint: _Endpoint
    p256dh_key: _KeyText
    auth_key: _KeyText
    user_agent: Annotated[str, StringConstraints(max_length=1024)] | None = None
    device_info: DeviceInfo | None = None
    vapid_key_id: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        default=None, description="The key it was made with, where that is not the current one."
    )
    expires_at: Moment | None = Field(default=None, description="Its `expirationTime`, where it has one.")


class Replacement(Body):
    """A subscription that the browser has made in place of an old one, which whoever knows its secret may replace."""

    old_endpoint: _Endpoint
    old_auth_key: _KeyText
    endpoint: _Endpoint
    p256dh_key: _KeyText
    auth_key: _KeyText


class SubscriptionAnswer(Answer):
    """A browser. Its endpoint and its keys are shown to nobody."""

    id: UUID
    user_id: str
    name: str | None
    push_service: Service
    user_agent: str | None
    device_info: DeviceInfoAnswer
    vapid_key_id: str
    is_current_key: bool = Field(description="False: the page should unsubscribe and subscribe again.")
    created_at: datetime
    last_seen_at: datetime = Field(description="When its page last subscribed, or it last showed something.")
    last_sent_at: datetime | None
    expires_at: datetime | None


class SubscriptionsAnswer(Answer):
    """The browsers of the caller, the newest first."""

    subscriptions: list[SubscriptionAnswer]


def _name(value: str) -> str:
    if not value.isprintable() or value != value.strip():
        raise ValueError("must be printable, without white space at an end")
    return value


DeviceName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=64),
    AfterValidator(_name),
    WithJsonSchema({"type": "string", "maxLength": 64, "pattern": r"^[^\p{C}\p{Z}]+( +[^\p{C}\p{Z}]+)*$"}),
]


class Rename(Body):
    """What the person calls the device; null: nothing."""

    name: DeviceName | None


class PushTested(Answer):
    """What the push service said."""

    status: Kind
    reason: str = Field(description="For people.")


class PublicKey(Answer):
    """What `pushManager.subscribe` takes as `applicationServerKey`."""

    public_key: str
    key_id: str


class Report(Body):
    """What became of a push in a browser."""

    token: Annotated[str, _TOKEN] = Field(description="`data.receipt` of the payload.")
    event: Event
    action: _Words | None = Field(default=None, description="The button that was clicked.")


class FetchQuery(Parameters):
    """`fetch` of a payload."""

    id: UUID = Field(description="Of the notification.")
    token: Annotated[str, _TOKEN]


TypeOrAny = Annotated[str, StringConstraints(pattern=r"^(\*|[A-Za-z0-9][A-Za-z0-9._:-]{0,63})$")]


class PrivacyBody(Body):
    """
    What push may show, by type; `*`: of any other type. What is not named is shown in full.

    `title_only`: the title, and the text after a click. `private`: that there is something.
    """

    types: Annotated[dict[TypeOrAny, Privacy], Field(max_length=200)]


class PrivacyAnswer(Answer):
    """What push may show, by type."""

    types: dict[str, Privacy]


async def subscribe(call: Call) -> Response:
    """
    Push to this browser from now on. Said again, by the page at each start, it stays the same subscription.

    A browser that was somebody else's becomes the caller's when its keys are the same; else it is a conflict.
    """
    wanted, push = await read(call, NewSubscription), _push(call)
    if wanted.vapid_key_id is not None and await push.keys.find(wanted.vapid_key_id) is None:
        raise invalid("vapid_key_id", "is no key of this installation, or one that was retired")
    await push.keys.refresh()
    info = wanted.device_info or DeviceInfo()
    offer = _offer(
        push,
        wanted,
        vapid_key_id=wanted.vapid_key_id,
        user_agent=wanted.user_agent,
        device_info=info.model_dump(),
        expires_at=wanted.expires_at,
    )
    identity = call.identity
    device = await push.subscriptions.subscribe(
        identity.tenant_id, identity.user_id, offer, push.keys.current.id
    )
    return answer(_shown(device, push), 201)


async def replace(call: Call) -> Response:
    """
    Take a new subscription for an old one. Whoever knows the old endpoint and its secret is that browser.

    It counts as a request of the person whose browser it is.
    """
    wanted, push = await read(call, Replacement), _push(call)
    await push.keys.refresh()
    offer = _offer(push, wanted)
    try:
        _, auth = read_keys(wanted.p256dh_key, wanted.old_auth_key)
    except BadSubscription as bad:
        raise invalid("old_auth_key", str(bad)) from None
    try:
        old = check_endpoint(wanted.old_endpoint, push.settings) + target(wanted.old_endpoint)
    except BadSubscription:
        old = wanted.old_endpoint  # of a push service that was allowed when it was kept

    def admit(tenant_id: str, user_id: str) -> None:
        call.scope[THROTTLE].admit(Identity(tenant_id=tenant_id, user_id=user_id))

    await push.subscriptions.replace(old, auth, offer, push.keys.current.id, admit)
    return nothing()


async def subscriptions(call: Call) -> Response:
    """The caller's browsers."""
    push, identity = _push(call), call.identity
    await push.keys.refresh()
    devices = await push.subscriptions.devices(identity.tenant_id, identity.user_id)
    return answer(SubscriptionsAnswer(subscriptions=[_shown(one, push) for one in devices]))


async def rename(call: Call) -> Response:
    """Call one of the caller's browsers by a name."""
    wanted, push, identity = await read(call, Rename), _push(call), call.identity
    device = await push.subscriptions.rename(
        identity.tenant_id, identity.user_id, call.id_in_path("subscription_id"), wanted.name
    )
    return answer(_shown(device, push))


async def unlink(call: Call) -> Response:
    """Push to this browser no more. A page does this at logout: the next person there is somebody else."""
    identity = call.identity
    await _push(call).subscriptions.unlink(
        identity.tenant_id, identity.user_id, call.id_in_path("subscription_id")
    )
    return nothing()


async def test(call: Call) -> Response:
    """
    Send one of the caller's browsers something now, past the outbox and every preference.

    Nothing else holds it back, so a person may do it a few times in a row and then every ten seconds.
    """
    push, identity = _push(call), call.identity
    if call.services.delivery.is_sandbox:
        raise ServiceError("conflict", "This is a sandbox: nothing is sent past the outbox.")
    one = await push.subscriptions.find(
        identity.tenant_id, identity.user_id, call.id_in_path("subscription_id")
    )
    call.services.push_tests.admit(identity)
    locale = call.headers.get("accept-language", "").partition(",")[0].partition(";")[0].strip()[:35]
    said = Push(
        notification_id=uuid7(),
        notification_type="push_test",
        title=words(locale)[0],
        text="",
        locale=locale or None,
        icon=push.settings.icon,
        badge=push.settings.badge,
    )
    result = await push.sender.send(one, build(said), ttl=60, urgency="high", topic=None)
    await push.subscriptions.record([Result(one, None, ENDED[result.kind], result.status)])
    return answer(PushTested(status=result.kind, reason=result.reason))


async def public_key(call: Call) -> Response:
    """The key that pages subscribe with. Another one than a page has subscribed with: it subscribes again."""
    keys = _push(call).keys
    await keys.refresh()
    return answer(
        PublicKey(public_key=application_server_key(keys.current), key_id=keys.current.id),
        headers={"Cache-Control": "no-cache"},
    )


async def report(call: Call) -> Response:
    """Say what became of a push. Let in by the token of that push in that browser; said again it changes nothing."""
    said, delivery = await read(call, Report), call.services.delivery
    ticket = _ticket(call, said.token, "push-receipt")
    # While other browsers are still to be reached, or the sender is just writing down what it knows, the delivery is
    # the sender's: what is kept here tells it that the push has arrived.
    if await delivery.push.subscriptions.report(
        ticket.tenant_id, ticket.delivery_id, ticket.subscription_id, said.event
    ):
        receipt = Receipt(
            provider=NAME,
            event_id=f"{ticket.delivery_id.hex}{ticket.subscription_id.hex}",
            status=said.event,
            state=_REACHED[said.event],
            delivery=(ticket.tenant_id, ticket.delivery_id),
            occurred_at=call.services.clock.now(),
            is_first_hand=True,
        )
        await delivery.receipts.record([receipt])
    return nothing()


async def fetch(call: Call) -> Response:
    """The whole of a notification that did not fit into a push, or was not to be seen before a click. Once."""
    wanted, delivery = query(call, FetchQuery), call.services.delivery
    ticket = _ticket(call, wanted.token, "push-fetch")
    message = await delivery.pushes.message(ticket.tenant_id, ticket.delivery_id)
    if message is None or message.notification_id != wanted.id:
        raise not_found("push")
    if not await delivery.push.subscriptions.take(
        ticket.tenant_id, ticket.delivery_id, ticket.subscription_id
    ):
        raise not_found("push")
    said = whole(delivery.push.provider.push_of(message, ticket.subscription_id))
    return answer(said, headers={"Cache-Control": "no-store"})


async def privacy(call: Call) -> Response:
    """How much of a notification push services, lock screens and bystanders may see."""
    return answer(PrivacyAnswer(types=await call.services.delivery.pushes.privacy(call.identity.tenant_id)))


async def put_privacy(call: Call) -> Response:
    """Say how much may be seen, for all people of the tenant, in place of what was said before."""
    wanted, identity = await read(call, PrivacyBody), call.identity
    await call.services.delivery.pushes.put_privacy(identity.tenant_id, wanted.types, actor_of(identity))
    return answer(PrivacyAnswer(types=dict(sorted(wanted.types.items()))))


def _push(call: Call) -> Pushing:
    return call.services.delivery.push


def _ticket(call: Call, token: str, use: Literal["push-receipt", "push-fetch"]) -> Ticket:
    """Raises ServiceError (not_found): who guesses learns nothing."""
    try:
        return Ticket.read(call.services.delivery.vault, token, use)
    except SealBroken:
        raise not_found("push") from None


def _offer(push: Pushing, said: NewSubscription | Replacement, **more: object) -> Offer:
    """Raises ServiceError (invalid) that names the member."""
    try:
        origin = check_endpoint(said.endpoint, push.settings)
        p256dh, auth = read_keys(said.p256dh_key, said.auth_key)
    except BadSubscription as bad:
        raise invalid(bad.field, str(bad)) from None
    endpoint = origin + target(said.endpoint)  # one spelling: another of the same is no other browser
    return Offer(endpoint=endpoint, origin=origin, p256dh=p256dh, auth=auth, **more)  # type: ignore[arg-type]  # of the two callers above


def _shown(device: Device, push: Pushing) -> SubscriptionAnswer:
    info = device.device_info
    return SubscriptionAnswer(
        id=device.id,
        user_id=device.user_id,
        name=device.name,
        push_service=service_of(device.origin),
        user_agent=device.user_agent,
        device_info=DeviceInfoAnswer(platform=info.get("platform"), browser=info.get("browser")),
        vapid_key_id=device.vapid_key_id,
        is_current_key=device.vapid_key_id == push.keys.current.id,
        created_at=device.created_at,
        last_seen_at=device.last_seen_at,
        last_sent_at=device.last_sent_at,
        expires_at=device.expires_at,
    )


_KEYS = {
    "p256dh_key": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
    "auth_key": "BTBZMqHH6r4Tts7J_aSIgg",
}
_ENDPOINT = "https://updates.push.services.mozilla.com/wpush/v2/gAAAAABexample"

AIVO_SUBSCRIPTION = {
    "endpoint": _ENDPOINT,
    **_KEYS,
    "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "device_info": {"platform": "web", "browser": "Firefox"},
}


def operations() -> tuple[Operation, ...]:
    """The lines of the table of routes."""
    path, one = "/api/v1/push", "/api/v1/push/subscriptions/{subscription_id:uuid}"
    return (
        Operation(
            method="POST",
            path=f"{path}/subscribe",
            handler=subscribe,
            summary="Subscribe a browser",
            tag="push",
            body=NewSubscription,
            answers={201: SubscriptionAnswer},
            problems=("conflict",),
            examples={"a browser": AIVO_SUBSCRIPTION},
        ),
        Operation(
            method="GET",
            path=f"{path}/subscriptions",
            handler=subscriptions,
            summary="List one's browsers",
            tag="push",
            answers={200: SubscriptionsAnswer},
        ),
        Operation(
            method="PATCH",
            path=one,
            handler=rename,
            summary="Name a browser",
            tag="push",
            body=Rename,
            answers={200: SubscriptionAnswer},
            examples={"a name": {"name": "My phone"}},
        ),
        Operation(
            method="DELETE",
            path=one,
            handler=unlink,
            summary="Unlink a browser",
            tag="push",
            answers={204: None},
        ),
        Operation(
            method="POST",
            path=f"{one}/test",
            handler=test,
            summary="Try a browser",
            tag="push",
            answers={200: PushTested},
            problems=("conflict", "rate_limited"),
        ),
        Operation(
            method="POST",
            path=f"{path}/replace",
            handler=replace,
            summary="Replace a subscription",
            tag="push",
            scopes=PUBLIC,
            body=Replacement,
            answers={204: None},
            problems=("not_found", "conflict", "unavailable", "rate_limited"),
            examples={
                "by a service worker": {
                    "old_endpoint": _ENDPOINT,
                    "old_auth_key": _KEYS["auth_key"],
                    "endpoint": f"{_ENDPOINT}2",
                    **_KEYS,
                }
            },
        ),
        Operation(
            method="GET",
            path=f"{path}/vapid-public-key",
            handler=public_key,
            summary="Get the key to subscribe with",
            tag="push",
            scopes=PUBLIC,
            answers={200: PublicKey},
            problems=("unavailable",),
        ),
        Operation(
            method="POST",
            path=f"{path}/receipts",
            handler=report,
            summary="Report what became of a push",
            tag="push",
            scopes=PUBLIC,
            body=Report,
            answers={204: None},
            problems=("not_found", "unavailable"),
            examples={"a click": {"token": "AW9wZW5zIG5vdGhpbmc", "event": "clicked", "action": "view"}},
        ),
        Operation(
            method="GET",
            path=f"{path}/fetch",
            handler=fetch,
            summary="Get what a push held back",
            tag="push",
            scopes=PUBLIC,
            query=FetchQuery,
            answers={200: "application/json"},
            problems=("not_found", "unavailable"),
        ),
        Operation(
            method="GET",
            path=f"{path}/privacy",
            handler=privacy,
            summary="See how much push may show",
            tag="push",
            scopes=("admin",),
            answers={200: PrivacyAnswer},
        ),
        Operation(
            method="PUT",
            path=f"{path}/privacy",
            handler=put_privacy,
            summary="Say how much push may show",
            tag="push",
            scopes=("admin",),
            body=PrivacyBody,
            answers={200: PrivacyAnswer},
            examples={"nothing of documents": {"types": {"*": "full", "iep_update": "private"}}},
        ),
    )
