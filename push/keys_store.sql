-- name: one_at_a_time
-- Whoever changes the ring of keys does so alone, or nodes that start together would each make a key.
SELECT pg_advisory_xact_lock(8292);

-- name: ring
-- Every key, the newest first. No tenant: the keys are the installation's.
-- Returns id, public_key, private_key (sealed), state, created_at.
SELECT id, public_key, private_key, state, created_at FROM vapid_keys ORDER BY created_at DESC, id;

-- name: step_down
-- The current key goes on sending to the browsers that have subscribed with it.
--   $1 id of the key that takes over text
UPDATE vapid_keys SET state = 'sending' WHERE state = 'current' AND id <> $1;

-- name: put_current
-- A key as the one that pages subscribe with. It may have been so before, but not one that was retired.
--   $1 id text, $2 public key bytea, $3 sealed private key bytea, $4 now timestamptz
-- Returns its state, or no row for a retired one. Leans on vapid_keys_pkey.
INSERT INTO vapid_keys (id, public_key, private_key, state, created_at) VALUES ($1, $2, $3, 'current', $4)
ON CONFLICT (id) DO UPDATE SET state = 'current', private_key = excluded.private_key
WHERE vapid_keys.state <> 'retired'
RETURNING state;

-- name: state_of
--   $1 id text
-- Returns its state.
SELECT state FROM vapid_keys WHERE id = $1;

-- name: retire
-- A key that never signs again. Its private half is forgotten: nothing may bring it back.
--   $1 id text, $2 now timestamptz
UPDATE vapid_keys SET state = 'retired', retired_at = $2, private_key = '' WHERE id = $1 AND state = 'sending';

-- name: end_subscriptions
-- Browsers that were subscribed with a retired key can be reached no more: they subscribe again when the page is opened.
--   $1 key id text, $2 at most int
-- Returns how many were ended (UPDATE n). Leans on idx_push_subscriptions_key. No tenant: a key is the installation's.
UPDATE push_subscriptions s SET is_active = false, ended_because = 'key_retired'
FROM (
    SELECT tenant_id, id FROM push_subscriptions
    WHERE vapid_key_id = $1 AND is_active LIMIT $2 FOR UPDATE
) AS ended
WHERE s.tenant_id = ended.tenant_id AND s.id = ended.id;

-- name: subscribed
-- How many browsers each key can reach. No tenant: the keys are the installation's. Leans on idx_push_subscriptions_key.
-- Returns vapid_key_id, count.
SELECT vapid_key_id, count(*) FROM push_subscriptions WHERE is_active GROUP BY vapid_key_id;
