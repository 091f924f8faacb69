"""TLS without a socket, against the other side of the same library."""

import ssl
from pathlib import Path

import pytest

from push.tls import Tls
from push.transport import trusting
from tests.providers.certificates import certificate

HOST = "push.example"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Server:
    """The other side."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._in, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = context.wrap_bio(self._in, self.out, server_side=True)

    def shake(self, data: bytes) -> bytes:
        self._in.write(data)
        try:
            self.session.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self.out.read()

    def hear(self, data: bytes) -> bytes:
        self._in.write(data)
        heard = b""
        while self._in.pending and (text := self.session.read(65536)):
            heard += text
        return heard

    def say(self, text: bytes) -> bytes:
        while text:
            text = text[self.session.write(text) :]
        return self.out.read()

    def end(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self.session.unwrap()
        return self.out.read()


@pytest.fixture(params=VERSIONS, ids=["1.2", "1.3"])
def context(request: pytest.FixtureRequest, tmp_path: Path) -> ssl.SSLContext:
    made, _ = certificate(tmp_path, HOST)
    made.maximum_version = request.param
    return made


@pytest.fixture
def met(context: ssl.SSLContext, tmp_path: Path) -> tuple[Tls, Server]:
    tls, server = Tls(trusting(tmp_path / "loopback.pem"), HOST), Server(context)
    data = tls.start()
    for _ in range(3):
        assert tls.receive(server.shake(data)) == b""
        data = tls.outgoing()
    assert tls.is_established
    return tls, server


def test_texts_arrive_in_both_directions(met: tuple[Tls, Server]) -> None:
    tls, server = met

    assert server.hear(tls.seal(b"POST")) == b"POST"
    assert tls.receive(server.say(b"201")) == b"201"
    assert tls.outgoing() == b""


def test_a_text_longer_than_a_record_arrives_whole(met: tuple[Tls, Server]) -> None:
    tls, server = met
    text = bytes(range(256)) * 200

    assert server.hear(tls.seal(text)) == text
    assert tls.receive(server.say(text)) == text


def test_bytes_may_come_one_by_one(context: ssl.SSLContext, tmp_path: Path) -> None:
    tls, server = Tls(trusting(tmp_path / "loopback.pem"), HOST), Server(context)
    data = tls.start()
    while data or not tls.is_established:
        answer = server.shake(data)
        data = b""
        for at in range(len(answer)):
            assert tls.receive(answer[at : at + 1]) == b""
            data += tls.outgoing()

    said = server.say(b"HTTP/1.1 201") + server.say(b" Created")

    heard = [tls.receive(said[at : at + 1]) for at in range(len(said))]
    assert [one for one in heard if one] == [b"HTTP/1.1 201", b" Created"]


def test_a_certificate_of_another_name_is_refused_and_the_server_told(
    context: ssl.SSLContext, tmp_path: Path
) -> None:
    tls, server = Tls(trusting(tmp_path / "loopback.pem"), "elsewhere.example"), Server(context)

    with pytest.raises(ssl.SSLCertVerificationError):
        tls.receive(server.shake(tls.start()))
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        server.shake(tls.outgoing())

    assert not tls.is_established


def test_nothing_older_than_tls_1_2_is_spoken(tmp_path: Path, context: ssl.SSLContext) -> None:
    assert trusting(tmp_path / "loopback.pem").minimum_version == ssl.TLSVersion.TLSv1_2


def test_what_is_no_tls_is_refused(met: tuple[Tls, Server]) -> None:
    tls, _ = met

    with pytest.raises(ssl.SSLError):
        tls.receive(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_a_record_that_was_changed_is_refused(met: tuple[Tls, Server]) -> None:
    tls, server = met
    said = bytearray(server.say(b"HTTP/1.1 201 Created"))
    said[-1] ^= 1

    with pytest.raises(ssl.SSLError):
        tls.receive(bytes(said))


def test_what_came_before_a_record_that_is_none_is_heard(met: tuple[Tls, Server]) -> None:
    tls, server = met

    assert tls.receive(server.say(b"201") + b"garbage that is no record") == b"201"
    assert tls.is_spoilt
    with pytest.raises(ssl.SSLError):
        tls.receive(b"")


def test_the_end_is_told_with_what_came_before_it(met: tuple[Tls, Server]) -> None:
    tls, server = met
    said = server.say(b"201")

    assert tls.receive(said + server.end()) == b"201"
    assert tls.is_ended


def test_a_farewell_is_heard(met: tuple[Tls, Server]) -> None:
    tls, server = met

    server._in.write(tls.farewell())

    assert server.session.read(10) == b""
    assert not tls.is_ended


def test_nobody_begins_anew_on_an_old_connection(tmp_path: Path) -> None:
    certificate(tmp_path, HOST)

    assert trusting(tmp_path / "loopback.pem").options & ssl.OP_NO_RENEGOTIATION
