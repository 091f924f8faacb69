"""The same class behind TLS, where a direction cannot be shut by itself."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.http_protocol import HttpProtocol
from hub.transport import WebSocketProtocol
from tests.raw_websocket import RawClient, close, frame, serving, text


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain, secret = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return chain, secret


async def echo(scope: Any, receive: Any, send: Any) -> None:
    assert scope["scheme"] == "wss"
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})


@pytest.mark.parametrize(("last", "code"), [(close(1000), 1000), (frame(3), 1002), (frame(1, b"\xff"), 1007)])
async def test_a_connection_behind_tls_echoes_and_ends_with_its_code(certificate, last, code):
    chain, key = certificate
    tls = ssl.create_default_context(cafile=str(chain))

    async with serving(
        echo, ws=WebSocketProtocol, http=HttpProtocol, ssl_certfile=chain, ssl_keyfile=key
    ) as (_, port):
        client = await RawClient.open(port, tls=tls)
        client.send(text("x" * 60_000))
        assert await client.text() == "x" * 60_000

        client.send(last)

        assert (await client.closed())[0] == code
        assert await client.rest() == b""
        await client.leave()
