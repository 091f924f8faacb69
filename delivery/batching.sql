-- name: join
-- Open batches, or join those that are open. A batch whose window is over and that nobody has closed yet is joined, too.
--   $1 tenant ids text[], $2 user ids text[], $3 channels text[], $4 types text[], $5 keys text[], $6 ids uuid[] of new
--   batches, $7 how many come together int[], $8 windows interval[], $9 longest interval[], $10 are sliding boolean[],
--   $11 limits int[]; each name once
-- Returns tenant_id, user_id, channel, notification_type, key, id, latest_at.
INSERT INTO delivery_batches AS b (
    tenant_id, user_id, channel, notification_type, key, id, size, closes_at, latest_at, size_limit)
SELECT j.tenant_id, j.user_id, j.channel, j.notification_type, j.key, j.id, j.size,
       CASE WHEN j.size >= j.size_limit THEN now() ELSE now() + j.period END,
       now() + CASE WHEN j.is_sliding THEN j.longest ELSE j.period END, j.size_limit
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::uuid[], $7::int[], $8::interval[], $9::interval[],
    $10::boolean[], $11::int[]) AS j (
    tenant_id, user_id, channel, notification_type, key, id, size, period, longest, is_sliding, size_limit)
ON CONFLICT (tenant_id, user_id, channel, notification_type, key) DO UPDATE
SET size = b.size + excluded.size,
    closes_at = CASE WHEN b.size + excluded.size >= excluded.size_limit THEN least(b.closes_at, now())
                     -- What is fixed has its own end as its latest.
                     ELSE least(greatest(b.closes_at, excluded.closes_at), b.latest_at) END,
    size_limit = excluded.size_limit
RETURNING tenant_id, user_id, channel, notification_type, key, id, latest_at;

-- name: hold
-- Deliveries that wait for their batches. They are in the outbox, so that what is cancelled, recalled or expired ends as
-- ever, and due when the batch should long have been closed.
--   $1 tenant ids text[], $2 ids uuid[], $3 notification ids uuid[], $4 user ids text[], $5 channels text[],
--   $6 lanes smallint[], $7 expires at timestamptz[], $8 due at timestamptz[], $9 batches uuid[]
INSERT INTO notification_deliveries (
    tenant_id, id, notification_id, user_id, channel, lane, expires_at, due_at, batch_id, state, reason)
SELECT h.*, 'deferred', 'it waits for others with the key of its batch'
FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::smallint[], $7::timestamptz[],
            $8::timestamptz[], $9::uuid[]) AS h
ON CONFLICT (tenant_id, notification_id, user_id, channel) WHERE kind = 'notification' DO NOTHING;

-- name: take_closed
-- Batches whose window is over, the longest first. Those that somebody else closes are skipped, not awaited; one that
-- a create has just joined is closed with it, after its commit.
--   $1 limit int
-- Leans on idx_delivery_batches_due.
DELETE FROM delivery_batches b USING (
    SELECT d.tenant_id, d.id FROM delivery_batches d WHERE d.closes_at <= now()
    ORDER BY d.closes_at, d.tenant_id, d.id LIMIT $1 FOR UPDATE SKIP LOCKED) AS due
WHERE b.tenant_id = due.tenant_id AND b.id = due.id
RETURNING b.tenant_id, b.id, b.user_id, b.channel, b.key, b.size_limit;

-- name: lock
-- What of these batches is still to go out, locked. What somebody else has in hand, who cancels it or takes it back, is
-- skipped: if they do not, it goes out by itself when the batch should long have been closed. So nobody waits here, and
-- whoever waits for a batch waits for no circle.
--   $1 tenant ids text[], $2 batches uuid[]: pairs
-- Returns batch_id, tenant_id, delivery_id, notification_id, user_id. Leans on idx_notification_deliveries_batch: the planner,
-- which knows of none that are held, would else read all of them for each batch.
SELECT d.batch_id, d.tenant_id, d.id AS delivery_id, d.notification_id, d.user_id
FROM unnest($1::text[], $2::uuid[]) AS b (tenant_id, id)
CROSS JOIN LATERAL (
    SELECT h.tenant_id, h.id, h.batch_id, h.notification_id, h.user_id FROM notification_deliveries h
    WHERE h.tenant_id = b.tenant_id AND h.batch_id = b.id AND h.state = 'deferred' AND h.attempt = 0
    FOR UPDATE SKIP LOCKED) AS d;

-- name: said
-- What notifications say, and whether there is still something to say to these people: is_settled when it was read, as the
-- inbox has it, recalled, or has expired, of which the policy says so.
--   $1 tenant ids text[], $2 notification ids uuid[], $3 user ids text[]: of each delivery
-- Returns them in the order given. Leans on the primary keys and idx_stream_events_inbox, as `people` of facts.sql does.
SELECT n.id, n.title, n.message, n.notification_type, n.action_url, n.priority, n.channels, n.metadata, n.created_at,
       n.expires_at, n.collapse_key, n.group_key, n.updated_at,
       n.id IS NULL OR n.status <> 'published' OR coalesce(n.expires_at <= now(), false)
       OR coalesce(
           (SELECT r.read FROM notification_receipts r
            WHERE r.tenant_id = w.tenant_id AND r.user_id = w.user_id AND r.notification_id = w.notification_id),
           (SELECT e.seq > m.joined_seq AND e.seq <= m.read_all_seq
            FROM stream_members m
            CROSS JOIN LATERAL (
                SELECT e.seq, e.notification_id FROM stream_events e
                WHERE e.tenant_id = w.tenant_id AND e.stream = m.stream AND e.kind = 'notification'
                  AND (e.created_at, e.notification_id) >= (n.published_at, w.notification_id)
                ORDER BY e.created_at, e.notification_id
                LIMIT 1) AS e
            WHERE m.tenant_id = w.tenant_id AND m.user_id = w.user_id AND m.stream = 'user:' || w.user_id
              AND e.notification_id = w.notification_id),
           false) AS is_settled
FROM unnest($1::text[], $2::uuid[], $3::text[]) WITH ORDINALITY AS w (tenant_id, notification_id, user_id, place)
LEFT JOIN LATERAL (
    SELECT * FROM notifications n WHERE n.tenant_id = w.tenant_id AND n.id >= w.notification_id
    ORDER BY n.id
    LIMIT 1) AS n ON n.id = w.notification_id
ORDER BY w.place;

-- name: stand_for
-- Notifications that go out in the place of several, and of which.
--   $1 tenant ids text[], $2 notification ids uuid[], $3 lists of those ids text[] (comma-separated)
UPDATE notifications n SET stands_for = string_to_array(s.parts, ',')::uuid[]
FROM unnest($1::text[], $2::uuid[], $3::text[]) AS s (tenant_id, id, parts)
WHERE n.tenant_id = s.tenant_id AND n.id = s.id;

-- name: release
-- Let deliveries go out by themselves.
--   $1 tenant ids text[], $2 ids uuid[]: pairs
UPDATE notification_deliveries d
SET state = 'queued', due_at = now(), queued_at = now(), reason = NULL, updated_at = now()
FROM unnest($1::text[], $2::uuid[]) AS one (tenant_id, id)
WHERE d.tenant_id = one.tenant_id AND d.id = one.id AND d.state = 'deferred';

-- name: finish
-- Another goes out in their place.
--   $1 tenant ids text[], $2 ids uuid[], $3 reasons text[]
UPDATE notification_deliveries d
SET state = 'cancelled', code = 'batched', reason = one.reason, finished_at = now(), updated_at = now()
FROM unnest($1::text[], $2::uuid[], $3::text[]) AS one (tenant_id, id, reason)
WHERE d.tenant_id = one.tenant_id AND d.id = one.id AND d.state = 'deferred';

-- name: leave
-- Let what waits of one notification go out by itself, in another lane. What was closed meanwhile stays as it is.
--   $1 tenant id text, $2 notification id uuid, $3 lane smallint
-- Returns batch_id of each delivery. Leans on idx_notification_deliveries_once.
UPDATE notification_deliveries d
SET state = 'queued', lane = $3, due_at = now(), queued_at = now(), reason = NULL, updated_at = now()
WHERE d.tenant_id = $1 AND d.notification_id = $2 AND d.kind = 'notification' AND d.state = 'deferred' AND d.attempt = 0
  AND d.batch_id IS NOT NULL
RETURNING d.batch_id;

-- name: lock_batches
-- Those of these that are still open, locked in the order in which creates join them. They are of one notification, and
-- differ in the person and the channel alone.
--   $1 tenant id text, $2 batches uuid[]
-- Leans on idx_delivery_batches_id.
SELECT FROM delivery_batches b WHERE b.tenant_id = $1 AND b.id = ANY ($2::uuid[])
ORDER BY b.user_id COLLATE "C", b.channel COLLATE "C" FOR UPDATE;

-- name: discount
-- Count what has left no more. A batch that nothing waits for is gone: what comes next under its key opens another. They
-- are locked, so both halves see the same.
--   $1 tenant id text, $2 batches uuid[], $3 how many have left each int[]
-- Leans on idx_delivery_batches_id.
WITH gone (id, count) AS (SELECT * FROM unnest($2::uuid[], $3::int[])),
smaller AS (
    UPDATE delivery_batches b SET size = b.size - g.count FROM gone g
    WHERE b.tenant_id = $1 AND b.id = g.id AND b.size > g.count)
DELETE FROM delivery_batches b USING gone g WHERE b.tenant_id = $1 AND b.id = g.id AND b.size <= g.count;
