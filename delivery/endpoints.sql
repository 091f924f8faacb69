-- name: create
-- A new endpoint; none where the tenant has as many as it may.
--   $1 tenant id text, $2 id uuid, $3 url bytea (sealed), $4 hint text, $5 events text[], $6 secret bytea (sealed),
--   $7 description text or NULL, $8 enabled boolean, $9 client that made it text, $10 limit int
-- Returns the endpoint, or no row.
INSERT INTO webhook_endpoints (tenant_id, id, url, hint, events, secret, description, is_enabled, created_by)
SELECT $1, $2, $3, $4, $5::text[], $6, $7, $8, $9
WHERE (SELECT count(*) FROM webhook_endpoints WHERE tenant_id = $1) < $10::int
RETURNING tenant_id, id, url, hint, events, secret, description, is_enabled, created_by, created_at;

-- name: list
-- The endpoints of a tenant, the oldest first. Leans on the primary key.
--   $1 tenant id text
SELECT tenant_id, id, url, hint, events, secret, description, is_enabled, created_by, created_at
FROM webhook_endpoints WHERE tenant_id = $1 ORDER BY id;

-- name: find
--   $1 tenant id text, $2 id uuid
SELECT tenant_id, id, url, hint, events, secret, description, is_enabled, created_by, created_at
FROM webhook_endpoints WHERE tenant_id = $1 AND id = $2;

-- name: change
-- What is NULL stays as it is.
--   $1 tenant id text, $2 id uuid, $3 url bytea (sealed), $4 hint text, $5 events text[], $6 secret bytea (sealed),
--   $7 description text, $8 enabled boolean
-- Returns the endpoint, or no row.
UPDATE webhook_endpoints
SET url = coalesce($3, url), hint = coalesce($4, hint), events = coalesce($5::text[], events),
    secret = coalesce($6, secret), description = coalesce($7, description), is_enabled = coalesce($8, is_enabled)
WHERE tenant_id = $1 AND id = $2
RETURNING tenant_id, id, url, hint, events, secret, description, is_enabled, created_by, created_at;

-- name: delete
-- What is still to be told to it goes with it: a delivery that a worker holds just now finds no target.
--   $1 tenant id text, $2 id uuid
-- Returns the id, or no row.
DELETE FROM webhook_endpoints WHERE tenant_id = $1 AND id = $2 RETURNING id;

-- name: cancel_events
-- End what is waiting for an endpoint that is gone or switched off. Leans on idx_notification_deliveries_due.
--   $1 tenant id text, $2 endpoint id uuid
UPDATE notification_deliveries
SET state = 'cancelled', reason = 'the endpoint is gone or switched off', claimed_by = NULL,
    finished_at = now(), updated_at = now()
WHERE tenant_id = $1 AND endpoint_id = $2 AND channel = 'webhook' AND kind = 'event' AND finished_at IS NULL
  AND state <> 'processing';

-- name: targets
-- Where events go: the enabled endpoints among these. Leans on the primary key.
--   $1 tenant ids text[], $2 ids uuid[]
SELECT e.tenant_id, e.id, e.url, e.hint, e.secret
FROM unnest($1::text[], $2::uuid[]) AS wanted (tenant_id, id)
JOIN webhook_endpoints e ON e.tenant_id = wanted.tenant_id AND e.id = wanted.id
WHERE e.is_enabled;

-- name: emit
-- A delivery of each event to every endpoint that wants it. Their ids sort by time (RFC 9562 section 5.7), so
-- that the rows of one moment lie together. Leans on the primary key of webhook_endpoints.
--   $1 tenant ids text[], $2 types text[], $3 notification ids uuid[], $4 bodies text[] (JSON), $5 lane smallint
-- Returns how many rows were written.
INSERT INTO notification_deliveries (tenant_id, id, kind, notification_id, endpoint_id, event, channel, lane)
SELECT e.tenant_id,
       encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) PLACING
           substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
           52, 1), 53, 1), 'hex')::uuid,
       'event', happened.notification_id, e.id, happened.body::json, 'webhook', $5::smallint
FROM unnest($1::text[], $2::text[], $3::uuid[], $4::text[]) WITH ORDINALITY
    AS happened (tenant_id, type, notification_id, body, n)
JOIN webhook_endpoints e ON e.tenant_id = happened.tenant_id
WHERE e.is_enabled AND e.events && ARRAY[happened.type, '*']
ORDER BY happened.n;

-- name: emit_to
-- A delivery of one event to one endpoint, whatever it wants: a test.
--   $1 tenant id text, $2 id uuid, $3 notification id uuid, $4 endpoint id uuid, $5 body text (JSON), $6 lane smallint
INSERT INTO notification_deliveries (tenant_id, id, kind, notification_id, endpoint_id, event, channel, lane)
VALUES ($1, $2, 'event', $3, $4, $5::text::json, 'webhook', $6);
