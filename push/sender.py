"""One push to one browser: judged, encrypted, signed, handed to its push service, and what became of it."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

from core.clock import Clock
from push.encryption import MAX_PLAINTEXT, SenderKeys, bucket, encrypt
from push.guard import Guard, target
from push.keys import PushSettings, VapidKey
from push.origin import Origin, Pace, Pause, Person
from push.outcome import PushResult, Service, result_of, service_of
from push.subscription import BadSubscription, Subscription
from push.transport import Broken, Headers, KeepAliveTransport, Patience, Post, Transport, trusting
from push.transport_aiohttp import AiohttpTransport
from push.vapid import Headers as VapidHeaders

__all__ = ["PushResult", "PushSender", "SenderSettings", "SenderStats"]

#: Origins that are remembered; an installation that takes any host meets any number of them.
_ORIGINS = 4096

#: For how long pushes are gathered to be encrypted together, in seconds.
_GATHERING = 0.001

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderSettings:
    """Sending to push services."""

    connect_timeout: timedelta = timedelta(seconds=3)  # of PUSH_TIMEOUT, for a name, a connection and its TLS
    queue: timedelta = timedelta(seconds=2)  # of PUSH_TIMEOUT, for a turn at the push service
    concurrency: int = (
        128  # requests under way at once, per push service and process; fewer when it wants fewer
    )
    rate: float | None = None  # requests per second, per push service and process; None: no limit
    slice: int = 16  # messages encrypted in one go, before anything else in the process has its turn
    idle: timedelta = timedelta(seconds=45)  # a connection without requests is closed
    connection_life: timedelta = timedelta(minutes=10)  # then the name of the push service is asked for again
    proxy: str | None = field(
        default=None, repr=False
    )  # http://proxy:port that connections are made through; it has to judge where names lead

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError("PUSH_CONCURRENCY must be at least 1")
        if self.slice < 1:
            raise ValueError("PUSH_SLICE must be at least 1")
        if self.rate is not None and self.rate <= 0:
            raise ValueError("PUSH_RATE must be above zero")


class Keys(Protocol):
    """The server's keys; `push.keys_store.KeyRing` is one."""

    async def find(self, key_id: str, /) -> VapidKey | None:
        """None: there is none of that name, or it signs nothing any more."""
        ...


@dataclass(slots=True)
class SenderStats:
    """
    What a sender has done since it was made.

    results: by push service and kind. waiting: for a turn, at the moment. in_flight: requests, at the moment.
    """

    results: Counter[tuple[Service, str]] = field(default_factory=Counter)
    waiting: int = 0
    in_flight: int = 0


class PushSender:
    """
    Sends to any number of browsers at once; each push service has its own pace.

    keys: a subscription is sent to with the key it was made with. transport: in place of its own.
    """

    def __init__(
        self,
        settings: PushSettings,
        keys: Keys,
        clock: Clock,
        *,
        sending: SenderSettings | None = None,
        transport: Transport | None = None,
    ) -> None:
        sending = sending or SenderSettings()
        self.stats = SenderStats()
        self.guard = Guard(settings)
        self._keys = keys
        self._clock = clock
        self._vapid = VapidHeaders(settings.subject)
        self._sender_keys = SenderKeys(settings.batch_key)
        self._pace = Pace(concurrency=sending.concurrency, rate=sending.rate)
        self._queue_s = sending.queue.total_seconds()
        self._turns = Turns(sending.slice)
        self._gates: dict[str, _Gate] = {}
        self._transport = transport or self._made_transport(settings, sending)

    async def send(
        self, subscription: Subscription, payload: bytes, *, ttl: int, urgency: str, topic: str | None
    ) -> PushResult:
        """
        Encrypt a payload for this browser and hand it over.

        payload: at most MAX_PLAINTEXT bytes. ttl: in seconds (RFC 8030 §5.2). urgency: §5.3. topic: at most 32
        characters of base64url (§5.4); what has one may be sent twice, since only the later one is kept.
        """
        try:
            origin = self.guard.check(subscription.endpoint)
        except BadSubscription as refused:
            return self._counted("other", PushResult(kind="blocked", reason=f"the endpoint {refused}"))
        gate = self._gate(origin)
        service = gate.service
        if len(payload) > MAX_PLAINTEXT:
            return self._counted(service, PushResult(kind="too_large", reason="the message is too large"))
        key = await self._keys.find(subscription.vapid_key_id)
        if key is None:
            reason = "it was made with a VAPID key that is not used any more"
            return self._counted(service, PushResult(kind="refused", reason=reason))
        self.stats.waiting += 1
        try:
            turned_away = await gate.enter(self._queue_s)
        finally:
            self.stats.waiting -= 1
        if turned_away is not None:
            return self._counted(service, turned_away)
        result: PushResult | None = None
        self.stats.in_flight += 1
        try:
            result = await self._post(
                subscription, payload, key, origin, service, ttl=ttl, urgency=urgency, topic=topic
            )
            if result.kind == "gone" and gate.origin.doubts_ends:
                reason = "the subscription has ended, and so has nearly every other: not believed at once"
                result = PushResult(kind="refused", status=result.status, reason=reason)
        finally:
            self.stats.in_flight -= 1
            gate.leave(result, (subscription.tenant_id, subscription.user_id))
        if result.kind in ("retry", "throttled") and gate.origin.holds_back(self._clock.monotonic()):
            result = replace(result, is_held_back=True)
        return self._counted(service, result)

    async def close(self) -> None:
        """Close its connections."""
        await self._transport.close()

    async def _post(
        self,
        subscription: Subscription,
        payload: bytes,
        key: VapidKey,
        origin: str,
        service: Service,
        *,
        ttl: int,
        urgency: str,
        topic: str | None,
    ) -> PushResult:
        encryption = partial(self._encrypted, payload, subscription)
        try:
            body = await self._turns.of(encryption, self.stats.in_flight)
        except ValueError:
            return PushResult(kind="refused", reason="the keys of the browser are no keys")
        now = self._clock.now()
        own = [("TTL", str(ttl)), ("Urgency", urgency)]
        if topic is not None:
            own.append(("Topic", topic))
        if service == "windows":  # 400 unless the two agree
            own.append(("X-WNS-Cache-Policy", "cache" if ttl else "no-cache"))
        answer = await self._transport.post(
            Post(
                origin=origin,
                target=target(subscription.endpoint),
                standing=_standing(service, self._vapid.authorization(key, origin, now)),
                own=tuple(own),
                body=body,
                is_repeatable=topic is not None,
            )
        )
        if not isinstance(answer, Broken):
            return result_of(answer, service, now)
        if answer.is_blocked:
            return PushResult(kind="blocked", reason=answer.reason)
        return PushResult(kind="unknown" if answer.was_handed_over else "retry", reason=answer.reason)

    def _encrypted(self, payload: bytes, subscription: Subscription) -> bytes:
        """Raises ValueError."""
        return encrypt(
            payload,
            subscription.p256dh,
            subscription.auth,
            pad_to=bucket(len(payload)),
            sender=self._sender_keys.next(self._clock.monotonic()),
        )

    def _gate(self, origin: str) -> _Gate:
        gate = self._gates.get(origin)
        if gate is None:
            if len(self._gates) >= _ORIGINS:
                for name in [name for name, one in self._gates.items() if one.is_idle]:
                    del self._gates[name]
            gate = self._gates[origin] = _Gate(Origin(self._pace), service_of(origin), self._clock)
        return gate

    def _counted(self, service: Service, result: PushResult) -> PushResult:
        self.stats.results[service, result.kind] += 1
        return result

    def _made_transport(self, settings: PushSettings, sending: SenderSettings) -> Transport:
        tls = trusting(settings.ca_file)
        patience = Patience(
            connect=sending.connect_timeout,
            answer=max(settings.timeout - sending.queue, timedelta(seconds=1)),
            idle=sending.idle,
            life=sending.connection_life,
        )
        if sending.proxy is not None:
            return AiohttpTransport(self.guard, tls, patience, proxy=sending.proxy)
        return KeepAliveTransport(self.guard, tls, patience)


def _standing(service: Service, authorization: str) -> Headers:
    """
    The headers that all pushes to one push service have alike.

    Apple's is told that the message is a declarative one (WebKit's explainer of Declarative Web Push), which costs
    nothing where it is none; WNS insists on octets.
    """
    kind = "application/notification+json" if service == "apple" else "application/octet-stream"
    return (
        ("User-Agent", "Carillon"),
        ("Content-Type", kind),
        ("Content-Encoding", "aes128gcm"),
        ("Authorization", authorization),
    )


_CROWDED = PushResult(
    kind="retry", reason="too many pushes are waiting for this push service", is_held_back=True
)


class _Gate:
    """The queue of one push service: in the order of arrival, as its pace lets them."""

    def __init__(self, origin: Origin, service: Service, clock: Clock) -> None:
        self.origin = origin
        self.service = service
        self._clock = clock
        self._queue: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        return self.origin.in_flight == 0 and not self._queue

    async def enter(self, seconds: float) -> PushResult | None:
        """Wait for a turn, at most so long. None: it has come; `leave` must follow."""
        now = self._clock.monotonic()
        until = now + seconds
        behind = bool(self._queue)
        while True:
            verdict = None if behind else self.origin.admit(now)
            if isinstance(verdict, Pause):
                self._wake()  # those behind hear it, too
                return _turned_away(verdict)
            if verdict is None and not behind:
                self._wake()  # there may be room for one more
                return None
            if now >= until:
                return _CROWDED
            turn = asyncio.get_running_loop().create_future()
            self._queue.append(turn) if behind else self._queue.appendleft(turn)
            if verdict is not None and verdict.seconds is not None:
                self._wake_after(verdict.seconds)
            try:
                async with asyncio.timeout(until - now):
                    await turn
            except (TimeoutError, asyncio.CancelledError) as error:
                if not turn.cancelled():
                    self._wake()  # it came too late for us, not for the next
                elif turn in self._queue:
                    self._queue.remove(turn)
                if isinstance(error, TimeoutError):
                    return _CROWDED
                raise
            behind = False
            now = self._clock.monotonic()

    def leave(self, result: PushResult | None, person: Person) -> None:
        self.origin.ended(result, self._clock.monotonic(), person)
        self._wake()

    def _wake(self) -> None:
        """Let the next one ask."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _wake_after(self, seconds: float) -> None:
        if self._timer is None or self._timer.cancelled():
            self._timer = asyncio.get_running_loop().call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._wake()


def _turned_away(pause: Pause) -> PushResult:
    reason = (
        "the push service has asked for a pause"
        if pause.kind == "throttled"
        else "the push service has failed too often in a row"
    )
    wait = timedelta(seconds=pause.seconds)
    return PushResult(kind=pause.kind, retry_after=wait, reason=reason, is_held_back=True)


class Turns:
    """
    Work for the processor in slices: so much of it in one go, then everything else in the process.

    A hundred pushes that become due together would else hold up the loop for as long as a hundred encryptions take.
    Where many are under way, the next ones are gathered until they fill a slice, or for a millisecond: one
    encryption after another costs a quarter less than one between a reading and a writing each, which empty the
    processor's caches, and the loop turns, polls and is woken once for all of them.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None

    async def of(self, work: Callable[[], T], under_way: int) -> T:
        """
        What the work gives, when it has had its turn: at once where no more than a slice are under way.

        Raises what the work raises. Work that nobody waits for any more is not done.
        """
        if under_way <= self._size and not self._waiting:
            return work()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting.append((work, done))
        self._arrange(loop)
        return await done

    def _arrange(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._is_due or not self._waiting:
            return
        if len(self._waiting) >= self._size:
            self._is_due = True
            loop.call_soon(self._work)
        elif self._timer is None:
            self._timer = loop.call_later(_GATHERING, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not self._is_due:
            self._work()

    def _work(self) -> None:
        self._is_due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        left = self._size
        while left and self._waiting:
            work, done = self._waiting.popleft()
            if done.done():  # cancelled
                continue
            left -= 1
            try:
                done.set_result(work())
            except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
                done.set_exception(error)
        self._arrange(asyncio.get_running_loop())
