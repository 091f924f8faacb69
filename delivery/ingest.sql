-- name: claim_keys
-- Take the idempotency keys for this transaction without waiting; one that is not free is being served.
-- What is stored under a key is read by a later statement, which sees what its last holder committed.
--   $1 tenant ids text[], $2 clients text[], $3 keys text[]
-- Returns one boolean per key, in order, with the time of the transaction.
SELECT pg_try_advisory_xact_lock(hashtextextended(json_build_array(t, c, k)::text, 4021)) AS free, now() AS now
FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS claimed (t, c, k, position)
ORDER BY position;

-- name: find_answers
-- What was answered under these keys. Older ones than $4 do not count any more.
--   $1 tenant ids text[], $2 clients text[], $3 keys text[], $4 remembered for interval
SELECT i.tenant_id, i.client, i.key, i.body_hash, i.status, i.body
FROM unnest($1::text[], $2::text[], $3::text[]) AS claimed (t, c, k)
JOIN idempotency_keys i ON i.tenant_id = t AND i.client = c AND i.key = k
WHERE i.created_at > now() - $4::interval;

-- name: insert
-- Write notifications as they were submitted; created_at is the time of the transaction. And remember what is
-- answered under claimed keys: an answer that is there already has served its time.
--   $1 tenant ids text[], $2 ids uuid[], $3 audiences text[], $4 user ids text[], $5 lists of user ids text[] (JSON),
--   $6 topics text[], $7 statuses text[], $8 titles text[], $9 messages text[], $10 types text[],
--   $11 priorities text[], $12 lists of channels text[] (comma-separated), $13 action urls text[],
--   $14 metadata text[] (JSON), $15 collapse keys text[], $16 group keys text[], $17 clients text[],
--   $18 scheduled for timestamptz[], $19 expires at timestamptz[], $20 local times timestamp[],
--   $21 batchings text[] (JSON)
--   $22 tenant ids text[], $23 clients text[], $24 keys text[], $25 body hashes bytea[], $26 statuses smallint[],
--   $27 bodies bytea[]
WITH answers AS (
    INSERT INTO idempotency_keys (tenant_id, client, key, body_hash, status, body)
    SELECT * FROM unnest($22::text[], $23::text[], $24::text[], $25::bytea[], $26::smallint[], $27::bytea[])
    ON CONFLICT (tenant_id, client, key) DO UPDATE
    SET body_hash = excluded.body_hash, status = excluded.status, body = excluded.body, created_at = now())
INSERT INTO notifications (
    tenant_id, id, audience, user_id, user_ids, topic, status, title, message, notification_type, priority, channels,
    action_url, metadata, collapse_key, group_key, created_by, scheduled_for, published_at, expires_at, local_time,
    batching)
SELECT tenant_id, id, audience, user_id,
       CASE WHEN user_ids IS NOT NULL THEN ARRAY(SELECT json_array_elements_text(user_ids::json)) END,
       topic, status, title, message, notification_type, priority, string_to_array(channels, ','),
       action_url, metadata::json, collapse_key, group_key, created_by, scheduled_for,
       CASE WHEN status = 'published' THEN now() END, expires_at, local_time, batching::json
FROM unnest(
    $1::text[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
    $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[],
    $18::timestamptz[], $19::timestamptz[], $20::timestamp[], $21::text[]) AS submitted (
    tenant_id, id, audience, user_id, user_ids, topic, status, title, message, notification_type, priority, channels,
    action_url, metadata, collapse_key, group_key, created_by, scheduled_for, expires_at, local_time,
    batching);

-- name: lock_collapse_keys
-- One writer at a time per key, so that two nodes cannot both be the latest. In sorted order: no circle.
--   $1 tenant ids text[], $2 collapse keys text[]
SELECT pg_advisory_xact_lock(lock) FROM (
    SELECT DISTINCT hashtextextended(json_build_array(t, k)::text, 4022) AS lock
    FROM unnest($1::text[], $2::text[]) AS keys (t, k)
    ORDER BY lock) AS sorted;

-- name: collapse
-- Recall what these notifications replace: published to the same audience under the same key, and not one of
-- themselves unless it comes before. Leans on idx_notifications_collapse.
--   $1 tenant ids text[], $2 ids uuid[] of the new ones
-- Returns tenant_id, id, the audience and the channels of each that was recalled.
UPDATE notifications old SET status = 'recalled', updated_at = now()
FROM unnest($1::text[], $2::uuid[]) AS latest (t, i)
JOIN notifications new ON new.tenant_id = t AND new.id = i
WHERE old.tenant_id = new.tenant_id AND old.collapse_key = new.collapse_key AND old.status = 'published'
  AND (old.id <> ALL ($2::uuid[]) OR old.id < new.id)
  AND old.audience = new.audience AND old.user_id IS NOT DISTINCT FROM new.user_id
  AND old.user_ids IS NOT DISTINCT FROM new.user_ids AND old.topic IS NOT DISTINCT FROM new.topic
RETURNING old.tenant_id, old.id, old.audience, old.user_id, old.user_ids, old.topic, old.channels;
