-- The cluster: one row. Its epoch bump is part of every epoch; its key signs what nodes tell each other.
CREATE TABLE cluster (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch_bump   integer NOT NULL DEFAULT 0 CHECK (epoch_bump >= 0),
    envelope_key bytea   NOT NULL CHECK (length(envelope_key) = 32)
);
INSERT INTO cluster (envelope_key)
VALUES (sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')));

-- What one tenant may override. No row: the defaults of the settings.
CREATE TABLE tenant_settings (
    tenant_id       text PRIMARY KEY,
    retention_days  integer CHECK (retention_days > 0),
    legal_hold      boolean NOT NULL DEFAULT false
);

-- A stream's head. Appending moves it in the appending transaction, so commit order is sequence order.
CREATE TABLE streams (
    tenant_id text   NOT NULL,
    name      text   NOT NULL CHECK (name = 'tenant' OR name LIKE 'user:_%' OR name LIKE 'topic:_%'),
    seq       bigint NOT NULL CHECK (seq >= 0),
    PRIMARY KEY (tenant_id, name)
) WITH (fillfactor = 70);

-- Notifications as they were submitted: one row each, whoever receives it. What a person did with it is in
-- notification_receipts; where it went is in stream_events.
CREATE TABLE notifications (
    tenant_id         text        NOT NULL,
    id                uuid        NOT NULL,
    audience          text        NOT NULL CHECK (audience IN ('user', 'users', 'tenant', 'topic')),
    user_id           text,       -- the one recipient of audience 'user'
    user_ids          text[],     -- the recipients of audience 'users'
    topic             text,       -- of audience 'topic'
    status            text        NOT NULL CHECK (status IN ('scheduled', 'published', 'cancelled', 'recalled')),
    title             text        NOT NULL,
    message           text        NOT NULL,
    notification_type text        NOT NULL,
    priority          text        NOT NULL CHECK (priority IN ('low', 'normal', 'high', 'urgent')),
    channels          text[]      NOT NULL,
    action_url        text,
    metadata          json        NOT NULL,
    collapse_key      text,
    group_key         text,
    created_by        text        NOT NULL, -- the client: an API key or issuer and subject
    created_at        timestamptz NOT NULL DEFAULT now(),
    scheduled_for     timestamptz,
    published_at      timestamptz,
    expires_at        timestamptz,
    updated_at        timestamptz,
    PRIMARY KEY (tenant_id, id),
    CHECK ((audience = 'user') = (user_id IS NOT NULL)),
    CHECK ((audience = 'users') = (user_ids IS NOT NULL)),
    CHECK ((audience = 'topic') = (topic IS NOT NULL)),
    CHECK (status <> 'scheduled' OR scheduled_for IS NOT NULL)
);
CREATE INDEX idx_notifications_user_status ON notifications (tenant_id, user_id, status);
CREATE INDEX idx_notifications_tenant_type ON notifications (tenant_id, notification_type, id);
CREATE INDEX idx_notifications_created_at ON notifications (tenant_id, created_at);
CREATE INDEX idx_notifications_due ON notifications (scheduled_for) WHERE status = 'scheduled';
CREATE INDEX idx_notifications_collapse ON notifications (tenant_id, collapse_key)
    WHERE collapse_key IS NOT NULL AND status = 'published';

-- The streams themselves. `data` carries what a state event says; a notification's content is in its row.
CREATE TABLE stream_events (
    tenant_id       text        NOT NULL,
    stream          text        NOT NULL,
    seq             bigint      NOT NULL,
    kind            text        NOT NULL CHECK (kind IN (
        'notification', 'updated', 'recalled', 'read', 'unread', 'read_all', 'seen', 'archived', 'unarchived',
        'snoozed', 'followed', 'unfollowed', 'muted', 'unmuted')),
    notification_id uuid,
    data            json,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, stream, seq)
);
CREATE INDEX idx_stream_events_inbox ON stream_events (tenant_id, stream, created_at, notification_id)
    WHERE kind = 'notification';
CREATE INDEX idx_stream_events_unread ON stream_events (tenant_id, stream, seq) INCLUDE (notification_id)
    WHERE kind = 'notification';
CREATE INDEX idx_stream_events_age ON stream_events (tenant_id, created_at);

-- A person's baseline in a stream they follow (their own, their tenant's, topics): up to joined_seq nothing
-- concerns them, up to read_all_seq everything is read.
CREATE TABLE stream_members (
    tenant_id    text        NOT NULL,
    user_id      text        NOT NULL,
    stream       text        NOT NULL,
    joined_seq   bigint      NOT NULL CHECK (joined_seq >= 0),
    read_all_seq bigint      NOT NULL CHECK (read_all_seq >= 0),
    muted        boolean     NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id, stream)
);
CREATE INDEX idx_stream_members_stream ON stream_members (tenant_id, stream, user_id);

-- What one person did with one notification; no row: nothing yet. `read` overrides the baseline either way.
CREATE TABLE notification_receipts (
    tenant_id       text NOT NULL,
    user_id         text NOT NULL,
    notification_id uuid NOT NULL,
    read            boolean,
    read_at         timestamptz,
    seen_at         timestamptz,
    archived_at     timestamptz,
    snoozed_until   timestamptz,
    PRIMARY KEY (tenant_id, user_id, notification_id)
);
CREATE INDEX idx_notification_receipts_notification ON notification_receipts (tenant_id, notification_id);
CREATE INDEX idx_notification_receipts_unread ON notification_receipts (tenant_id, user_id) WHERE read IS FALSE;
CREATE INDEX idx_notification_receipts_snoozed ON notification_receipts (snoozed_until)
    WHERE snoozed_until IS NOT NULL;

CREATE TABLE idempotency_keys (
    tenant_id  text        NOT NULL,
    client     text        NOT NULL,
    key        text        NOT NULL,
    body_hash  bytea       NOT NULL,
    status     smallint    NOT NULL,
    body       bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, client, key)
);
CREATE INDEX idx_idempotency_keys_age ON idempotency_keys (created_at);

-- One-time WebSocket tickets; a used one is gone. Only the hash is stored.
CREATE TABLE ws_tickets (
    ticket_hash bytea       PRIMARY KEY,
    tenant_id   text        NOT NULL,
    identity    json        NOT NULL,
    expires_at  timestamptz NOT NULL
);
CREATE INDEX idx_ws_tickets_age ON ws_tickets (expires_at);

CREATE TABLE api_keys (
    id           text        PRIMARY KEY,
    tenant_id    text        NOT NULL,
    name         text        NOT NULL,
    secret_hash  bytea       NOT NULL,
    scopes       text[]      NOT NULL,
    created_by   text        NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz
);
CREATE INDEX idx_api_keys_tenant ON api_keys (tenant_id, id);

-- Tokens that are no longer good: one by its jti, or all of a person issued before a moment.
CREATE TABLE token_revocations (
    tenant_id  text        NOT NULL,
    user_id    text,
    token_id   text,
    not_before timestamptz, -- of user_id: tokens issued before are refused
    expires_at timestamptz NOT NULL, -- the last of the refused tokens has expired by then
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((user_id IS NULL) <> (token_id IS NULL)),
    CHECK ((user_id IS NULL) = (not_before IS NULL))
);
CREATE UNIQUE INDEX idx_token_revocations_user ON token_revocations (tenant_id, user_id) WHERE user_id IS NOT NULL;
CREATE UNIQUE INDEX idx_token_revocations_token ON token_revocations (tenant_id, token_id) WHERE token_id IS NOT NULL;
CREATE INDEX idx_token_revocations_age ON token_revocations (expires_at);

-- A sampled history of connections; the live registry is a lease (see presence), not a table.
CREATE TABLE websocket_connections (
    tenant_id     text        NOT NULL,
    connection_id uuid        NOT NULL,
    user_id       text        NOT NULL,
    node          text        NOT NULL,
    transport     text        NOT NULL CHECK (transport IN ('websocket', 'sse', 'long_poll')),
    opened_at     timestamptz NOT NULL,
    closed_at     timestamptz NOT NULL,
    close_code    integer     NOT NULL,
    PRIMARY KEY (tenant_id, connection_id)
);
CREATE INDEX idx_websocket_connections_user ON websocket_connections (tenant_id, user_id, opened_at);

-- Jobs of the scheduler role: whoever holds the lease runs the job; the database clock decides.
CREATE TABLE scheduler_jobs (
    name         text        PRIMARY KEY,
    leased_by    text,
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    last_run_at  timestamptz
);

-- What the planner believes of these tables until they have been analyzed for the first time. Without it every index
-- that begins with tenant_id looks as good as a primary key, and the first busy minute of an installation is spent
-- reading whole tenants. One tenant, many people: rows like those to come, analyzed and taken away again.
INSERT INTO streams (tenant_id, name, seq) SELECT 'seed', 'user:' || u, 100 FROM generate_series(1, 100) AS u;
INSERT INTO notifications (tenant_id, id, audience, user_id, status, title, message, notification_type, priority,
    channels, metadata, created_by, created_at, published_at)
SELECT 'seed', md5(n::text)::uuid, 'user', n % 100, 'published', 'title', 'message', 'type', 'normal',
    '{in_app}', '{}', 'client', now() + n * interval '1 second', now() + n * interval '1 second'
FROM generate_series(1, 10000) AS n;
INSERT INTO stream_events (tenant_id, stream, seq, kind, notification_id, created_at)
SELECT tenant_id, 'user:' || user_id, row_number() OVER (PARTITION BY user_id ORDER BY created_at), 'notification', id,
    published_at
FROM notifications;
INSERT INTO stream_members (tenant_id, user_id, stream, joined_seq, read_all_seq)
SELECT 'seed', u, stream, u, u FROM generate_series(1, 100) AS u, LATERAL (VALUES ('user:' || u), ('tenant')) AS s (stream);
INSERT INTO notification_receipts (tenant_id, user_id, notification_id, read, snoozed_until)
SELECT tenant_id, user_id, id, row_number() OVER () % 10 > 0, CASE WHEN random() < 0.01 THEN now() END
FROM notifications;
ANALYZE streams, notifications, stream_events, stream_members, notification_receipts;
TRUNCATE streams, notifications, stream_events, stream_members, notification_receipts;
