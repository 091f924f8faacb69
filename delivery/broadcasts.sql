-- name: take
-- The broadcast whose turn it is, with what is to be sent; it stays locked until its page is written. Those that somebody
-- else is at are skipped, not awaited.
-- Leans on idx_delivery_broadcasts_due.
SELECT b.tenant_id, b.notification_id, b.channels, b.position, n.audience, n.topic, n.priority, n.status, n.expires_at,
       n.expires_at <= now() AS is_expired, n.local_time
FROM delivery_broadcasts b
LEFT JOIN notifications n ON n.tenant_id = b.tenant_id AND n.id = b.notification_id
WHERE b.state = 'running' AND b.due_at <= now()
ORDER BY b.due_at, b.tenant_id, b.notification_id
LIMIT 1 FOR UPDATE OF b SKIP LOCKED;

-- name: is_far_ahead
-- Whether so many deliveries of a tenant wait in one of these channels that more of them would help nobody. Those that
-- have a time of their own, far off, are in nobody's way.
--   $1 tenant id text, $2 channels text[], $3 how many are enough int
-- Leans on idx_notification_deliveries_due.
SELECT EXISTS (
    SELECT FROM unnest($2::text[]) AS c (channel)
    WHERE EXISTS (
        SELECT FROM notification_deliveries d
        WHERE d.channel = c.channel AND d.tenant_id = $1 AND d.finished_at IS NULL
          AND d.lane = ANY ('{0,1,2,3,4}') AND d.due_at < now() + interval '1 hour'
        OFFSET $3 - 1 LIMIT 1));

-- name: channels
-- For `everyone` and `followers`: by which of the channels $3 a person (p, with their recipient r) can be reached.
CASE WHEN r.is_active IS NOT FALSE THEN ARRAY(
    SELECT DISTINCT a.channel FROM recipient_addresses a
    WHERE a.tenant_id = $1 AND a.user_id = p.user_id AND a.channel = ANY ($3::text[])
    UNION ALL
    SELECT 'push' WHERE 'push' = ANY ($3::text[]) AND EXISTS (
        SELECT FROM push_subscriptions s WHERE s.tenant_id = $1 AND s.user_id = p.user_id AND s.is_active
          AND (s.expires_at > now()) IS NOT FALSE))
    ELSE '{}' END;

-- name: everyone
-- The next people of a tenant, those with a browser and no other word of them included, and by which of these channels each
-- can be reached.
--   $1 tenant id text, $2 after user id text, $3 channels text[], $4 limit int
-- Leans on the primary key of recipients, idx_recipient_addresses_value and idx_push_subscriptions_active.
WITH named AS (
    (SELECT r.user_id FROM recipients r WHERE r.tenant_id = $1 AND r.user_id > $2 ORDER BY r.user_id LIMIT $4)
    UNION
    (SELECT DISTINCT s.user_id FROM push_subscriptions s
     WHERE 'push' = ANY ($3::text[]) AND s.tenant_id = $1 AND s.user_id > $2 AND s.is_active
       AND (s.expires_at > now()) IS NOT FALSE
     ORDER BY s.user_id LIMIT $4))
SELECT p.user_id, r.timezone, {channels} AS channels
FROM named p
LEFT JOIN recipients r ON r.tenant_id = $1 AND r.user_id = p.user_id
ORDER BY p.user_id LIMIT $4;

-- name: followers
-- The next people who follow a topic, and by which of these channels each can be reached; by none where they have muted it.
--   $1 tenant id text, $2 after user id text, $3 channels text[], $4 limit int, $5 stream text
-- Leans on idx_stream_members_stream, the primary key of recipients, idx_recipient_addresses_value and
-- idx_push_subscriptions_active.
SELECT p.user_id, r.timezone, CASE WHEN p.muted THEN '{{}}' ELSE {channels} END AS channels
FROM stream_members p
LEFT JOIN recipients r ON r.tenant_id = $1 AND r.user_id = p.user_id
WHERE p.tenant_id = $1 AND p.stream = $5 AND p.user_id > $2
ORDER BY p.user_id LIMIT $4;

-- name: write
-- The deliveries of one page; those that are there already stay as they are.
--   $1 tenant id text, $2 notification id uuid, $3 ids uuid[], $4 user ids text[], $5 channels text[], $6 lane smallint,
--   $7 expires at timestamptz, $8 when each is due timestamptz[]; NULL: now
-- Returns how many are new. Leans on idx_notification_deliveries_once.
WITH written AS (
    INSERT INTO notification_deliveries (
        tenant_id, id, notification_id, user_id, channel, lane, expires_at, due_at, queued_at)
    SELECT $1, p.id, $2, p.user_id, p.channel, $6, $7, greatest(p.due_at, now()), greatest(p.due_at, now())
    FROM unnest($3::uuid[], $4::text[], $5::text[], $8::timestamptz[]) AS p (id, user_id, channel, due_at)
    ON CONFLICT (tenant_id, notification_id, user_id, channel) WHERE kind = 'notification' DO NOTHING
    RETURNING 1)
SELECT count(*) FROM written;

-- name: zones
-- Where people are; only those who are known, and have said so.
--   $1 tenant id text, $2 user ids text[]
-- Leans on the primary key of recipients.
SELECT user_id, timezone FROM recipients WHERE tenant_id = $1 AND user_id = ANY ($2::text[]) AND timezone IS NOT NULL;

-- name: move
-- A page is written; it is the others' turn.
--   $1 tenant id text, $2 notification id uuid, $3 position text, $4 people bigint, $5 deliveries bigint,
--   $6 state text: running, done or cancelled
UPDATE delivery_broadcasts
SET position = $3, people = people + $4, deliveries = deliveries + $5, state = $6, due_at = clock_timestamp(),
    updated_at = now(), finished_at = CASE WHEN $6 <> 'running' THEN now() END
WHERE tenant_id = $1 AND notification_id = $2;

-- name: hold
-- Enough is waiting: come back later.
--   $1 tenant id text, $2 notification id uuid, $3 wait interval
UPDATE delivery_broadcasts SET due_at = now() + $3::interval WHERE tenant_id = $1 AND notification_id = $2;

-- name: page
-- The newest broadcasts of a tenant.
--   $1 tenant id text, $2 before notification id uuid, $3 limit int
-- Leans on the primary key.
SELECT notification_id, channels, state, people, deliveries, created_at, updated_at, finished_at
FROM delivery_broadcasts
WHERE tenant_id = $1 AND notification_id < $2
ORDER BY notification_id DESC LIMIT $3;

-- name: one
--   $1 tenant id text, $2 notification id uuid
SELECT notification_id, channels, state, people, deliveries, created_at, updated_at, finished_at
FROM delivery_broadcasts WHERE tenant_id = $1 AND notification_id = $2;

-- name: by_state
-- How far its deliveries are, counted over the first so many.
--   $1 tenant id text, $2 notification id uuid, $3 how many to count int
-- Leans on idx_notification_deliveries_once.
SELECT d.state, count(*) AS count FROM (
    SELECT state FROM notification_deliveries
    WHERE tenant_id = $1 AND notification_id = $2 AND kind = 'notification' LIMIT $3) AS d
GROUP BY d.state;

-- name: lock
--   $1 tenant id text, $2 notification id uuid
SELECT state FROM delivery_broadcasts WHERE tenant_id = $1 AND notification_id = $2 FOR UPDATE;

-- name: set_state
--   $1 tenant id text, $2 notification id uuid, $3 state text
UPDATE delivery_broadcasts
SET state = $3, due_at = now(), updated_at = now(),
    finished_at = CASE WHEN $3 IN ('cancelled', 'done') THEN coalesce(finished_at, now()) END
WHERE tenant_id = $1 AND notification_id = $2;

-- name: cancel_deliveries
-- What of a broadcast has not gone out does not go out any more.
--   $1 tenant id text, $2 notification id uuid, $3 reason text, $4 limit int
-- Returns their ids and channels. Leans on idx_notification_deliveries_once.
UPDATE notification_deliveries d SET state = 'cancelled', reason = $3, finished_at = now(), updated_at = now()
WHERE d.tenant_id = $1 AND d.id = ANY (ARRAY(
    SELECT w.id FROM notification_deliveries w
    WHERE w.tenant_id = $1 AND w.notification_id = $2 AND w.kind = 'notification'
      AND w.state IN ('queued', 'deferred', 'unknown')
    ORDER BY w.user_id, w.channel LIMIT $4 FOR UPDATE))
RETURNING d.id, d.channel;
