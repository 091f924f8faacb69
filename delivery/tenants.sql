-- name: settings
-- What a tenant has chosen; no row: nothing.
--   $1 tenant id text
SELECT region, unknown_outcome, retention_days, legal_hold, weekend_days, holidays, holiday_calendar
FROM tenant_settings WHERE tenant_id = $1;

-- name: put_settings
--   $1 tenant id text, $2 region text, $3 unknown outcome text, $4 retention in days int, $5 legal hold boolean,
--   $6 weekend days smallint[], $7 holidays date[], $8 holiday calendar text
-- Returns a row when something has changed.
INSERT INTO tenant_settings AS s (tenant_id, region, unknown_outcome, retention_days, legal_hold, weekend_days, holidays,
    holiday_calendar)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (tenant_id) DO UPDATE SET region = excluded.region, unknown_outcome = excluded.unknown_outcome,
    retention_days = excluded.retention_days, legal_hold = excluded.legal_hold,
    weekend_days = excluded.weekend_days, holidays = excluded.holidays, holiday_calendar = excluded.holiday_calendar
WHERE (s.region, s.unknown_outcome, s.retention_days, s.legal_hold, s.weekend_days, s.holidays, s.holiday_calendar)
      IS DISTINCT FROM (excluded.region, excluded.unknown_outcome, excluded.retention_days, excluded.legal_hold,
                        excluded.weekend_days, excluded.holidays, excluded.holiday_calendar)
RETURNING 1;
