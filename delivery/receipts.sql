-- name: find
-- The deliveries that providers call by these names. Leans on idx_notification_deliveries_ref.
--   $1 providers text[], $2 refs text[]
SELECT d.provider, d.provider_ref, d.tenant_id, d.id
FROM unnest($1::text[], $2::text[]) AS named (provider, ref)
JOIN notification_deliveries d ON d.provider = named.provider AND d.provider_ref = named.ref;

-- name: insert
-- Each event once, however often it comes; two who insert the same wait for each other, in one order.
--   $1 providers text[], $2 event ids text[], $3 statuses text[], $4 tenant ids text[], $5 delivery ids uuid[],
--   $6 codes text[], $7 occurred at timestamptz[]
-- Returns provider, event_id and status of those that are new.
INSERT INTO provider_events (provider, event_id, status, tenant_id, delivery_id, code, occurred_at)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::text[], $7::timestamptz[])
    AS reported (provider, event_id, status, tenant_id, delivery_id, code, occurred_at)
ORDER BY provider, event_id, status
ON CONFLICT DO NOTHING
RETURNING provider, event_id, status;

-- name: lock
-- These deliveries, held until the end of the transaction, in one order. is_of_last_attempt: the provider's name is not
-- that of a message which an attempt before the last one has sent. is_known_as_sent: it is that of a message which an
-- attempt has sent, and said so in time.
--   $1 tenant ids text[], $2 ids uuid[], $3 refs text[] (NULL where the report has none)
WITH named AS (SELECT * FROM unnest($1::text[], $2::uuid[], $3::text[]) AS named (tenant_id, id, ref))
SELECT named.ref, d.tenant_id, d.id, d.kind, d.notification_id, d.user_id, d.endpoint_id, d.event, d.channel, d.lane,
       d.attempt, d.retries, d.deferrals, d.unknowns, false AS is_orphan, false AS was_unknown, d.expires_at,
       d.created_at, d.queued_at, d.edited, d.fallback_of, d.state, d.address_id,
       named.ref IS NULL OR NOT EXISTS (
           SELECT FROM delivery_attempts a
           WHERE a.tenant_id = d.tenant_id AND a.delivery_id = d.id AND a.provider_ref IS NOT NULL
             AND (a.attempt < d.attempt AND a.provider_ref = named.ref
                  OR a.attempt = d.attempt AND a.provider_ref <> named.ref)) AS is_of_last_attempt,
       EXISTS (
           SELECT FROM delivery_attempts a
           WHERE a.tenant_id = d.tenant_id AND a.delivery_id = d.id AND a.provider_ref = named.ref
             AND a.outcome = 'sent' AND NOT a.is_late) AS is_known_as_sent
FROM named JOIN notification_deliveries d ON d.tenant_id = named.tenant_id AND d.id = named.id
WHERE d.kind = 'notification'
ORDER BY d.tenant_id, d.id FOR UPDATE OF d;

-- name: move
-- Deliveries that are locked take the state that was reported. Whoever has claimed one loses it: it was sent.
--   $1 tenant ids text[], $2 ids uuid[], $3 states text[], $4 providers text[], $5 refs text[], $6 codes text[],
--   $7 reasons text[]
UPDATE notification_deliveries d
SET state = moved.state, claimed_by = NULL, provider = coalesce(d.provider, moved.provider),
    provider_ref = coalesce(d.provider_ref, moved.ref), code = moved.code, reason = moved.reason,
    sent_at = CASE WHEN moved.state IN ('sent', 'delivered', 'read') THEN coalesce(d.sent_at, now()) ELSE d.sent_at END,
    finished_at = coalesce(d.finished_at, now()), updated_at = now()
FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
    AS moved (tenant_id, id, state, provider, ref, code, reason)
WHERE d.tenant_id = moved.tenant_id AND d.id = moved.id;
