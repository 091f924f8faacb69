-- name: shown
-- A delivery as it may be shown; put into the queries below in place of {shown}. One that is held for a batch goes out
-- when that closes, and is due itself only in case nobody closes it.
d.id, d.kind, d.notification_id, d.user_id, d.endpoint_id, d.channel, d.lane, d.state, d.attempt, d.retries, d.deferrals,
d.unknowns, CASE WHEN d.state = 'deferred' AND d.attempt = 0 AND d.batch_id IS NOT NULL THEN coalesce((
    SELECT b.closes_at FROM delivery_batches b WHERE b.tenant_id = d.tenant_id AND b.id = d.batch_id), d.due_at)
    WHEN d.state IN ('queued', 'deferred', 'unknown') THEN d.due_at END AS next_at, d.expires_at, d.provider,
d.provider_ref, d.address_id, (SELECT a.hint FROM recipient_addresses a WHERE a.tenant_id = d.tenant_id AND a.id = d.address_id)
AS address_hint, d.code, d.reason, d.edited IS NOT NULL AS is_edited, d.fallback_of, d.created_at, d.updated_at, d.sent_at,
d.finished_at

-- name: page
-- The newest deliveries of a selection, among so many of those that its index finds.
--   $1 tenant id text, $2 before id uuid, $3 from id uuid, $4 what {column} is text, $5 how many to look at int,
--   $6 state text, $7 user id text, $8 channel text, $9 code text, $10 since timestamptz (each NULL: any), $11 limit int
-- Leans, by {column}, on idx_notification_deliveries_user, idx_notification_deliveries_state or the primary key.
SELECT {shown} FROM (
    SELECT * FROM notification_deliveries d
    WHERE d.tenant_id = $1 AND d.{column} = $4 AND d.id < $2 AND d.id >= $3
    ORDER BY d.id DESC LIMIT $5) AS d
WHERE ($6::text IS NULL OR d.state = $6) AND ($7::text IS NULL OR d.user_id = $7) AND ($8::text IS NULL OR d.channel = $8)
  AND ($9::text IS NULL OR d.code = $9) AND ($10::timestamptz IS NULL OR d.created_at >= $10)
ORDER BY d.id DESC LIMIT $11;

-- name: page_end
-- The last delivery that `page` has looked at, when it has not seen them all.
--   $1 tenant id text, $2 before id uuid, $3 from id uuid, $4 what {column} is text, $5 how many it looked at int
SELECT d.id FROM notification_deliveries d
WHERE d.tenant_id = $1 AND d.{column} = $4 AND d.id < $2 AND d.id >= $3
ORDER BY d.id DESC OFFSET $5 - 1 LIMIT 1;

-- name: of_notification
-- The deliveries of one notification, person by person.
--   $1 tenant id text, $2 notification id uuid, $3 after user id text, $4 after channel text, $5 state text, $6 user id text,
--   $7 channel text, $8 code text, $9 since timestamptz (each NULL: any), $10 how many to look at int, $11 limit int
-- Leans on idx_notification_deliveries_once.
SELECT {shown} FROM (
    SELECT * FROM notification_deliveries d
    WHERE d.tenant_id = $1 AND d.notification_id = $2 AND d.kind = 'notification' AND (d.user_id, d.channel) > ($3, $4)
      AND ($6::text IS NULL OR d.user_id = $6)
    ORDER BY d.user_id, d.channel LIMIT $10) AS d
WHERE ($5::text IS NULL OR d.state = $5) AND ($7::text IS NULL OR d.channel = $7) AND ($8::text IS NULL OR d.code = $8)
  AND ($9::timestamptz IS NULL OR d.created_at >= $9)
ORDER BY d.user_id, d.channel LIMIT $11;

-- name: of_notification_end
-- The last delivery that `of_notification` has looked at, when it has not seen them all.
--   $1 tenant id text, $2 notification id uuid, $3 after user id text, $4 after channel text, $5 user id text (NULL: any),
--   $6 how many it looked at int
SELECT d.id FROM notification_deliveries d
WHERE d.tenant_id = $1 AND d.notification_id = $2 AND d.kind = 'notification' AND (d.user_id, d.channel) > ($3, $4)
  AND ($5::text IS NULL OR d.user_id = $5)
ORDER BY d.user_id, d.channel OFFSET $6 - 1 LIMIT 1;

-- name: place
-- Where a delivery stands among those of its notification.
--   $1 tenant id text, $2 notification id uuid, $3 id uuid
SELECT d.user_id, d.channel FROM notification_deliveries d
WHERE d.tenant_id = $1 AND d.notification_id = $2 AND d.id = $3 AND d.kind = 'notification';

-- name: one
--   $1 tenant id text, $2 id uuid
SELECT {shown} FROM notification_deliveries d WHERE d.tenant_id = $1 AND d.id = $2;

-- name: attempts
-- Every try of some deliveries, the first first.
--   $1 tenant id text, $2 delivery ids uuid[]
SELECT a.delivery_id, a.attempt, a.worker, a.started_at, a.ended_at, a.outcome, a.is_late, a.provider, a.account,
       a.provider_ref, a.code, a.reason, a.gates,
       (SELECT r.hint FROM recipient_addresses r WHERE r.tenant_id = a.tenant_id AND r.id = a.address_id) AS address_hint
FROM delivery_attempts a
WHERE a.tenant_id = $1 AND a.delivery_id = ANY ($2::uuid[])
ORDER BY a.delivery_id, a.attempt;

-- name: provider_events
-- What providers have reported of one delivery, in the order in which it came.
--   $1 tenant id text, $2 delivery id uuid, $3 limit int
-- Leans on idx_provider_events_delivery.
SELECT e.provider, e.status, e.code, e.occurred_at, e.received_at FROM provider_events e
WHERE e.tenant_id = $1 AND e.delivery_id = $2
ORDER BY e.received_at, e.status LIMIT $3;

-- name: browsers
-- What became of a delivery by push in each browser; nothing of other channels.
--   $1 tenant id text, $2 delivery id uuid
-- Leans on the primary key of push_sends.
SELECT p.subscription_id, p.outcome, p.status, p.unknowns, p.sent_at, p.fetched_at, p.shown_at, p.clicked_at, p.closed_at
FROM push_sends p
WHERE p.tenant_id = $1 AND p.delivery_id = $2
ORDER BY p.subscription_id;

-- name: is_there
--   $1 tenant id text, $2 notification id uuid
SELECT EXISTS (SELECT FROM notifications WHERE tenant_id = $1 AND id = $2);

-- name: lock
-- A delivery that is about to be changed, and whether its notification may still go out.
--   $1 tenant id text, $2 id uuid
SELECT d.id, d.kind, d.notification_id, d.user_id, d.channel, d.state, d.code, d.edited, d.expires_at <= now() AS is_expired,
       (SELECT n.status FROM notifications n WHERE n.tenant_id = d.tenant_id AND n.id = d.notification_id) AS notification_status
FROM notification_deliveries d
WHERE d.tenant_id = $1 AND d.id = $2
FOR UPDATE OF d;

-- name: cancel
--   $1 tenant id text, $2 id uuid, $3 reason text
UPDATE notification_deliveries SET state = 'cancelled', reason = $3, finished_at = now(), updated_at = now()
WHERE tenant_id = $1 AND id = $2 AND state IN ('queued', 'deferred', 'unknown');

-- name: replay
-- What has ended badly begins anew, at once, with all its tries. The count of claims goes on: it is the fence. What a
-- provider called the old message is forgotten, so that a late report about it does not decide over the new one.
--   $1 tenant id text, $2 ids uuid[], $3 states that may text[]
-- Returns the deliveries that were set back. Those that have expired, or whose notification was taken back, stay.
WITH named AS MATERIALIZED (
    SELECT d.id, d.state, d.code FROM notification_deliveries d
    WHERE d.tenant_id = $1 AND d.id = ANY ($2::uuid[]) AND d.state = ANY ($3::text[])
      AND (d.expires_at IS NULL OR d.expires_at > now())
      AND (d.kind = 'event' OR EXISTS (
          SELECT FROM notifications n
          WHERE n.tenant_id = d.tenant_id AND n.id = d.notification_id AND n.status = 'published'
            AND (n.expires_at IS NULL OR n.expires_at > now())))
    ORDER BY d.id FOR UPDATE OF d)
UPDATE notification_deliveries d
SET state = 'queued', retries = 0, deferrals = 0, queued_at = now(), unknowns = 0, due_at = now(), provider_ref = NULL, code = NULL, reason = NULL,
    sent_at = NULL, finished_at = NULL, updated_at = now()
FROM named WHERE d.tenant_id = $1 AND d.id = named.id
RETURNING d.id, d.notification_id, d.channel, named.state AS was, named.code AS last_code;

-- name: dead
-- Dead letters of a selection, the oldest first.
--   $1 tenant id text, $2 state text, $3 after id uuid, $4 channel text, $5 code text, $6 finished before timestamptz (each
--   NULL: any), $7 limit int
-- Leans on idx_notification_deliveries_state.
SELECT d.id FROM notification_deliveries d
WHERE d.tenant_id = $1 AND d.state = $2 AND d.id > $3 AND ($4::text IS NULL OR d.channel = $4)
  AND ($5::text IS NULL OR d.code = $5) AND ($6::timestamptz IS NULL OR d.finished_at < $6)
ORDER BY d.id LIMIT $7;

-- name: dead_page
-- The newest dead letters of both states.
--   $1 tenant id text, $2 before id uuid, $3 channel text, $4 code text (each NULL: any), $5 how many to look at int, $6 limit int
-- Leans on idx_notification_deliveries_state.
SELECT {shown} FROM (
    (SELECT * FROM notification_deliveries f
     WHERE f.tenant_id = $1 AND f.state = 'failed' AND f.id < $2 ORDER BY f.id DESC LIMIT $5)
    UNION ALL
    (SELECT * FROM notification_deliveries u
     WHERE u.tenant_id = $1 AND u.state = 'undelivered' AND u.id < $2 ORDER BY u.id DESC LIMIT $5)
    ORDER BY id DESC LIMIT $5) AS d
WHERE ($3::text IS NULL OR d.channel = $3) AND ($4::text IS NULL OR d.code = $4)
ORDER BY d.id DESC LIMIT $6;

-- name: dead_page_end
-- The last dead letter that `dead_page` has looked at, when it has not seen them all.
--   $1 tenant id text, $2 before id uuid, $3 how many it looked at int
SELECT d.id FROM (
    (SELECT f.id FROM notification_deliveries f
     WHERE f.tenant_id = $1 AND f.state = 'failed' AND f.id < $2 ORDER BY f.id DESC LIMIT $3)
    UNION ALL
    (SELECT u.id FROM notification_deliveries u
     WHERE u.tenant_id = $1 AND u.state = 'undelivered' AND u.id < $2 ORDER BY u.id DESC LIMIT $3)) AS d
ORDER BY d.id DESC OFFSET $3 - 1 LIMIT 1;

-- name: dead_counts
-- The newest dead letters, counted by what ended them.
--   $1 tenant id text, $2 how many to count of each state int
SELECT d.channel, d.state, d.code, count(*) AS count FROM (
    (SELECT f.channel, f.state, f.code FROM notification_deliveries f
     WHERE f.tenant_id = $1 AND f.state = 'failed' ORDER BY f.id DESC LIMIT $2)
    UNION ALL
    (SELECT u.channel, u.state, u.code FROM notification_deliveries u
     WHERE u.tenant_id = $1 AND u.state = 'undelivered' ORDER BY u.id DESC LIMIT $2)) AS d
GROUP BY d.channel, d.state, d.code
ORDER BY count(*) DESC, d.channel, d.code;

-- name: edit
--   $1 tenant id text, $2 id uuid, $3 sealed bytea
UPDATE notification_deliveries SET edited = $3, updated_at = now() WHERE tenant_id = $1 AND id = $2;

-- name: is_address
-- Whether a person can be reached there by this channel.
--   $1 tenant id text, $2 user id text, $3 channel text, $4 address id uuid
SELECT EXISTS (
    SELECT FROM recipient_addresses WHERE tenant_id = $1 AND id = $4 AND user_id = $2 AND channel = $3);
