-- name: rules
-- The lines of the matrix that concern a person: their own, and the tenant's, whose user id is empty.
--   $1 tenant id text, $2 user id text; '' for the tenant's alone
SELECT user_id, notification_type, channel, is_enabled FROM preference_rules
WHERE tenant_id = $1 AND user_id IN ('', $2)
ORDER BY user_id, notification_type, channel;

-- name: lock_preferences
-- One change at a time of the matrix or the opt-outs of one person, or of the tenant's matrix.
--   $1 tenant id text, $2 user id text
SELECT pg_advisory_xact_lock(hashtextextended(json_build_array($1::text, $2::text)::text, 8058));

-- name: clear_rules
--   $1 tenant id text, $2 user id text, '' for the tenant's
DELETE FROM preference_rules WHERE tenant_id = $1 AND user_id = $2;

-- name: put_rules
-- The caller holds the lock and has cleared what was.
--   $1 tenant id text, $2 user id text, '' for the tenant's, $3 types text[], $4 channels text[], $5 are enabled boolean[]
INSERT INTO preference_rules (tenant_id, user_id, notification_type, channel, is_enabled)
SELECT $1, $2, * FROM unnest($3::text[], $4::text[], $5::boolean[]);

-- name: opt_outs
-- What a person wants no more of, the newest first.
--   $1 tenant id text, $2 user id text
SELECT scope, value, reason, created_at FROM opt_outs WHERE tenant_id = $1 AND user_id = $2
ORDER BY created_at DESC, scope, value;

-- name: count_opt_outs
--   $1 tenant id text, $2 user id text
SELECT count(*) FROM opt_outs WHERE tenant_id = $1 AND user_id = $2;

-- name: opt_out
-- Returns created_at, or no row where it stands already; its reason stays that of the first.
--   $1 tenant id text, $2 user id text, $3 scope text, $4 value text, $5 reason text
INSERT INTO opt_outs (tenant_id, user_id, scope, value, reason) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
RETURNING created_at;

-- name: one_opt_out
--   $1 tenant id text, $2 user id text, $3 scope text, $4 value text
SELECT scope, value, reason, created_at, now() AS now FROM opt_outs
WHERE tenant_id = $1 AND user_id = $2 AND scope = $3 AND value = $4;

-- name: lift
--   $1 tenant id text, $2 user id text, $3 scope text, $4 value text
DELETE FROM opt_outs WHERE tenant_id = $1 AND user_id = $2 AND scope = $3 AND value = $4;

-- name: renew_links
-- From now on the unsubscribe links that a person has been sent so far are refused.
--   $1 tenant id text, $2 user id text
UPDATE recipients SET unsubscribe_version = unsubscribe_version + 1, updated_at = now()
WHERE tenant_id = $1 AND user_id = $2;

-- name: unsubscribe_version
--   $1 tenant id text, $2 user id text
SELECT unsubscribe_version FROM recipients WHERE tenant_id = $1 AND user_id = $2;

-- name: visitor
-- Somebody who is sent mail at an address that is theirs still; no row where they are not.
--   $1 tenant id text, $2 user id text, $3 address id uuid
SELECT r.locale, r.timezone FROM recipients r
JOIN recipient_addresses a ON a.tenant_id = r.tenant_id AND a.id = $3
WHERE r.tenant_id = $1 AND r.user_id = $2 AND r.is_active AND a.user_id = r.user_id AND a.channel = 'email';
