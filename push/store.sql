-- name: hold
-- The subscriptions of endpoints, held until the transaction ends, in one order. An endpoint belongs to one browser in
-- the whole world, so this asks for no tenant. Leans on idx_push_subscriptions_endpoint.
--   $1 endpoint hashes bytea[]
SELECT tenant_id, id, user_id, endpoint_hash, endpoint, origin, vapid_key_id FROM push_subscriptions
WHERE endpoint_hash = ANY ($1::bytea[]) AND is_active
ORDER BY endpoint_hash
FOR UPDATE;

-- name: hold_key
-- Whether a key is one that signs; it is not retired before the transaction ends.
--   $1 vapid key id text
SELECT state <> 'retired' FROM vapid_keys WHERE id = $1 FOR SHARE;

-- name: insert
-- A browser that is new, or somebody else's now. Returns nothing where another request was quicker.
--   $1 tenant id text, $2 id uuid, $3 user id text, $4 endpoint hash bytea, $5 endpoint bytea (sealed), $6 origin text,
--   $7 vapid key id text, $8 user agent text, $9 device info text (JSON), $10 expires at timestamptz
INSERT INTO push_subscriptions (tenant_id, id, user_id, endpoint_hash, endpoint, origin, vapid_key_id, user_agent,
                                device_info, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::json, $10)
ON CONFLICT (endpoint_hash) WHERE is_active DO NOTHING
RETURNING *;

-- name: seen
-- The page has shown its subscription again, maybe with other keys.
--   $1 tenant id text, $2 id uuid, $3 endpoint bytea (sealed), $4 vapid key id text, $5 user agent text,
--   $6 device info text (JSON), $7 expires at timestamptz
UPDATE push_subscriptions
SET endpoint = $3, vapid_key_id = $4, user_agent = coalesce($5, user_agent), device_info = $6::json, expires_at = $7,
    last_seen_at = now(), failures = 0
WHERE tenant_id = $1 AND id = $2
RETURNING *;

-- name: move
-- The browser has given itself another subscription: it is the same one, at another endpoint.
--   $1 tenant id text, $2 id uuid, $3 endpoint hash bytea, $4 endpoint bytea (sealed), $5 origin text,
--   $6 vapid key id text, $7 expires at timestamptz
UPDATE push_subscriptions
SET endpoint_hash = $3, endpoint = $4, origin = $5, vapid_key_id = $6, expires_at = $7, last_seen_at = now(), failures = 0
WHERE tenant_id = $1 AND id = $2;

-- name: end
--   $1 tenant id text, $2 id uuid, $3 because text
UPDATE push_subscriptions SET is_active = false, ended_because = $3 WHERE tenant_id = $1 AND id = $2 AND is_active;

-- name: end_surplus
-- A person keeps the browsers that were seen last. Leans on idx_push_subscriptions_active.
--   $1 tenant id text, $2 user id text, $3 how many are kept int
UPDATE push_subscriptions SET is_active = false, ended_because = 'expired'
WHERE tenant_id = $1 AND id IN (
    SELECT id FROM push_subscriptions WHERE tenant_id = $1 AND user_id = $2 AND is_active
    ORDER BY last_seen_at DESC, id DESC OFFSET $3
    FOR UPDATE);

-- name: delete_surplus
-- Of a person's browsers that have ended the newest are kept, however often they came and went. Leans on
-- idx_push_subscriptions_ended.
--   $1 tenant id text, $2 user id text, $3 how many are kept int
DELETE FROM push_subscriptions
WHERE tenant_id = $1 AND id IN (
    SELECT id FROM push_subscriptions WHERE tenant_id = $1 AND user_id = $2 AND NOT is_active
    ORDER BY id DESC OFFSET $3);

-- name: list
-- The browsers of a person, the newest first. Leans on idx_push_subscriptions_active.
--   $1 tenant id text, $2 user id text
SELECT * FROM push_subscriptions WHERE tenant_id = $1 AND user_id = $2 AND is_active ORDER BY id DESC;

-- name: find
--   $1 tenant id text, $2 user id text, $3 id uuid
SELECT tenant_id, id, user_id, endpoint, origin, vapid_key_id FROM push_subscriptions
WHERE tenant_id = $1 AND id = $3 AND user_id = $2 AND is_active;

-- name: rename
--   $1 tenant id text, $2 user id text, $3 id uuid, $4 name text
UPDATE push_subscriptions SET name = $4 WHERE tenant_id = $1 AND id = $3 AND user_id = $2 AND is_active RETURNING *;

-- name: unlink
-- Whoever uses that browser next is not sent what is this person's: nothing of the subscription is kept.
--   $1 tenant id text, $2 user id text, $3 id uuid
DELETE FROM push_subscriptions WHERE tenant_id = $1 AND id = $3 AND user_id = $2;

-- name: forget
-- A person is forgotten, and with them every browser of theirs.
--   $1 tenant id text, $2 user id text
DELETE FROM push_subscriptions WHERE tenant_id = $1 AND user_id = $2;

-- name: waiting
-- What deliveries have still to reach, one row or more for each, in the order given: active browsers that none of
-- their attempts is known to have reached, and whose push service has not refused it for good since the delivery was
-- queued; and what browsers have said that were reached. Leans on idx_push_subscriptions_active and the primary keys of
-- push_sends and notification_deliveries.
--   $1 tenant ids text[], $2 user ids text[], $3 delivery ids uuid[]: of each delivery
-- Returns NULL for the id where no browser is left; wait: for how long its push service has asked not to send to that
-- browser, NULL where it may be sent to now.
SELECT d.place, r.has_sent, r.is_refused, r.is_shown, r.is_clicked, s.id, s.endpoint, s.origin, s.vapid_key_id, s.wait
FROM unnest($1::text[], $2::text[], $3::uuid[]) WITH ORDINALITY AS d (tenant_id, user_id, delivery_id, place)
LEFT JOIN LATERAL (
    SELECT n.queued_at FROM notification_deliveries n WHERE n.tenant_id = d.tenant_id AND n.id = d.delivery_id
    OFFSET 0) AS q ON true
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE p.outcome = 'sent') > 0 AS has_sent,
           count(*) FILTER (WHERE p.outcome IN ('refused', 'too_large') AND p.sent_at >= q.queued_at) > 0 AS is_refused,
           count(p.shown_at) > 0 AS is_shown, count(p.clicked_at) > 0 AS is_clicked
    FROM push_sends p
    WHERE p.tenant_id = d.tenant_id AND p.delivery_id = d.delivery_id) AS r
LEFT JOIN LATERAL (
    SELECT s.id, s.endpoint, s.origin, s.vapid_key_id,
           CASE WHEN p.not_before > now() AND p.sent_at >= q.queued_at THEN p.not_before - now() END AS wait
    FROM push_subscriptions s
    LEFT JOIN LATERAL (
        SELECT p.outcome, p.sent_at, p.not_before FROM push_sends p
        WHERE p.tenant_id = d.tenant_id AND p.delivery_id = d.delivery_id AND p.subscription_id = s.id
        OFFSET 0) AS p ON true
    WHERE s.tenant_id = d.tenant_id AND s.user_id = d.user_id AND s.is_active
      AND (s.expires_at > now()) IS NOT FALSE
      AND (p.outcome = 'sent' OR p.outcome IN ('refused', 'too_large') AND p.sent_at >= q.queued_at) IS NOT TRUE
    ORDER BY s.id
    OFFSET 0) AS s ON true
ORDER BY d.place, s.id;

-- name: record
-- What push services answered, and what follows for the browsers. One that is gone ends at once. Refusals end one only
-- when there were many in a row while the same service took messages for others of the same key: else it is our key or
-- our clock that is wrong, and nobody's browser is forgotten for that. Rows are locked in one order.
--   $1 tenant ids text[], $2 delivery ids uuid[] (NULL: of a test), $3 subscription ids uuid[], $4 outcomes text[],
--   $5 statuses smallint[], $6 whether the service has taken others of late boolean[], $7 for how long the service has
--   asked not to send to that browser interval[], $8 refusals in a row that end one int
-- Returns, for each send that is kept, what its browser has said already.
WITH done AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::text[], $5::smallint[], $6::boolean[], $7::interval[])
        AS done (tenant_id, delivery_id, subscription_id, outcome, status, service_works, wait)),
kept AS (
    INSERT INTO push_sends AS p (tenant_id, delivery_id, subscription_id, outcome, status, unknowns, not_before)
    SELECT o.tenant_id, o.delivery_id, o.subscription_id, o.outcome, o.status, (o.outcome = 'unknown')::int,
           now() + o.wait
    FROM done o
    WHERE EXISTS (SELECT FROM notification_deliveries d WHERE d.tenant_id = o.tenant_id AND d.id = o.delivery_id)
    ORDER BY o.tenant_id, o.delivery_id, o.subscription_id
    ON CONFLICT (tenant_id, delivery_id, subscription_id) DO UPDATE
    SET outcome = CASE WHEN p.outcome = 'sent' THEN 'sent' ELSE excluded.outcome END,
        status = excluded.status, sent_at = excluded.sent_at, unknowns = p.unknowns + excluded.unknowns,
        not_before = excluded.not_before
    RETURNING p.tenant_id, p.delivery_id, p.subscription_id, p.outcome, p.shown_at, p.clicked_at),
counted AS (
    SELECT o.tenant_id, o.subscription_id, bool_or(o.outcome = 'gone') AS is_gone, bool_or(o.outcome = 'sent') AS is_sent,
           count(*) FILTER (WHERE o.outcome = 'refused') AS refusals, bool_and(o.service_works) AS service_works
    FROM done o WHERE o.outcome IN ('gone', 'sent', 'refused')
    GROUP BY o.tenant_id, o.subscription_id),
held AS MATERIALIZED (
    SELECT s.tenant_id, s.id, s.failures, c.is_gone, c.is_sent, c.refusals, c.service_works
    FROM counted c JOIN push_subscriptions s ON s.tenant_id = c.tenant_id AND s.id = c.subscription_id
    WHERE s.is_active AND (c.is_gone OR c.refusals > 0 OR s.failures > 0 OR s.last_sent_at IS NULL
                           OR s.last_sent_at < now() - interval '1 minute')
    ORDER BY s.tenant_id, s.id
    FOR UPDATE OF s),
judged AS (
    SELECT h.*, CASE WHEN h.is_gone THEN 'gone'
                     WHEN h.service_works AND NOT h.is_sent AND h.failures + h.refusals >= $8 THEN 'refused'
                END AS because
    FROM held h),
ended AS (
    UPDATE push_subscriptions s
    SET failures = CASE WHEN j.is_sent THEN 0 ELSE s.failures + j.refusals END,
        last_sent_at = CASE WHEN j.is_sent THEN now() ELSE s.last_sent_at END,
        is_active = j.because IS NULL, ended_because = j.because
    FROM judged j WHERE s.tenant_id = j.tenant_id AND s.id = j.id
    RETURNING s.is_active)
SELECT k.tenant_id, k.delivery_id, k.subscription_id, k.outcome, k.shown_at IS NOT NULL AS is_shown,
       k.clicked_at IS NOT NULL AS is_clicked, (SELECT count(*) FROM ended e WHERE NOT e.is_active) AS ended
FROM kept k;

-- name: report
-- What a browser says of a push. Whoever shows it was sent it, whatever is known of that: this may come before the
-- sender has written it down.
--   $1 tenant id text, $2 delivery id uuid, $3 subscription id uuid, $4 event text: shown, clicked or closed
-- Returns whether nobody else will act on it: the delivery has ended, or all there is to reach is reached. Else whoever
-- ends it looks at what was reported by then: the row is held, so that this comes before the end or after it. Nothing
-- when the delivery is gone.
WITH known AS MATERIALIZED (
    SELECT d.tenant_id, d.id, d.finished_at IS NOT NULL AS is_over, d.state = 'processing' AS is_in_hand
    FROM notification_deliveries d
    WHERE d.tenant_id = $1 AND d.id = $2 AND d.channel = 'push'
    FOR NO KEY UPDATE OF d),
kept AS (
    INSERT INTO push_sends AS p (tenant_id, delivery_id, subscription_id, outcome, shown_at, clicked_at, closed_at)
    SELECT tenant_id, id, $3, 'sent', now(), CASE WHEN $4 = 'clicked' THEN now() END,
           CASE WHEN $4 = 'closed' THEN now() END
    FROM known
    ON CONFLICT (tenant_id, delivery_id, subscription_id) DO UPDATE
    SET outcome = 'sent', shown_at = coalesce(p.shown_at, excluded.shown_at),
        clicked_at = coalesce(p.clicked_at, excluded.clicked_at), closed_at = coalesce(p.closed_at, excluded.closed_at)
    RETURNING p.status IS NOT NULL AS is_recorded),
alive AS (
    UPDATE push_subscriptions s SET last_seen_at = now()
    WHERE s.tenant_id = $1 AND s.id = $3 AND s.last_seen_at < now() - interval '1 hour')
SELECT d.is_over OR (k.is_recorded OR NOT d.is_in_hand) AND NOT EXISTS (
    SELECT FROM push_sends p
    WHERE p.tenant_id = $1 AND p.delivery_id = $2 AND p.subscription_id <> $3 AND p.outcome IN ('retry', 'unknown'))
FROM kept k CROSS JOIN known d;

-- name: take
-- Let a browser have the whole of a notification, once. Returns nothing when it had it, when the delivery is gone, and
-- when the browser is not the person's any more: after a logout somebody else sits before it.
--   $1 tenant id text, $2 delivery id uuid, $3 subscription id uuid
INSERT INTO push_sends AS p (tenant_id, delivery_id, subscription_id, outcome, fetched_at)
SELECT d.tenant_id, d.id, s.id, 'sent', now()
FROM notification_deliveries d JOIN push_subscriptions s ON s.tenant_id = d.tenant_id AND s.user_id = d.user_id
WHERE d.tenant_id = $1 AND d.id = $2 AND d.channel = 'push' AND s.id = $3 AND s.is_active
ON CONFLICT (tenant_id, delivery_id, subscription_id) DO UPDATE SET fetched_at = excluded.fetched_at, outcome = 'sent'
WHERE p.fetched_at IS NULL
RETURNING true;

-- name: end_unseen
-- Browsers whose page has not been opened for long, of all tenants: push services may answer 201 for them for years.
-- Leans on idx_push_subscriptions_age.
--   $1 not seen for interval, $2 limit int
UPDATE push_subscriptions SET is_active = false, ended_because = 'expired'
WHERE (tenant_id, id) IN (
    SELECT tenant_id, id FROM push_subscriptions
    WHERE (last_seen_at < now() - $1::interval OR expires_at <= now()) AND is_active
    ORDER BY last_seen_at LIMIT $2 FOR UPDATE SKIP LOCKED);

-- name: delete_ended
-- What is left of browsers that ended long ago, of all tenants. Leans on idx_push_subscriptions_age.
--   $1 not seen for interval, $2 limit int
DELETE FROM push_subscriptions
WHERE (tenant_id, id) IN (
    SELECT tenant_id, id FROM push_subscriptions
    WHERE last_seen_at < now() - $1::interval AND NOT is_active
    ORDER BY last_seen_at LIMIT $2 FOR UPDATE SKIP LOCKED);
