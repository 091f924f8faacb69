-- name: take_due
-- Scheduled notifications whose time has come, the oldest first; they are published now, or cancelled when they
-- have expired meanwhile. Rows that somebody else is publishing or changing are skipped, not awaited.
--   $1 limit int
-- Returns the whole notifications. Leans on idx_notifications_due.
WITH due AS MATERIALIZED (
    SELECT tenant_id, id FROM notifications
    WHERE status = 'scheduled' AND scheduled_for <= now()
    ORDER BY scheduled_for, id
    LIMIT $1 FOR UPDATE SKIP LOCKED)
UPDATE notifications n
SET status = CASE WHEN n.expires_at <= now() THEN 'cancelled' ELSE 'published' END,
    published_at = CASE WHEN n.expires_at <= now() THEN NULL ELSE now() END
FROM due WHERE n.tenant_id = due.tenant_id AND n.id = due.id
RETURNING n.*, now() AS now;

-- name: people_to_wake
-- People for whom a snooze is over. Leans on idx_notification_receipts_snoozed.
--   $1 limit int
SELECT DISTINCT tenant_id, user_id FROM (
    SELECT tenant_id, user_id FROM notification_receipts WHERE snoozed_until <= now()
    ORDER BY snoozed_until LIMIT $1) AS due;

-- name: wake
-- End the snoozes of one person that are over; the notifications are unread. The person is locked.
--   $1 tenant id text, $2 user id text, $3 limit int
-- Returns notification ids.
UPDATE notification_receipts r SET snoozed_until = NULL
WHERE r.tenant_id = $1 AND r.user_id = $2 AND r.notification_id = ANY (ARRAY(
    SELECT d.notification_id FROM notification_receipts d
    WHERE d.tenant_id = $1 AND d.user_id = $2 AND d.snoozed_until <= now()
    ORDER BY d.snoozed_until, d.notification_id LIMIT $3))
RETURNING r.notification_id;

-- name: claim_daily
-- Take a job that is to run once a day, if today's run is not done and nobody is at it.
--   $1 job text, $2 who text, $3 lease interval, $4 time of day interval after midnight UTC
-- Returns the name when it is ours.
INSERT INTO scheduler_jobs AS j (name, leased_by, leased_until) VALUES ($1, $2, now() + $3::interval)
ON CONFLICT (name) DO UPDATE SET leased_by = excluded.leased_by, leased_until = excluded.leased_until
WHERE j.leased_until <= now() AND (j.last_run_at IS NULL OR j.last_run_at
    < (date_trunc('day', now() AT TIME ZONE 'UTC' - $4::interval) + $4::interval) AT TIME ZONE 'UTC')
RETURNING name;

-- name: renew
-- Hold a job a while longer.
--   $1 job text, $2 who text, $3 lease interval
-- Returns the name when it was still ours.
UPDATE scheduler_jobs SET leased_until = now() + $3::interval
WHERE name = $1 AND leased_by = $2 AND leased_until > now()
RETURNING name;

-- name: finish
-- The job is done for this time.
--   $1 job text, $2 who text
UPDATE scheduler_jobs SET leased_until = '-infinity', last_run_at = now() WHERE name = $1 AND leased_by = $2;

-- name: tenants
-- Every tenant that has anything old enough to look at, with the instant before which its history goes. Tenants
-- under legal hold are left out. Hops from tenant to tenant along primary keys.
--   $1 days int: where the tenant says nothing else
WITH RECURSIVE
with_events (tenant_id) AS (
    (SELECT tenant_id FROM stream_events ORDER BY tenant_id LIMIT 1)
    UNION ALL
    SELECT (SELECT e.tenant_id FROM stream_events e WHERE e.tenant_id > w.tenant_id ORDER BY e.tenant_id LIMIT 1)
    FROM with_events w WHERE w.tenant_id IS NOT NULL),
with_notifications (tenant_id) AS (
    (SELECT tenant_id FROM notifications ORDER BY tenant_id LIMIT 1)
    UNION ALL
    SELECT (SELECT n.tenant_id FROM notifications n WHERE n.tenant_id > w.tenant_id ORDER BY n.tenant_id LIMIT 1)
    FROM with_notifications w WHERE w.tenant_id IS NOT NULL),
with_connections (tenant_id) AS (
    (SELECT tenant_id FROM websocket_connections ORDER BY tenant_id LIMIT 1)
    UNION ALL
    SELECT (SELECT c.tenant_id FROM websocket_connections c
            WHERE c.tenant_id > w.tenant_id ORDER BY c.tenant_id LIMIT 1)
    FROM with_connections w WHERE w.tenant_id IS NOT NULL),
with_deliveries (tenant_id) AS (
    (SELECT tenant_id FROM notification_deliveries ORDER BY tenant_id LIMIT 1)
    UNION ALL
    SELECT (SELECT d.tenant_id FROM notification_deliveries d
            WHERE d.tenant_id > w.tenant_id ORDER BY d.tenant_id LIMIT 1)
    FROM with_deliveries w WHERE w.tenant_id IS NOT NULL),
with_inbound (tenant_id) AS (
    (SELECT tenant_id FROM inbound_messages ORDER BY tenant_id LIMIT 1)
    UNION ALL
    SELECT (SELECT i.tenant_id FROM inbound_messages i WHERE i.tenant_id > w.tenant_id ORDER BY i.tenant_id LIMIT 1)
    FROM with_inbound w WHERE w.tenant_id IS NOT NULL)
SELECT t.tenant_id, now() - make_interval(days => coalesce(s.retention_days, $1)) AS cutoff
FROM (SELECT tenant_id FROM with_events UNION SELECT tenant_id FROM with_notifications
      UNION SELECT tenant_id FROM with_connections UNION SELECT tenant_id FROM with_deliveries
      UNION SELECT tenant_id FROM with_inbound) AS t
LEFT JOIN tenant_settings s ON s.tenant_id = t.tenant_id
WHERE t.tenant_id IS NOT NULL AND s.legal_hold IS NOT TRUE
ORDER BY t.tenant_id;

-- name: delete_events
-- The oldest events. What goes of a stream is its beginning: a transaction that began earlier may have appended
-- later, and a reader must never find a hole. Leans on idx_stream_events_age and the primary key.
--   $1 tenant id text, $2 before timestamptz, $3 limit int
WITH ends AS MATERIALIZED (
    SELECT stream, max(seq) AS seq FROM (
        SELECT stream, seq FROM stream_events
        WHERE tenant_id = $1 AND created_at < $2
        ORDER BY created_at LIMIT $3) AS oldest
    GROUP BY stream)
DELETE FROM stream_events e USING ends WHERE e.tenant_id = $1 AND e.stream = ends.stream AND e.seq <= ends.seq;

-- name: delete_notifications
-- The oldest notifications with what people did with them; not those whose time is still to come.
--   $1 tenant id text, $2 before timestamptz, $3 limit int
-- Returns how many notifications and receipts are gone. Leans on idx_notifications_created_at.
WITH oldest AS MATERIALIZED (
    SELECT id FROM notifications
    WHERE tenant_id = $1 AND created_at < $2 AND status <> 'scheduled'
      AND (published_at IS NULL OR published_at < $2)
    ORDER BY created_at LIMIT $3),
receipts AS (
    DELETE FROM notification_receipts r USING oldest WHERE r.tenant_id = $1 AND r.notification_id = oldest.id
    RETURNING 1),
gone AS (
    DELETE FROM notifications n USING oldest WHERE n.tenant_id = $1 AND n.id = oldest.id
    RETURNING 1)
SELECT (SELECT count(*) FROM gone) AS notifications, (SELECT count(*) FROM receipts) AS receipts;

-- name: delete_connections
--   $1 tenant id text, $2 before timestamptz, $3 limit int
DELETE FROM websocket_connections WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM websocket_connections WHERE tenant_id = $1 AND closed_at < $2 LIMIT $3));

-- name: delete_tickets
--   $1 limit int
DELETE FROM ws_tickets WHERE ctid = ANY (ARRAY(SELECT ctid FROM ws_tickets WHERE expires_at <= now() LIMIT $1));

-- name: delete_keys
--   $1 limit int, $2 life interval
DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM idempotency_keys WHERE created_at <= now() - $2::interval LIMIT $1));

-- name: delete_revocations
--   $1 limit int
DELETE FROM token_revocations WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM token_revocations WHERE expires_at <= now() LIMIT $1));

-- name: delete_deliveries
-- The oldest deliveries that have ended, with their attempts (by the foreign key) and what providers reported of them.
-- One that is still open keeps its history; the policy ends it once its notification is gone.
--   $1 tenant id text, $2 before timestamptz, $3 limit int
-- Returns how many deliveries and reports are gone. Leans on idx_notification_deliveries_age and
-- idx_provider_events_delivery.
WITH oldest AS MATERIALIZED (
    SELECT id FROM notification_deliveries
    WHERE tenant_id = $1 AND created_at < $2 AND finished_at IS NOT NULL
    ORDER BY created_at LIMIT $3 FOR UPDATE SKIP LOCKED),
reports AS (
    DELETE FROM provider_events e USING oldest WHERE e.tenant_id = $1 AND e.delivery_id = oldest.id
    RETURNING 1),
gone AS (
    DELETE FROM notification_deliveries d USING oldest WHERE d.tenant_id = $1 AND d.id = oldest.id
    RETURNING 1)
SELECT (SELECT count(*) FROM gone) AS deliveries, (SELECT count(*) FROM reports) AS reports;

-- name: delete_broadcasts
--   $1 tenant id text, $2 before timestamptz, $3 limit int
-- Leans on the primary key.
DELETE FROM delivery_broadcasts WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM delivery_broadcasts WHERE tenant_id = $1 AND created_at < $2 AND finished_at IS NOT NULL LIMIT $3));

-- name: delete_inbound
-- What people have answered. Ids carry their time of birth, so the oldest stand first.
--   $1 tenant id text, $2 before timestamptz, $3 limit int
-- Leans on the primary key.
DELETE FROM inbound_messages WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM inbound_messages WHERE tenant_id = $1 AND received_at < $2 ORDER BY id LIMIT $3));

-- name: delete_captured
-- What a sandbox has captured.
--   $1 tenant id text, $2 before timestamptz, $3 limit int
-- Leans on the primary key.
DELETE FROM sandbox_messages WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM sandbox_messages WHERE tenant_id = $1 AND captured_at < $2 ORDER BY id LIMIT $3));

-- name: delete_strangers
-- Reports about deliveries that are nobody's here.
--   $1 limit int, $2 days int
-- Leans on idx_provider_events_age.
DELETE FROM provider_events WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM provider_events
    WHERE received_at < now() - make_interval(days => $2) AND delivery_id IS NULL
    ORDER BY received_at LIMIT $1));

-- name: delete_links
-- Links that nobody has followed in time. Leans on idx_telegram_links_age.
--   $1 limit int
DELETE FROM telegram_links WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM telegram_links WHERE expires_at <= now() ORDER BY expires_at LIMIT $1));

-- name: delete_codes
-- Codes that nobody has answered with in time. Leans on idx_address_verifications_age.
--   $1 limit int
DELETE FROM address_verifications WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM address_verifications WHERE expires_at <= now() ORDER BY expires_at LIMIT $1));
