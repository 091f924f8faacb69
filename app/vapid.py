"""The command `carillon vapid`: the keys by which push services know this installation (RFC 8292)."""

from __future__ import annotations

import sys

from app.first_run import prepared
from app.settings import Settings
from core.clock import SystemClock
from core.database import open_database
from core.vault import Vault, read_keys
from push.keys import application_server_key, new_key, private_text
from push.keys_store import KeyRing, StoredKey


def create() -> int:
    """Print a new key pair for an environment file; keep it nowhere."""
    key = new_key()
    print(f"VAPID_PUBLIC_KEY={application_server_key(key)}")
    print(f"VAPID_PRIVATE_KEY={private_text(key)}")
    return 0


async def run(settings: Settings, action: str, key_id: str | None) -> int:
    """`show`, `rotate` or `retire` a key of the ring. The exit code. Raises ServiceError."""
    if action == "rotate" and settings.push.key is not None:
        print(
            "carillon: VAPID_PRIVATE_KEY says which key is current: put another there (carillon vapid create) "
            "and restart; the one before goes on sending",
            file=sys.stderr,
        )
        return 2
    async with prepared(settings) as (settings, _):
        database = await open_database(settings.database)
        vault = Vault(read_keys(settings.secrets.delivery_encryption_keys or ""))
        ring = KeyRing(database, vault, SystemClock())
        try:
            if action == "rotate":
                made = await ring.rotate()
                print(f"{made.id} is current: pages subscribe again with it as they are opened")
            elif action == "retire":
                assert key_id is not None
                ended = await ring.retire(key_id)
                print(f"{key_id} is retired: {_browsers(ended)} must subscribe again")
            else:
                _show(settings, await ring.all())
        finally:
            await database.close()
    return 0


def _show(settings: Settings, keys: list[StoredKey]) -> None:
    for key in keys:
        made = key.created_at.strftime("%Y-%m-%d %H:%M")
        print(f"{key.id}  {key.state:<8} {made}  {_browsers(key.subscriptions)}")
    given = settings.push.key
    current = next((key.id for key in keys if key.state == "current"), None)
    if given is not None and given.id != current:
        print(f"{given.id}  becomes current at the next start (VAPID_PRIVATE_KEY)")
    elif current is None:
        print("no key yet: the next start makes one")


def _browsers(count: int) -> str:
    return "1 browser" if count == 1 else f"{count} browsers"
