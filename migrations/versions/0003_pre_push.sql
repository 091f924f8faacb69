-- The keys by which this installation is known to push services (RFC 8292). A browser's subscription is bound to the key
-- it was made with: a new key is served to pages from the moment it is current, the old one goes on sending.
CREATE TABLE vapid_keys (
    id          text        PRIMARY KEY,    -- of the public key: its first characters, base64url
    public_key  bytea       NOT NULL UNIQUE CHECK (length(public_key) = 65),
    private_key bytea       NOT NULL,       -- sealed
    state       text        NOT NULL CHECK (state IN ('current', 'sending', 'retired')),
    created_at  timestamptz NOT NULL DEFAULT now(),
    retired_at  timestamptz
);
CREATE UNIQUE INDEX idx_vapid_keys_current ON vapid_keys (state) WHERE state = 'current';

-- Browsers that may be pushed to. A subscription belongs to a browser profile, not to a person: whoever signs in there
-- next takes it over by showing the same keys. The endpoint is a password of its own, so it is sealed; its hash finds it.
CREATE TABLE push_subscriptions (
    tenant_id     text        NOT NULL,
    id            uuid        NOT NULL,
    user_id       text        NOT NULL,
    endpoint_hash bytea       NOT NULL CHECK (length(endpoint_hash) = 16),
    endpoint      bytea       NOT NULL, -- sealed, with its keys
    origin        text        NOT NULL, -- https://host of the push service
    vapid_key_id  text        NOT NULL REFERENCES vapid_keys (id),
    name          text,                 -- what the person calls the device
    user_agent    text,
    device_info   json        NOT NULL DEFAULT '{}',
    is_active     boolean     NOT NULL DEFAULT true,
    ended_because text        CHECK (ended_because IN ('gone', 'refused', 'expired', 'replaced', 'key_retired')),
    failures      integer     NOT NULL DEFAULT 0, -- refusals in a row
    last_sent_at  timestamptz,
    last_seen_at  timestamptz NOT NULL DEFAULT now(), -- the page has shown it
    expires_at    timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    CHECK (is_active = (ended_because IS NULL))
);
CREATE UNIQUE INDEX idx_push_subscriptions_endpoint ON push_subscriptions (endpoint_hash) WHERE is_active;
CREATE INDEX idx_push_subscriptions_active ON push_subscriptions (tenant_id, user_id, id) WHERE is_active; -- AIVO's
CREATE INDEX idx_push_subscriptions_ended ON push_subscriptions (tenant_id, user_id, id) WHERE NOT is_active;
CREATE INDEX idx_push_subscriptions_key ON push_subscriptions (vapid_key_id) WHERE is_active;
CREATE INDEX idx_push_subscriptions_age ON push_subscriptions (last_seen_at);

-- Which browsers one delivery has reached already, and what they have reported: a retry goes to the others only.
CREATE TABLE push_sends (
    tenant_id       text        NOT NULL,
    delivery_id     uuid        NOT NULL,
    subscription_id uuid        NOT NULL,
    outcome         text        NOT NULL CHECK (outcome IN ('sent', 'gone', 'refused', 'retry', 'unknown', 'too_large')),
    status          smallint,   -- the push service's, HTTP
    unknowns        smallint    NOT NULL DEFAULT 0, -- tries of which nobody knows whether they arrived
    sent_at         timestamptz NOT NULL DEFAULT now(),
    not_before      timestamptz, -- the push service has asked for it: this browser's next try
    shown_at        timestamptz,
    clicked_at      timestamptz,
    closed_at       timestamptz,
    fetched_at      timestamptz, -- what did not fit, or was not to be seen on a lock screen; once
    PRIMARY KEY (tenant_id, delivery_id, subscription_id),
    FOREIGN KEY (tenant_id, delivery_id) REFERENCES notification_deliveries (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX idx_push_sends_subscription ON push_sends (tenant_id, subscription_id, delivery_id);

-- How much of a notification a lock screen and a push service may see (X-27). Per tenant and type; '*': every type.
CREATE TABLE push_privacy (
    tenant_id         text NOT NULL,
    notification_type text NOT NULL,
    privacy           text NOT NULL CHECK (privacy IN ('full', 'title_only', 'private')),
    PRIMARY KEY (tenant_id, notification_type)
);

INSERT INTO vapid_keys (id, public_key, private_key, state)
VALUES ('seed', decode(repeat('04', 65), 'hex'), '\x00', 'retired');
INSERT INTO push_subscriptions (tenant_id, id, user_id, endpoint_hash, endpoint, origin, vapid_key_id)
SELECT 'seed', md5(n::text)::uuid, 'person-' || n % 5000, decode(md5(n::text), 'hex'), '\x00', 'https://push.example', 'seed'
FROM generate_series(1, 10000) AS n;
INSERT INTO notification_deliveries (tenant_id, id, notification_id, user_id, channel, lane, state, finished_at)
SELECT 'seed', md5('d' || n)::uuid, md5('n' || n)::uuid, 'person-' || n, 'push', 2, 'sent', now()
FROM generate_series(1, 5000) AS n;
INSERT INTO push_sends (tenant_id, delivery_id, subscription_id, outcome)
SELECT 'seed', md5('d' || n)::uuid, md5(n::text)::uuid, 'sent' FROM generate_series(1, 5000) AS n;
ANALYZE push_subscriptions, push_sends, vapid_keys;
DELETE FROM push_sends;
DELETE FROM notification_deliveries WHERE tenant_id = 'seed';
DELETE FROM push_subscriptions;
DELETE FROM vapid_keys;
