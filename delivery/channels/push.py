"""
Push to browsers. The address is the person: one delivery goes to every browser that they have subscribed in.

What reached which browser is written down in push_sends, so a retry goes to the others only, and a receipt that comes
before our own record is not lost.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

import structlog

from core.clock import Clock
from core.errors import ServiceError
from core.outcome import Fail, Fallback, Outcome, Retry, Sent, Unknown
from core.vault import SealBroken, Vault
from delivery.channel import Address, Message
from push.encryption import MAX_PLAINTEXT
from push.keys import PushSettings
from push.outcome import Kind, PushResult
from push.payload import Action, Push, build
from push.request import topic, ttl, urgency
from push.store import Ended, Heard, Result, Subscriptions, Waiting
from push.subscription import Subscription

log = structlog.stdlib.get_logger("delivery.channels.push")

NAME = "web_push"

#: The call to us ends at the worker's deadline; what we have learnt by then must be written down before.
_RECORDING = timedelta(seconds=1.5)

#: Deliveries whose browsers are read, or whose results are written, together.
_TOGETHER = 100

#: What a push service that takes less than the standard says is tried once more with this much: Mozilla's bridge to
#: phones takes about 2.7 kB of body.
_SMALL = 2000

#: As it is written down.
ENDED: Mapping[Kind, Ended] = {
    "sent": "sent",
    "gone": "gone",
    "refused": "refused",
    "blocked": "refused",
    "too_large": "too_large",
    "throttled": "retry",
    "retry": "retry",
    "unknown": "unknown",
}


class Sender(Protocol):
    """push.sender.PushSender is one."""

    async def send(
        self, subscription: Subscription, payload: bytes, *, ttl: int, urgency: str, topic: str | None
    ) -> PushResult: ...


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a token of a push stands for: one browser of one delivery."""

    tenant_id: str
    delivery_id: UUID
    subscription_id: UUID

    def seal(self, vault: Vault, use: str) -> str:
        """use: `push-receipt` or `push-fetch`; a token of one is none of the other."""
        return vault.token(f"{self.delivery_id.hex}{self.subscription_id.hex}{self.tenant_id}", use)

    @classmethod
    def read(cls, vault: Vault, token: str, use: str) -> Ticket:
        """Raises SealBroken."""
        text = vault.read_token(token, use)
        try:
            return cls(text[64:], UUID(text[:32]), UUID(text[32:64]))
        except ValueError:
            raise SealBroken("no token of a push") from None


class PushProvider:
    """Web Push through whatever push services the browsers have chosen."""

    name = NAME
    rate: float | None = None

    def __init__(
        self,
        settings: PushSettings,
        subscriptions: Subscriptions,
        sender: Sender,
        vault: Vault,
        clock: Clock,
        *,
        concurrency: int = 256,
        deadline: timedelta = timedelta(seconds=8),
    ) -> None:
        """concurrency: deliveries at once. deadline: the worker's, of one call."""
        self.concurrency = concurrency
        self._settings = settings
        self._sender = sender
        self._vault = vault
        self._clock = clock
        self._patience = (deadline - _RECORDING).total_seconds()
        self._waiting = _Together(subscriptions.waiting)
        self._results = _Together(_Recording(subscriptions))
        self._secrets: dict[str, bytes] = {}

    def account_of(self, address: Address) -> str:
        """Push services are left alone one by one, by the sender."""
        return "browsers"

    async def send(self, message: Message) -> Outcome:
        """To every browser that this delivery has not reached yet."""
        user_id = message.recipient_id or message.address.value
        try:
            waiting = await self._waiting.ask((message.tenant_id, user_id, message.delivery_id))
        except ServiceError as error:
            return Retry(reason="the database is away", code=error.code, elsewhere=True)
        if not waiting.subscriptions:
            return concluded(waiting, [])
        results = await self._send_all(message, waiting.subscriptions)
        try:
            heard = await self._results.ask(
                [
                    Result(one, message.delivery_id, ENDED[result.kind], result.status, _asked(result))
                    for one, result in results
                ]
            )
        except ServiceError as error:
            kinds = {result.kind for _, result in results}
            if kinds.isdisjoint({"sent", "unknown"}):
                return Retry(reason="the database is away", code=error.code, elsewhere=True)
            # What was sent and not written down is sent once more, under the same topic.
            reason = "the database was away when it was to be written down who has it"
            return Unknown(reason=reason, code=error.code, elsewhere=True, partly="sent" in kinds)
        for place, (one, result) in enumerate(results):
            said = heard.get((message.delivery_id, one.id))
            if said is None:
                continue
            if result.kind != "sent":  # its answer was lost, and the browser has shown it
                results[place] = one, replace(result, kind="sent")
            waiting = replace(
                waiting,
                is_shown=waiting.is_shown or said.is_shown,
                is_clicked=waiting.is_clicked or said.is_clicked,
            )
        return concluded(waiting, [result for _, result in results])

    async def _send_all(
        self, message: Message, subscriptions: Sequence[Subscription]
    ) -> list[tuple[Subscription, PushResult]]:
        tasks = [asyncio.ensure_future(self._send_one(message, one)) for one in subscriptions]
        try:
            await asyncio.wait(tasks, timeout=self._patience)
        finally:
            for task in tasks:
                task.cancel()
        late = PushResult(kind="unknown", reason="the push service did not answer in time")
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        results = []
        for one, result in zip(subscriptions, ended, strict=True):
            if isinstance(result, asyncio.CancelledError):
                result = late
            elif isinstance(result, Exception):
                # A fault of ours in one browser must not undo what is known of the others.
                where = "".join(traceback.format_tb(result.__traceback__))
                log.error(
                    "push_raised",
                    delivery_id=str(message.delivery_id),
                    subscription_id=str(one.id),
                    error=type(result).__name__,  # its words may hold what was sent
                    where=where,
                )
                result = PushResult(kind="retry", reason="a fault of this installation; the log has it")
            elif isinstance(result, BaseException):
                raise result
            results.append((one, result))
        return results

    async def _send_one(self, message: Message, subscription: Subscription) -> PushResult:
        push = self.push_of(message, subscription.id)
        result = await self._post(message, subscription, build(push, MAX_PLAINTEXT))
        if result.kind == "too_large":
            result = await self._post(message, subscription, build(push, _SMALL))
        return result

    async def _post(self, message: Message, subscription: Subscription, payload: bytes) -> PushResult:
        return await self._sender.send(
            subscription,
            payload,
            ttl=ttl(message.priority, message.expires_at, self._clock.now(), self._settings.lives),
            urgency=urgency(message.priority),
            topic=self._topic(message, subscription.id),
        )

    def _topic(self, message: Message, subscription_id: UUID) -> str:
        """
        Of what it replaces; else of itself, so that what is sent twice waits for the browser once. Of this browser
        alone: by one that several have, their push service would see that they belong together.
        """
        key = message.collapse_key
        what = f"collapse:{key}" if key is not None else f"one:{message.notification_id}"
        return topic(self._secret(message.tenant_id), f"{subscription_id.hex}:{what}")

    def _tag(self, message: Message) -> str | None:
        """What it replaces on the screen; only the browser reads it. None: nothing."""
        key = message.collapse_key
        return None if key is None else topic(self._secret(message.tenant_id), f"tag:{key}")

    def _secret(self, tenant_id: str) -> bytes:
        secret = self._secrets.get(tenant_id)
        if secret is None:
            secret = self._secrets[tenant_id] = self._vault.lookup("push-topic", tenant_id)
        return secret

    def push_of(self, message: Message, subscription_id: UUID) -> Push:
        """What the browser is told."""
        ticket = Ticket(message.tenant_id, message.delivery_id, subscription_id)
        assert message.notification_id is not None, "an event goes to a webhook"
        # An icon is for bystanders what a title is: a private push has that of the installation.
        looks = _Looks() if message.privacy == "private" else _looks(message.metadata.get("push"))
        return Push(
            notification_id=message.notification_id,
            notification_type=message.notification_type,
            title=message.title,
            text=message.text,
            url=message.action_url,
            home=message.home or "/",
            priority=message.priority,
            locale=message.locale,
            tag=self._tag(message),
            icon=looks.icon or self._settings.icon,
            badge=looks.badge or self._settings.badge,
            image=looks.image,
            actions=looks.actions,
            receipt=ticket.seal(self._vault, "push-receipt"),
            fetch=ticket.seal(self._vault, "push-fetch"),
            reads=message.reads,
            unread=message.unread,
            privacy=message.privacy,
        )


def concluded(waiting: Waiting, results: Sequence[PushResult]) -> Outcome:
    """
    What a delivery has come to, out of what became of it in each browser (pure).

    Some browser has it and none is left to try: sent. Some are left: tried again, as soon as one of them may be, and
    if that never helps, it was sent all the same where one has it.
    """
    has_sent = waiting.has_sent or any(one.kind == "sent" for one in results)
    left = [one for one in results if one.kind in ("retry", "throttled")]
    lost = [one for one in results if one.kind == "unknown"]
    if left or waiting.wait is not None:
        again = [*left, *lost] or [PushResult(kind="throttled", reason=_PAUSED)]
        waits = [one.retry_after for one in (*left, *lost)]
        pauses = [waiting.wait, *(one.retry_after for one in left if not has_sent and _asked(one) is None)]
        asked = [wait for wait in (*waits, waiting.wait) if wait is not None]
        return Retry(
            reason=again[0].reason,
            code=_code(again[0]),
            after=None if None in waits else min(asked),
            elsewhere=True,
            partly=has_sent,
            is_held_back=not lost and all(one.is_held_back for one in left),
            untried=min((wait for wait in pauses if wait is not None), default=None),
        )
    if lost:
        return Unknown(reason=lost[0].reason, code=_code(lost[0]), elsewhere=True, partly=has_sent)
    if has_sent:
        return Sent(reached="read" if waiting.is_clicked else "delivered" if waiting.is_shown else None)
    bad = [one for one in results if one.kind != "gone"]
    if bad:
        return Fail(reason=bad[0].reason, code=_code(bad[0]))
    if waiting.is_refused:
        return Fail(reason="refused for good in an attempt before", code="refused")
    return Fallback(reason="no browser is left that takes it", code="no_browser")


_PAUSED = "the push service has asked for a pause"


def _asked(result: PushResult) -> timedelta | None:
    """The pause that its push service has asked for, in answer to this push; a pause of all is the sender's."""
    return result.retry_after if result.status is not None else None


def _code(result: PushResult) -> str:
    return str(result.status) if result.status is not None else result.kind


@dataclass(frozen=True, slots=True)
class _Looks:
    icon: str | None = None
    badge: str | None = None
    image: str | None = None
    actions: tuple[Action, ...] | None = None


def _looks(given: Any) -> _Looks:
    """What the producer has said of looks in `metadata.push`; what is not of the right form counts as not said."""
    if not isinstance(given, Mapping):
        return _Looks()
    return _Looks(
        icon=_link(given.get("icon")),
        badge=_link(given.get("badge")),
        image=_link(given.get("image")),
        actions=_actions(given.get("actions")),
    )


def _actions(given: Any) -> tuple[Action, ...] | None:
    if not isinstance(given, list):
        return None
    return tuple(
        Action(one["action"], one["title"], _link(one.get("url")))
        for one in given[:4]
        if isinstance(one, Mapping)
        and isinstance(one.get("action"), str)
        and isinstance(one.get("title"), str)
    )


def _link(given: Any) -> str | None:
    """An https URL, or a path of the application."""
    is_path = isinstance(given, str) and given.startswith("/") and not given.startswith("//")
    return given if isinstance(given, str) and (is_path or given.startswith("https://")) else None


# --- many at once ----------------------------------------------------------------------------------------------------

Q = TypeVar("Q")
A = TypeVar("A")


class _Together(Generic[Q, A]):
    """Asks the database once for what many sends want to know at the same moment."""

    def __init__(self, ask: Callable[[Sequence[Q]], Awaitable[Sequence[A]]]) -> None:
        self._ask = ask
        self._open: list[tuple[Q, asyncio.Future[A]]] = []
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, question: Q) -> A:
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._open.append((question, answer))
        if self._running < 2:  # while one is answered, the next gathers
            self._running += 1
            task = asyncio.ensure_future(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await answer

    async def _run(self) -> None:
        try:
            await asyncio.sleep(0)  # whoever is ready now comes along
            await self._answer_all()
        finally:
            self._running -= 1

    async def _answer_all(self) -> None:
        while self._open:
            batch, self._open[:_TOGETHER] = self._open[:_TOGETHER], []
            try:
                answers = await self._ask([question for question, _ in batch])
            except Exception as error:  # noqa: BLE001 - it is raised where each of them waits
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_, answer), value in zip(batch, answers, strict=True):
                if not answer.done():
                    answer.set_result(value)


class _Recording:
    """Writes down the results of several deliveries; each gets what was heard of any of them."""

    def __init__(self, subscriptions: Subscriptions) -> None:
        self._subscriptions = subscriptions

    async def __call__(
        self, questions: Sequence[Sequence[Result]], /
    ) -> Sequence[Mapping[tuple[UUID, UUID], Heard]]:
        heard = await self._subscriptions.record([one for results in questions for one in results])
        return [heard] * len(questions)
