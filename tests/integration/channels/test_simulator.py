"""The simulator ends as its script says, and reports what it has taken."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest

from core.clock import SystemClock
from core.outcome import Defer, Fail, Halt, Retry, Sent, Suppress, Unknown
from delivery.channels.simulator import SimulatedReceipt, Simulator, SimulatorSettings
from tests.outgoing import message


class Receipts:
    """Those that came."""

    def __init__(self) -> None:
        self.told: list[SimulatedReceipt] = []
        self.came = asyncio.Event()

    async def __call__(self, receipt: SimulatedReceipt) -> None:
        self.told.append(receipt)
        self.came.set()


def simulator(*script, channel="sms", report=None, **settings):
    given = {"receipt_after": timedelta(0), "slow": timedelta(0), **settings}
    return Simulator(
        SimulatorSettings(script=json.dumps(script or ["ok"]), **given), channel, SystemClock(), report
    )


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("ok", Sent),
        ("slow", Sent),
        ("lost_receipt", Sent),
        ("reset_after_accept", Unknown),
        ("unreachable", Retry),
        ("reject", Fail),
        ("429", Retry),
        ("500", Retry),
        ("404", Fail),
        ("401", Halt),
        ("131056", Defer),
        ("131050", Suppress),
        ("twilio:21610", Suppress),
        ("telegram:403", Suppress),
    ],
)
async def test_each_word_of_a_script_is_an_end(word, kind):
    assert type(await simulator(word).send(message("sms"))) is kind


async def test_a_script_begins_again_at_its_end():
    provider = simulator("ok", "429", "reject")

    ends = [type(await provider.send(message("sms"))) for _ in range(7)]

    assert ends == [Sent, Retry, Fail, Sent, Retry, Fail, Sent]


async def test_its_429_is_for_the_whole_account_and_says_when():
    ended = await simulator("429", retry_after=timedelta(seconds=9)).send(message("sms"))

    assert ended == Retry(reason="answered 429", code="429", after=timedelta(seconds=9), throttled=True)


async def test_a_message_has_a_script_of_its_own_by_attempt():
    provider = simulator("reject")

    def asks(simulate, attempt=1):
        return message("sms", metadata={"simulate": simulate}, attempt=attempt)

    assert isinstance(await provider.send(asks("ok")), Sent)
    assert isinstance(await provider.send(asks(["429", "ok"], attempt=1)), Retry)
    assert isinstance(await provider.send(asks(["429", "ok"], attempt=2)), Sent)
    assert isinstance(await provider.send(asks(["429"], attempt=2)), Sent)
    for nonsense in ("x", 7, {}, [[]], [None]):
        assert isinstance(await provider.send(asks(nonsense)), Sent)
    assert isinstance(await provider.send(message("sms")), Fail)


async def test_what_was_taken_is_reported_a_moment_later():
    receipts = Receipts()

    ended = await simulator("ok", report=receipts).send(message("sms"))

    await asyncio.wait_for(receipts.came.wait(), 60)
    (told,) = receipts.told
    assert ended == Sent(provider_ref=told.provider_ref)
    assert (told.delivery_id, told.channel, told.status) == (message("sms").delivery_id, "sms", "delivered")


async def test_a_lost_answer_is_cleared_up_by_its_receipt_and_a_lost_receipt_is_not():
    receipts = Receipts()
    provider = simulator("lost_receipt", "reset_after_accept", report=receipts)

    first = await provider.send(message("sms", reference="one"))
    second = await provider.send(message("sms", reference="two"))

    await asyncio.wait_for(receipts.came.wait(), 60)
    assert [told.provider_ref for told in receipts.told] == ["sim-two"]
    assert first == Sent(provider_ref="sim-one")
    assert isinstance(second, Unknown)


async def test_a_report_that_fails_troubles_nobody():
    failed = asyncio.Event()

    async def fail(_receipt):
        failed.set()
        raise RuntimeError("no database")

    provider = simulator(report=fail)

    assert isinstance(await provider.send(message("sms")), Sent)
    await asyncio.wait_for(failed.wait(), 60)
    await provider.close()


async def test_closing_forgets_the_receipts_that_are_due():
    receipts = Receipts()
    provider = simulator(report=receipts, receipt_after=timedelta(hours=1))
    await provider.send(message("sms"))

    await provider.close()

    assert receipts.told == []


async def test_what_hangs_can_be_cancelled():
    sending = asyncio.create_task(simulator("hang").send(message("sms")))
    await asyncio.sleep(0)

    sending.cancel()

    with pytest.raises(asyncio.CancelledError):
        await sending


@pytest.mark.parametrize(
    "script", ["", "ok", "[]", '["sometimes"]', '["999999999"]', "[429]", '["299999"]', "{}", "[" * 9999]
)
def test_a_script_that_is_none_is_refused_with_the_words_there_are(script):
    with pytest.raises(ValueError, match=r"DELIVERY_SIMULATOR_SCRIPT.*reset_after_accept"):
        SimulatorSettings(script=script)


def test_it_stands_in_for_channels_that_exist():
    with pytest.raises(ValueError, match="DELIVERY_SIMULATE"):
        SimulatorSettings(channels=frozenset({"fax"}))
