-- name: one_at_a_time
-- Whoever sends codes of a tenant counts them first: two who count at once would both find room for the last one.
--   $1 tenant id text
SELECT pg_advisory_xact_lock(hashtextextended($1::text, 6041));

-- name: standing
-- What decides whether another code may go to an address: how long ago one went there, in whoever's name, and how many
-- the person and the tenant were sent; removing an address does not make them fewer.
--   $1 tenant id text, $2 address id uuid, $3 the least id of what was made since yesterday uuid, $4 type of the
--   notifications text, $5 life of a code interval
-- Returns sealed, age, of_person, of_tenant and the tenant's region. Leans on idx_recipient_addresses_lookup,
-- idx_notification_deliveries_user, idx_notifications_tenant_type.
SELECT a.sealed,
       (SELECT min(now() - (v.expires_at - $5::interval))
        FROM recipient_addresses o
        JOIN address_verifications v ON v.tenant_id = o.tenant_id AND v.address_id = o.id
        WHERE o.channel = a.channel AND o.lookup = a.lookup) AS age,
       (SELECT count(*) FROM notification_deliveries d
        JOIN notifications n ON n.tenant_id = d.tenant_id AND n.id = d.notification_id
        WHERE d.tenant_id = $1 AND d.user_id = a.user_id AND d.id >= $3 AND n.notification_type = $4) AS of_person,
       (SELECT count(*) FROM notifications n
        WHERE n.tenant_id = $1 AND n.notification_type = $4 AND n.id >= $3) AS of_tenant,
       (SELECT s.region FROM tenant_settings s WHERE s.tenant_id = $1) AS region
FROM recipient_addresses a WHERE a.tenant_id = $1 AND a.id = $2;

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
