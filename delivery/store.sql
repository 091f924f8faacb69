-- name: find
-- One notification with everything that was submitted. Locked, when it is about to change.
--   $1 tenant id text, $2 notification id uuid
SELECT tenant_id, id, audience, user_id, user_ids, topic, status, title, message, notification_type, priority, channels,
       action_url, metadata, collapse_key, group_key, created_by, created_at, scheduled_for, published_at, expires_at,
       updated_at, local_time, batching
FROM notifications
WHERE tenant_id = $1 AND id = $2

-- name: change
-- Say something else. The caller has locked the row. With another moment it is no longer for a time of each person's clock.
--   $1 tenant id text, $2 notification id uuid, $3 title text, $4 message text, $5 priority text, $6 action url text,
--   $7 metadata text (JSON), $8 group key text, $9 expires at timestamptz, $10 scheduled for timestamptz
-- Returns updated_at.
UPDATE notifications
SET title = $3, message = $4, priority = $5, action_url = $6, metadata = $7::text::json, group_key = $8, expires_at = $9,
    scheduled_for = $10, local_time = CASE WHEN scheduled_for IS NOT DISTINCT FROM $10 THEN local_time END, updated_at = now()
WHERE tenant_id = $1 AND id = $2
RETURNING updated_at;

-- name: set_status
-- The caller has locked the row.
--   $1 tenant id text, $2 notification id uuid, $3 status text
UPDATE notifications SET status = $3, updated_at = now() WHERE tenant_id = $1 AND id = $2;
