-- name: contents
-- What notifications say, each once, however many deliveries there are of it. Leans on the primary key, see `people`.
--   $1 tenant ids text[], $2 notification ids uuid[]: pairs
-- Returns status: cancelled also where only the sending to many was; a delivery that a worker had in hand then comes back
-- when it is to be tried again.
SELECT n.tenant_id, n.id, n.title, n.message, n.notification_type, n.action_url, n.priority, n.channels, n.metadata,
       n.created_at, n.expires_at, n.collapse_key, n.group_key, n.updated_at, n.topic,
       n.stands_for, CASE WHEN n.status = 'published' AND EXISTS (
           SELECT FROM delivery_broadcasts b
           WHERE b.tenant_id = wanted.tenant_id AND b.notification_id = wanted.id AND b.state = 'cancelled')
       THEN 'cancelled' ELSE n.status END AS status
FROM unnest($1::text[], $2::uuid[]) AS wanted (tenant_id, id)
CROSS JOIN LATERAL (
    SELECT * FROM notifications n WHERE n.tenant_id = wanted.tenant_id AND n.id >= wanted.id
    ORDER BY n.id
    LIMIT 1) AS n
WHERE n.id = wanted.id;

-- name: parts
-- What still stands of that which notifications go out in the place of, the oldest first. Leans on the primary key.
--   $1 tenant ids text[], $2 notification ids uuid[], $3 ids of one part of each uuid[]: as many rows as there are parts
SELECT w.tenant_id, w.whole, n.id, n.title, n.message, n.notification_type, n.action_url, n.priority, n.channels,
       n.metadata, n.created_at, n.expires_at, n.collapse_key, n.group_key, n.updated_at
FROM unnest($1::text[], $2::uuid[], $3::uuid[]) AS w (tenant_id, whole, part)
CROSS JOIN LATERAL (
    SELECT * FROM notifications n WHERE n.tenant_id = w.tenant_id AND n.id >= w.part
    ORDER BY n.id
    LIMIT 1) AS n
WHERE n.id = w.part AND n.status = 'published' AND (n.expires_at > now()) IS NOT FALSE
ORDER BY n.id;

-- name: people
-- What is known of the persons of deliveries, one row for each delivery, in the order given. Each part is a lookup by
-- a primary key, idx_recipient_addresses_value or idx_stream_events_inbox, whatever the planner believes of a tenant:
-- "the first at or after" can be had from one index only, where "equal" could be had from another, row by row;
-- and no index knows of channel || ''.
--   $1 tenant ids text[], $2 notification ids uuid[], $3 user ids text[], $4 channels text[]: of each delivery
-- Returns is_read as the inbox has it: what the person said of it, else whether it is below their baseline of the
-- stream it stands in; what was there before they were is not read. Of their opt-outs, those that concern the
-- delivery; of the matrix, the line that decides, NULL where none fits. Lists are NULL when empty.
SELECT now() AS now,
       r.user_id AS known, r.name, r.locale, r.timezone, r.is_active, r.unsubscribe_version,
       a.ids, a.sealed, a.hints, a.secrets, a.primary_ids, a.verified_ids, a.paused, a.pause_reasons, a.windows,
       o.scopes, o.opt_out_values, o.reasons,
       p.user_id AS rule_of, p.notification_type AS rule_type, p.channel AS rule_channel, p.is_enabled,
       coalesce(
           (SELECT x.read FROM (
                SELECT x.user_id, x.notification_id, x.read FROM notification_receipts x
                WHERE x.tenant_id = d.tenant_id
                  AND (x.user_id, x.notification_id) >= (d.user_id, d.notification_id)
                ORDER BY x.user_id, x.notification_id
                LIMIT 1) AS x
            WHERE x.user_id = d.user_id AND x.notification_id = d.notification_id),
           (SELECT e.seq > m.joined_seq AND e.seq <= m.read_all_seq
            FROM stream_members m
            CROSS JOIN LATERAL (
                SELECT e.seq, e.notification_id FROM stream_events e
                WHERE e.tenant_id = d.tenant_id AND e.stream = m.stream AND e.kind = 'notification'
                  AND (e.created_at, e.notification_id) >= (n.published_at, d.notification_id)
                ORDER BY e.created_at, e.notification_id
                LIMIT 1) AS e
            WHERE m.tenant_id = d.tenant_id AND m.user_id = d.user_id AND m.stream = n.stream
              AND e.notification_id = d.notification_id),
           false) AS is_read
FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[]) WITH ORDINALITY
    AS d (tenant_id, notification_id, user_id, channel, place)
LEFT JOIN LATERAL (
    SELECT n.id, n.notification_type, n.topic, n.published_at,
           CASE n.audience WHEN 'tenant' THEN 'tenant' WHEN 'topic' THEN 'topic:' || n.topic
                           ELSE 'user:' || d.user_id END AS stream
    FROM notifications n WHERE n.tenant_id = d.tenant_id AND n.id >= d.notification_id
    ORDER BY n.id
    LIMIT 1) AS n ON n.id = d.notification_id
LEFT JOIN LATERAL (
    SELECT * FROM recipients r WHERE r.tenant_id = d.tenant_id AND r.user_id = d.user_id
    OFFSET 0) AS r ON true
CROSS JOIN LATERAL (
    SELECT array_agg(a.id) AS ids, array_agg(a.sealed) AS sealed, array_agg(a.hint) AS hints,
           array_agg(a.secret) AS secrets, array_agg(a.is_primary) AS primary_ids,
           array_agg(a.verified_at IS NOT NULL) AS verified_ids, array_agg(a.paused_at) AS paused,
           array_agg(a.pause_reason) AS pause_reasons, array_agg(a.window_until) AS windows
    FROM (
        SELECT * FROM recipient_addresses a
        WHERE a.tenant_id = d.tenant_id AND a.user_id = d.user_id AND a.channel || '' = d.channel
        ORDER BY a.created_at, a.id) AS a) AS a
CROSS JOIN LATERAL (
    SELECT array_agg(o.scope) AS scopes, array_agg(o.value) AS opt_out_values, array_agg(o.reason) AS reasons
    FROM (VALUES ('all', ''), ('channel', d.channel), ('topic', n.topic), ('type', n.notification_type),
                 ('channel_type', d.channel || ':' || n.notification_type)) AS stopping (scope, value)
    CROSS JOIN LATERAL (
        SELECT * FROM opt_outs o WHERE o.tenant_id = d.tenant_id AND o.user_id = d.user_id
            AND o.scope = stopping.scope AND o.value = stopping.value
        OFFSET 0) AS o) AS o
LEFT JOIN LATERAL (
    SELECT p.user_id, p.notification_type, p.channel, p.is_enabled FROM preference_rules p
    WHERE p.tenant_id = d.tenant_id AND p.user_id IN ('', d.user_id)
      AND p.notification_type IN ('*', n.notification_type) AND p.channel IN ('*', d.channel)
    ORDER BY p.user_id = '', p.notification_type = '*', p.channel = '*'
    LIMIT 1) AS p ON true
ORDER BY d.place;

-- name: pushes
-- What is asked of deliveries by push besides, one row for each, in the order given: how many browsers the person has,
-- how much of the type may be seen, and which of the last ten pushes of three days they have read since, anywhere: a
-- device that shows one of those may take it away, but no push may do nothing else. Leans on
-- idx_push_subscriptions_active, idx_notification_deliveries_user; the rest as `people` does.
--   $1 tenant ids text[], $2 user ids text[], $3 delivery ids uuid[], $4 types text[] (NULL: it is gone): of each
SELECT b.browsers, v.privacy, r.reads
FROM unnest($1::text[], $2::text[], $3::uuid[], $4::text[]) WITH ORDINALITY
    AS d (tenant_id, user_id, id, notification_type, place)
CROSS JOIN LATERAL (
    SELECT count(*) AS browsers FROM push_subscriptions s
    WHERE s.tenant_id = d.tenant_id AND s.user_id = d.user_id AND s.is_active
      AND (s.expires_at > now()) IS NOT FALSE
    OFFSET 0) AS b
LEFT JOIN LATERAL (
    SELECT p.privacy FROM push_privacy p
    WHERE p.tenant_id = d.tenant_id AND p.notification_type IN ('*', d.notification_type)
    ORDER BY p.notification_type = '*'
    LIMIT 1) AS v ON true
CROSS JOIN LATERAL (
    SELECT array_agg(o.notification_id ORDER BY o.id DESC) AS reads
    FROM (
        SELECT o.id, o.notification_id, o.channel, o.state, o.created_at FROM notification_deliveries o
        WHERE o.tenant_id = d.tenant_id AND o.user_id = d.user_id AND o.id < d.id
        ORDER BY o.id DESC
        LIMIT 10) AS o
    JOIN LATERAL (
        SELECT n.id, n.published_at,
               CASE n.audience WHEN 'tenant' THEN 'tenant' WHEN 'topic' THEN 'topic:' || n.topic
                               ELSE 'user:' || d.user_id END AS stream
        FROM notifications n WHERE n.tenant_id = d.tenant_id AND n.id >= o.notification_id
        ORDER BY n.id
        LIMIT 1) AS n ON n.id = o.notification_id
    WHERE o.channel = 'push' AND o.state IN ('sent', 'delivered') AND o.created_at > now() - interval '3 days'
      AND coalesce(
          (SELECT x.read FROM (
               SELECT x.user_id, x.notification_id, x.read FROM notification_receipts x
               WHERE x.tenant_id = d.tenant_id
                 AND (x.user_id, x.notification_id) >= (d.user_id, o.notification_id)
               ORDER BY x.user_id, x.notification_id
               LIMIT 1) AS x
           WHERE x.user_id = d.user_id AND x.notification_id = o.notification_id),
          (SELECT e.seq > m.joined_seq AND e.seq <= m.read_all_seq
           FROM stream_members m
           CROSS JOIN LATERAL (
               SELECT e.seq, e.notification_id FROM stream_events e
               WHERE e.tenant_id = d.tenant_id AND e.stream = m.stream AND e.kind = 'notification'
                 AND (e.created_at, e.notification_id) >= (n.published_at, o.notification_id)
               ORDER BY e.created_at, e.notification_id
               LIMIT 1) AS e
           WHERE m.tenant_id = d.tenant_id AND m.user_id = d.user_id AND m.stream = n.stream
             AND e.notification_id = o.notification_id),
          false)) AS r
ORDER BY d.place;
