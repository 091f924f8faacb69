-- name: delivery
-- A delivery by push as the policy takes it; nothing when there is none of that id.
--   $1 tenant id text, $2 id uuid
SELECT d.tenant_id, d.id, d.kind, d.notification_id, d.user_id, d.endpoint_id, NULL AS event, d.channel, d.lane, d.attempt,
       d.retries, d.deferrals, d.unknowns, false AS is_orphan, false AS was_unknown, d.expires_at, d.created_at,
       d.queued_at, d.edited, d.fallback_of
FROM notification_deliveries d
WHERE d.tenant_id = $1 AND d.id = $2 AND d.channel = 'push' AND d.kind = 'notification';

-- name: privacy
--   $1 tenant id text
SELECT notification_type, privacy FROM push_privacy WHERE tenant_id = $1 ORDER BY notification_type;

-- name: forget_privacy
--   $1 tenant id text
DELETE FROM push_privacy WHERE tenant_id = $1;

-- name: put_privacy
--   $1 tenant id text, $2 types text[], $3 privacy text[]: pairs
INSERT INTO push_privacy (tenant_id, notification_type, privacy)
SELECT $1, said.* FROM unnest($2::text[], $3::text[]) AS said;
