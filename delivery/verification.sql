-- name: last_code
-- How long ago a code was last sent to an address, in whoever's name: one number is not to be rung by many.
--   $1 channel text, $2 lookup bytea, $3 life of a code interval
-- Returns the age as interval, or NULL. Leans on idx_recipient_addresses_lookup.
SELECT min(now() - (v.expires_at - $3::interval)) AS age
FROM recipient_addresses a
JOIN address_verifications v ON v.tenant_id = a.tenant_id AND v.address_id = a.id
WHERE a.channel = $1 AND a.lookup = $2;

-- name: lookup_of
--   $1 tenant id text, $2 address id uuid
SELECT lookup FROM recipient_addresses WHERE tenant_id = $1 AND id = $2;

-- name: codes_since
-- How many codes a person was sent; removing an address does not make them fewer.
--   $1 tenant id text, $2 user id text, $3 the least id of a delivery since then uuid, $4 notification type text
-- Leans on idx_notification_deliveries_user.
SELECT count(*)
FROM notification_deliveries d
JOIN notifications n ON n.tenant_id = d.tenant_id AND n.id = d.notification_id
WHERE d.tenant_id = $1 AND d.user_id = $2 AND d.id >= $3 AND n.notification_type = $4;

-- name: begin
-- A code for an address. The one before it is worth nothing.
--   $1 tenant id text, $2 address id uuid, $3 keyed hash of the code bytea, $4 life interval
-- Returns expires_at.
INSERT INTO address_verifications (tenant_id, address_id, code_hash, expires_at)
VALUES ($1, $2, $3, now() + $4::interval)
ON CONFLICT (tenant_id, address_id) DO UPDATE
SET code_hash = excluded.code_hash, tries = 0, expires_at = excluded.expires_at
RETURNING expires_at;

-- name: deliveries_of
-- The deliveries that were written with a notification.
--   $1 tenant id text, $2 notification id uuid, $3 user id text, $4 channel text
-- Leans on idx_notification_deliveries_once.
SELECT id FROM notification_deliveries
WHERE tenant_id = $1 AND notification_id = $2 AND user_id = $3 AND channel = $4 AND kind = 'notification';

-- name: redirect
-- What a delivery says, and to which address, in place of what stands in its notification.
--   $1 tenant id text, $2 delivery id uuid, $3 sealed bytea
UPDATE notification_deliveries SET edited = $3 WHERE tenant_id = $1 AND id = $2;

-- name: try
-- One of the tries that a code has. Whoever loses counts too, so it is committed whatever comes of it.
--   $1 tenant id text, $2 address id uuid, $3 tries that a code has int
-- Returns the hash of the code, or no row when there is none, its time is over, or it was tried too often.
UPDATE address_verifications SET tries = tries + 1
WHERE tenant_id = $1 AND address_id = $2 AND expires_at > now() AND tries < $3
RETURNING code_hash;

-- name: end
-- A code is good once.
--   $1 tenant id text, $2 address id uuid
DELETE FROM address_verifications WHERE tenant_id = $1 AND address_id = $2;

-- name: forget
-- Codes that nobody can use any more.
--   $1 limit int
DELETE FROM address_verifications v USING (
    SELECT tenant_id, address_id FROM address_verifications WHERE expires_at < now() - interval '1 hour'
    ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED) AS old
WHERE v.tenant_id = old.tenant_id AND v.address_id = old.address_id;
