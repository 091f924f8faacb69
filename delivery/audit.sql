-- name: lock_head
-- The end of a tenant's chain, locked until the transaction ends: one writer at a time makes one chain.
--   $1 tenant id text
-- Returns seq, hash and the time of the database, read once the lock is held, so that it runs with seq.
INSERT INTO audit_heads AS h (tenant_id, seq, hash) VALUES ($1, 0, '\x')
ON CONFLICT (tenant_id) DO UPDATE SET seq = h.seq
RETURNING seq, hash, clock_timestamp() AS at;

-- name: add
-- Rows after the head, which is locked, and the head behind them.
--   $1 tenant id text, $2 first seq bigint, $3 at timestamptz, $4 actors text[], $5 actions text[],
--   $6 subjects text[], $7 notification ids uuid[], $8 details text[] (JSON), $9 hashes bytea[]
WITH added AS (
    INSERT INTO audit_log (tenant_id, seq, at, actor, action, subject, notification_id, details, hash)
    SELECT $1, $2 + n - 1, $3, actor, action, subject, notification_id, details::json, hash
    FROM unnest($4::text[], $5::text[], $6::text[], $7::uuid[], $8::text[], $9::bytea[])
         WITH ORDINALITY AS e (actor, action, subject, notification_id, details, hash, n))
UPDATE audit_heads SET seq = $2 + cardinality($9::bytea[]) - 1, hash = ($9::bytea[])[cardinality($9::bytea[])]
WHERE tenant_id = $1;

-- name: newest
-- The newest rows, all of them.
--   $1 tenant id text, $2 before seq bigint, $3 limit int
-- Leans on the primary key.
SELECT seq, at, actor, action, subject, notification_id, details, hash FROM audit_log
WHERE tenant_id = $1 AND seq < $2
ORDER BY seq DESC LIMIT $3;

-- name: newest_of_subject
-- The newest rows about one thing.
--   $1 tenant id text, $2 before seq bigint, $3 limit int, $4 subject text
-- Leans on idx_audit_log_subject.
SELECT seq, at, actor, action, subject, notification_id, details, hash FROM audit_log
WHERE tenant_id = $1 AND subject = $4 AND seq < $2
ORDER BY seq DESC LIMIT $3;

-- name: head
--   $1 tenant id text
SELECT seq, hash FROM audit_heads WHERE tenant_id = $1;

-- name: rows_after
-- The chain from one place on, in its order.
--   $1 tenant id text, $2 after seq bigint, $3 up to seq bigint, $4 limit int
-- Leans on the primary key.
SELECT seq, at, actor, action, subject, notification_id, details, hash FROM audit_log
WHERE tenant_id = $1 AND seq > $2 AND seq <= $3
ORDER BY seq LIMIT $4;

-- name: beyond_head
-- The first row that the head does not know of; nobody appends one without it.
--   $1 tenant id text
SELECT min(l.seq) AS seq FROM audit_log l
WHERE l.tenant_id = $1 AND l.seq > coalesce((SELECT h.seq FROM audit_heads h WHERE h.tenant_id = $1), 0);

-- name: tenants
-- Every tenant with a head or a row. Hops from tenant to tenant along the primary key.
WITH RECURSIVE written (tenant_id) AS (
    (SELECT tenant_id FROM audit_log ORDER BY tenant_id LIMIT 1)
    UNION ALL
    SELECT (SELECT l.tenant_id FROM audit_log l WHERE l.tenant_id > w.tenant_id ORDER BY l.tenant_id LIMIT 1)
    FROM written w WHERE w.tenant_id IS NOT NULL)
SELECT tenant_id FROM written WHERE tenant_id IS NOT NULL
UNION SELECT tenant_id FROM audit_heads
ORDER BY tenant_id;
