-- name: lock_person
-- One change at a time per person, so that the order of their events is the order of what the events say.
-- Directed notifications do not wait for it.
--   $1 tenant id text, $2 user id text
SELECT pg_advisory_xact_lock(hashtextextended(json_build_array($1::text, $2::text)::text, 4023));

-- name: members
-- The streams of a person, their baselines and the heads of the streams.
--   $1 tenant id text, $2 user id text
SELECT m.stream, m.joined_seq, m.read_all_seq, m.muted, m.created_at, coalesce(s.seq, 0) AS head
FROM stream_members m
LEFT JOIN streams s ON s.tenant_id = m.tenant_id AND s.name = m.stream
WHERE m.tenant_id = $1 AND m.user_id = $2
ORDER BY m.stream;

-- name: join
-- A person is seen for the first time: their own stream from its beginning, the tenant's from its present head.
-- Whoever comes second, at the same time, changes nothing.
--   $1 tenant id text, $2 user id text
INSERT INTO stream_members (tenant_id, user_id, stream, joined_seq, read_all_seq)
SELECT $1, $2, stream, head, head
FROM (VALUES
    ('user:' || $2, 0),
    ('tenant', coalesce((SELECT seq FROM streams WHERE tenant_id = $1 AND name = 'tenant'), 0))
) AS own (stream, head)
ON CONFLICT DO NOTHING;

-- name: join_all
-- As `join`, for many people; in one order, so that two of these do not wait for each other.
--   $1 tenant ids text[], $2 user ids text[]: pairs, each once
INSERT INTO stream_members (tenant_id, user_id, stream, joined_seq, read_all_seq)
SELECT p.tenant_id, p.user_id, own.stream, own.head, own.head
FROM unnest($1::text[], $2::text[]) AS p (tenant_id, user_id)
CROSS JOIN LATERAL (VALUES
    ('user:' || p.user_id, 0),
    ('tenant', coalesce((SELECT s.seq FROM streams s WHERE s.tenant_id = p.tenant_id AND s.name = 'tenant'), 0))
) AS own (stream, head)
WHERE NOT EXISTS (
    SELECT FROM stream_members m WHERE m.tenant_id = p.tenant_id AND m.user_id = p.user_id AND m.stream = 'tenant')
ORDER BY p.tenant_id, p.user_id, own.stream
ON CONFLICT DO NOTHING;

-- name: is_member
-- Whether a person has been seen before.
--   $1 tenant id text, $2 user id text
SELECT EXISTS (SELECT FROM stream_members WHERE tenant_id = $1 AND user_id = $2 AND stream = 'tenant');

-- name: membership
-- The streams that a person listens to and their heads, each with the person's unread count besides (see `count`).
--   $1 tenant id text, $2 user id text, $3 cap int
-- Returns no row for a person not seen before.
SELECT m.stream, coalesce(s.seq, 0) AS head, ({count}) AS unread
FROM stream_members m
LEFT JOIN streams s ON s.tenant_id = m.tenant_id AND s.name = m.stream
WHERE m.tenant_id = $1 AND m.user_id = $2 AND NOT m.muted
ORDER BY m.stream;

-- name: count
-- Unread: entries above the baselines, and those that a receipt calls unread; neither recalled nor expired, read,
-- archived, snoozed or muted; each notification once; at most $3. Scans from the baseline upwards and stops there.
-- Rows are looked up one by one: whatever the planner believes of a tenant, each costs one descent of a primary key.
-- Leans on idx_stream_events_unread, idx_notification_receipts_unread, idx_stream_events_inbox.
--   $1 tenant id text, $2 user id text, $3 cap int
SELECT count(*) FROM (
    SELECT notification_id FROM (
        SELECT e.notification_id
        FROM stream_members m
        CROSS JOIN LATERAL (
            SELECT e.notification_id FROM stream_events e
            WHERE e.tenant_id = $1 AND e.stream = m.stream AND e.kind = 'notification' AND e.seq > m.read_all_seq
              AND (SELECT r.read OR r.archived_at IS NOT NULL OR r.snoozed_until > now() {seen}
                   FROM notification_receipts r
                   WHERE r.tenant_id = $1 AND r.user_id = $2 AND r.notification_id = e.notification_id) IS NOT TRUE
              AND (SELECT n.status = 'published' AND (n.expires_at > now()) IS NOT FALSE
                   FROM notifications n WHERE n.tenant_id = $1 AND n.id = e.notification_id)
            ORDER BY e.seq
            LIMIT $3) AS e
        WHERE m.tenant_id = $1 AND m.user_id = $2 AND NOT m.muted
        LIMIT $3) AS above
    UNION
    SELECT notification_id FROM (
        SELECT r.notification_id
        FROM notification_receipts r
        CROSS JOIN LATERAL (
            SELECT n.published_at, n.status = 'published' AND (n.expires_at > now()) IS NOT FALSE AS is_there,
                   CASE n.audience WHEN 'tenant' THEN 'tenant' WHEN 'topic' THEN 'topic:' || n.topic
                                   ELSE 'user:' || $2 END AS stream
            FROM notifications n WHERE n.tenant_id = $1 AND n.id = r.notification_id
            OFFSET 0) AS n
        WHERE r.tenant_id = $1 AND r.user_id = $2 AND r.read IS FALSE
          AND r.archived_at IS NULL AND (r.snoozed_until IS NULL OR r.snoozed_until <= now()) {unseen}
          AND n.is_there
          AND (SELECT e.seq FROM stream_events e
               WHERE e.tenant_id = $1 AND e.stream = n.stream AND e.kind = 'notification'
                 AND e.created_at = n.published_at AND e.notification_id = r.notification_id)
            > (SELECT m.joined_seq FROM stream_members m
               WHERE m.tenant_id = $1 AND m.user_id = $2 AND m.stream = n.stream AND NOT m.muted)
        LIMIT $3) AS marked
    LIMIT $3) AS unread

-- name: count_all
-- The unread counts of many people (see `count`), in the order given.
--   $1 tenant ids text[], $2 user ids text[]: pairs, $3 cap int
SELECT ({count}) AS unread
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS p (tenant_id, user_id, place)
ORDER BY p.place;

-- name: page
-- Entries before a position, newest first; of those that match, the content and what the person did with it.
-- Leans on idx_stream_events_inbox for each stream.
--   $1 to $5: see `hit`; $6 before timestamptz, $7 before id uuid: the position
--   $8 how many entries to look at int, $9 stored names of streams text[] or NULL
-- Returns listed_at, notification_id for each entry looked at; id is NULL where it does not match.
WITH scanned AS MATERIALIZED (
    SELECT m.stream, m.read_all_seq, e.seq, e.notification_id, e.created_at
    FROM stream_members m
    CROSS JOIN LATERAL (
        SELECT e.seq, e.notification_id, e.created_at FROM stream_events e
        WHERE e.tenant_id = $1 AND e.stream = m.stream AND e.kind = 'notification' AND e.seq > m.joined_seq
          AND (e.created_at, e.notification_id) < ($6::timestamptz, $7::uuid)
        ORDER BY e.created_at DESC, e.notification_id DESC
        LIMIT $8) AS e
    WHERE m.tenant_id = $1 AND m.user_id = $2 AND ($9::text[] IS NULL OR m.stream = ANY ($9))
    ORDER BY e.created_at DESC, e.notification_id DESC
    LIMIT $8)
SELECT s.stream, s.seq, s.created_at AS listed_at, s.notification_id, hit.*
FROM scanned s
LEFT JOIN LATERAL ({hit}) AS hit ON true
ORDER BY s.created_at DESC, s.notification_id DESC;

-- name: hit
-- For one entry `s` of a stream: the notification with the person's state, if it is still there and matches.
-- OFFSET 0 keeps it a lookup by primary keys, whatever the planner believes of a tenant.
--   $1 tenant id text, $2 user id text, $3 state text, $4 types text[] or NULL, $5 priorities text[] or NULL
SELECT * FROM (
    SELECT n.id, n.status, n.title, n.message, n.notification_type, n.action_url, n.priority, n.channels, n.metadata,
           n.created_at, n.expires_at, n.collapse_key, n.group_key, n.updated_at,
           coalesce(r.read, s.seq <= s.read_all_seq) AS read,
           coalesce(r.read, s.seq <= s.read_all_seq) OR r.seen_at IS NOT NULL AS seen,
           r.archived_at IS NOT NULL AS archived,
           CASE WHEN r.snoozed_until > now() THEN r.snoozed_until END AS snoozed_until
    FROM notifications n
    LEFT JOIN LATERAL (
        SELECT r.* FROM notification_receipts r
        WHERE r.tenant_id = $1 AND r.user_id = $2 AND r.notification_id = s.notification_id
        OFFSET 0) AS r ON true
    WHERE n.tenant_id = $1 AND n.id = s.notification_id
    OFFSET 0) AS own
WHERE status = 'published' AND (expires_at > now()) IS NOT FALSE
  AND ($4::text[] IS NULL OR notification_type = ANY ($4)) AND ($5::text[] IS NULL OR priority = ANY ($5))
  AND CASE $3
    WHEN 'any' THEN true
    WHEN 'archived' THEN archived
    WHEN 'snoozed' THEN snoozed_until IS NOT NULL
    ELSE NOT archived AND snoozed_until IS NULL AND CASE $3
        WHEN 'unread' THEN NOT read WHEN 'read' THEN read WHEN 'unseen' THEN NOT seen ELSE true END
    END

-- name: one
-- One notification of a person, as `page` shows it; archived and snoozed ones too.
--   $1 to $5: see `hit`; $6 notification id uuid
SELECT s.stream, s.seq, s.created_at AS listed_at, s.notification_id, hit.*
FROM (
    SELECT n.id AS notification_id, n.published_at AS created_at, m.stream, m.read_all_seq, e.seq
    FROM (
        SELECT n.id, n.published_at,
               CASE n.audience WHEN 'tenant' THEN 'tenant' WHEN 'topic' THEN 'topic:' || n.topic
                               ELSE 'user:' || $2 END AS stream
        FROM notifications n WHERE n.tenant_id = $1 AND n.id = $6
        OFFSET 0) AS n
    CROSS JOIN LATERAL (
        SELECT m.stream, m.joined_seq, m.read_all_seq FROM stream_members m
        WHERE m.tenant_id = $1 AND m.user_id = $2 AND m.stream = n.stream
        OFFSET 0) AS m
    CROSS JOIN LATERAL (
        SELECT e.seq FROM stream_events e
        WHERE e.tenant_id = $1 AND e.stream = m.stream AND e.kind = 'notification'
          AND e.created_at = n.published_at AND e.notification_id = n.id AND e.seq > m.joined_seq
        LIMIT 1) AS e) AS s
CROSS JOIN LATERAL ({hit}) AS hit;

-- name: theirs
-- Which of these notifications went to a person, also when they are recalled by now.
--   $1 tenant id text, $2 user id text, $3 notification ids uuid[]
SELECT n.id
FROM notifications n
WHERE n.tenant_id = $1 AND n.id = ANY ($3::uuid[]) AND n.status IN ('published', 'recalled')
  AND (n.user_id = $2 OR $2 = ANY (n.user_ids) OR EXISTS (
    SELECT FROM stream_members m
    WHERE m.tenant_id = $1 AND m.user_id = $2
      AND m.stream = CASE n.audience WHEN 'tenant' THEN 'tenant' WHEN 'topic' THEN 'topic:' || n.topic END));

-- name: read
-- Mark notifications read, which also ends a snooze.
--   $1 tenant id text, $2 user id text, $3 notification ids uuid[]
-- Returns, like all changes of state, the ids of those that were not so before.
INSERT INTO notification_receipts AS r (tenant_id, user_id, notification_id, read, read_at, seen_at)
SELECT $1, $2, id, true, now(), now() FROM unnest($3::uuid[]) AS id ORDER BY id
ON CONFLICT (tenant_id, user_id, notification_id) DO UPDATE
SET read = true, read_at = now(), seen_at = coalesce(r.seen_at, now()), snoozed_until = NULL
WHERE r.read IS NOT TRUE OR r.snoozed_until IS NOT NULL
RETURNING notification_id;

-- name: unread
-- Mark notifications unread, which also ends a snooze. Whoever does that has seen them.
--   $1 tenant id text, $2 user id text, $3 notification ids uuid[]
INSERT INTO notification_receipts AS r (tenant_id, user_id, notification_id, read, seen_at)
SELECT $1, $2, id, false, now() FROM unnest($3::uuid[]) AS id ORDER BY id
ON CONFLICT (tenant_id, user_id, notification_id) DO UPDATE
SET read = false, read_at = NULL, seen_at = coalesce(r.seen_at, now()), snoozed_until = NULL
WHERE r.read IS NOT FALSE OR r.seen_at IS NULL OR r.snoozed_until IS NOT NULL
RETURNING notification_id;

-- name: seen
-- Mark notifications seen.
--   $1 tenant id text, $2 user id text, $3 notification ids uuid[]
INSERT INTO notification_receipts AS r (tenant_id, user_id, notification_id, seen_at)
SELECT $1, $2, id, now() FROM unnest($3::uuid[]) AS id ORDER BY id
ON CONFLICT (tenant_id, user_id, notification_id) DO UPDATE SET seen_at = now()
WHERE r.seen_at IS NULL
RETURNING notification_id;

-- name: archived
-- Put notifications away, which also ends a snooze.
--   $1 tenant id text, $2 user id text, $3 notification ids uuid[]
INSERT INTO notification_receipts AS r (tenant_id, user_id, notification_id, archived_at)
SELECT $1, $2, id, now() FROM unnest($3::uuid[]) AS id ORDER BY id
ON CONFLICT (tenant_id, user_id, notification_id) DO UPDATE SET archived_at = now(), snoozed_until = NULL
WHERE r.archived_at IS NULL
RETURNING notification_id;

-- name: unarchived
-- Bring notifications back.
--   $1 tenant id text, $2 user id text, $3 notification ids uuid[]
UPDATE notification_receipts r SET archived_at = NULL
WHERE r.tenant_id = $1 AND r.user_id = $2 AND r.notification_id = ANY ($3::uuid[]) AND r.archived_at IS NOT NULL
RETURNING notification_id;

-- name: snoozed
-- Hide notifications until a moment; then they are unread. Whoever does that has seen them.
--   $1 tenant id text, $2 user id text, $3 notification ids uuid[], $4 until timestamptz
INSERT INTO notification_receipts AS r (tenant_id, user_id, notification_id, read, seen_at, snoozed_until)
SELECT $1, $2, id, false, now(), $4::timestamptz FROM unnest($3::uuid[]) AS id ORDER BY id
ON CONFLICT (tenant_id, user_id, notification_id) DO UPDATE
SET read = false, read_at = NULL, seen_at = coalesce(r.seen_at, now()), archived_at = NULL, snoozed_until = $4
WHERE r.snoozed_until IS DISTINCT FROM $4
RETURNING notification_id;

-- name: raise_baselines
-- Everything is read up to these positions.
--   $1 tenant id text, $2 user id text, $3 stored names of streams text[], $4 positions bigint[]
UPDATE stream_members m SET read_all_seq = greatest(m.read_all_seq, p)
FROM unnest($3::text[], $4::bigint[]) AS up_to (n, p)
WHERE m.tenant_id = $1 AND m.user_id = $2 AND m.stream = n;

-- name: read_marked
-- What a receipt calls unread is read too, up to these positions; what is snoozed stays so.
--   $1 tenant id text, $2 user id text, $3 stored names of streams text[], $4 positions bigint[]
UPDATE notification_receipts r
SET read = true, read_at = now(), seen_at = coalesce(r.seen_at, now()), snoozed_until = NULL
WHERE r.tenant_id = $1 AND r.user_id = $2 AND r.read IS FALSE
  AND (r.snoozed_until IS NULL OR r.snoozed_until <= now())
  AND (SELECT e.seq <= ($4::bigint[])[array_position($3::text[], e.stream)]
       FROM notifications n
       JOIN stream_events e ON e.tenant_id = $1 AND e.kind = 'notification'
           AND e.stream = CASE n.audience
               WHEN 'tenant' THEN 'tenant' WHEN 'topic' THEN 'topic:' || n.topic ELSE 'user:' || $2 END
           AND e.created_at = n.published_at AND e.notification_id = r.notification_id
       WHERE n.tenant_id = $1 AND n.id = r.notification_id);

-- name: compact
-- Raise one baseline over the next $4 entries, if fewer than $5 of them are unread: those get receipts that say so.
-- What a person sees does not change; counting, which stops at $5, never has to look at more entries than $4.
--   $1 tenant id text, $2 user id text, $3 stored name of a stream text, $4 entries int, $5 cap int
-- Returns the new baseline, or no row when there was nothing to do.
WITH next AS MATERIALIZED (
    SELECT e.seq, e.notification_id, (
        SELECT r.read FROM notification_receipts r
        WHERE r.tenant_id = $1 AND r.user_id = $2 AND r.notification_id = e.notification_id) AS read
    FROM stream_events e
    WHERE e.tenant_id = $1 AND e.stream = $3 AND e.kind = 'notification' AND e.seq > (
        SELECT read_all_seq FROM stream_members WHERE tenant_id = $1 AND user_id = $2 AND stream = $3)
    ORDER BY e.seq
    LIMIT $4),
worthwhile AS (
    SELECT max(seq) AS baseline FROM next
    HAVING count(*) = $4 AND count(*) FILTER (WHERE read IS NOT TRUE) < $5),
marked AS (
    INSERT INTO notification_receipts AS r (tenant_id, user_id, notification_id, read)
    SELECT $1, $2, notification_id, false FROM next, worthwhile WHERE next.read IS NULL
    ON CONFLICT (tenant_id, user_id, notification_id) DO UPDATE SET read = false)
UPDATE stream_members m SET read_all_seq = baseline FROM worthwhile
WHERE m.tenant_id = $1 AND m.user_id = $2 AND m.stream = $3
RETURNING m.read_all_seq;

-- name: follow
-- A baseline at the topic's present head. The row must not be there.
--   $1 tenant id text, $2 user id text, $3 stored name of the stream text, $4 head bigint
INSERT INTO stream_members (tenant_id, user_id, stream, joined_seq, read_all_seq) VALUES ($1, $2, $3, $4, $4);

-- name: unfollow
--   $1 tenant id text, $2 user id text, $3 stored name of the stream text
DELETE FROM stream_members WHERE tenant_id = $1 AND user_id = $2 AND stream = $3;

-- name: mute
-- From which position on a stream is muted, or up to which it was: what came meanwhile is in no digest.
--   $1 tenant id text, $2 user id text, $3 stored name of the stream text, $4 muted boolean, $5 head bigint
UPDATE stream_members
SET muted = $4, muted_seq = CASE WHEN $4 THEN $5 ELSE muted_seq END, unmuted_seq = CASE WHEN NOT $4 THEN $5::bigint END
WHERE tenant_id = $1 AND user_id = $2 AND stream = $3;

-- name: head
--   $1 tenant id text, $2 stored name of a stream text
SELECT coalesce((SELECT seq FROM streams WHERE tenant_id = $1 AND name = $2), 0);
