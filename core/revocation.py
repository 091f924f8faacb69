"""Tokens that are refused before they expire, as this node knows them. Pure: others read and announce."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.identity import Identity


#: A token is accepted a little after its time (TokenSettings.leeway, which is at most this, in seconds),
#: and clocks differ: so its revocation is kept longer than the token.
GRACE_S = 60.0


def refused_until(expires_at: float) -> float:
    """How long the revocation of a token with this `exp` counts: until nobody accepts it any more."""
    return expires_at + GRACE_S


@dataclass(frozen=True, slots=True)
class UserRevocation:
    """Everything a person was given up to an instant: signed out everywhere, or changed in their rights."""

    tenant_id: str
    user_id: str
    issued_until: float  # epoch seconds; refused: what was issued then or before, or does not say when


@dataclass(frozen=True, slots=True)
class TokenRevocation:
    """One token, by its `jti` (RFC 7519 section 4.1.7), or one API key, by its id."""

    tenant_id: str
    token_id: str
    expires_at: float  # epoch seconds; as refused_until says, later the token is refused for its age


Revocation = UserRevocation | TokenRevocation


class Revocations:
    """
    The set of this node. It is read whole from the store every few seconds and told of single ones at
    once by the broker; neither way needs the other.

    A reading that began before an announcement does not undo it:

        mark = revocations.mark()
        revocations.replace(await store.revocations(), since=mark)
    """

    __slots__ = ("_added", "_tokens", "_users")

    def __init__(self) -> None:
        self._users: dict[tuple[str, str], float] = {}
        self._tokens: dict[tuple[str, str], float] = {}
        self._added: list[Revocation] = []  # since the last replace

    def add(self, revocation: Revocation) -> None:
        """One that was announced. An earlier instant for the same person changes nothing."""
        self._added.append(revocation)
        self._enter(revocation)

    def mark(self) -> int:
        """What `replace` needs to know: call it before the reading begins."""
        return len(self._added)

    def replace(self, revocations: Iterable[Revocation], *, since: int) -> None:
        """All that the store holds, and what was announced after the mark."""
        self._users = {}
        self._tokens = {}
        self._added = self._added[since:]
        for revocation in revocations:
            self._enter(revocation)
        for revocation in self._added:
            self._enter(revocation)

    def forget_expired(self, now: float) -> None:
        """Let go of revocations that count no more."""
        self._tokens = {name: expires_at for name, expires_at in self._tokens.items() if expires_at > now}

    def is_revoked(self, identity: Identity) -> bool:
        """Whether this caller, whose token was right when it was read, is no longer let in."""
        if self._tokens and (identity.tenant_id, identity.token_id) in self._tokens:
            return True
        if not self._users:
            return False
        until = self._users.get((identity.tenant_id, identity.user_id))
        return until is not None and (identity.issued_at is None or identity.issued_at <= until)

    def __len__(self) -> int:
        return len(self._users) + len(self._tokens)

    def _enter(self, revocation: Revocation) -> None:
        if isinstance(revocation, UserRevocation):
            person = (revocation.tenant_id, revocation.user_id)
            known = self._users.get(person, revocation.issued_until)
            self._users[person] = max(known, revocation.issued_until)
        else:
            self._tokens[revocation.tenant_id, revocation.token_id] = revocation.expires_at
