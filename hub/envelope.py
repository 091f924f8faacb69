"""
What nodes tell each other through the broker (pure): signed, so that whoever reaches the broker
cannot speak to people; a bad envelope is dropped and puts its stream in doubt.
"""

from __future__ import annotations

from hashlib import blake2b
from hmac import compare_digest
from typing import Literal

import msgspec

Kind = Literal["entry", "message", "control"]

_MAC_SIZE = 16  # bytes


class Envelope(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """
    One publication.

    origin: the id of the node that sent it; a node ignores its own echo.
    entry: an entry of a stream: epoch and seq say where it belongs, event_kind what it is.
    message: an ephemeral message for the listeners of a channel. control: for the nodes themselves.
    """

    origin: str
    kind: Kind
    tenant_id: str
    name: str  # of the stream or the channel
    payload: bytes  # the JSON text of the frame, as clients get it
    epoch: str = ""
    seq: int = 0
    committed: float = 0.0  # epoch seconds by the sender's clock, soon after the commit
    event_kind: str = ""
    notification_type: str | None = None
    rank: int = 0


class BadEnvelope(ValueError):
    """Bytes that no node of this cluster has sent."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)


class Seal:
    """Signs and opens envelopes with the cluster's key."""

    def __init__(self, key: bytes) -> None:
        """key: 32 bytes, from the table `cluster`."""
        self._keyed = blake2b(key=key, digest_size=_MAC_SIZE)

    def close(self, envelope: Envelope) -> bytes:
        body = _encoder.encode(envelope)
        return self._mac(body) + body

    def open(self, message: bytes) -> Envelope:
        """Raises BadEnvelope."""
        body = message[_MAC_SIZE:]
        if not compare_digest(self._mac(body), message[:_MAC_SIZE]):
            raise BadEnvelope("the signature does not fit")
        try:
            return _decoder.decode(body)
        except msgspec.DecodeError as error:
            raise BadEnvelope("signed, but of another form") from error

    def _mac(self, body: bytes) -> bytes:
        mac = self._keyed.copy()
        mac.update(body)
        return mac.digest()
