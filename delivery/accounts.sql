-- name: load
-- How all accounts do. There are as many as providers, and receiving hosts of webhooks.
--   $1 not looked at since interval: what is well and has not been used for so long says nothing
-- Returns each with the time; a row with only that when there are none.
SELECT clock.now, c.channel, c.provider, c.account, c.breaker, c.failures, c.resume_at, c.opened_at, c.last_sent_at,
       c.last_error_at, c.last_code, c.last_reason
FROM (SELECT now()) AS clock (now)
LEFT JOIN channel_accounts c ON c.breaker <> 'closed' OR c.updated_at > now() - $1::interval
ORDER BY c.channel, c.provider, c.account;

-- name: record
-- What one worker has seen. A halt is lifted by an operator only, a pause that was asked for is never cut short, and the
-- later of two sights of the same thing is the one that stands.
--   $1 channels text[], $2 providers text[], $3 accounts text[], $4 breakers text[], $5 failures int[],
--   $6 resume at timestamptz[], $7 opened at timestamptz[], $8 last sent at timestamptz[], $9 last error at timestamptz[],
--   $10 last codes text[], $11 last reasons text[]
-- Rows are locked in the order of their names, so that two workers do not wait in a circle.
INSERT INTO channel_accounts AS c (channel, provider, account, breaker, failures, resume_at, opened_at, last_sent_at,
                                   last_error_at, last_code, last_reason)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[], $6::timestamptz[], $7::timestamptz[],
                     $8::timestamptz[], $9::timestamptz[], $10::text[], $11::text[])
ORDER BY 1, 2, 3
ON CONFLICT (channel, provider, account) DO UPDATE
SET breaker = CASE WHEN c.breaker = 'halted' THEN c.breaker ELSE excluded.breaker END,
    failures = excluded.failures,
    resume_at = greatest(c.resume_at, excluded.resume_at),
    opened_at = CASE WHEN c.breaker = 'halted' THEN c.opened_at ELSE excluded.opened_at END,
    last_sent_at = greatest(c.last_sent_at, excluded.last_sent_at),
    last_error_at = greatest(c.last_error_at, excluded.last_error_at),
    last_code = CASE WHEN excluded.last_error_at >= coalesce(c.last_error_at, '-infinity')
                     THEN excluded.last_code ELSE c.last_code END,
    last_reason = CASE WHEN excluded.last_error_at >= coalesce(c.last_error_at, '-infinity')
                       THEN excluded.last_reason ELSE c.last_reason END,
    updated_at = now();

-- name: take_probe
-- The next look at an account in trouble: one per interval, whoever of all workers asks first.
--   $1 channel text, $2 provider text, $3 account text, $4 interval
-- Returns a row when it is the caller's.
INSERT INTO channel_accounts AS c (channel, provider, account, breaker, resume_at, opened_at)
VALUES ($1, $2, $3, 'open', now() + $4::interval, now())
ON CONFLICT (channel, provider, account) DO UPDATE SET resume_at = now() + $4::interval, updated_at = now()
WHERE c.breaker <> 'halted' AND (c.resume_at IS NULL OR c.resume_at <= now())
RETURNING c.channel;

-- name: resume
-- Send by these accounts again.
--   $1 channel text, $2 provider text, $3 account text (each NULL: any)
-- Returns those that were not free.
WITH stopped AS MATERIALIZED (
    SELECT * FROM channel_accounts c
    WHERE c.channel = $1 AND ($2::text IS NULL OR c.provider = $2) AND ($3::text IS NULL OR c.account = $3)
      AND (c.breaker <> 'closed' OR c.resume_at > now())
    ORDER BY c.channel, c.provider, c.account FOR UPDATE)
UPDATE channel_accounts c
SET breaker = 'closed', failures = 0, resume_at = NULL, opened_at = NULL, updated_at = now()
FROM stopped s WHERE c.channel = s.channel AND c.provider = s.provider AND c.account = s.account
RETURNING c.provider, c.account, s.breaker AS was;

-- name: backlog
-- What waits in each channel of a tenant, and since when the oldest could have gone out.
--   $1 tenant id text, $2 channels text[], $3 how many to count int
-- Leans on idx_notification_deliveries_due.
SELECT c.channel,
       (SELECT count(*) FROM (
            SELECT FROM notification_deliveries d
            WHERE d.channel = c.channel AND d.tenant_id = $1 AND d.finished_at IS NULL LIMIT $3) AS open) AS backlog,
       (SELECT min(first.due_at) FROM generate_series(0, 4) AS lanes (lane) CROSS JOIN LATERAL (
            SELECT d.due_at FROM notification_deliveries d
            WHERE d.channel = c.channel AND d.tenant_id = $1 AND d.lane = lanes.lane AND d.finished_at IS NULL
              AND d.due_at <= now()
            ORDER BY d.due_at LIMIT 1) AS first) AS oldest_due_at
FROM unnest($2::text[]) AS c (channel);

-- name: depth
-- What waits in each channel, of all tenants together.
--   $1 channels text[], $2 how many to count int
-- Leans on idx_notification_deliveries_due.
SELECT c.channel,
       (SELECT count(*) FROM (
            SELECT FROM notification_deliveries d
            WHERE d.channel = c.channel AND d.finished_at IS NULL LIMIT $2) AS open) AS depth
FROM unnest($1::text[]) AS c (channel);
