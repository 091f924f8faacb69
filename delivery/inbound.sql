-- name: insert
-- Each message once, however often it comes.
--   $1 tenant id text, $2 id uuid, $3 user id text, $4 channel text, $5 provider text, $6 the provider's id text,
--   $7 kind text, $8 sealed bytea, $9 delivery id uuid
-- Returns the id, or no row.
INSERT INTO inbound_messages (tenant_id, id, user_id, channel, provider, provider_id, kind, sealed, delivery_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (tenant_id, provider, provider_id) DO NOTHING
RETURNING id;

-- name: answered
-- The delivery that a message answers. A provider's name for a message may be its own in each chat only, so the person
-- belongs to the question. Leans on idx_notification_deliveries_ref.
--   $1 tenant id text, $2 user id text, $3 provider text, $4 provider ref text
SELECT id, notification_id FROM notification_deliveries
WHERE tenant_id = $1 AND user_id = $2 AND provider = $3 AND provider_ref = $4
ORDER BY id DESC LIMIT 1;

-- name: stopped_because
-- Why somebody is sent nothing by a channel. Leans on the primary key.
--   $1 tenant id text, $2 user id text, $3 channel text
SELECT reason FROM opt_outs WHERE tenant_id = $1 AND user_id = $2 AND scope = 'channel' AND value = $3;

-- name: page
-- The newest messages of a tenant, the newest first. Leans on the primary key.
--   $1 tenant id text, $2 before this id uuid or NULL, $3 limit int
SELECT id, user_id, channel, provider, kind, sealed, delivery_id, received_at
FROM inbound_messages WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2)
ORDER BY id DESC LIMIT $3;

-- name: page_of_person
-- As page, of one person. Leans on idx_inbound_messages_user.
--   $1 tenant id text, $2 before this id uuid or NULL, $3 limit int, $4 user id text
SELECT id, user_id, channel, provider, kind, sealed, delivery_id, received_at
FROM inbound_messages WHERE tenant_id = $1 AND user_id = $4 AND ($2::uuid IS NULL OR id < $2)
ORDER BY id DESC LIMIT $3;

-- name: find
--   $1 tenant id text, $2 id uuid
SELECT id, user_id, channel, provider, kind, sealed, delivery_id, received_at
FROM inbound_messages WHERE tenant_id = $1 AND id = $2;

-- name: issue_link
-- A deep link that is good once. Only its hash is kept.
--   $1 hash bytea, $2 tenant id text, $3 user id text, $4 life interval
-- Returns expires_at.
INSERT INTO telegram_links (token_hash, tenant_id, user_id, expires_at) VALUES ($1, $2, $3, now() + $4::interval)
RETURNING expires_at;

-- name: redeem_link
-- Whoever deletes the row has the link; everybody else comes too late.
--   $1 hash bytea
-- Returns tenant_id, user_id and is_expired, or no row.
DELETE FROM telegram_links WHERE token_hash = $1 RETURNING tenant_id, user_id, expires_at <= now() AS is_expired;
