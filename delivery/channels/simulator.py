"""
A provider that sends nothing and can stand in for any channel, with the faults that a script asks for.

    ok                  taken; a receipt follows
    slow                taken, after a while
    hang                never answered
    reset_after_accept  taken, and the answer is lost: nobody here knows; its receipt comes all the same
    lost_receipt        taken; no receipt ever follows
    unreachable         no connection
    reject              refused for good
    429                 refused for now, with a Retry-After; likewise any other HTTP status
    131056, twilio:21610  refused with that code of Meta's, or of the provider that is named
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from uuid import UUID

import msgspec
import structlog

from core.clock import Clock
from core.outcome import Fail, Outcome, Retry, Sent, Unknown
from delivery.channel import PROVIDER_CHANNELS, Address, Message
from delivery.channels.codes import by_status, find, outcome

log = structlog.stdlib.get_logger("delivery.channels.simulator")

_WORDS = frozenset({"ok", "slow", "hang", "reset_after_accept", "lost_receipt", "unreachable", "reject"})
_CODE = re.compile(r"(?:(meta|twilio|telegram):)?([0-9]{1,7})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSettings:
    """The simulator, which stands in for providers. From DELIVERY_SIMULAT*; not for production."""

    channels: frozenset[str] = frozenset()  # that it stands in for; refused in production
    script: str = (
        '["ok"]'  # JSON: what happens to one message after the other, from the start again at its end
    )
    slow: timedelta = timedelta(seconds=5)  # how long `slow` takes
    retry_after: timedelta = timedelta(seconds=1)  # of its 429
    receipt_after: timedelta = timedelta(milliseconds=200)  # when its receipts come
    concurrency: int = 32  # calls under way at once
    rate: float = 0.0  # messages per second; 0: no limit

    def __post_init__(self) -> None:
        unknown = self.channels - set(PROVIDER_CHANNELS)
        if unknown:
            raise ValueError(f"DELIVERY_SIMULATE: channels are {', '.join(PROVIDER_CHANNELS)}")
        read_script(self.script)
        if self.concurrency < 1:
            raise ValueError("DELIVERY_SIMULATOR_CONCURRENCY is 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedReceipt:
    """What became of a message that was taken."""

    tenant_id: str
    delivery_id: UUID
    channel: str
    provider_ref: str
    status: Literal["delivered"] = "delivered"


Report = Callable[[SimulatedReceipt], Awaitable[None]]


def read_script(text: str) -> tuple[str, ...]:
    """Raises ValueError for what is no script, with the words there are."""
    try:
        script = msgspec.json.decode(text, type=tuple[str, ...])
    except (msgspec.DecodeError, RecursionError):
        script = ()
    if not script or not all(is_fault(word) for word in script):
        raise ValueError(
            f"DELIVERY_SIMULATOR_SCRIPT is a JSON list of {', '.join(sorted(_WORDS))}, an HTTP status, a code of "
            "Meta's or <provider>:<code>"
        )
    return script


def is_fault(word: object) -> bool:
    """Whether a script may say this."""
    return isinstance(word, str) and (word in _WORDS or _code(word) is not None)


class Simulator:
    """
    Stands in for one channel.

    report: told of what was taken, a moment later; None: there are no receipts. `close` forgets those due.
    """

    name = "simulator"

    def __init__(
        self, settings: SimulatorSettings, channel: str, clock: Clock, report: Report | None = None
    ) -> None:
        self.concurrency = settings.concurrency
        self.rate = settings.rate or None
        self._settings = settings
        self._channel = channel
        self._clock = clock
        self._report = report
        self._script: Iterator[str] = itertools.cycle(read_script(settings.script))
        self._due: set[asyncio.Task[None]] = set()

    def account_of(self, address: Address) -> str:
        return self._channel

    async def send(self, message: Message) -> Outcome:
        """As the message's own metadata says (`simulate`: a word, or a list of them by attempt), or the script."""
        word = _of_message(message) or next(self._script)
        match word:
            case "ok" | "lost_receipt":
                return self._take(message, has_receipt=word == "ok")
            case "slow":
                await self._clock.sleep(self._settings.slow.total_seconds())
                return self._take(message)
            case "hang":
                await asyncio.Event().wait()
            case "reset_after_accept":
                self._take(message)
                return Unknown(reason="the connection to the provider broke after it was sent")
            case "unreachable":
                return Retry(reason="no connection to the provider")
            case "reject":
                return Fail(reason="the simulator was told to refuse it", code="rejected")
        provider, code = _code(word) or ("meta", 131000)
        after = self._settings.retry_after if code == 429 else None
        if find(provider, code) is None:
            return by_status(code, after=after)
        return outcome(provider, code, attempt=message.attempt, after=after)

    async def close(self) -> None:
        """Forget the receipts that are due."""
        for task in self._due:
            task.cancel()
        await asyncio.gather(*self._due, return_exceptions=True)

    def _take(self, message: Message, *, has_receipt: bool = True) -> Sent:
        reference = f"sim-{message.reference}"
        if has_receipt and self._report is not None:
            receipt = SimulatedReceipt(
                tenant_id=message.tenant_id,
                delivery_id=message.delivery_id,
                channel=self._channel,
                provider_ref=reference,
            )
            task = asyncio.create_task(self._tell(self._report, receipt), name="simulated receipt")
            self._due.add(task)
            task.add_done_callback(self._due.discard)
        return Sent(provider_ref=reference, is_final=self._report is None)

    async def _tell(self, report: Report, receipt: SimulatedReceipt) -> None:
        await self._clock.sleep(self._settings.receipt_after.total_seconds())
        try:
            await report(receipt)
        except Exception as error:  # noqa: BLE001  # a lost receipt is what the reconciliation is for
            log.warning("simulated_receipt_lost", error=type(error).__name__)


def _of_message(message: Message) -> str | None:
    """What the message asks for; words that no script may say count as `ok`, and a list ends with `ok`."""
    asked = message.metadata.get("simulate")
    if asked is None:
        return None
    if isinstance(asked, list):
        asked = asked[message.attempt - 1] if 0 < message.attempt <= len(asked) else "ok"
    return asked if isinstance(asked, str) and is_fault(asked) else "ok"


def _code(word: str) -> tuple[str, int] | None:
    """The provider and its code; None for what is neither a code of its table nor an HTTP status."""
    found = _CODE.fullmatch(word)
    if found is None:
        return None
    provider, code = found[1] or "meta", int(found[2])
    is_status = found[1] is None and 300 <= code < 600
    return (provider, code) if is_status or find(provider, code) is not None else None
