-- name: find
-- A notification to one person by WhatsApp, and how the last of its deliveries stands: one that fell back has another.
--   $1 tenant id text, $2 notification id uuid
-- Leans on the primary key and idx_notification_deliveries_once.
SELECT n.id, n.user_id, n.message, n.metadata, n.created_at, n.scheduled_for, n.status,
       d.id AS delivery_id, d.state, d.sent_at, d.attempt
FROM notifications n
LEFT JOIN LATERAL (
    SELECT * FROM notification_deliveries d
    WHERE d.tenant_id = n.tenant_id AND d.notification_id = n.id AND d.user_id = n.user_id AND d.kind = 'notification'
    ORDER BY d.id DESC LIMIT 1) AS d ON true
WHERE n.tenant_id = $1 AND n.id = $2 AND n.audience = 'user' AND n.channels @> '{whatsapp}';

-- name: page
-- Keryu's notifications, the newest first, with how many there are; all, or those of one status. Looks at so many at most.
--   $1 tenant id text, $2 notification type text, $3 states of deliveries text[] (NULL: all notifications),
--   $4 scheduled or cancelled, for notifications without deliveries text (NULL: none), $5 most int, $6 limit int, $7 offset int
-- Returns total, and the columns of `find`; one row without an id where the page is empty.
-- Leans on idx_notifications_tenant_type, idx_notifications_due, idx_notification_deliveries_state and idx_notification_deliveries_once.
WITH matching AS MATERIALIZED (
    (SELECT n.id FROM notifications n
     WHERE n.tenant_id = $1 AND n.notification_type = $2 AND $3::text[] IS NULL
     ORDER BY n.id DESC LIMIT $5)
    UNION ALL
    (SELECT found.notification_id
     FROM unnest($3::text[]) AS wanted (state)
     CROSS JOIN LATERAL (
         SELECT d.notification_id FROM notification_deliveries d
         JOIN notifications n ON n.tenant_id = d.tenant_id AND n.id = d.notification_id
         WHERE d.tenant_id = $1 AND d.state = wanted.state AND d.kind = 'notification' AND n.notification_type = $2
           AND NOT EXISTS (
               SELECT FROM notification_deliveries f
               WHERE f.tenant_id = d.tenant_id AND f.notification_id = d.notification_id AND f.user_id = d.user_id
                 AND f.kind = 'notification' AND f.fallback_of = d.id)
         ORDER BY d.id DESC LIMIT $5) AS found)
    UNION ALL
    (SELECT n.id FROM notifications n
     WHERE n.tenant_id = $1 AND n.notification_type = $2 AND $4::text = 'scheduled' AND n.status = 'scheduled'
     ORDER BY n.scheduled_for DESC LIMIT $5)
    UNION ALL
    (SELECT n.id FROM notifications n
     WHERE n.tenant_id = $1 AND n.notification_type = $2 AND $4::text = 'cancelled' AND n.status = 'cancelled'
     ORDER BY n.id DESC LIMIT $5)),
page AS (
    SELECT n.id, n.user_id, n.message, n.metadata, n.created_at, n.scheduled_for, n.status,
           d.id AS delivery_id, d.state, d.sent_at, d.attempt
    FROM (SELECT m.id FROM matching m ORDER BY m.id DESC LIMIT $6 OFFSET $7) AS m
    CROSS JOIN LATERAL (
        SELECT * FROM notifications n WHERE n.tenant_id = $1 AND n.id = m.id LIMIT 1) AS n -- one by one: they are few
    LEFT JOIN LATERAL (
        SELECT * FROM notification_deliveries d
        WHERE d.tenant_id = n.tenant_id AND d.notification_id = n.id AND d.user_id = n.user_id AND d.kind = 'notification'
        ORDER BY d.id DESC LIMIT 1) AS d ON true)
SELECT t.total, p.*
FROM (SELECT least(count(*), $5) AS total FROM matching) AS t LEFT JOIN page p ON true
ORDER BY p.id DESC;
