"""
TLS of one connection without its socket: what goes over the wire comes in and goes out as bytes.

The layers of asyncio and uvloop cost several times what the cryptography of a record of a kilobyte does.
"""

from __future__ import annotations

import ssl

#: Of plaintext in one record (RFC 8446 §5.1).
_RECORD_BYTES = 16 * 1024


class Tls:
    """
    The client's side. host: whose certificate is asked for and checked, as the context says.

    What `receive` and `outgoing` give is written or handed on by the owner of the socket.
    """

    __slots__ = ("_fault", "_in", "_out", "_session", "is_ended", "is_established")

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self.is_established = False
        self.is_ended = False  # the other side has said that nothing more comes (RFC 8446 §6.1)
        self._fault: ssl.SSLError | None = None
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._in, self._out, server_hostname=host)

    def start(self) -> bytes:
        """The first bytes of the handshake."""
        self._shake()
        return self.outgoing()

    def receive(self, data: bytes) -> bytes:
        """
        What these bytes say in plain; nothing while the handshake goes on. `outgoing` may hold an answer then.

        Raises ssl.SSLError, for a certificate that is not the host's as for bytes that are no TLS; what came before
        those is given first, and the fault is raised at the next call.
        """
        if self._fault is not None:
            raise self._fault
        self._in.write(data)
        if not self.is_established and not self._shake():
            return b""
        found = b""
        while self._in.pending or self._session.pending():
            try:
                text = self._session.read(_RECORD_BYTES)
            except (
                ssl.SSLWantReadError
            ):  # what is left is half a record, or was not for us: a ticket, a new key
                break
            except ssl.SSLError as fault:
                if not found:
                    raise
                self._fault = fault
                break
            if not text:
                self.is_ended = True
                break
            found += text
        return found

    @property
    def is_spoilt(self) -> bool:
        """Whether bytes have come that are no TLS."""
        return self._fault is not None

    def seal(self, text: bytes) -> bytes:
        """The records of a text. Raises ssl.SSLError."""
        self._session.write(text)  # all of it: there is always room in memory
        return self._out.read()

    def outgoing(self) -> bytes:
        """What the protocol itself has to say now: its handshake, a new key, an alert."""
        return self._out.read() if self._out.pending else b""

    def farewell(self) -> bytes:
        """What tells the other side that nothing more comes; its own word is not awaited."""
        if self.is_established:
            try:
                self._session.unwrap()
            except ssl.SSLError:  # it would like to hear theirs; or the session is past it
                pass
        return self.outgoing()

    def _shake(self) -> bool:
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.is_established = True
        return True
