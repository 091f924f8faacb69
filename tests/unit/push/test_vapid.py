"""The tokens by which push services know us: what they say, how long, and how seldom they change."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.keys import decode_base64url
from push.keys import VapidKey, new_key
from push.vapid import LIFE, Headers, audience

NOW = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
FCM = "https://fcm.googleapis.com"
KEY = new_key()


def token(header: str) -> str:
    found = re.fullmatch(r"vapid t=([\w.-]+), k=([\w-]{87})", header)
    assert found is not None
    return found[1]


def claims(header: str, key: VapidKey = KEY, origin: str = FCM) -> dict[str, object]:
    """Verified by PyJWT; its clock is not asked."""
    read: dict[str, object] = jwt.decode(
        token(header),
        key.private_key.public_key(),
        algorithms=["ES256"],
        audience=origin,
        options={"verify_exp": False, "require": ["exp", "aud"]},
    )
    return read


def test_a_token_says_who_we_are_to_whom_and_until_when() -> None:
    header = Headers("mailto:ops@school.example").authorization(KEY, FCM, NOW)

    said = claims(header)
    assert said == {"aud": FCM, "sub": "mailto:ops@school.example", "exp": said["exp"]}
    assert isinstance(said["exp"], int)
    assert jwt.get_unverified_header(token(header)) == {"typ": "JWT", "alg": "ES256"}


def test_the_header_carries_the_public_key() -> None:
    header = Headers(None).authorization(KEY, FCM, NOW)

    assert decode_base64url(header.partition(", k=")[2]) == KEY.public_key


def test_without_a_contact_there_is_no_subject() -> None:
    assert set(claims(Headers(None).authorization(KEY, FCM, NOW))) == {"aud", "exp"}


def test_a_token_by_another_key_is_not_ours() -> None:
    with pytest.raises(jwt.InvalidSignatureError):
        claims(Headers(None).authorization(new_key(), FCM, NOW))


def test_the_signature_is_64_bytes_also_where_its_numbers_are_short() -> None:
    headers = Headers(None)

    for number in range(600):  # one in 128 has a number with a zero in front
        said = headers.authorization(KEY, f"https://push-{number}.example", NOW)
        assert len(decode_base64url(token(said).rpartition(".")[2])) == 64
        claims(said, origin=f"https://push-{number}.example")


# --- how long, how often ---------------------------------------------------------------------------------------------


@given(st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - hypothesis adds the zone
def test_a_token_in_use_has_an_hour_left_and_at_most_twelve(now: datetime) -> None:
    ends = claims(Headers(None).authorization(KEY, FCM, now))["exp"]

    assert isinstance(ends, int)
    left = datetime.fromtimestamp(ends, UTC) - now.replace(microsecond=0)
    assert timedelta(hours=1) < left <= LIFE == timedelta(hours=12)


def test_a_token_is_renewed_every_eleven_hours_and_by_nothing_else() -> None:
    headers = Headers("mailto:ops@school.example")
    changes: list[datetime] = []
    before = ""

    for minute in range(7 * 24 * 60):
        now = NOW + timedelta(minutes=minute)
        header = headers.authorization(KEY, FCM, now)
        if header != before:
            changes.append(now)
            before = header

    apart = {later - earlier for earlier, later in pairwise(changes[1:])}
    assert apart == {timedelta(hours=11)}
    assert changes[0] == NOW


def test_a_header_is_made_once() -> None:
    headers = Headers(None)

    first = headers.authorization(KEY, FCM, NOW)

    assert headers.authorization(KEY, FCM, NOW + timedelta(minutes=1)) is first


def test_another_process_says_the_same() -> None:
    one, other = Headers("mailto:ops@school.example"), Headers("mailto:ops@school.example")

    assert one.authorization(KEY, FCM, NOW) == other.authorization(KEY, FCM, NOW + timedelta(minutes=20))


def test_each_key_and_each_origin_has_a_token_of_its_own() -> None:
    headers, old = Headers(None), new_key()
    mozilla = "https://updates.push.services.mozilla.com"

    found = {
        headers.authorization(key, origin, NOW)
        for _ in range(3)
        for key in (KEY, old)
        for origin in (FCM, mozilla)
    }

    assert len(found) == 4
    assert claims(headers.authorization(old, mozilla, NOW), old, mozilla)["aud"] == mozilla


def test_a_clock_that_is_set_back_makes_no_token_beyond_a_day() -> None:
    headers = Headers(None)
    headers.authorization(KEY, FCM, NOW)

    for back in range(0, 100 * 3600, 1800):
        now = NOW - timedelta(seconds=back)
        ends = claims(headers.authorization(KEY, FCM, now))["exp"]
        assert isinstance(ends, int)
        assert ends - now.timestamp() <= LIFE.total_seconds()


def test_any_number_of_origins_is_remembered_within_bounds() -> None:
    headers = Headers(None)
    first = headers.authorization(KEY, FCM, NOW)

    for number in range(5000):
        headers.authorization(KEY, f"https://{number}.example", NOW)

    assert len(headers._known) <= 4096
    assert headers.authorization(KEY, FCM, NOW) == first


# --- aud -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "written"),
    [
        ("https://fcm.googleapis.com", "https://fcm.googleapis.com"),
        ("https://FCM.GoogleAPIs.com:443", "https://fcm.googleapis.com"),
        ("HTTPS://push.example:8443", "https://push.example:8443"),
        ("https://[2001:DB8::1]:443", "https://[2001:db8::1]"),
        ("https://[2001:db8::1]:9443", "https://[2001:db8::1]:9443"),
    ],
)
def test_the_audience_is_the_origin_as_the_service_writes_it(origin: str, written: str) -> None:
    assert audience(origin) == written
    assert claims(Headers(None).authorization(KEY, origin, NOW), origin=written)["aud"] == written


@pytest.mark.parametrize(
    "origin",
    [
        "http://push.example",
        "push.example",
        "https://",
        "https://user@push.example",
        "https://push.example/",
        "https://push.example/a",
        "https://push.example?a",
        "https://push.example#a",
        "https://push.example:99999",
        "",
    ],
)
def test_what_is_no_origin_gets_no_token(origin: str) -> None:
    with pytest.raises(ValueError):
        Headers(None).authorization(KEY, origin, NOW)


def test_the_token_is_compact() -> None:
    head, body, _ = token(Headers("mailto:ops@school.example").authorization(KEY, FCM, NOW)).split(".")

    assert b" " not in decode_base64url(head) + decode_base64url(body)
    assert json.loads(decode_base64url(body))["aud"] == FCM
