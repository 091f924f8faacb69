-- name: enqueue
-- One delivery per person and channel; those that are there already stay as they are.
--   $1 tenant ids text[], $2 ids uuid[], $3 notification ids uuid[], $4 user ids text[], $5 channels text[],
--   $6 lanes smallint[], $7 expires at timestamptz[], $8 the deliveries in whose place they come uuid[]
-- Returns the ids of those that are new. Leans on idx_notification_deliveries_once.
INSERT INTO notification_deliveries (tenant_id, id, notification_id, user_id, channel, lane, expires_at, fallback_of)
SELECT * FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::smallint[], $7::timestamptz[], $8::uuid[])
ON CONFLICT (tenant_id, notification_id, user_id, channel) WHERE kind = 'notification' DO NOTHING
RETURNING id;

-- name: enqueue_broadcasts
-- Notifications for many, to be expanded page by page.
--   $1 tenant ids text[], $2 notification ids uuid[], $3 lists of channels text[] (comma-separated)
INSERT INTO delivery_broadcasts (tenant_id, notification_id, channels)
SELECT t, n, string_to_array(c, ',') FROM unnest($1::text[], $2::uuid[], $3::text[]) AS given (t, n, c)
ON CONFLICT (tenant_id, notification_id) DO NOTHING;

-- name: cancel_notifications
-- What has not gone out of these notifications does not go out any more, and nothing more of them is written. What a
-- worker has in hand is left to the policy of its next attempt.
--   $1 tenant ids text[], $2 notification ids uuid[], $3 reason text
-- Returns the deliveries: tenant_id, id, notification_id, user_id, channel.
WITH named AS (SELECT * FROM unnest($1::text[], $2::uuid[]) AS named (tenant_id, notification_id)),
ended AS (
    UPDATE delivery_broadcasts b SET state = 'cancelled', finished_at = now(), updated_at = now()
    FROM named n
    WHERE b.tenant_id = n.tenant_id AND b.notification_id = n.notification_id AND b.state IN ('running', 'paused'))
UPDATE notification_deliveries d
SET state = 'cancelled', reason = $3, finished_at = now(), updated_at = now()
FROM named n
WHERE d.tenant_id = n.tenant_id AND d.notification_id = n.notification_id AND d.kind = 'notification'
  AND d.state IN ('queued', 'deferred', 'unknown')
RETURNING d.tenant_id, d.id, d.notification_id, d.user_id, d.channel;

-- name: claim
-- Lease what is due to one worker: per channel at most `room`, the more urgent lane first, and within a lane one of
-- each tenant after the other. Hops from tenant to tenant, so what it costs does not grow with the backlog. A row whose
-- lease has run out is due again: a worker that dies loses its lease, not the delivery. Each claim is an attempt, and
-- the attempt is written before anything is sent; one that has no end by now is one of which nobody knows the end.
--   $1 channels text[], $2 rooms int[], $3 last lanes smallint[], $4 after which tenant text[], $5 worker text,
--   $6 lease interval, $7 tenants to look at per channel int
-- Returns the rows, each with the last tenant that was looked at in its channel and how many were due there (at most
-- twice the room), or a row with only that.
-- Leans on idx_notification_deliveries_due. The planner believes in thousands of due rows, whatever the rooms are, and
-- would read the whole table to join them; the arrays, of which it believes little, lead it to the primary keys.
WITH RECURSIVE wanted (channel, room, last_lane, after) AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::int[], $3::smallint[], $4::text[])),
hop (channel, tenant_id, n) AS (
    SELECT w.channel, (
        SELECT d.tenant_id FROM notification_deliveries d
        WHERE d.channel = w.channel AND d.finished_at IS NULL AND d.tenant_id > w.after
        ORDER BY d.tenant_id LIMIT 1), 1
    FROM wanted w
    UNION ALL
    SELECT h.channel, (
        SELECT d.tenant_id FROM notification_deliveries d
        WHERE d.channel = h.channel AND d.finished_at IS NULL AND d.tenant_id > h.tenant_id
        ORDER BY d.tenant_id LIMIT 1), n + 1
    FROM hop h WHERE h.tenant_id IS NOT NULL AND n < $7),
candidates AS MATERIALIZED (
    SELECT w.channel, first.*
    FROM wanted w
    CROSS JOIN LATERAL (
        SELECT one.tenant_id, one.id, one.lane, one.turn, one.due_at
        FROM hop h
        CROSS JOIN generate_series(0, w.last_lane) AS lanes (lane)
        CROSS JOIN LATERAL (
            SELECT l.tenant_id, l.id, l.lane, l.due_at, row_number() OVER (ORDER BY l.due_at, l.id) AS turn
            FROM (
                SELECT d.tenant_id, d.id, d.lane, d.due_at FROM notification_deliveries d
                WHERE d.channel = w.channel AND d.tenant_id = h.tenant_id AND d.lane = lanes.lane
                  AND d.finished_at IS NULL AND d.due_at <= now()
                ORDER BY d.due_at, d.id LIMIT 2 * w.room) AS l) AS one
        WHERE h.channel = w.channel AND h.tenant_id IS NOT NULL
        ORDER BY one.lane, one.turn, one.due_at LIMIT 2 * w.room) AS first),
due AS MATERIALIZED (
    SELECT locked.tenant_id, locked.id, locked.state
    FROM wanted w
    CROSS JOIN LATERAL (
        SELECT d.tenant_id, d.id, d.state
        FROM candidates c
        JOIN notification_deliveries d ON d.tenant_id = c.tenant_id AND d.id = c.id
        WHERE c.channel = w.channel AND d.finished_at IS NULL AND d.due_at <= now()
        ORDER BY c.lane, c.turn, c.due_at
        LIMIT w.room FOR UPDATE OF d SKIP LOCKED) AS locked),
claimed AS (
    UPDATE notification_deliveries d
    SET state = 'processing', attempt = d.attempt + 1, claimed_by = $5, due_at = now() + $6::interval, updated_at = now(),
        unknowns = d.unknowns + (due.state = 'processing')::int
    FROM due
    WHERE d.tenant_id = due.tenant_id AND d.id = due.id
      AND d.tenant_id = ANY (ARRAY(SELECT tenant_id FROM due)) AND d.id = ANY (ARRAY(SELECT id FROM due))
    RETURNING d.tenant_id, d.id, d.kind, d.notification_id, d.user_id, d.endpoint_id, d.event, d.channel, d.lane,
              d.attempt, d.retries, d.deferrals, d.unknowns, due.state = 'processing' AS is_orphan,
              due.state = 'unknown' AS was_unknown, d.expires_at, d.created_at, d.queued_at, d.edited, d.fallback_of),
begun AS (
    INSERT INTO delivery_attempts (tenant_id, delivery_id, attempt, worker)
    SELECT c.tenant_id, c.id, c.attempt, $5 FROM claimed c),
orphaned AS (
    UPDATE delivery_attempts a
    SET ended_at = now(), outcome = 'unknown', code = 'worker_lost', reason = 'the worker did not come back in time'
    FROM claimed c
    WHERE c.is_orphan AND a.tenant_id = c.tenant_id AND a.delivery_id = c.id AND a.attempt = c.attempt - 1
      AND a.tenant_id = ANY (ARRAY(SELECT tenant_id FROM claimed WHERE is_orphan))
      AND a.delivery_id = ANY (ARRAY(SELECT id FROM claimed WHERE is_orphan)) AND a.ended_at IS NULL),
looked AS (SELECT h.channel, max(h.tenant_id) AS last_tenant, count(h.tenant_id) AS tenants FROM hop h GROUP BY h.channel)
SELECT looked.channel AS looked_channel, CASE WHEN looked.tenants >= $7 THEN looked.last_tenant ELSE '' END AS look_after,
       (SELECT count(*) FROM candidates o WHERE o.channel = looked.channel) AS candidates, c.*, now() AS now
FROM looked LEFT JOIN claimed c ON c.channel = looked.channel;

-- name: peek
-- What is due now, for who wants to see it without taking it.
--   $1 channels text[], $2 limit int
SELECT d.tenant_id, d.id, d.kind, d.notification_id, d.user_id, d.endpoint_id, d.event, d.channel, d.lane,
       d.attempt + 1 AS attempt, d.retries, d.deferrals, d.unknowns, d.state = 'processing' AS is_orphan,
       d.state = 'unknown' AS was_unknown, d.expires_at, d.created_at, d.queued_at, d.edited, d.fallback_of
FROM notification_deliveries d
WHERE d.channel = ANY ($1::text[]) AND d.finished_at IS NULL AND d.due_at <= now()
ORDER BY d.lane, d.due_at, d.id LIMIT $2;

-- name: complete
-- What became of attempts. A delivery moves only by the attempt that holds it: whoever comes late is recorded, and
-- decides nothing. A receipt that was quicker than we keeps what it said; the provider's name for it is still ours to
-- tell. Written once more, because the answer to the first time was lost, it decides nothing more.
--   $1 tenant ids text[], $2 ids uuid[], $3 attempts int[], $4 states text[], $5 waits interval[] (of open states),
--   $6 retries smallint[], $7 deferrals smallint[], $8 unknowns smallint[] (all three to add), $9 outcomes text[],
--   $10 providers text[], $11 accounts text[], $12 address ids uuid[], $13 provider refs text[], $14 codes text[],
--   $15 reasons text[], $16 gates text[] (JSON)
-- Returns tenant_id, id and attempt of those that moved.
WITH done AS MATERIALIZED (
    SELECT * FROM unnest(
        $1::text[], $2::uuid[], $3::int[], $4::text[], $5::interval[], $6::smallint[], $7::smallint[], $8::smallint[],
        $9::text[], $10::text[], $11::text[], $12::uuid[], $13::text[], $14::text[], $15::text[], $16::text[]) AS done (
        tenant_id, id, attempt, state, wait, retries, deferrals, unknowns, outcome, provider, account, address_id,
        provider_ref, code, reason, gates)),
moved AS (
    UPDATE notification_deliveries d
    SET state = CASE WHEN d.state = 'processing' THEN o.state ELSE d.state END,
        claimed_by = NULL,
        due_at = CASE WHEN d.state = 'processing' AND o.wait IS NOT NULL THEN now() + o.wait ELSE d.due_at END,
        retries = d.retries + o.retries,
        deferrals = d.deferrals + o.deferrals,
        unknowns = d.unknowns + o.unknowns,
        provider = coalesce(o.provider, d.provider),
        provider_ref = coalesce(o.provider_ref, d.provider_ref),
        address_id = coalesce(o.address_id, d.address_id),
        code = CASE WHEN d.state = 'processing' THEN o.code ELSE d.code END,
        reason = CASE WHEN d.state = 'processing' THEN o.reason ELSE d.reason END,
        sent_at = CASE WHEN o.outcome = 'sent' THEN now() ELSE d.sent_at END,
        finished_at = CASE WHEN d.state <> 'processing' THEN d.finished_at WHEN o.wait IS NULL THEN now() END,
        updated_at = now()
    FROM done o
    WHERE d.tenant_id = o.tenant_id AND d.id = o.id AND d.attempt = o.attempt
      AND (d.state = 'processing' OR o.outcome = 'sent' AND d.state IN ('sent', 'delivered', 'read', 'undelivered', 'failed'))
    -- What was finished before this transaction was decided by somebody else, or by us the time before.
    RETURNING d.tenant_id, d.id, d.attempt, d.state = o.state AND (d.finished_at IS NULL OR d.finished_at = now()) AS decided),
recorded AS (
    UPDATE delivery_attempts a
    SET ended_at = now(), outcome = o.outcome, provider = o.provider, account = o.account, address_id = o.address_id,
        provider_ref = o.provider_ref, code = o.code, reason = o.reason, gates = o.gates::json,
        is_late = NOT EXISTS (
            SELECT FROM moved m WHERE m.tenant_id = o.tenant_id AND m.id = o.id AND m.attempt = o.attempt)
    FROM done o
    WHERE a.tenant_id = o.tenant_id AND a.delivery_id = o.id AND a.attempt = o.attempt
      AND (a.ended_at IS NULL OR a.code = 'worker_lost'))
SELECT m.tenant_id, m.id, m.attempt FROM moved m WHERE m.decided;

-- name: unknown_rules
-- What these tenants want done about messages of which nobody knows whether they were sent.
--   $1 tenant ids text[]
SELECT tenant_id, unknown_outcome FROM tenant_settings WHERE tenant_id = ANY ($1::text[]) AND unknown_outcome IS NOT NULL;

-- name: reach
-- Deliveries by push that have just ended, in this transaction, and that some browser has all the same: they are what
-- browsers have reported of them, and `sent` where nothing was. Why the others were not reached stays as the reason. It
-- is a statement of its own, so that it sees whatever was reported before the rows were locked; who reports later sees
-- the end.
--   $1 tenant ids text[], $2 ids uuid[]
-- Returns tenant_id, id, state and reason of those that moved.
WITH reached AS MATERIALIZED (
    SELECT ended.tenant_id, ended.id, r.is_shown, r.is_clicked
    FROM unnest($1::text[], $2::uuid[]) AS ended (tenant_id, id)
    CROSS JOIN LATERAL (
        SELECT count(*) AS browsers, count(p.shown_at) > 0 AS is_shown, count(p.clicked_at) > 0 AS is_clicked
        FROM push_sends p
        WHERE p.tenant_id = ended.tenant_id AND p.delivery_id = ended.id AND p.outcome = 'sent') AS r
    WHERE r.browsers > 0)
UPDATE notification_deliveries d
SET state = CASE WHEN r.is_clicked THEN 'read' WHEN r.is_shown THEN 'delivered' ELSE 'sent' END,
    reason = CASE WHEN d.state IN ('sent', 'delivered') THEN d.reason
                  ELSE 'not everywhere: ' || coalesce(d.reason, d.state) END,
    sent_at = coalesce(d.sent_at, now()), updated_at = now()
FROM reached r
WHERE d.tenant_id = r.tenant_id AND d.id = r.id AND d.finished_at IS NOT NULL
  AND (d.state IN ('failed', 'suppressed', 'expired', 'cancelled')
       OR d.state = 'sent' AND r.is_shown OR d.state = 'delivered' AND r.is_clicked)
RETURNING d.tenant_id, d.id, d.state, d.reason;

-- name: expire
-- What was to be gone by now, also in channels that nobody can send by at the moment. What a worker has in hand, or of
-- which nobody knows the end, is left to the policy.
--   $1 limit int
-- Returns tenant_id, id, notification_id, user_id, channel. Leans on idx_notification_deliveries_expiry.
WITH over AS MATERIALIZED (
    SELECT d.tenant_id, d.id FROM notification_deliveries d
    WHERE d.finished_at IS NULL AND d.expires_at <= now() AND d.state IN ('queued', 'deferred')
    ORDER BY d.expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)
UPDATE notification_deliveries d
SET state = 'expired', reason = 'it was to be gone by now', finished_at = now(), updated_at = now()
FROM over
WHERE d.tenant_id = over.tenant_id AND d.id = over.id
  AND d.tenant_id = ANY (ARRAY(SELECT tenant_id FROM over)) AND d.id = ANY (ARRAY(SELECT id FROM over))
RETURNING d.tenant_id, d.id, d.notification_id, d.user_id, d.channel;
