"""Where an endpoint may lead, by its text; and that nobody connects to what is not the open internet."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from push.guard import Blocked, Guard, StrangersResolver, check_endpoint
from push.keys import PushSettings
from push.subscription import BadSubscription
from push.transport import Answer, Broken, Post
from tests.senders import TRANSPORTS, transport

LISTED = PushSettings()
ANY = PushSettings(any_host=True)


@pytest.mark.parametrize(
    ("endpoint", "origin"),
    [
        ("https://fcm.googleapis.com/fcm/send/a:b", "https://fcm.googleapis.com"),
        ("https://FCM.GoogleAPIs.com./fcm/send/a", "https://fcm.googleapis.com"),
        ("https://fcm.googleapis.com:443/fcm/send/a", "https://fcm.googleapis.com"),
        ("https://jmt17.google.com/fcm/send/a", "https://jmt17.google.com"),
        ("https://updates.push.services.mozilla.com/wpush/v2/a", "https://updates.push.services.mozilla.com"),
        ("https://web.push.apple.com/QGuQ", "https://web.push.apple.com"),
        ("https://fcm.googleapis.com:0443/a.b/..c", "https://fcm.googleapis.com"),
        ("https://\uff46cm.googleapis.com/a", "https://fcm.googleapis.com"),
        (
            "https://wns2-par02p.notify.windows.com/w/?token=BQY%2f%3d",
            "https://wns2-par02p.notify.windows.com",
        ),
    ],
)
def test_endpoints_of_the_push_services_of_browsers_are_taken(endpoint: str, origin: str) -> None:
    assert check_endpoint(endpoint, LISTED) == origin


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "fcm.googleapis.com/a",
        "http://fcm.googleapis.com/a",
        "ftp://fcm.googleapis.com/a",
        "javascript:alert(1)",
        "//fcm.googleapis.com/a",
        "https:///a",
        "https://user@fcm.googleapis.com/a",
        "https://user:word@fcm.googleapis.com/a",
        "https://@fcm.googleapis.com/a",
        "https://fcm.googleapis.com@127.0.0.1/a",
        "https://127.0.0.1\\@fcm.googleapis.com/a",
        "https://fcm.googleapis.com:80/a",
        "https://fcm.googleapis.com:8443/a",
        "https://fcm.googleapis.com:0/a",
        "https://fcm.googleapis.com:99999/a",
        "https://fcm.googleapis.com:x/a",
        "https://fcm.googleapis.com/a#b",
        "https://fcm.googleapis.com/a b",
        "https://fcm%2Egoogleapis.com/a",
        "https://fcm.googleapis.com%2f.evil.example/a",
        "https://%66cm.googleapis.com/a",
        "https://fcm.googleapis.com/a/../b",
        "https://fcm.googleapis.com/./b",
        "https://fcm.googleapis.com/a/%2E%2e/b",
        "https://fcm.googleapis.com/a/.%2e",
        "https://fcm.googleapis.com:٤٤٣/a",
        "https://fcm.googleapis.com/a\r\nX-Evil: 1",
        "https://fcm.googleapis.com/\x00",
        "https://fcm.googleapis.com/ü",
        "https://fcm.goog\tleapis.com/a",
        " https://fcm.googleapis.com/a",
        "https://fcm.googleapis.com.evil.example/a",
        "https://evilfcm.googleapis.com/a",
        "https://x.fcm.googleapis.com/a",
        "https://push.apple.com/a",
        "https://xpush.apple.com/a",
        "https://web.push.apple.com.evil.example/a",
        "https://fcm.googleapis.com../a",
        "https://.fcm.googleapis.com/a",
        "https://[::1]/a",
        "https://[fcm.googleapis.com]/a",
        "https://127.0.0.1/a",
        "https://8.8.8.8/a",
        "https://localhost/a",
        "https://push.example/a",
        "https://" + "a" * 64 + ".push.apple.com/a",
        "https://fcm.googleapis.com/" + "a" * 2048,
    ],
)
def test_other_endpoints_are_refused_by_name_and_not_repeated(endpoint: str) -> None:
    with pytest.raises(BadSubscription) as refused:
        check_endpoint(endpoint, LISTED)

    assert refused.value.field == "endpoint"
    assert "googleapis" not in str(refused.value)


def test_any_host_means_any_of_the_open_internet() -> None:
    assert check_endpoint("https://ntfy.example.org/up", ANY) == "https://ntfy.example.org"
    assert check_endpoint("https://bücher.example/up", ANY) == "https://xn--bcher-kva.example"
    assert check_endpoint("https://8.8.8.8/up", ANY) == "https://8.8.8.8"
    assert check_endpoint("https://[2606:4700::1111]/up", ANY) == "https://[2606:4700::1111]"


def test_an_origin_of_the_tests_leads_where_the_tests_say() -> None:
    settings = PushSettings(
        resolve=frozenset({"https://push.example=127.0.0.1:4433", "https://localhost:8443=127.0.0.1:8443"})
    )

    assert check_endpoint("https://push.example/a", settings) == "https://push.example"
    assert check_endpoint("https://localhost:8443/a", settings) == "https://localhost:8443"
    with pytest.raises(BadSubscription):
        check_endpoint("https://localhost:8444/a", settings)


def test_an_origin_of_the_tests_leads_to_an_address_and_not_to_a_name() -> None:
    with pytest.raises(ValueError, match="PUSH_RESOLVE"):
        PushSettings(resolve=frozenset({"https://push.example=localhost:4433"}))


#: RELIABILITY, threat 15: what must not be connected to, in every spelling.
CLOSED = (
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1",
    "100.127.255.254", "100.100.100.200", "169.254.169.254", "169.254.0.1", "172.16.0.1", "172.31.255.255",
    "192.168.0.1", "192.168.255.255", "192.0.0.8", "192.0.0.170", "192.0.2.1", "192.88.99.1", "198.18.0.1",
    "198.19.255.255", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255", "168.63.129.16",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::127.0.0.1", "::10.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:7f00:1::", "2001:db8::1",
    "100::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "5f00::1", "3fff::1",
)  # fmt: skip

#: What some readers take for an address.
SPELLINGS = ("127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "0")


class Dialled:
    """The addresses that were connected to; none of the connections is made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: list[Any] = []
        monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", self._connect)

    async def _connect(self, _socket: Any, address: Any) -> None:
        self.addresses.append(address[:2])
        raise ConnectionRefusedError


class Names:
    """A resolver that says each time what comes next."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self._answers.pop(0)


def post(origin: str) -> Post:
    return Post(origin=origin, target="/a", standing=(), own=(), body=b"x")


def at(address: str) -> str:
    return f"https://[{address}]/a" if ":" in address else f"https://{address}/a"


@pytest.mark.parametrize("address", CLOSED + SPELLINGS)
@pytest.mark.parametrize("settings", [LISTED, ANY], ids=["listed", "any"])
def test_an_endpoint_at_a_closed_address_is_refused_when_it_is_subscribed(
    address: str, settings: PushSettings
) -> None:
    with pytest.raises(BadSubscription):
        check_endpoint(at(address), settings)


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_no_connection_is_made_to_a_closed_address(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dialled = Dialled(monkeypatch)
    names = Names(*([address] for address in CLOSED))
    way, guard = transport(kind, ANY, resolver=names)

    ends = [await way.post(post("https://push.example")) for _ in CLOSED]
    ends += [await way.post(post(at(address).removesuffix("/a"))) for address in CLOSED]
    await way.close()

    assert dialled.addresses == []
    assert len(CLOSED) >= 40
    assert all(isinstance(end, Broken) and end.is_blocked and not end.was_handed_over for end in ends), ends
    assert guard.blocked == 2 * len(CLOSED)


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_one_closed_address_among_open_ones_is_enough(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled = Dialled(monkeypatch)
    way, guard = transport(kind, ANY, resolver=Names(["93.184.216.34", "10.0.0.1"]))

    ended = await way.post(post("https://push.example"))
    await way.close()

    assert isinstance(ended, Broken)
    assert ended.is_blocked
    assert (dialled.addresses, guard.blocked) == ([], 1)


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_a_name_that_is_rebound_leads_to_the_address_that_was_checked_or_nowhere(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled = Dialled(monkeypatch)
    names = Names(["93.184.216.34"], ["127.0.0.1"], ["93.184.216.34"])
    way, guard = transport(kind, ANY, resolver=names)

    ends = [await way.post(post("https://rebound.example")) for _ in range(3)]
    await way.close()

    assert dialled.addresses == [("93.184.216.34", 443), ("93.184.216.34", 443)]
    assert [isinstance(end, Broken) and end.is_blocked for end in ends] == [False, True, False]
    assert names.asked == ["rebound.example"] * 3, "once for each connection"


async def test_a_closed_address_is_no_name_for_the_guard() -> None:
    guard = Guard(ANY, Names([]))

    with pytest.raises(OSError, match="no address"):
        await guard.addresses("push.example")


def test_an_answer_says_nothing_of_its_headers_in_a_log() -> None:
    assert "secret" not in repr(Answer(201, {"location": "secret"}, b"secret"))


# --- names that strangers have chosen ----------------------------------------------------------------------------------


class MachineNames:
    """In place of this machine's DNS: names that begin with `slow` are answered when `answer` is set, with nothing."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.asked: list[str] = []
        self.under_way = self.most = 0
        self._lock = threading.Lock()
        self._real = socket.getaddrinfo

    def __call__(self, host: Any, *rest: Any, **more: Any) -> Any:
        if host == "localhost":
            return self._real(host, *rest, **more)
        with self._lock:
            self.asked.append(host)
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        try:
            if host.startswith("slow"):
                self.answer.wait()
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        finally:
            with self._lock:
                self.under_way -= 1


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[MachineNames]:
    names = MachineNames()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    yield names
    names.answer.set()


async def test_names_that_nobody_answers_for_are_in_no_listed_names_way(names: MachineNames) -> None:
    guard = Guard(PushSettings(any_host=True, hosts=frozenset({"localhost"})))
    slow = [asyncio.ensure_future(guard.addresses(f"slow{number}.example")) for number in range(40)]
    await asyncio.sleep(0)

    async with asyncio.timeout(60):
        with pytest.raises(Blocked):  # it was looked up: to where nothing is sent
            await guard.addresses("localhost")
    for one in slow:
        one.cancel()
    await asyncio.gather(*slow, return_exceptions=True)

    assert names.most <= 2


async def test_a_name_that_is_asked_for_often_is_looked_up_once(names: MachineNames) -> None:
    guard = Guard(PushSettings(any_host=True))
    asking = [asyncio.ensure_future(guard.addresses("slow.example")) for _ in range(10)]
    await asyncio.sleep(0)
    names.answer.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)

    assert all(isinstance(one, OSError) for one in answers)
    with pytest.raises(OSError, match="a moment ago"):
        await guard.addresses("slow.example")
    assert names.asked == ["slow.example"]


async def test_a_name_that_was_not_answered_in_time_is_left_alone_for_a_while(names: MachineNames) -> None:
    strangers = StrangersResolver()
    asking = asyncio.ensure_future(strangers.resolve("slow.example", 443))
    while not names.asked:
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    with pytest.raises(OSError, match="a moment ago"):
        await strangers.resolve("slow.example", 443)


async def test_a_name_is_looked_up_again_when_its_time_is_over(names: MachineNames) -> None:
    strangers = StrangersResolver(timedelta(0))
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            await strangers.resolve("gone.example", 443)

    assert names.asked == ["gone.example"] * 2
