-- Whose weekend is when (X-5). NULL: Saturday and Sunday. 0 is Monday.
ALTER TABLE tenant_settings ADD COLUMN weekend_days smallint[] CHECK (weekend_days <@ '{0,1,2,3,4,5,6}');

-- Days off beside it (W-22): the tenant's own, and those of a country or a part of one (ISO 3166), as in RW and DE-BY.
ALTER TABLE tenant_settings
    ADD COLUMN holidays date[] NOT NULL DEFAULT '{}' CHECK (cardinality(holidays) <= 500),
    ADD COLUMN holiday_calendar text CHECK (holiday_calendar ~ '^[A-Z]{2}(-[A-Z0-9]{1,3})?$');

-- Between which positions of a stream a person had muted it, the last time: what came meanwhile is in no digest.
ALTER TABLE stream_members ADD COLUMN muted_seq bigint, ADD COLUMN unmuted_seq bigint;

-- When a person wants their digest, and when the next one is due. `positions` is how far the last one went in each of
-- their streams, so that windows touch and never overlap. Where the rhythm of the next run (its days, times and zone) is
-- not that of the last one, it is for a later date than the last that was sent, and 12 h away (D-7).
CREATE TABLE digest_subscriptions (
    tenant_id        text        NOT NULL,
    user_id          text        NOT NULL,
    is_enabled       boolean     NOT NULL DEFAULT true,
    frequency        text        NOT NULL CHECK (frequency IN ('daily', 'weekdays', 'weekly', 'hourly', 'off')),
    delivery_times   time[]      NOT NULL CHECK (cardinality(delivery_times) BETWEEN 1 AND 24), -- of the wall clock
    weekly_day       smallint    CHECK (weekly_day BETWEEN 0 AND 6), -- 0 is Monday
    timezone         text        NOT NULL, -- as the person chose it, aliases too
    exclude_weekends boolean     NOT NULL DEFAULT false,
    include_types    text[]      CHECK (cardinality(include_types) > 0), -- NULL: every type
    exclude_types    text[]      NOT NULL DEFAULT '{}',
    min_priority     text        NOT NULL DEFAULT 'low' CHECK (min_priority IN ('low', 'normal', 'high', 'urgent')),
    unread_only      boolean     NOT NULL DEFAULT false,
    channels         text[]      NOT NULL DEFAULT '{in_app,email}',
    weekly_types     text[]      NOT NULL DEFAULT '{}', -- only in the digest of weekly_day
    weekly_positions json        NOT NULL DEFAULT '{}', -- of each of them: stream -> seq
    weekly_on        date,       -- the local date of the last digest that they stood in
    all_quiet        boolean     NOT NULL DEFAULT false, -- say so when there was nothing for a week
    inbox_when_active boolean    NOT NULL DEFAULT false, -- only there, when the person has just been there
    next_run_at      timestamptz, -- with the person's spread; NULL: never
    next_spread      interval    NOT NULL DEFAULT '0', -- of that
    next_rhythm      text,
    next_date        date,
    next_slot        smallint,
    last_date        date,
    last_slot        smallint,
    last_due_at      timestamptz, -- of the last run, sent or skipped
    last_rhythm      text,
    sent_date        date,        -- of the last run that was sent
    sent_due_at      timestamptz,
    off_since        timestamptz, -- since when there is no next run
    positions        json        NOT NULL DEFAULT '{}', -- stream on the wire -> seq
    device_timezone  text,        -- what the person's device shows, where that is not what they chose (W-22)
    device_timezone_since timestamptz,
    asked_at         timestamptz[] NOT NULL DEFAULT '{}', -- when the person had one sent at once, in the last 24 hours
    tzdata           text        NOT NULL, -- the version that next_run_at was computed with
    changed_at       timestamptz NOT NULL DEFAULT now(),
    created_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id),
    CHECK (is_enabled OR next_run_at IS NULL),
    CHECK ((device_timezone IS NULL) = (device_timezone_since IS NULL)),
    CHECK ((next_run_at IS NULL) = (next_date IS NULL) AND (next_date IS NULL) = (next_slot IS NULL)),
    CHECK ((last_due_at IS NULL) = (last_date IS NULL) AND (last_date IS NULL) = (last_slot IS NULL))
) WITH (fillfactor = 80);
CREATE INDEX idx_digest_subscriptions_due ON digest_subscriptions (next_run_at) WHERE next_run_at IS NOT NULL;
CREATE INDEX idx_digest_subscriptions_zones ON digest_subscriptions (tzdata) WHERE next_run_at IS NOT NULL;

-- Every digest that was due: one per person, local date and slot, whatever the number of schedulers.
CREATE TABLE digest_runs (
    tenant_id       text        NOT NULL,
    user_id         text        NOT NULL,
    local_date      date        NOT NULL,
    slot            smallint    NOT NULL CHECK (slot >= 0),
    state           text        NOT NULL CHECK (state IN (
        'sent', 'skipped_empty', 'skipped_late', 'skipped_weekend', 'failed')),
    due_at          timestamptz NOT NULL, -- without the spread
    ran_at          timestamptz NOT NULL DEFAULT now(),
    is_late         boolean     NOT NULL DEFAULT false,
    timezone        text        NOT NULL,
    after           json        NOT NULL, -- the window: stream -> seq, exclusive
    until           json        NOT NULL, -- stream -> seq, inclusive
    total           integer     NOT NULL DEFAULT 0,
    unread          integer     NOT NULL DEFAULT 0,
    content_hash    bytea,
    notification_id uuid,       -- the digest, when one was sent
    PRIMARY KEY (tenant_id, user_id, local_date, slot),
    CHECK ((state = 'sent') = (notification_id IS NOT NULL))
);
-- Partial, so that nobody but who asks for the age can read it: while the table is empty, it looks as good as the primary
-- key for finding one run, and it is not when the first morning has filled the table.
CREATE INDEX idx_digest_runs_age ON digest_runs (tenant_id, ran_at) WHERE ran_at IS NOT NULL;

INSERT INTO digest_subscriptions (tenant_id, user_id, frequency, delivery_times, timezone, next_run_at, next_date, next_slot, tzdata)
SELECT 'seed', 'person-' || n, 'daily', '{07:00}', 'UTC', now() + n * interval '1 second', current_date, 0, '2026a'
FROM generate_series(1, 10000) AS n;
INSERT INTO digest_runs (tenant_id, user_id, local_date, slot, state, due_at, timezone, after, until)
SELECT 'seed', 'person-' || n, current_date, 0, 'skipped_empty', now(), 'UTC', '{}', '{}' FROM generate_series(1, 10000) AS n;
ANALYZE digest_subscriptions, digest_runs;
TRUNCATE digest_subscriptions, digest_runs;
