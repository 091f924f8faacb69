"""The opening handshake: what is accepted, what is refused and how (RFC 6455 section 4.2)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.handshake import Opening, Refusal, answer, opening, switching

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # section 1.3


def request(**changes: bytes | None) -> list[tuple[bytes, bytes]]:
    fields: dict[str, bytes | None] = {
        "host": b"example.org",
        "upgrade": b"websocket",
        "connection": b"Upgrade",
        "sec_websocket_key": KEY,
        "sec_websocket_version": b"13",
        **changes,
    }
    return [(name.replace("_", "-").encode(), value) for name, value in fields.items() if value is not None]


def judge(
    headers: list[tuple[bytes, bytes]],
    *,
    target: bytes = b"/ws",
    method: bytes = b"GET",
    version: str = "1.1",
) -> Opening | Refusal:
    return opening(method, target, headers, http_version=version, max_bytes=1000, max_headers=10)


def test_the_example_of_the_rfc_is_accepted():
    judged = judge(request())

    assert isinstance(judged, Opening)
    assert b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in switching(judged.key, [])


def test_path_query_and_subprotocols_are_taken_apart():
    judged = judge(
        [*request(), (b"sec-websocket-protocol", b"carillon.v1, x"), (b"sec-websocket-protocol", b"y")],
        target=b"/a%20b/%C3%A9?token=a%20b?c",
    )

    assert isinstance(judged, Opening)
    assert (judged.path, judged.raw_path, judged.query) == ("/a b/é", b"/a%20b/%C3%A9", b"token=a%20b?c")
    assert judged.subprotocols == ["carillon.v1", "x", "y"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (request(sec_websocket_key=None), 400),
        (request(sec_websocket_key=b""), 400),
        (request(sec_websocket_key=b"dGhl"), 400),
        (request(sec_websocket_key=b"\xff" * 24), 400),
        (request(sec_websocket_key=b"dGhlIHNhbXBsZSBub25jZQ"), 400),
        ([*request(), (b"sec-websocket-key", KEY)], 400),
        (request(sec_websocket_version=None), 426),
        (request(sec_websocket_version=b"8"), 426),
        (request(sec_websocket_version=b"13, 8"), 426),
        ([*request(), (b"sec-websocket-version", b"13")], 426),
        (request(sec_websocket_protocol=b""), 400),
        (request(sec_websocket_protocol=b"a b"), 400),
        (request(sec_websocket_protocol=b"caf\xe9"), 400),
        (request(sec_websocket_protocol=b"a,,b"), 400),
    ],
)
def test_a_request_that_breaks_the_handshake_is_refused(headers, status):
    judged = judge(headers)

    assert isinstance(judged, Refusal)
    assert judged.status == status


def test_a_wrong_version_is_told_the_right_one():
    judged = judge(request(sec_websocket_version=b"8"))

    assert isinstance(judged, Refusal)
    assert (b"sec-websocket-version", b"13") in judged.headers


@pytest.mark.parametrize("target", [b"", b"*", b"http://h/ws", b"/w\xff", b"/a b", b"/\r\nx"])
def test_a_malformed_target_is_refused(target):
    assert isinstance(judge(request(), target=target), Refusal)


@pytest.mark.parametrize(("method", "version"), [(b"POST", "1.1"), (b"GET", "1.0")])
def test_only_get_and_http_11_open_a_websocket(method, version):
    assert isinstance(judge(request(), method=method, version=version), Refusal)


@pytest.mark.parametrize(("spare", "accepted"), [(1, True), (0, True), (-1, False)])
def test_the_size_of_a_request_is_limited(spare, accepted):
    used = len(b"/ws") + sum(len(name) + len(value) for name, value in request())
    padding = (b"x", b"y" * (1000 - used - 1 - spare))

    judged = judge([*request(), padding])

    assert isinstance(judged, Opening) == accepted
    assert accepted or (isinstance(judged, Refusal) and judged.status == 431)


@pytest.mark.parametrize(("count", "accepted"), [(9, True), (10, True), (11, False)])
def test_the_number_of_headers_is_limited(count, accepted):
    headers = [*request(), *[(b"x", b"")] * (count - len(request()))]

    assert isinstance(judge(headers), Opening) == accepted


@given(
    st.lists(st.tuples(st.sampled_from([b"sec-websocket-protocol", b"sec-websocket-key", b"x"]), st.binary()))
)
@settings(deadline=None)
def test_no_header_makes_the_judgement_fail(headers):
    assert isinstance(judge([*request(), *headers]), Opening | Refusal)


@given(st.binary())
@settings(deadline=None)
def test_no_target_makes_the_judgement_fail(target):
    assert isinstance(judge(request(), target=b"/" + target), Opening | Refusal)


@pytest.mark.parametrize(
    "header", [(b"a\r\n", b"x"), (b"a", b"x\r\nb: y"), (b"", b"x"), (b"a", b"\x00"), (b"a b", b"x")]
)
def test_a_header_cannot_smuggle_another(header):
    with pytest.raises(ValueError, match="malformed"):
        switching(KEY, [header])
    with pytest.raises(ValueError, match="malformed"):
        answer(403, [header])


@pytest.mark.parametrize(
    "name", [b"Sec-WebSocket-Extensions", b"upgrade", b"Connection", b"sec-websocket-accept"]
)
def test_an_application_cannot_change_the_handshake_itself(name):
    with pytest.raises(ValueError, match="handshake"):
        switching(KEY, [(name, b"x")])


def test_the_body_of_a_refusal_has_its_length():
    assert answer(403, [(b"content-length", b"7")], b"no") == (
        b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno"
    )


@pytest.mark.parametrize("status", [100, 101, 199, 600])
def test_a_refusal_has_a_final_status(status):
    with pytest.raises(ValueError, match=str(status)):
        answer(status, [])
