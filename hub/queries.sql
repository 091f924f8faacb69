-- name: append
-- Append events to streams; the counters are moved in the same transaction, in sorted order, so that
-- commit order is sequence order and two writers never wait for each other in a circle.
--   $1 tenant ids text[], $2 stream names text[]: distinct, one counter each
--   $3 numbers of events bigint[]: how many events each stream gets
-- Returns tenant_id, name and seq: the stream's new head, which is the seq of its last new event.
INSERT INTO streams (tenant_id, name, seq)
SELECT t, n, c FROM unnest($1::text[], $2::text[], $3::bigint[]) AS added (t, n, c)
ORDER BY t COLLATE "C", n COLLATE "C"
ON CONFLICT (tenant_id, name) DO UPDATE SET seq = streams.seq + excluded.seq
RETURNING tenant_id, name, seq;

-- name: insert_events
-- Write the events under the seqs that `append` gave them.
--   $1 tenant ids text[], $2 streams text[], $3 seqs bigint[], $4 kinds text[], $5 notification ids uuid[],
--   $6 data text[] (JSON or NULL)
INSERT INTO stream_events (tenant_id, stream, seq, kind, notification_id, data)
SELECT t, s, q, k, n, d::json
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::uuid[], $6::text[]) AS e (t, s, q, k, n, d);

-- name: epoch
-- The life that positions belong to: it changes on restore, on failover and when an operator says so.
-- Returns system, timeline, bump.
SELECT (SELECT system_identifier FROM pg_control_system())::text AS system,
       CASE WHEN pg_is_in_recovery() THEN '0' ELSE substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END AS timeline,
       epoch_bump AS bump
FROM cluster;

-- name: heads
-- The heads of many streams. A stream without a row stands at 0 and is not returned.
--   $1 tenant ids text[], $2 stream names text[]
SELECT s.tenant_id, s.name, s.seq
FROM unnest($1::text[], $2::text[]) AS wanted (t, n)
JOIN streams s ON s.tenant_id = wanted.t AND s.name = wanted.n;

-- name: changed_heads
-- Of many streams, those whose head is not where a node believes it to be (also when it is lower).
--   $1 tenant ids text[], $2 stream names text[], $3 believed heads bigint[]
-- Returns tenant_id, name, seq.
SELECT wanted.t AS tenant_id, wanted.n AS name, coalesce(s.seq, 0) AS seq
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS wanted (t, n, q)
LEFT JOIN streams s ON s.tenant_id = wanted.t AND s.name = wanted.n
WHERE coalesce(s.seq, 0) <> wanted.q;

-- name: read
-- Events after a position with the notifications they are about, in order. Leans on the primary key.
--   $1 tenant id text, $2 stream text, $3 after seq bigint, $4 limit int
SELECT e.seq, e.kind, e.notification_id, e.data, e.created_at AS happened_at,
       n.status, n.title, n.message, n.notification_type, n.action_url, n.priority, n.channels, n.metadata,
       n.created_at, n.expires_at, n.collapse_key, n.group_key, n.updated_at,
       n.expires_at IS NOT NULL AND n.expires_at <= now() AS expired
FROM stream_events e
LEFT JOIN notifications n ON n.tenant_id = e.tenant_id AND n.id = e.notification_id
WHERE e.tenant_id = $1 AND e.stream = $2 AND e.seq > $3
ORDER BY e.seq
LIMIT $4;
