-- name: find
-- What a person wants, with their tenant's days off. For whoever changes it: locked.
--   $1 tenant id text, $2 user id text
SELECT s.*, (SELECT json_build_object('weekend_days', t.weekend_days, 'holidays', t.holidays, 'holiday_calendar',
            t.holiday_calendar)::text FROM tenant_settings t WHERE t.tenant_id = s.tenant_id) AS days_off
FROM digest_subscriptions s
WHERE s.tenant_id = $1 AND s.user_id = $2

-- name: days_off
-- The days off that a tenant has said, as JSON; no row: nothing.
--   $1 tenant id text
SELECT json_build_object('weekend_days', weekend_days, 'holidays', holidays, 'holiday_calendar', holiday_calendar)::text
FROM tenant_settings WHERE tenant_id = $1;

-- name: device
-- What a person's device shows; NULL: what they chose. Since when it is another zone stays as it is while it is the same.
--   $1 tenant id text, $2 user id text, $3 timezone text
UPDATE digest_subscriptions
SET device_timezone = $3, device_timezone_since = CASE WHEN $3::text IS NOT NULL THEN now() END
WHERE tenant_id = $1 AND user_id = $2 AND device_timezone IS DISTINCT FROM $3;

-- name: asked
-- When somebody had a digest sent at once. The row is locked.
--   $1 tenant id text, $2 user id text, $3 asked at timestamptz[]
UPDATE digest_subscriptions SET asked_at = $3 WHERE tenant_id = $1 AND user_id = $2;

-- name: heads_of
-- How far a person's streams go now: where the first window begins.
--   $1 tenant id text, $2 user id text
SELECT m.stream, coalesce(s.seq, 0) AS head
FROM stream_members m
LEFT JOIN streams s ON s.tenant_id = m.tenant_id AND s.name = m.stream
WHERE m.tenant_id = $1 AND m.user_id = $2;

-- name: put
-- Wishes and the next run that follows from them.
--   $1 tenant id text, $2 user id text, $3 is enabled boolean, $4 frequency text, $5 delivery times time[],
--   $6 weekly day smallint, $7 timezone text, $8 exclude weekends boolean, $9 include types text[],
--   $10 exclude types text[], $11 min priority text, $12 unread only boolean, $13 channels text[],
--   $14 next run at timestamptz, $15 next date date, $16 next slot smallint, $17 tzdata text, $18 positions text (JSON)
--   or NULL: as they are, $19 all quiet boolean, $20 inbox when active boolean, $21 weekly types text[], $22 their
--   positions text (JSON), $23 weekly on date, $24 spread in next run at interval, $25 next rhythm text
INSERT INTO digest_subscriptions (
    tenant_id, user_id, is_enabled, frequency, delivery_times, weekly_day, timezone, exclude_weekends, include_types,
    exclude_types, min_priority, unread_only, channels, next_run_at, next_date, next_slot, tzdata, positions, all_quiet,
    inbox_when_active, weekly_types, weekly_positions, weekly_on, next_spread, next_rhythm, off_since)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, coalesce($18::text, '{}')::json, $19, $20,
        $21, $22::text::json, $23, $24, $25, CASE WHEN $14::timestamptz IS NULL THEN now() END)
ON CONFLICT (tenant_id, user_id) DO UPDATE
SET is_enabled = excluded.is_enabled, frequency = excluded.frequency, delivery_times = excluded.delivery_times,
    weekly_day = excluded.weekly_day, timezone = excluded.timezone, exclude_weekends = excluded.exclude_weekends,
    include_types = excluded.include_types, exclude_types = excluded.exclude_types,
    min_priority = excluded.min_priority, unread_only = excluded.unread_only, channels = excluded.channels,
    next_run_at = excluded.next_run_at, next_date = excluded.next_date, next_slot = excluded.next_slot,
    tzdata = excluded.tzdata, changed_at = now(), all_quiet = excluded.all_quiet,
    inbox_when_active = excluded.inbox_when_active, weekly_types = excluded.weekly_types,
    weekly_positions = excluded.weekly_positions, weekly_on = excluded.weekly_on, next_spread = excluded.next_spread,
    next_rhythm = excluded.next_rhythm,
    off_since = CASE WHEN excluded.next_run_at IS NULL THEN coalesce(digest_subscriptions.off_since, now()) END,
    device_timezone = CASE WHEN digest_subscriptions.timezone = excluded.timezone
                           THEN digest_subscriptions.device_timezone END,
    device_timezone_since = CASE WHEN digest_subscriptions.timezone = excluded.timezone
                                 THEN digest_subscriptions.device_timezone_since END,
    positions = CASE WHEN $18::text IS NULL THEN digest_subscriptions.positions ELSE excluded.positions END;

-- name: take_due
-- Digests whose time has come, the oldest first. Those that another scheduler has in hand are skipped, not awaited.
--   $1 limit int
-- Returns the rows as they were locked, with the time, the tenant's days off, and whether this very digest has gone out
-- already. Leans on idx_digest_subscriptions_due, from its beginning to the limit, and on digest_runs_pkey for each row.
-- Statistics must not decide that: with those of a moment at which many were due, EXISTS reads all runs into a hash.
WITH due AS MATERIALIZED (
    SELECT s.* FROM digest_subscriptions s
    WHERE s.next_run_at <= now()
    ORDER BY s.next_run_at
    LIMIT $1 FOR UPDATE SKIP LOCKED)
SELECT due.*, now() AS now,
       (SELECT json_build_object('weekend_days', t.weekend_days, 'holidays', t.holidays, 'holiday_calendar',
            t.holiday_calendar)::text FROM tenant_settings t WHERE t.tenant_id = due.tenant_id) AS days_off,
       r.slot IS NOT NULL AS is_done
FROM due
LEFT JOIN LATERAL (
    SELECT r.slot FROM digest_runs r
    WHERE r.tenant_id = due.tenant_id AND r.user_id = due.user_id AND r.local_date = due.next_date
      AND r.slot = due.next_slot AND r.state = 'sent'
    OFFSET 0) AS r ON true;

-- name: take_old_zones
-- Subscriptions whose next run was computed with older time zone data than this process has. Those with newer data are
-- another's, and what is due now is computed anew when it has run.
--   $1 tzdata text, $2 limit int
-- Leans on idx_digest_subscriptions_zones.
SELECT s.*, now() AS now,
       (SELECT json_build_object('weekend_days', t.weekend_days, 'holidays', t.holidays, 'holiday_calendar',
            t.holiday_calendar)::text FROM tenant_settings t WHERE t.tenant_id = s.tenant_id) AS days_off
FROM digest_subscriptions s
WHERE s.next_run_at > now() AND s.tzdata < $1
LIMIT $2 FOR UPDATE OF s SKIP LOCKED;

-- name: advance
-- When each is due next, and how far the digest went. The rows are locked.
--   $1 tenant ids text[], $2 user ids text[], $3 next run at timestamptz[], $4 next dates date[], $5 next slots
--   smallint[], $6 last dates date[], $7 last slots smallint[], $8 last due at timestamptz[] (these three NULL: as they
--   are), $9 positions text[] (JSON; NULL: as they are), $10 spreads in next run at
--   interval[], $11 next rhythms text[], $12 whether it was sent boolean[], $13 tzdata text
UPDATE digest_subscriptions s
SET next_run_at = a.next_run_at, next_date = a.next_date, next_slot = a.next_slot,
    last_date = coalesce(a.last_date, s.last_date), last_slot = coalesce(a.last_slot, s.last_slot),
    last_due_at = coalesce(a.last_due_at, s.last_due_at), positions = coalesce(a.positions::json, s.positions),
    next_spread = a.spread, next_rhythm = a.rhythm,
    off_since = CASE WHEN a.next_run_at IS NULL THEN coalesce(s.off_since, now()) END,
    last_rhythm = CASE WHEN a.last_date IS NULL THEN s.last_rhythm ELSE s.next_rhythm END,
    sent_date = CASE WHEN a.is_sent THEN a.last_date ELSE s.sent_date END,
    sent_due_at = CASE WHEN a.is_sent THEN a.last_due_at ELSE s.sent_due_at END,
    tzdata = $13
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::date[], $5::smallint[], $6::date[], $7::smallint[],
            $8::timestamptz[], $9::text[], $10::interval[], $11::text[], $12::boolean[])
    AS a (tenant_id, user_id, next_run_at, next_date, next_slot, last_date, last_slot, last_due_at, positions, spread,
          rhythm, is_sent)
WHERE s.tenant_id = a.tenant_id AND s.user_id = a.user_id;

-- name: put_off
-- Somebody cannot be served now: not before an hour has passed. The rows are locked, and due.
--   $1 tenant ids text[], $2 user ids text[]
UPDATE digest_subscriptions s SET next_run_at = now() + interval '1 hour'
FROM unnest($1::text[], $2::text[]) AS p (tenant_id, user_id)
WHERE s.tenant_id = p.tenant_id AND s.user_id = p.user_id AND s.next_run_at <= now();

-- name: hold
-- How far the weekly types of people were told. The rows are locked.
--   $1 tenant ids text[], $2 user ids text[], $3 positions text[] (JSON: type -> stream -> seq), $4 dates date[] (NULL: it
--   was not their turn)
UPDATE digest_subscriptions s
SET weekly_positions = h.positions::json, weekly_on = coalesce(h.weekly_on, s.weekly_on)
FROM unnest($1::text[], $2::text[], $3::text[], $4::date[]) AS h (tenant_id, user_id, positions, weekly_on)
WHERE s.tenant_id = h.tenant_id AND s.user_id = h.user_id;

-- name: move
-- The next digest begins where one that was sent out of turn has ended. The row is locked.
--   $1 tenant id text, $2 user id text, $3 positions text (JSON: stream -> seq), $4 weekly positions text (JSON: type ->
--   stream -> seq), $5 the date of the run whose weekly types stood in it date (NULL: they did not)
UPDATE digest_subscriptions
SET positions = $3::text::json, weekly_positions = $4::text::json, weekly_on = coalesce($5, weekly_on)
WHERE tenant_id = $1 AND user_id = $2;

-- name: record
-- What became of runs. Whoever moves on a date for which nothing went out has another run of it, whose row stands in
-- place of the one that was skipped, with its window. One that was sent is never replaced: its row is not counted.
--   $1 tenant ids text[], $2 user ids text[], $3 dates date[], $4 slots smallint[], $5 states text[], $6 due at
--   timestamptz[], $7 are late boolean[], $8 zones text[], $9 after text[] (JSON), $10 until text[] (JSON),
--   $11 totals int[], $12 unread int[], $13 content hashes bytea[], $14 notification ids uuid[]
INSERT INTO digest_runs (tenant_id, user_id, local_date, slot, state, due_at, is_late, timezone, after, until, total,
    unread, content_hash, notification_id)
SELECT t, u, d, s, st, du, l, z, a::json, un::json, tot, unr, h, n
FROM unnest($1::text[], $2::text[], $3::date[], $4::smallint[], $5::text[], $6::timestamptz[], $7::boolean[], $8::text[],
            $9::text[], $10::text[], $11::int[], $12::int[], $13::bytea[], $14::uuid[])
    AS r (t, u, d, s, st, du, l, z, a, un, tot, unr, h, n)
ON CONFLICT (tenant_id, user_id, local_date, slot) DO UPDATE
SET state = excluded.state, due_at = excluded.due_at, ran_at = now(), is_late = excluded.is_late,
    timezone = excluded.timezone, until = excluded.until, total = excluded.total, unread = excluded.unread,
    content_hash = excluded.content_hash, notification_id = excluded.notification_id,
    after = CASE WHEN digest_runs.state = 'skipped_empty'
                 THEN (excluded.after::jsonb || digest_runs.after::jsonb)::json ELSE excluded.after END
WHERE digest_runs.state <> 'sent';

-- name: runs
-- The latest runs of a person.
--   $1 tenant id text, $2 user id text, $3 limit int
SELECT local_date, slot, state, due_at, ran_at, is_late, timezone, total, unread, notification_id FROM digest_runs
WHERE tenant_id = $1 AND user_id = $2
ORDER BY local_date DESC, slot DESC LIMIT $3;

-- name: prune
-- The oldest runs. Tenants under legal hold are left out. Hops from tenant to tenant; leans on idx_digest_runs_age.
--   $1 limit int, $2 days int: where the tenant says nothing else
WITH RECURSIVE tenants (tenant_id) AS (
    (SELECT tenant_id FROM digest_runs ORDER BY tenant_id LIMIT 1)
    UNION ALL
    SELECT (SELECT r.tenant_id FROM digest_runs r WHERE r.tenant_id > t.tenant_id ORDER BY r.tenant_id LIMIT 1)
    FROM tenants t WHERE t.tenant_id IS NOT NULL)
DELETE FROM digest_runs WHERE ctid = ANY (ARRAY(
    SELECT old.ctid FROM tenants t
    LEFT JOIN tenant_settings s ON s.tenant_id = t.tenant_id
    CROSS JOIN LATERAL (
        SELECT r.ctid FROM digest_runs r
        WHERE r.tenant_id = t.tenant_id AND r.ran_at < now() - make_interval(days => coalesce(s.retention_days, $2))
        ORDER BY r.ran_at LIMIT $1) AS old
    WHERE s.legal_hold IS NOT TRUE
    LIMIT $1));

-- name: zones
-- Every zone that somebody with a digest to come has chosen; for `doctor`.
SELECT timezone, count(*) AS people FROM digest_subscriptions WHERE next_run_at IS NOT NULL GROUP BY timezone;

-- name: windows
-- The streams of people, and their windows: from where the last digest ended, or they joined, to the heads. What came
-- while a stream was muted, from one position to another, the last time or now, is in no digest.
--   $1 tenant ids text[], $2 user ids text[], $3 positions text[] (JSON: stored stream -> seq), of each person
-- Returns a row per person and stream: place (from 1), stream, muted, read_all_seq, joined_seq, after, until, muted_from
-- (exclusive), muted_to (inclusive; both 0: never). A stream that was muted when nobody kept its position: from 0.
SELECT c.place, m.stream, m.muted, m.read_all_seq, m.joined_seq,
       coalesce(m.muted_seq, 0) AS muted_from,
       CASE WHEN m.muted THEN coalesce(s.seq, 0) ELSE coalesce(m.unmuted_seq, 0) END AS muted_to,
       greatest(m.joined_seq, coalesce((c.positions::json ->> m.stream)::bigint, 0)) AS after, coalesce(s.seq, 0) AS until
FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS c (tenant_id, user_id, positions, place)
CROSS JOIN LATERAL (
    SELECT m.stream, m.joined_seq, m.read_all_seq, m.muted, m.muted_seq, m.unmuted_seq FROM stream_members m
    WHERE m.tenant_id = c.tenant_id AND m.user_id = c.user_id
    OFFSET 0) AS m
LEFT JOIN LATERAL (
    SELECT s.seq FROM streams s WHERE s.tenant_id = c.tenant_id AND s.name = m.stream
    OFFSET 0) AS s ON true
ORDER BY c.place, m.stream;

-- name: items
-- What stands in windows and passes the filters, the newest $12 of each stream; what is recalled, expired, archived or a
-- digest itself does not count. One notification that came by two streams comes twice.
--   $1 places bigint[], $2 tenant ids text[], $3 user ids text[], $4 streams text[], $5 after bigint[], $6 until
--   bigint[], $7 read all seqs bigint[], $8 include types text[] (comma-separated, NULL: every), $9 exclude types
--   text[] (comma-separated), $10 priorities that count text[] (comma-separated), $11 unread only boolean[],
--   $12 entries of a stream int
SELECT w.place, w.stream, e.seq, n.*, coalesce(r.read, e.seq <= w.read_all_seq) AS is_read
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[],
            $9::text[], $10::text[], $11::boolean[])
    AS w (place, tenant_id, user_id, stream, after, until, read_all_seq, include, exclude, priorities, unread_only)
CROSS JOIN LATERAL (
    SELECT e.seq, e.notification_id FROM stream_events e
    WHERE e.tenant_id = w.tenant_id AND e.stream = w.stream AND e.kind = 'notification'
      AND e.seq > w.after AND e.seq <= w.until
    ORDER BY e.seq DESC LIMIT $12) AS e
CROSS JOIN LATERAL (
    SELECT n.id, n.title, left(n.message, 400) AS message, n.notification_type, n.priority, n.action_url, n.group_key,
           n.created_at
    FROM notifications n
    WHERE n.tenant_id = w.tenant_id AND n.id = e.notification_id AND n.status = 'published'
      AND (n.expires_at > now()) IS NOT FALSE AND n.notification_type <> 'digest'
    OFFSET 0) AS n
LEFT JOIN LATERAL (
    SELECT r.read, r.archived_at FROM notification_receipts r
    WHERE r.tenant_id = w.tenant_id AND r.user_id = w.user_id AND r.notification_id = e.notification_id
    OFFSET 0) AS r ON true
WHERE r.archived_at IS NULL
  AND (w.include IS NULL OR n.notification_type = ANY (string_to_array(w.include, ',')))
  AND n.notification_type <> ALL (string_to_array(w.exclude, ','))
  AND n.priority = ANY (string_to_array(w.priorities, ','))
  AND (NOT w.unread_only OR coalesce(r.read, e.seq <= w.read_all_seq) IS NOT TRUE);

-- name: more
-- In which windows more entries stand than `items` looks at.
--   $1 places bigint[], $2 tenant ids text[], $3 streams text[], $4 after bigint[], $5 until bigint[], $6 entries of a
--   stream int
-- Leans on idx_stream_events_unread, and reads $6 entries of it at most for each.
SELECT DISTINCT w.place
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
    AS w (place, tenant_id, stream, after, until)
CROSS JOIN LATERAL (
    SELECT FROM stream_events e
    WHERE e.tenant_id = w.tenant_id AND e.stream = w.stream AND e.kind = 'notification'
      AND e.seq > w.after AND e.seq <= w.until
    ORDER BY e.seq DESC OFFSET $6 LIMIT 1) AS one_more;

-- name: told_on
-- For which local date each had their last digest; who never had one, when they subscribed.
--   $1 tenant ids text[], $2 user ids text[]
-- Leans on digest_runs_pkey.
SELECT coalesce(r.local_date, s.created_at::date) AS told_on
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS c (tenant_id, user_id, place)
JOIN digest_subscriptions s ON s.tenant_id = c.tenant_id AND s.user_id = c.user_id
LEFT JOIN LATERAL (
    SELECT r.local_date FROM digest_runs r
    WHERE r.tenant_id = c.tenant_id AND r.user_id = c.user_id AND r.state = 'sent'
    ORDER BY r.local_date DESC LIMIT 1) AS r ON true
ORDER BY c.place;

-- name: active
-- Who of some people has read something in the application lately.
--   $1 tenant ids text[], $2 user ids text[], $3 lately interval
-- Leans on the primary key of notification_receipts.
SELECT EXISTS (SELECT FROM notification_receipts r
               WHERE r.tenant_id = c.tenant_id AND r.user_id = c.user_id AND r.read_at > now() - $3::interval) AS active
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS c (tenant_id, user_id, place)
ORDER BY c.place;

-- name: locales
-- In which language each person reads; NULL where nobody has said.
--   $1 tenant ids text[], $2 user ids text[]
SELECT r.locale FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS c (tenant_id, user_id, place)
LEFT JOIN LATERAL (
    SELECT r.locale FROM recipients r WHERE r.tenant_id = c.tenant_id AND r.user_id = c.user_id
    OFFSET 0) AS r ON true
ORDER BY c.place;

-- name: forget
-- A person is forgotten: what they wanted, and which digests they were sent.
--   $1 tenant id text, $2 user id text
WITH runs AS (DELETE FROM digest_runs WHERE tenant_id = $1 AND user_id = $2)
DELETE FROM digest_subscriptions WHERE tenant_id = $1 AND user_id = $2;
