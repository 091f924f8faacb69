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

-- name: deliveries
-- What of these batches is still to go out, the oldest first, locked; with what it says.
--   $1 tenant ids text[], $2 batches uuid[]: pairs
-- Returns is_settled: it was read, as the inbox has it, recalled, or has expired; the policy says so of each.
-- Leans on idx_notification_deliveries_batch, and as `people` of facts.sql does.
SELECT d.batch_id, d.id AS delivery_id, n.*,
       n.status <> 'published' OR coalesce(n.expires_at <= now(), false)
       OR coalesce(
           (SELECT r.read FROM notification_receipts r
            WHERE r.tenant_id = d.tenant_id AND r.user_id = d.user_id AND r.notification_id = d.notification_id),
           (SELECT e.seq > m.joined_seq AND e.seq <= m.read_all_seq
            FROM stream_members m
            CROSS JOIN LATERAL (
                SELECT e.seq, e.notification_id FROM stream_events e
                WHERE e.tenant_id = d.tenant_id AND e.stream = m.stream AND e.kind = 'notification'
                  AND (e.created_at, e.notification_id) >= (n.published_at, d.notification_id)
                ORDER BY e.created_at, e.notification_id
                LIMIT 1) AS e
            WHERE m.tenant_id = d.tenant_id AND m.user_id = d.user_id AND m.stream = 'user:' || d.user_id
              AND e.notification_id = d.notification_id),
           false) AS is_settled
FROM unnest($1::text[], $2::uuid[]) AS b (tenant_id, id)
JOIN notification_deliveries d ON d.tenant_id = b.tenant_id AND d.batch_id = b.id
JOIN notifications n ON n.tenant_id = d.tenant_id AND n.id = d.notification_id
WHERE d.state = 'deferred' AND d.attempt = 0
ORDER BY d.notification_id
FOR UPDATE OF d;

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
