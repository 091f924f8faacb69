-- name: capture
-- Keep a message instead of sending it; nothing is kept, and no row comes back, where a production process has started.
--   $1 tenant id text, $2 id uuid, $3 delivery id uuid, $4 channel text, $5 hint text, $6 sealed bytea
INSERT INTO sandbox_messages (tenant_id, id, delivery_id, channel, hint, sealed)
SELECT $1, $2, $3, $4, $5, $6 WHERE NOT EXISTS (SELECT FROM cluster WHERE is_production)
RETURNING id;

-- name: is_production
-- Whether a production process has ever started on this database.
SELECT is_production FROM cluster;

-- name: mark_production
-- This is a production process, and sandboxes keep away from now on.
UPDATE cluster SET is_production = true WHERE NOT is_production;

-- name: page
-- The newest captured messages of a tenant.
--   $1 tenant id text, $2 before id uuid, $3 channel text (NULL: any), $4 limit int
-- Leans on the primary key.
SELECT id, delivery_id, channel, hint, sealed, captured_at FROM sandbox_messages
WHERE tenant_id = $1 AND id < $2 AND ($3::text IS NULL OR channel = $3)
ORDER BY id DESC LIMIT $4;

-- name: clear
-- Some of a tenant's captured messages go.
--   $1 tenant id text, $2 limit int
DELETE FROM sandbox_messages WHERE tenant_id = $1 AND id = ANY (ARRAY(
    SELECT id FROM sandbox_messages WHERE tenant_id = $1 ORDER BY id LIMIT $2));
