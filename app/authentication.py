"""Who is calling: tokens, API keys and tickets in, an Identity out; and who is no longer let in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import structlog

from core.api_key import PREFIX, ApiKey
from core.clock import Clock
from core.errors import ServiceError
from core.identity import ExpiredToken, Identity, InvalidToken, Verifier
from core.revocation import Revocation, TokenRevocation, UserRevocation
from delivery.api_keys_store import ApiKeys
from delivery.revocations_store import RevocationStore
from delivery.tickets_store import Tickets
from hub.envelope import Envelope

log = structlog.stdlib.get_logger("app.authentication")

#: How often every node reads all revocations: with the broker away, a revoked client is out after this long.
POLL_S = 5.0

#: The name of the announcement between nodes.
REVOKED = "revoked"


class _Announcement(msgspec.Struct):
    tenant_id: str
    user_id: str | None = None
    issued_until: float = 0
    token_id: str | None = None
    expires_at: float = 0


_announcement = msgspec.json.Decoder(_Announcement)


class Authentication:
    """Reads what callers present."""

    def __init__(
        self,
        *,
        verifier: Verifier,
        verify: Callable[[str], Awaitable[Identity]],
        api_keys: ApiKeys,
        tickets: Tickets,
        clock: Clock,
    ) -> None:
        """verify: a token in; asks the issuer for new keys where one is configured."""
        self._verifier = verifier
        self._verify = verify
        self._api_keys = api_keys
        self._tickets = tickets
        self._clock = clock

    async def authenticate(self, text: str) -> Identity:
        """The caller behind a token or an API key. Raises InvalidToken, ServiceError (unavailable)."""
        if not text.startswith(PREFIX):
            return await self._verify(text)
        return self._still_good(await self._api_keys.authenticate(ApiKey.parse(text)))

    async def redeem(self, ticket: str) -> Identity:
        """
        Whom a ticket stands for; it is used now.

        Raises ExpiredToken for one that is used up, too old or none of ours: a client comes back with a new
        one. Raises InvalidToken when its holder is not let in any more, ServiceError (unavailable).
        """
        identity = await self._tickets.redeem(ticket)
        if identity is None:
            raise ExpiredToken
        return self._still_good(identity)

    def is_revoked(self, identity: Identity) -> bool:
        return self._verifier.revocations.is_revoked(identity)

    def _still_good(self, identity: Identity) -> Identity:
        if identity.expires_at <= self._clock.now().timestamp():
            raise InvalidToken("expired")
        if self.is_revoked(identity):
            raise InvalidToken("revoked")
        return identity


class RevocationFeed:
    """
    Keeps this node's revocations equal to the store's, and tells the other nodes of new ones.

    announce: sends to all nodes, this one included; on_change: ends the connections of those concerned.
    """

    def __init__(
        self,
        *,
        store: RevocationStore,
        verifier: Verifier,
        clock: Clock,
        announce: Callable[[str, str, bytes], None],
        on_change: Callable[[], None],
    ) -> None:
        self._store = store
        self._verifier = verifier
        self._clock = clock
        self._announce = announce
        self._on_change = on_change

    def announce(self, revocation: Revocation) -> None:
        """One that is in the store now."""
        said: _Announcement
        if isinstance(revocation, UserRevocation):
            said = _Announcement(
                revocation.tenant_id, user_id=revocation.user_id, issued_until=revocation.issued_until
            )
        else:
            said = _Announcement(
                revocation.tenant_id, token_id=revocation.token_id, expires_at=revocation.expires_at
            )
        self._announce(revocation.tenant_id, REVOKED, msgspec.json.encode(said))

    def on_control(self, envelope: Envelope) -> None:
        """What a node says to all."""
        if envelope.name != REVOKED:
            return
        said = _announcement.decode(envelope.payload)
        revocation: Revocation
        if said.user_id is not None:
            revocation = UserRevocation(said.tenant_id, said.user_id, said.issued_until)
        elif said.token_id is not None:
            revocation = TokenRevocation(said.tenant_id, said.token_id, said.expires_at)
        else:
            return
        self._verifier.revocations.add(revocation)
        self._on_change()

    async def read(self) -> None:
        """Read them all. Raises ServiceError (unavailable)."""
        revocations = self._verifier.revocations
        mark = revocations.mark()
        revocations.replace(await self._store.live(), since=mark)
        revocations.forget_expired(self._clock.now().timestamp())
        self._on_change()

    async def run(self) -> None:
        """Read them again and again, until cancelled."""
        while True:
            await self._clock.sleep(POLL_S)
            try:
                await self.read()
            except ServiceError as error:
                log.warning("revocations_unread", code=error.code)
            except Exception:  # without it whoever is revoked later stays: nothing may end it
                log.exception("revocations_failed")
