-- Set once a production process has started here: a sandbox refuses to run on such a database.
ALTER TABLE cluster ADD COLUMN is_production boolean NOT NULL DEFAULT false;

-- region: for phone numbers without a country (ISO 3166). unknown_outcome: what is done about an SMS, WhatsApp or
-- Telegram message of which nobody knows whether it was sent; NULL: high and urgent are sent once more.
ALTER TABLE tenant_settings
    ADD COLUMN region          text CHECK (region ~ '^[A-Z]{2}$'),
    ADD COLUMN unknown_outcome text CHECK (unknown_outcome IN ('retry_once', 'give_up'));

-- People as the providers' channels know them (KER-4). Somebody who only uses the inbox needs no row.
CREATE TABLE recipients (
    tenant_id           text        NOT NULL,
    user_id             text        NOT NULL,
    name                text,
    locale              text,       -- BCP 47
    timezone            text,       -- IANA
    is_active           boolean     NOT NULL DEFAULT true,
    preferences         json        NOT NULL DEFAULT '{}', -- the older systems' own, kept as given
    unsubscribe_version integer     NOT NULL DEFAULT 1,    -- part of every unsubscribe link
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id)
);

-- Where a channel reaches a person. The value is sealed (core/vault.py); `lookup` is its keyed hash, the same in
-- every tenant, because an answer to our one number does not say for whom it is.
CREATE TABLE recipient_addresses (
    tenant_id    text        NOT NULL,
    id           uuid        NOT NULL,
    user_id      text        NOT NULL,
    channel      text        NOT NULL CHECK (channel ~ '^[a-z][a-z0-9_]{1,31}$'), -- plugins have channels, too
    sealed       bytea       NOT NULL,
    lookup       bytea       NOT NULL CHECK (length(lookup) = 16),
    hint         text        NOT NULL, -- masked, to be shown: +25***56
    secret       bytea,      -- of a webhook, sealed
    is_primary   boolean     NOT NULL DEFAULT false,
    verified_at  timestamptz,
    paused_at    timestamptz,
    pause_reason text,       -- bounced, complained, blocked, gone
    window_until timestamptz, -- WhatsApp: free text is taken until then
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES recipients (tenant_id, user_id) ON DELETE CASCADE,
    CHECK ((paused_at IS NULL) = (pause_reason IS NULL))
);
CREATE UNIQUE INDEX idx_recipient_addresses_value ON recipient_addresses (tenant_id, user_id, channel, lookup);
CREATE UNIQUE INDEX idx_recipient_addresses_primary ON recipient_addresses (tenant_id, user_id, channel) WHERE is_primary;
CREATE INDEX idx_recipient_addresses_lookup ON recipient_addresses (channel, lookup);

-- A code that was sent to an address to see whether its owner answers.
CREATE TABLE address_verifications (
    tenant_id  text        NOT NULL,
    address_id uuid        NOT NULL,
    code_hash  bytea       NOT NULL,
    tries      integer     NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, address_id),
    FOREIGN KEY (tenant_id, address_id) REFERENCES recipient_addresses (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX idx_address_verifications_age ON address_verifications (expires_at);

-- Deep links that tie a Telegram chat to a person: t.me/<bot>?start=<token>. Only the hash is stored.
CREATE TABLE telegram_links (
    token_hash bytea       PRIMARY KEY,
    tenant_id  text        NOT NULL,
    user_id    text        NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX idx_telegram_links_age ON telegram_links (expires_at);

-- The matrix type x channel. user_id '': the tenant's rule. '*': every type, every channel.
CREATE TABLE preference_rules (
    tenant_id         text        NOT NULL,
    user_id           text        NOT NULL,
    notification_type text        NOT NULL,
    channel           text        NOT NULL CHECK (channel ~ '^(\*|[a-z][a-z0-9_]{1,31})$'),
    is_enabled        boolean     NOT NULL,
    updated_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id, notification_type, channel)
);

-- What a person wants no more of. A row stands until it is lifted; what was, stands in the audit log.
CREATE TABLE opt_outs (
    tenant_id  text        NOT NULL,
    user_id    text        NOT NULL,
    scope      text        NOT NULL CHECK (scope IN ('all', 'channel', 'topic', 'type', 'channel_type')),
    value      text        NOT NULL, -- '' for all; a channel, a topic, a type; 'channel:type'
    reason     text        NOT NULL, -- unsubscribe_link, keyword, provider, complaint, api, …
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id, scope, value),
    CHECK ((scope = 'all') = (value = ''))
);

-- The outbox: one row per person and channel that needs a provider, written with the notification. A row is claimed
-- by moving due_at to the end of the lease and attempt by one; who finishes must name the attempt, so a late worker
-- cannot finish another's. kind event: an outgoing webhook that tells an endpoint what became of a delivery.
CREATE TABLE notification_deliveries (
    tenant_id       text        NOT NULL,
    id              uuid        NOT NULL,
    kind            text        NOT NULL DEFAULT 'notification' CHECK (kind IN ('notification', 'event')),
    notification_id uuid        NOT NULL,
    user_id         text,       -- NULL for an event
    endpoint_id     uuid,       -- of an event
    event           json,       -- of an event: its body
    channel         text        NOT NULL CHECK (channel ~ '^[a-z][a-z0-9_]{1,31}$'),
    lane            smallint    NOT NULL CHECK (lane BETWEEN 0 AND 4), -- 0 goes first; 4: campaigns
    state           text        NOT NULL DEFAULT 'queued' CHECK (state IN (
        'queued', 'processing', 'deferred', 'unknown',
        'sent', 'delivered', 'read', 'failed', 'undelivered', 'cancelled', 'expired', 'suppressed')),
    attempt         integer     NOT NULL DEFAULT 0, -- the fence: claims so far
    retries         smallint    NOT NULL DEFAULT 0, -- RETRY outcomes, of at most 5
    deferrals       smallint    NOT NULL DEFAULT 0, -- DEFER outcomes, of at most 5
    unknowns        smallint    NOT NULL DEFAULT 0, -- attempts of which the end is not known
    due_at          timestamptz NOT NULL DEFAULT now(), -- of a claimed row: the end of its lease
    claimed_by      text,
    expires_at      timestamptz,
    provider        text,
    provider_ref    text,
    address_id      uuid,       -- where the last attempt went
    code            text,       -- the provider's, of the last outcome
    reason          text,       -- the rule or the provider's answer that decided, for people
    edited          bytea,      -- what an operator has changed about a dead letter, sealed
    fallback_of     uuid,       -- the delivery in whose place this one came
    batch_id        uuid,       -- it waits, or has waited, for others to go out with
    created_at      timestamptz NOT NULL DEFAULT now(),
    queued_at       timestamptz NOT NULL DEFAULT now(), -- or replayed: since when it has been waiting to go out
    updated_at      timestamptz NOT NULL DEFAULT now(),
    sent_at         timestamptz,
    finished_at     timestamptz,
    PRIMARY KEY (tenant_id, id),
    CHECK ((finished_at IS NULL) = (state IN ('queued', 'processing', 'deferred', 'unknown'))),
    CHECK ((state = 'processing') = (claimed_by IS NOT NULL)),
    CHECK ((kind = 'event') = (event IS NOT NULL) AND (kind = 'event') = (endpoint_id IS NOT NULL)
       AND (kind = 'event') = (user_id IS NULL))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
-- Who is next: by channel and, within it, by tenant and lane, so that each gets its share.
CREATE INDEX idx_notification_deliveries_due ON notification_deliveries (channel, tenant_id, lane, due_at, id)
    WHERE finished_at IS NULL;
CREATE INDEX idx_notification_deliveries_expiry ON notification_deliveries (expires_at)
    WHERE finished_at IS NULL AND expires_at IS NOT NULL;
CREATE UNIQUE INDEX idx_notification_deliveries_once
    ON notification_deliveries (tenant_id, notification_id, user_id, channel) WHERE kind = 'notification';
CREATE INDEX idx_notification_deliveries_state ON notification_deliveries (tenant_id, state, id);
CREATE INDEX idx_notification_deliveries_user ON notification_deliveries (tenant_id, user_id, id);
CREATE INDEX idx_notification_deliveries_ref ON notification_deliveries (provider, provider_ref)
    WHERE provider_ref IS NOT NULL;
CREATE INDEX idx_notification_deliveries_batch ON notification_deliveries (tenant_id, batch_id)
    WHERE batch_id IS NOT NULL AND state = 'deferred';
CREATE INDEX idx_notification_deliveries_age ON notification_deliveries (tenant_id, created_at);

-- Every try, from the moment it is claimed. A row without an end belongs to a worker that is at it, or has died.
CREATE TABLE delivery_attempts (
    tenant_id    text        NOT NULL,
    delivery_id  uuid        NOT NULL,
    attempt      integer     NOT NULL CHECK (attempt > 0),
    worker       text        NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT now(),
    ended_at     timestamptz,
    outcome      text CHECK (outcome IN ('sent', 'retry', 'defer', 'fallback', 'suppress', 'halt', 'fail', 'unknown',
        'policy_defer', 'policy_drop', 'released')),
    is_late      boolean     NOT NULL DEFAULT false, -- ended after the lease: recorded, decided nothing
    provider     text,
    account      text,
    address_id   uuid,
    provider_ref text,
    code         text,
    reason       text,
    gates        json,       -- what the policy asked, in order, and what it saw
    PRIMARY KEY (tenant_id, delivery_id, attempt),
    FOREIGN KEY (tenant_id, delivery_id) REFERENCES notification_deliveries (tenant_id, id) ON DELETE CASCADE,
    CHECK ((ended_at IS NULL) = (outcome IS NULL))
) WITH (fillfactor = 80);

-- Of a notification for a tenant or a topic: due for each person when their clock shows this.
ALTER TABLE notifications ADD COLUMN local_time timestamp;
-- Of one for named people: how what goes through a provider waits for more (delivery.draft.Batching).
ALTER TABLE notifications ADD COLUMN batching json;
-- Of one that goes out in the place of several: those.
ALTER TABLE notifications ADD COLUMN stands_for uuid[];

-- Deliveries to one person by one channel that wait for each other, while their window is open.
CREATE TABLE delivery_batches (
    tenant_id         text        NOT NULL,
    user_id           text        NOT NULL,
    channel           text        NOT NULL,
    notification_type text        NOT NULL,
    key               text        NOT NULL,
    id                uuid        NOT NULL,
    size              integer     NOT NULL CHECK (size > 0),
    size_limit        integer     NOT NULL,
    closes_at         timestamptz NOT NULL,
    latest_at         timestamptz NOT NULL, -- however many still come
    PRIMARY KEY (tenant_id, user_id, channel, notification_type, key)
);
CREATE UNIQUE INDEX idx_delivery_batches_id ON delivery_batches (tenant_id, id);
CREATE INDEX idx_delivery_batches_due ON delivery_batches (closes_at);

-- A notification for a tenant or a topic, on its way into the outbox page by page.
CREATE TABLE delivery_broadcasts (
    tenant_id       text        NOT NULL,
    notification_id uuid        NOT NULL,
    channels        text[]      NOT NULL,
    state           text        NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'paused', 'cancelled', 'done')),
    position        text        NOT NULL DEFAULT '', -- the last user id that was looked at
    people          bigint      NOT NULL DEFAULT 0,  -- looked at so far
    deliveries      bigint      NOT NULL DEFAULT 0,  -- written so far
    due_at          timestamptz NOT NULL DEFAULT now(), -- of a claimed row: the end of its lease
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    finished_at     timestamptz,
    PRIMARY KEY (tenant_id, notification_id),
    CHECK ((finished_at IS NULL) = (state IN ('running', 'paused')))
);
CREATE INDEX idx_delivery_broadcasts_due ON delivery_broadcasts (due_at) WHERE state = 'running';

-- What providers report, each event once, however often and in whatever order it comes.
CREATE TABLE provider_events (
    provider    text        NOT NULL,
    event_id    text        NOT NULL,
    status      text        NOT NULL,
    tenant_id   text,       -- of the delivery; NULL: it is nobody's here
    delivery_id uuid,
    code        text,
    occurred_at timestamptz,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, event_id, status)
);
CREATE INDEX idx_provider_events_delivery ON provider_events (tenant_id, delivery_id) WHERE delivery_id IS NOT NULL;
CREATE INDEX idx_provider_events_age ON provider_events (received_at);

-- What people answer: words (sealed), taps on buttons, keywords.
CREATE TABLE inbound_messages (
    tenant_id   text        NOT NULL,
    id          uuid        NOT NULL,
    user_id     text        NOT NULL,
    channel     text        NOT NULL,
    provider    text        NOT NULL,
    provider_id text        NOT NULL,
    kind        text        NOT NULL CHECK (kind IN ('reply', 'tap', 'stop', 'start', 'help')),
    sealed      bytea       NOT NULL,
    delivery_id uuid,       -- what it answers, where that is known
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, provider, provider_id)
);
CREATE INDEX idx_inbound_messages_user ON inbound_messages (tenant_id, user_id, id);

-- Where a tenant wants to be told of its deliveries.
CREATE TABLE webhook_endpoints (
    tenant_id   text        NOT NULL,
    id          uuid        NOT NULL,
    url         bytea       NOT NULL, -- sealed: a path may be a password
    hint        text        NOT NULL, -- its scheme and host
    events      text[]      NOT NULL, -- delivery.sent, …; '*' is every one
    secret      bytea       NOT NULL, -- sealed
    description text,
    is_enabled  boolean     NOT NULL DEFAULT true,
    created_by  text        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);

-- How the accounts do by which channels send: one row each, shared by all workers.
CREATE TABLE channel_accounts (
    channel        text        NOT NULL,
    provider       text        NOT NULL,
    account        text        NOT NULL,
    breaker        text        NOT NULL DEFAULT 'closed' CHECK (breaker IN ('closed', 'open', 'halted')),
    failures       integer     NOT NULL DEFAULT 0, -- in a row
    resume_at      timestamptz, -- nobody sends before (Retry-After, an open breaker)
    opened_at      timestamptz,
    last_sent_at   timestamptz,
    last_error_at  timestamptz,
    last_code      text,
    last_reason    text,
    updated_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (channel, provider, account)
);

-- How many messages that cost money a tenant has sent on a day (UTC), those on their way included. granted: of what was
-- asked for last.
CREATE TABLE paid_messages (
    tenant_id text    NOT NULL,
    day       date    NOT NULL,
    used      integer NOT NULL CHECK (used >= 0),
    granted   integer NOT NULL CHECK (granted >= 0),
    PRIMARY KEY (tenant_id, day)
);

-- What a sandbox has kept from going out, sealed.
CREATE TABLE sandbox_messages (
    tenant_id       text        NOT NULL,
    id              uuid        NOT NULL,
    delivery_id     uuid        NOT NULL,
    channel         text        NOT NULL,
    hint            text        NOT NULL, -- for whom, masked
    sealed          bytea       NOT NULL,
    captured_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);

-- Who did what, one chain per tenant: each row's hash covers the hash before it, so no row can be changed or
-- taken out of the middle. The head is kept apart; rows are written once.
CREATE TABLE audit_heads (
    tenant_id text   PRIMARY KEY,
    seq       bigint NOT NULL CHECK (seq >= 0),
    hash      bytea  NOT NULL
);
CREATE TABLE audit_log (
    tenant_id       text        NOT NULL,
    seq             bigint      NOT NULL CHECK (seq > 0),
    at              timestamptz NOT NULL,
    actor           text        NOT NULL, -- a client, 'person:<id>', 'provider:<name>', 'worker'
    action          text        NOT NULL, -- opt_out.added, delivery.replayed, preferences.changed, …
    subject         text        NOT NULL, -- what it was done to: 'delivery:<id>', 'recipient:<id>', …
    notification_id uuid,
    details         json        NOT NULL, -- no addresses, no words of messages
    hash            bytea       NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (tenant_id, seq)
);
CREATE INDEX idx_audit_log_subject ON audit_log (tenant_id, subject, seq);
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is only added to' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_log_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The older systems' names for what stands above.
CREATE VIEW notification_queue AS -- YOO-7
    SELECT d.id, json_build_object('notification_id', d.notification_id, 'user_id', d.user_id, 'channel', d.channel) AS payload,
           d.state AS status, d.retries, d.created_at, d.tenant_id
    FROM notification_deliveries d WHERE d.kind = 'notification';

CREATE VIEW notification_audit_log AS -- EZ-4
    SELECT a.tenant_id, d.notification_id,
           CASE a.outcome WHEN 'sent' THEN 'NOTIFY_SEND_OK' WHEN 'policy_drop' THEN 'NOTIFY_BLOCKED'
                WHEN 'policy_defer' THEN 'NOTIFY_DEFERRED' WHEN 'released' THEN 'NOTIFY_QUEUE'
                ELSE 'NOTIFY_SEND_FAIL' END AS event_type,
           json_build_object('delivery_id', d.id, 'channel', d.channel, 'attempt', a.attempt, 'outcome', a.outcome,
                             'code', a.code) AS details,
           a.ended_at AS created_at
    FROM delivery_attempts a
    JOIN notification_deliveries d ON d.tenant_id = a.tenant_id AND d.id = a.delivery_id
    WHERE a.ended_at IS NOT NULL
    UNION ALL
    SELECT l.tenant_id, l.notification_id, l.action, l.details, l.at FROM audit_log l;

-- What the planner believes of these tables until they are analyzed, as in 0001: one tenant, many people, deliveries
-- most of which are finished.
INSERT INTO recipients (tenant_id, user_id) SELECT 'seed', 'person-' || n FROM generate_series(1, 10000) AS n;
INSERT INTO recipient_addresses (tenant_id, id, user_id, channel, sealed, lookup, hint, is_primary, verified_at)
SELECT 'seed', md5(n || channel)::uuid, 'person-' || n, channel, '\x00', decode(md5(n || channel), 'hex'), 'hint', true, now()
FROM generate_series(1, 10000) AS n, unnest(ARRAY['email', 'sms']) AS channel;
INSERT INTO preference_rules (tenant_id, user_id, notification_type, channel, is_enabled)
SELECT 'seed', 'person-' || n, 'type-' || n % 10, 'email', true FROM generate_series(1, 2000) AS n;
INSERT INTO opt_outs (tenant_id, user_id, scope, value, reason)
SELECT 'seed', 'person-' || n, 'channel', 'sms', 'keyword' FROM generate_series(1, 1000) AS n;
INSERT INTO notification_deliveries (tenant_id, id, notification_id, user_id, channel, lane, state, finished_at)
SELECT 'seed', md5('d' || n)::uuid, md5('n' || n % 5000)::uuid, 'person-' || n % 10000, (ARRAY['email', 'sms'])[1 + n / 10000],
    2, CASE WHEN n % 10 = 0 THEN 'queued' ELSE 'sent' END, CASE WHEN n % 10 > 0 THEN now() END
FROM generate_series(1, 20000 - 1) AS n;
INSERT INTO delivery_attempts (tenant_id, delivery_id, attempt, worker, started_at, ended_at, outcome)
SELECT tenant_id, id, 1, 'seed', now(), now(), 'sent' FROM notification_deliveries;
INSERT INTO provider_events (provider, event_id, status, tenant_id, delivery_id)
SELECT 'seed', n::text, 'delivered', 'seed', md5('d' || n)::uuid FROM generate_series(1, 5000) AS n;
ANALYZE recipients, recipient_addresses, preference_rules, opt_outs, notification_deliveries, delivery_attempts,
    provider_events;
TRUNCATE recipients, recipient_addresses, preference_rules, opt_outs, notification_deliveries, delivery_attempts,
    provider_events, address_verifications;
