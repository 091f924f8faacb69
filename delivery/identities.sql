-- name: issue_ticket
-- A one-time ticket. Only its hash is kept.
--   $1 hash bytea, $2 tenant id text, $3 identity text (JSON), $4 life interval
-- Returns expires_at.
INSERT INTO ws_tickets (ticket_hash, tenant_id, identity, expires_at)
VALUES ($1, $2, $3::text::json, now() + $4::interval)
RETURNING expires_at;

-- name: redeem_ticket
-- Whoever deletes the row has the ticket; everybody else comes too late.
--   $1 hash bytea
-- Returns identity and expired.
DELETE FROM ws_tickets WHERE ticket_hash = $1 RETURNING identity, expires_at <= now() AS expired;

-- name: create_api_key
--   $1 id text, $2 tenant id text, $3 name text, $4 hash of the secret bytea, $5 scopes text[], $6 client that made it
--   text, $7 expires at timestamptz or NULL
INSERT INTO api_keys (id, tenant_id, name, secret_hash, scopes, created_by, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
RETURNING id, tenant_id, name, secret_hash, scopes, created_by, created_at, expires_at, revoked_at;

-- name: list_api_keys
-- The keys of a tenant, revoked ones too, the newest first.
--   $1 tenant id text, $2 limit int
SELECT id, tenant_id, name, secret_hash, scopes, created_by, created_at, expires_at, revoked_at
FROM api_keys WHERE tenant_id = $1
ORDER BY created_at DESC, id
LIMIT $2;

-- name: find_api_key
-- A key that opens something now.
--   $1 id text
SELECT id, tenant_id, name, secret_hash, scopes, created_by, created_at, expires_at, revoked_at
FROM api_keys WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now());

-- name: revoke_api_key
-- Revoking twice is revoking once.
--   $1 tenant id text, $2 id text
-- Returns the key, or no row when there is none.
UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE tenant_id = $1 AND id = $2
RETURNING id, tenant_id, name, secret_hash, scopes, created_by, created_at, expires_at, revoked_at;

-- name: revoke_user
-- Refuse what a person was given until now. Kept until the last of it has expired; a later revocation counts.
--   $1 tenant id text, $2 user id text, $3 kept for interval
-- Returns not_before.
INSERT INTO token_revocations AS r (tenant_id, user_id, not_before, expires_at)
VALUES ($1, $2, now(), now() + $3::interval)
ON CONFLICT (tenant_id, user_id) WHERE user_id IS NOT NULL DO UPDATE
SET not_before = excluded.not_before, expires_at = greatest(r.expires_at, excluded.expires_at)
RETURNING not_before;

-- name: revoke_token
-- Refuse one token until it expires by itself.
--   $1 tenant id text, $2 token id text, $3 expires at timestamptz
INSERT INTO token_revocations AS r (tenant_id, token_id, expires_at) VALUES ($1, $2, $3)
ON CONFLICT (tenant_id, token_id) WHERE token_id IS NOT NULL DO UPDATE
SET expires_at = greatest(r.expires_at, excluded.expires_at);

-- name: live_revocations
-- Everything that refuses a token that has not expired by itself.
SELECT tenant_id, user_id, token_id, not_before, expires_at FROM token_revocations WHERE expires_at > now();

-- name: insert_connections
-- A batch of the sampled history.
--   $1 tenant ids text[], $2 connection ids uuid[], $3 user ids text[], $4 nodes text[], $5 transports text[],
--   $6 opened timestamptz[], $7 closed timestamptz[], $8 close codes int[]
INSERT INTO websocket_connections (
    tenant_id, connection_id, user_id, node, transport, opened_at, closed_at, close_code)
SELECT * FROM unnest(
    $1::text[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::timestamptz[], $8::int[])
ON CONFLICT DO NOTHING;
