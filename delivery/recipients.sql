-- name: put_recipient
-- One person as they are to be. What is not among the named columns stays, and of somebody new it is the default.
--   $1 tenant id text, $2 user id text, $3 name text, $4 locale text, $5 time zone text, $6 is active boolean,
--   $7 preferences text (JSON), $8 columns that are given text[]
-- Returns the row and is_new; no row when nothing was to be changed. Locks the row either way.
INSERT INTO recipients AS r (tenant_id, user_id, name, locale, timezone, is_active, preferences)
VALUES ($1, $2, $3, $4, $5, coalesce($6, true), coalesce($7, '{}')::json)
ON CONFLICT (tenant_id, user_id) DO UPDATE SET
    name        = CASE WHEN 'name'        = ANY ($8::text[]) THEN excluded.name        ELSE r.name        END,
    locale      = CASE WHEN 'locale'      = ANY ($8::text[]) THEN excluded.locale      ELSE r.locale      END,
    timezone    = CASE WHEN 'timezone'    = ANY ($8::text[]) THEN excluded.timezone    ELSE r.timezone    END,
    is_active   = CASE WHEN 'is_active'   = ANY ($8::text[]) THEN excluded.is_active   ELSE r.is_active   END,
    preferences = CASE WHEN 'preferences' = ANY ($8::text[]) THEN excluded.preferences ELSE r.preferences END,
    updated_at  = now()
WHERE 'name'        = ANY ($8::text[]) AND r.name IS DISTINCT FROM excluded.name
   OR 'locale'      = ANY ($8::text[]) AND r.locale IS DISTINCT FROM excluded.locale
   OR 'timezone'    = ANY ($8::text[]) AND r.timezone IS DISTINCT FROM excluded.timezone
   OR 'is_active'   = ANY ($8::text[]) AND r.is_active <> excluded.is_active
   OR 'preferences' = ANY ($8::text[]) AND r.preferences::text <> excluded.preferences::text
RETURNING (xmax = 0) AS is_new;

-- name: introduce
-- Many people as a producer names them: what is given replaces what was, what is not stays. In the order of their
-- names, so that two who introduce the same people do not wait in a circle.
--   $1 tenant id text, $2 user ids text[], $3 names text[], $4 locales text[], $5 time zones text[]
-- Returns user_id and is_new of those who were changed. Locks the rows of all.
INSERT INTO recipients AS r (tenant_id, user_id, name, locale, timezone)
SELECT $1, user_id, name, locale, timezone
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]) AS given (user_id, name, locale, timezone)
ORDER BY user_id
ON CONFLICT (tenant_id, user_id) DO UPDATE SET
    name       = coalesce(excluded.name, r.name),
    locale     = coalesce(excluded.locale, r.locale),
    timezone   = coalesce(excluded.timezone, r.timezone),
    updated_at = now()
WHERE r.name IS DISTINCT FROM coalesce(excluded.name, r.name)
   OR r.locale IS DISTINCT FROM coalesce(excluded.locale, r.locale)
   OR r.timezone IS DISTINCT FROM coalesce(excluded.timezone, r.timezone)
RETURNING user_id, (xmax = 0) AS is_new;

-- name: lock_recipient
-- Whoever changes addresses of a person holds the person, so that one of them stays the primary.
--   $1 tenant id text, $2 user id text
SELECT 1 FROM recipients WHERE tenant_id = $1 AND user_id = $2 FOR UPDATE;

-- name: find_recipient
--   $1 tenant id text, $2 user id text
SELECT user_id, name, locale, timezone, is_active, preferences, created_at, updated_at
FROM recipients WHERE tenant_id = $1 AND user_id = $2;

-- name: recipients_after
-- A page of a tenant's people by their names, and one more, which says that there is a next page.
--   $1 tenant id text, $2 after user id text, $3 limit int
-- Leans on the primary key.
SELECT user_id, name, locale, timezone, is_active, preferences, created_at, updated_at
FROM recipients WHERE tenant_id = $1 AND user_id > $2
ORDER BY user_id LIMIT $3;

-- name: recipients_from
-- A page by its number, for the older systems' lists.
--   $1 tenant id text, $2 limit int, $3 offset int
SELECT user_id, name, locale, timezone, is_active, preferences, created_at, updated_at
FROM recipients WHERE tenant_id = $1
ORDER BY user_id LIMIT $2 OFFSET $3;

-- name: count_recipients
--   $1 tenant id text
SELECT count(*) FROM recipients WHERE tenant_id = $1;

-- name: delete_recipient
-- A person and, by the foreign keys, every address of theirs and every code that was sent to one.
--   $1 tenant id text, $2 user id text
DELETE FROM recipients WHERE tenant_id = $1 AND user_id = $2 RETURNING 1;

-- name: delete_said
-- What a person has written to us.
--   $1 tenant id text, $2 user id text
-- Leans on idx_inbound_messages_user.
DELETE FROM inbound_messages WHERE tenant_id = $1 AND user_id = $2;

-- name: delete_links
-- The links by which a person could still tie a chat to themself. Few are alive at a time.
--   $1 tenant id text, $2 user id text
DELETE FROM telegram_links WHERE tenant_id = $1 AND user_id = $2;

-- name: delete_redirections
-- Where deliveries of a person were redirected to, or what was said in their place. What is still on its way
-- then finds no address.
--   $1 tenant id text, $2 user id text
-- Leans on idx_notification_deliveries_user.
UPDATE notification_deliveries SET edited = NULL WHERE tenant_id = $1 AND user_id = $2 AND edited IS NOT NULL;

-- name: addresses_of
-- Every address of some people, the primary of a channel first, then the oldest.
--   $1 tenant id text, $2 user ids text[]
-- Leans on idx_recipient_addresses_value.
SELECT id, user_id, channel, hint, is_primary, verified_at, paused_at, pause_reason, window_until, created_at
FROM recipient_addresses WHERE tenant_id = $1 AND user_id = ANY ($2::text[])
ORDER BY user_id, channel, is_primary DESC, created_at, id;

-- name: find_address
--   $1 tenant id text, $2 address id uuid, $3 user id text
SELECT id, user_id, channel, hint, is_primary, verified_at, paused_at, pause_reason, window_until, created_at
FROM recipient_addresses WHERE tenant_id = $1 AND id = $2 AND user_id = $3;

-- name: add_addresses
-- Addresses of people who are locked. One that is there already is confirmed by whoever is trusted to.
--   $1 tenant id text, $2 ids uuid[], $3 user ids text[], $4 channels text[], $5 sealed bytea[], $6 lookups bytea[],
--   $7 hints text[], $8 secrets bytea[], $9 are verified boolean
-- Returns id, user_id, channel and is_new of those that were added or confirmed.
INSERT INTO recipient_addresses AS a
    (tenant_id, id, user_id, channel, sealed, lookup, hint, secret, verified_at)
SELECT $1, id, user_id, channel, sealed, lookup, hint, secret, CASE WHEN $9 THEN now() END
FROM unnest($2::uuid[], $3::text[], $4::text[], $5::bytea[], $6::bytea[], $7::text[], $8::bytea[])
     AS given (id, user_id, channel, sealed, lookup, hint, secret)
ORDER BY id
ON CONFLICT (tenant_id, user_id, channel, lookup) DO UPDATE SET verified_at = now()
WHERE a.verified_at IS NULL AND excluded.verified_at IS NOT NULL
RETURNING id, user_id, channel, (xmax = 0) AS is_new;

-- name: addresses_by_value
-- Some addresses of some people, as they are stored by now.
--   $1 tenant id text, $2 user ids text[], $3 channels text[], $4 lookups bytea[]
-- Leans on idx_recipient_addresses_value.
SELECT a.id, a.user_id, a.channel, a.lookup, a.is_primary, a.paused_at
FROM unnest($2::text[], $3::text[], $4::bytea[]) AS given (user_id, channel, lookup)
JOIN recipient_addresses a
  ON a.tenant_id = $1 AND a.user_id = given.user_id AND a.channel = given.channel AND a.lookup = given.lookup;

-- name: count_addresses
-- How many addresses people have on their fullest channel.
--   $1 tenant id text, $2 user ids text[]
SELECT coalesce(max(n), 0) FROM (
    SELECT count(*) AS n FROM recipient_addresses
    WHERE tenant_id = $1 AND user_id = ANY ($2::text[]) GROUP BY user_id, channel) AS counted;

-- name: demote
-- Take the rank of the primary from whoever has it in the channels of these addresses.
--   $1 tenant id text, $2 address ids uuid[]
UPDATE recipient_addresses a SET is_primary = false
FROM recipient_addresses chosen
WHERE chosen.tenant_id = $1 AND chosen.id = ANY ($2::uuid[])
  AND a.tenant_id = chosen.tenant_id AND a.user_id = chosen.user_id AND a.channel = chosen.channel
  AND a.is_primary AND NOT a.id = ANY ($2::uuid[]);

-- name: promote
-- Make these the primaries of their channels, which have none beside them.
--   $1 tenant id text, $2 address ids uuid[]
-- Returns the ids of those that were not.
UPDATE recipient_addresses SET is_primary = true
WHERE tenant_id = $1 AND id = ANY ($2::uuid[]) AND NOT is_primary
RETURNING id;

-- name: heir
-- Who is to be primary where a channel of these people has none, or has one that is paused while a verified one is
-- not: the oldest of the verified, then of those that are not paused, then of all.
--   $1 tenant id text, $2 user ids text[]
SELECT DISTINCT ON (a.user_id, a.channel) a.id
FROM recipient_addresses a
WHERE a.tenant_id = $1 AND a.user_id = ANY ($2::text[])
  AND NOT EXISTS (SELECT FROM recipient_addresses p
                  WHERE p.tenant_id = $1 AND p.user_id = a.user_id AND p.channel = a.channel AND p.is_primary
                    AND (p.paused_at IS NULL
                         OR NOT EXISTS (SELECT FROM recipient_addresses o
                                        WHERE o.tenant_id = $1 AND o.user_id = a.user_id AND o.channel = a.channel
                                          AND o.paused_at IS NULL AND o.verified_at IS NOT NULL)))
ORDER BY a.user_id, a.channel, a.paused_at IS NULL AND a.verified_at IS NOT NULL DESC, a.paused_at IS NULL DESC,
         a.created_at, a.id;

-- name: delete_address
--   $1 tenant id text, $2 address id uuid, $3 user id text
-- Returns its channel, or no row.
DELETE FROM recipient_addresses WHERE tenant_id = $1 AND id = $2 AND user_id = $3 RETURNING channel;

-- name: owner
--   $1 tenant id text, $2 address id uuid
SELECT user_id, channel, paused_at IS NOT NULL AS is_paused FROM recipient_addresses WHERE tenant_id = $1 AND id = $2;

-- name: pause
-- Send nothing there until somebody says otherwise. The first reason stands.
--   $1 tenant id text, $2 address id uuid, $3 reason text
UPDATE recipient_addresses SET paused_at = now(), pause_reason = $3
WHERE tenant_id = $1 AND id = $2 AND paused_at IS NULL RETURNING 1;

-- name: unpause
--   $1 tenant id text, $2 address id uuid
UPDATE recipient_addresses SET paused_at = NULL, pause_reason = NULL
WHERE tenant_id = $1 AND id = $2 AND paused_at IS NOT NULL RETURNING 1;

-- name: verify
--   $1 tenant id text, $2 address id uuid
UPDATE recipient_addresses SET verified_at = now()
WHERE tenant_id = $1 AND id = $2 AND verified_at IS NULL RETURNING 1;

-- name: set_secret
-- Another secret for a webhook; the one before it is worth nothing from now on.
--   $1 tenant id text, $2 address id uuid, $3 user id text, $4 sealed secret bytea
UPDATE recipient_addresses SET secret = $4
WHERE tenant_id = $1 AND id = $2 AND user_id = $3 AND channel = 'webhook' RETURNING 1;

-- name: open_window
-- Free text is taken by WhatsApp until then; windows only grow.
--   $1 tenant id text, $2 address id uuid, $3 until timestamptz
UPDATE recipient_addresses SET window_until = greatest(window_until, $3) WHERE tenant_id = $1 AND id = $2;

-- name: who_has
-- Whose address this is, in whichever tenant: what comes in at our one number does not say. Only addresses that
-- somebody has answered for: anybody may claim any other.
--   $1 channel text, $2 lookup bytea
-- Leans on idx_recipient_addresses_lookup.
SELECT tenant_id, user_id, id FROM recipient_addresses
WHERE channel = $1 AND lookup = $2 AND verified_at IS NOT NULL
ORDER BY tenant_id, user_id;

-- name: region
-- The country of a tenant, for phone numbers that name none.
--   $1 tenant id text
SELECT region FROM tenant_settings WHERE tenant_id = $1;
