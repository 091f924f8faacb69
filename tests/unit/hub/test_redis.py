"""What the Redis broker knows without a server: where Redis is, which slot, how long to wait, what is confirmed."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from hub.broker_redis import RedisBroker, RedisSettings, _Lane, _Path, pause
from hub.cluster_redis import shards, slot
from hub.link_redis import Link, Refused
from hub.target_redis import Address, Login, Target, Tls, target


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", Target(servers=(Address("localhost", 6379),))),
        ("redis://cache:6380/2", Target(servers=(Address("cache", 6380),), database=2)),
        ("redis://cache?db=3", Target(servers=(Address("cache", 6379),), database=3)),
        ("redis://:p%40ss@cache", Target(servers=(Address("cache", 6379),), login=Login("", "p@ss"))),
        ("redis://hub:a:b@[::1]:7000", Target(servers=(Address("::1", 7000),), login=Login("hub", "a:b"))),
        ("redis://a:1,b:2,c", Target(servers=(Address("a", 1), Address("b", 2), Address("c", 6379)))),
        ("unix:///run/redis.sock?db=1", Target(servers=(Address("", 0, "/run/redis.sock"),), database=1)),
        (
            "rediss://cache?ssl_ca_certs=/ca.pem&ssl_cert_reqs=none",
            Target(servers=(Address("cache", 6379),), tls=Tls(ca_file="/ca.pem", verify=False)),
        ),
        (
            "redis+sentinel://:pw@s1,s2:26380/bells/1?sentinel_password=other",
            Target(
                servers=(Address("s1", 26379), Address("s2", 26380)),
                login=Login("", "pw"),
                database=1,
                master="bells",
                sentinel_login=Login("", "other"),
            ),
        ),
    ],
)
def test_a_url_says_where_redis_is(url: str, expected: Target) -> None:
    assert target(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://:secret@localhost",
        "redis+cluster://:secret@localhost",
        "redis://:secret@localhost/zero",
        "redis://:secret@localhost:notaport",
        "redis://:secret@localhost:99999",
        "redis://:secret@localhost/0/1",
        "redis://:secret@[::1",
        "redis+sentinel://:secret@localhost",
        "redis://:secret@localhost?db",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_and_never_repeated(url: str) -> None:
    with pytest.raises(ValueError, match=r"^a Redis URL") as refusal:
        target(url)

    assert "secret" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_no_secret_is_in_a_representation() -> None:
    settings = RedisSettings(url="redis+sentinel://hub:secret@s1/bells?sentinel_password=secret")
    where = target(settings.url)

    assert "secret" not in f"{settings!r} {where!r} {where}"
    assert str(where) == "s1:26379/bells"


@given(st.binary(max_size=40))
def test_a_slot_is_the_one_redis_takes(name: bytes) -> None:
    assert slot(name) == key_slot(name)


def test_shards_are_read_from_cluster_slots() -> None:
    reply = [
        [0, 99, [b"10.0.0.1", 6379, b"id1", {}], [b"10.0.0.9", 6379, b"replica", {}]],
        [100, 16382, [b"", 6380, b"id2", {}]],
        [16383, 16383, [b"10.0.0.1", 6379, b"id1", {}]],
    ]

    assert shards(reply, Address("seed", 1)) == {
        Address("10.0.0.1", 6379): [(0, 99), (16383, 16383)],
        Address("seed", 6380): [(100, 16382)],
    }


@pytest.mark.parametrize("reply", [[], None, b"OK"])
def test_a_cluster_without_slots_is_down(reply: object) -> None:
    with pytest.raises(Refused, match="CLUSTERDOWN"):
        shards(reply, Address("seed", 1))


@given(st.integers(min_value=0, max_value=5000), st.floats(min_value=0, max_value=1, exclude_max=True))
def test_a_pause_grows_to_its_ceiling_and_is_spread(failures: int, chance: float) -> None:
    wait = pause(failures, low=0.1, high=1.0, chance=chance)

    assert 0.05 <= wait <= 1.0
    assert wait >= min(1.0, 0.1 * 2 ** min(failures, 10)) / 2


class SilentLink:
    """A link to nobody."""

    def change(self, verb: bytes, channels: list[bytes]) -> None:
        pass


def test_a_confirmation_counts_only_when_no_later_command_is_under_way() -> None:
    path = _Path([_Lane(cast(Link, SilentLink()), b"beat")])
    path.subscribe([b"user:1"], 1)
    path.unsubscribe(b"user:1")
    path.subscribe([b"user:1", b"user:2"], 1)

    assert [path.confirmed(b"user:1") for _ in range(3)] == [False, False, True]
    assert path.confirmed(b"user:2")
    assert path.unconfirmed == {}


def test_a_faulty_url_stops_the_start() -> None:
    with pytest.raises(ValueError, match=r"^a Redis URL"):
        RedisBroker(RedisSettings(url="cache:6379"))
