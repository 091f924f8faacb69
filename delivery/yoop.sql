-- name: last_alert
-- The newest alert of a tenant, and how it stands by each channel.
--   $1 tenant id text, $2 notification types text[]
-- Leans on idx_notifications_tenant_type and idx_notification_deliveries_once.
SELECT n.id, n.notification_type, n.priority, n.status, n.created_at, n.channels, (
    SELECT json_object_agg(d.channel, d.state) FROM notification_deliveries d
    WHERE d.tenant_id = n.tenant_id AND d.notification_id = n.id AND d.user_id = n.user_id AND d.kind = 'notification')
    AS states
FROM unnest($2::text[]) AS kinds (kind)
CROSS JOIN LATERAL (
    SELECT * FROM notifications n
    WHERE n.tenant_id = $1 AND n.notification_type = kinds.kind
    ORDER BY n.id DESC LIMIT 1) AS n
ORDER BY n.id DESC LIMIT 1;
